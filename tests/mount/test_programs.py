"""Programs nobody here wrote, at work on the mount and on a plain directory with the same files: they must agree."""

import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import BUCKET, STRICT, Lake
from tests.rig.daemonlog import unexpected_lines
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import digest_tree, make_lake
from tests.rig.node import MIB, Node
from tests.rig.s3server import S3Server
from tests.rig.wait import wait_until

COMMAND_S = 40
ROWS = 20_000


def output_of(*command: str | Path, cwd: Path) -> bytes:
    """What the program prints; it must end with exit code 0."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        capture_output=True,
        timeout=COMMAND_S,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nested folders, 9 MiB, a database, and text to search in."""
    top = tmp_path_factory.mktemp("sample")
    make_lake(top, small_files=120, large_sizes_bytes=(9 * MIB + 12_345,), empty_files=2)
    words = random.Random(1)
    for number in range(40):
        lines = [f"{words.randrange(10**9)} {'needle' if line == number else 'straw'}" for line in range(200)]
        (top / "text" / f"{number:02d}").mkdir(parents=True)
        (top / "text" / f"{number:02d}" / "notes & more.txt").write_text("\n".join(lines))
    with sqlite3.connect(top / "rows.db") as database:
        database.execute("create table rows (id integer primary key, name text)")
        database.executemany("insert into rows values (?, ?)", ((id, f"name {id * 7919}") for id in range(ROWS)))
        database.execute("create index by_name on rows (name)")
    database.close()
    return top


@pytest.fixture(scope="module")
def shared_node(s3: S3Server, shared_proxy: FaultProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One daemon for all programs; each meets a version of its own, of which nothing is resident."""
    place = tmp_path_factory.mktemp("programs")
    env, soon = {**STRICT, **s3.env()}, {"origin": {"names_ttl": "100ms"}}
    with Node(place, shared_proxy.endpoint_url, env, url=f"s3://{BUCKET}", settings=soon) as node:
        yield node
        assert node.stop() == 0
    assert not unexpected_lines(node.log_text())


@pytest.fixture
def plain(lake: Lake, sample: Path) -> Path:
    """The plain directory the origin serves."""
    return shutil.copytree(sample, lake.root / "v1")


@pytest.fixture
def mounted(shared_node: Node, proxy: FaultProxy, lake: Lake, plain: Path) -> Path:
    top = shared_node.mountpoint / lake.prefix / "v1"
    wait_until(top.is_dir, what="the new dataset")
    return top


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Path]:
    """An empty directory for what a program writes."""
    made = tmp_path / "copy"
    made.mkdir()
    yield made
    shutil.rmtree(made)


def test_tar_packs_the_same_archive_and_unpacks_the_same_files(mounted: Path, plain: Path, copy: Path) -> None:
    options = ("--sort=name", "--owner=0", "--group=0", "--mode=a=r", "--mtime=@0", "--exclude=.")
    archives = [output_of("tar", *options, "-cf", "-", "text", "train", "large", cwd=top) for top in (mounted, plain)]
    assert hashlib.sha256(archives[0]).digest() == hashlib.sha256(archives[1]).digest()
    output_of("tar", "-cf", copy / "made.tar", ".", cwd=mounted)
    (copy / "unpacked").mkdir()
    output_of("tar", "-xf", copy / "made.tar", "-C", copy / "unpacked", "--no-same-permissions", cwd=copy)
    assert digest_tree(copy / "unpacked") == digest_tree(plain)


def test_cp_copies_every_file_with_its_time_and_cmp_and_diff_find_no_difference(
    mounted: Path, plain: Path, copy: Path
) -> None:
    output_of("cp", "-a", f"{mounted}/.", copy / "tree", cwd=copy)
    assert digest_tree(copy / "tree") == digest_tree(plain)
    for name in digest_tree(plain):
        assert int((copy / "tree" / name).stat().st_mtime) == int((plain / name).stat().st_mtime)
    output_of("diff", "-r", mounted, plain, cwd=copy)
    output_of("cmp", mounted / "large/000.tar", plain / "large/000.tar", cwd=copy)
    output_of("chmod", "-R", "u+w", copy / "tree", cwd=copy)


def test_find_and_ls_see_the_same_tree(mounted: Path, plain: Path) -> None:
    for command in (
        ("find", ".", "-type", "f", "-printf", "%P %s %Ts\n"),
        ("find", ".", "-type", "d", "-printf", "%P\n"),
        ("find", ".", "-name", "*.txt", "-newermt", "2000-01-01"),
        ("find", ".", "-empty", "-type", "f"),
    ):
        seen, expected = (sorted(_whole_seconds(output_of(*command, cwd=top))) for top in (mounted, plain))
        assert seen == expected
        assert seen
    assert output_of("ls", "-R", cwd=mounted) == output_of("ls", "-R", cwd=plain)
    assert output_of("du", "-ab", "--apparent-size", "large", "rows.db", cwd=mounted)


def _whole_seconds(listing: bytes) -> list[bytes]:
    return [line.split(b".0000000000")[0] for line in listing.splitlines()]


def test_grep_finds_the_same_lines(mounted: Path, plain: Path) -> None:
    seen, expected = (output_of("grep", "-rn", "needle", "text", cwd=top) for top in (mounted, plain))
    assert sorted(seen.splitlines()) == sorted(expected.splitlines())
    assert seen.count(b"needle") == 40


def test_dd_reads_the_same_bytes_at_every_block_size_and_place(mounted: Path, plain: Path) -> None:
    for options in (
        ("bs=1M",),
        ("bs=4097", "skip=511", "count=301"),
        ("bs=64k", "iflag=direct"),
        ("bs=1", "skip=1048575", "count=3"),
        ("bs=128k", "skip=72"),
    ):
        plain_options = [word for word in options if word != "iflag=direct"]
        seen = output_of("dd", "if=large/000.tar", "status=none", *options, cwd=mounted)
        assert seen == output_of("dd", "if=large/000.tar", "status=none", *plain_options, cwd=plain)
        assert seen


def test_sha256sum_of_several_processes_agrees_with_the_plain_directory(
    mounted: Path, plain: Path, proxy: FaultProxy
) -> None:
    script = "find . -type f -print0 | sort -z | xargs -0 -n 10 -P 4 sha256sum | sort -k 2"
    assert output_of("sh", "-c", script, cwd=mounted) == output_of("sh", "-c", script, cwd=plain)
    assert proxy.data_bytes == sum(path.stat().st_size for path in plain.rglob("*") if path.is_file())
    output_of("sh", "-c", script, cwd=mounted)
    assert proxy.data_bytes == sum(path.stat().st_size for path in plain.rglob("*") if path.is_file())


def test_python_reads_through_a_mapping(mounted: Path, plain: Path) -> None:
    script = (
        "import hashlib, mmap, sys\n"
        "with open(sys.argv[1], 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:\n"
        "    view = memoryview(mapping)\n"
        "    backwards = [bytes(view[at : at + 65536]) for at in range(0, len(view), 65536)][::-1]\n"
        "    print(hashlib.sha256(b''.join(backwards)).hexdigest(), mapping.rfind(b'\\x00\\x01'))\n"
        "    view.release()\n"
    )
    seen, expected = (output_of(sys.executable, "-c", script, "large/000.tar", cwd=top) for top in (mounted, plain))
    assert seen == expected


@pytest.mark.needs("sqlite3")
def test_sqlite3_answers_out_of_a_database_on_the_mount(mounted: Path, plain: Path) -> None:
    for query in (
        "select count(*), sum(id), max(name) from rows",
        "select id from rows where name = 'name 15838'",
        "select name from rows order by name desc limit 5",
        "pragma integrity_check",
    ):
        seen = output_of("sqlite3", "-readonly", "file:rows.db?immutable=1", query, cwd=mounted)
        assert seen == output_of("sqlite3", "rows.db", query, cwd=plain)
        assert seen


def test_sqlite_of_python_answers_without_being_told_that_the_file_is_immutable(mounted: Path) -> None:
    database = sqlite3.connect(f"file:{mounted}/rows.db?mode=ro", uri=True)
    try:
        assert database.execute("select count(*) from rows").fetchone() == (ROWS,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            database.execute("delete from rows")
    finally:
        database.close()


@pytest.mark.needs("rsync")
def test_rsync_finds_nothing_to_transfer(mounted: Path, plain: Path) -> None:
    changes = output_of("rsync", "-rcn", "--itemize-changes", f"{mounted}/", f"{plain}/", cwd=plain)
    assert [line for line in changes.splitlines() if line.startswith(b">f") and b"cs" in line[:5]] == []
    assert b"*deleting" not in changes
