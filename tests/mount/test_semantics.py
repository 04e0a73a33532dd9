"""What programs may rely on: the numbered sentences of README "Semantics" about names, bytes and origins.

The sentences about trouble are tried in test_semantics_trouble.py.
"""

import errno
import os
import stat
from pathlib import Path
from random import Random

import pytest

from tests.mount.conftest import Lake, NewNode
from tests.mount.sample import BLOCK, LARGE, OTHER, V, errno_of, read_part, walk
from tests.rig.background import in_background
from tests.rig.canned import CannedOrigin
from tests.rig.fault import Fault
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import FIRST_MTIME_S, digest_tree, make_lake
from tests.rig.node import MIB, Node
from tests.rig.reader import ReaderProcess
from tests.rig.wait import wait_until

SOON_S = 5  # what takes a second, on a busy machine


def test_s1_a_file_has_exactly_the_bytes_and_the_size_of_its_object(node: Node, lake: Lake) -> None:
    digests = {name: make_lake(lake.root / name, seed=seed) for seed, name in enumerate(("a/v1", "a/v2", "b/v1"))}
    for name, expected in digests.items():
        mounted = node.mountpoint / name
        assert digest_tree(mounted) == expected
        assert all((mounted / file).stat().st_size == (lake.root / name / file).stat().st_size for file in expected)


def test_s2_every_change_fails_with_erofs(node: Node, lake: Lake) -> None:
    lake.put(f"{V}/file", b"content")
    lake.put(f"{V}/directory/file", b"content")
    version = node.mountpoint / V
    file, folder = version / "file", version / "directory"
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDONLY | os.O_TRUNC, os.O_RDWR | os.O_CREAT):
        assert errno_of(os.open, file, flags) == errno.EROFS
    for place in (node.mountpoint, version.parent, version, folder):
        new = place / "new"
        assert errno_of(os.open, new, os.O_WRONLY | os.O_CREAT | os.O_EXCL) == errno.EROFS
        assert errno_of(os.mkdir, new) == errno.EROFS
        assert errno_of(os.mkfifo, new) == errno.EROFS
        assert errno_of(os.symlink, "target", new) == errno.EROFS
        assert errno_of(os.link, file, new) == errno.EROFS
        assert errno_of(os.rename, file, new) == errno.EROFS
        assert errno_of(os.chmod, place, 0o700) == errno.EROFS
        assert errno_of(os.chown, place, 1, 1) == errno.EROFS
        assert errno_of(os.utime, place) == errno.EROFS
        assert errno_of(os.setxattr, place, "user.x", b"y") == errno.EROFS
    assert errno_of(os.rmdir, folder) == errno.EROFS
    assert errno_of(os.unlink, file) == errno.EROFS
    assert errno_of(os.truncate, file, 0) == errno.EROFS
    assert errno_of(os.chmod, file, 0o777) == errno.EROFS
    assert errno_of(os.chown, file, 1, 1) == errno.EROFS
    assert errno_of(os.utime, file) == errno.EROFS
    assert errno_of(os.setxattr, file, "user.x", b"y") == errno.EROFS
    assert errno_of(os.removexattr, file, "user.dsfs.object") == errno.EROFS
    assert file.read_bytes() == b"content"


def test_s3_directories_list_each_name_once_and_names_may_hold_any_character(new_node: NewNode, tmp_path: Path) -> None:
    characters = [chr(code) for code in range(1, 256) if chr(code) not in "./"]
    odd = {f"{c}": c.encode() for c in characters} | {f"x{c}y": c.encode() for c in characters}
    odd |= {name: name.encode() for name in ("日本語", "🦆", "e\u0301", "\u00e9", "\u202e", "\uffff", " ", "a" * 255)}
    objects = {f"odd/v1/{name}": content for name, content in odd.items()}
    objects |= {f"many/v1/{number:05d}-file": b"" for number in range(20_000)}
    with CannedOrigin(objects) as canned, FaultProxy(canned.endpoint_url) as proxy:
        node = new_node(endpoint_url=proxy.endpoint_url, url="s3://lake").start()
        many = [os.fsdecode(name) for name in os.listdir(os.fsencode(node.mountpoint / "many/v1"))]
        assert sorted(many) == [f"{number:05d}-file" for number in range(20_000)]
        top = node.mountpoint / "odd/v1"
        names = os.listdir(os.fsencode(top))
        assert sorted(names) == sorted(name.encode() for name in odd)
        assert {name: (top / name).read_bytes() for name in odd} == odd
        for directory in (node.mountpoint, node.mountpoint / "odd", top):
            assert os.statvfs(directory).f_namemax == 255
            for length in (256, 1_024, 4_000):
                assert errno_of(os.stat, directory / ("n" * length)) == errno.ENAMETOOLONG
        node.stop()


def test_s4_an_empty_object_is_an_empty_file_and_a_marker_makes_a_directory(new_node: NewNode) -> None:
    objects = {"a/v1/empty": b"", "a/v1/hollow/": b"", "a/v1/full/": b"", "a/v1/full/file": b"1", "a/v1/p/q/": b""}
    with CannedOrigin(objects) as canned, FaultProxy(canned.endpoint_url) as proxy:
        node = new_node(endpoint_url=proxy.endpoint_url, url="s3://lake").start()
        top = node.mountpoint / "a/v1"
        assert (top / "empty").read_bytes() == b""
        assert stat.S_ISREG((top / "empty").stat().st_mode)
        assert (top / "empty").stat().st_size == 0
        assert {str(path.relative_to(top)): path.is_dir() for path in walk(top)} == {
            "empty": False, "hollow": True, "full": True, "full/file": False, "p": True, "p/q": True,
        }  # fmt: skip
        assert proxy.count("GET") == 0
        node.stop()


def test_s5_mtime_is_the_objects_and_owner_group_and_mode_are_the_configurations(new_node: NewNode, lake: Lake) -> None:
    more = f'\n[[dataset]]\nname = "own"\nurl = "{lake.url}/elsewhere"\nowner = "77"\ngroup = "78"\nmode = "0400"\n'
    node = new_node({"mount": {"owner": "12", "group": "34", "mode": "0440"}}, more=more).start()
    for number, name in enumerate((f"{V}/file", f"{V}/deep/file", "elsewhere/v1/file")):
        lake.put(name, b"1", FIRST_MTIME_S + number)
    seen = {}
    for name in (f"{V}/file", f"{V}/deep", "own/v1/file", "own/v1"):
        facts = (node.mountpoint / name).stat()
        seen[name] = (stat.filemode(facts.st_mode), facts.st_uid, facts.st_gid)
    assert seen == {
        f"{V}/file": ("-r--r-----", 12, 34),
        f"{V}/deep": ("dr-xr-x---", 12, 34),
        "own/v1/file": ("-r--------", 77, 78),
        "own/v1": ("dr-x------", 77, 78),
    }
    assert (node.mountpoint / V / "file").stat().st_mtime == FIRST_MTIME_S
    assert (node.mountpoint / "own/v1/file").stat().st_mtime == FIRST_MTIME_S + 2


def test_ctime_of_a_version_is_the_same_before_and_after_it_was_listed(node: Node, lake: Lake) -> None:
    """Or tar says of a version that it is the first to read: file changed as we read it."""
    lake.put(f"{V}/file", b"1", FIRST_MTIME_S)
    top = node.mountpoint / V
    before = top.stat()
    os.listdir(top)
    wait_until(lambda: top.stat().st_mtime != before.st_mtime, what="the time of its newest object")
    after = top.stat()
    assert (after.st_ctime_ns, after.st_ino) == (before.st_ctime_ns, before.st_ino)


def test_s6_after_a_version_was_looked_into_names_and_open_ask_the_origin_nothing(
    new_node: NewNode, lake: Lake, proxy: FaultProxy
) -> None:
    make_lake(lake.root / V)
    node = new_node({"origin": {"names_ttl": "0s"}}).start()
    version = node.mountpoint / V
    os.listdir(version)
    proxy.reset()
    for path in walk(version):
        path.stat()
        if path.is_file():
            path.open("rb").close()
    assert not (version / "absent").exists()
    assert not (version / "large" / "absent").exists()
    assert proxy.count() == 0


def test_a_directory_of_a_version_is_listed_again_by_the_kernel(node: Node, lake: Lake) -> None:
    tree = make_lake(lake.root / V)
    version = node.mountpoint / V
    first = list(walk(version))
    asked = node.metric("dsfs_directory_requests_total")
    assert asked > 0
    assert list(walk(version)) == first
    assert {str(path.relative_to(version)) for path in first if path.is_file()} == set(tree)
    assert node.metric("dsfs_directory_requests_total") == asked


def test_s7_a_byte_is_read_again_without_the_origin_also_after_a_restart(
    node: Node, lake: Lake, proxy: FaultProxy
) -> None:
    lake.put(f"{V}/large", LARGE)
    for number in range(20):
        lake.put(f"{V}/small/{number}", LARGE[number : number + 30_000])
    random = Random(3)
    places = [(random.randrange(len(LARGE)), random.randrange(1, MIB)) for _ in range(6)]

    def read_all() -> None:
        for offset, size in places:
            assert read_part(node.mountpoint / V / "large", offset, size) == LARGE[offset : offset + size]
        for number in range(20):
            path = node.mountpoint / V / "small" / str(number)
            assert read_part(path, 0, 50_000) == LARGE[number : number + 30_000]

    read_all()
    wait_until(lambda: node.metric("dsfs_fill_bytes_total") >= proxy.data_bytes, what="filling what was fetched")
    proxy.reset()
    read_all()
    assert proxy.count() == 0
    node.restart()
    read_all()
    assert proxy.count() == 0


def test_s8_readers_of_the_same_bytes_at_the_same_time_cause_one_fetch(
    node: Node, lake: Lake, proxy: FaultProxy, reader: ReaderProcess
) -> None:
    lake.put(f"{V}/large", LARGE)
    lake.put(f"{V}/small", LARGE[:50_000])
    os.listdir(node.mountpoint / V)
    for name, content in (("large", LARGE), ("small", LARGE[:50_000])):
        path = node.mountpoint / V / name
        proxy.reset()
        proxy.add(Fault("stall", key="*/" + name))
        readers = [in_background(path.read_bytes) for _ in range(8)]
        reader.begin("map shared", path, 0, len(content))
        wait_until(lambda: proxy.stalled, what="a fetch under way")
        proxy.clear()
        proxy.release()
        assert all(outcome.result(30) == content for outcome in readers)
        assert reader.answer() == content
        assert proxy.data_bytes == len(content)


def test_s9_every_way_of_reading_works_at_any_offset(node: Node, lake: Lake, reader: ReaderProcess) -> None:
    lake.put(f"{V}/large", LARGE)
    path = node.mountpoint / V / "large"
    random = Random(4)
    places = [(random.randrange(len(LARGE)), random.randrange(1, 300_000)) for _ in range(12)]
    places += [(0, 1), (BLOCK - 1, 2), (len(LARGE) - 1, 10), (4 * MIB - 1, 4097), (len(LARGE), 10), (2**40, 1)]
    fd, copy = os.open(path, os.O_RDONLY), os.memfd_create("copy")
    try:
        for offset, size in places:
            wanted = LARGE[offset : offset + size]
            assert os.pread(fd, size, offset) == wanted
            buffers = [bytearray(size // 2), bytearray(size - size // 2)]
            assert os.preadv(fd, buffers, offset) == len(wanted)
            assert b"".join(buffers)[: len(wanted)] == wanted
            os.lseek(fd, offset, os.SEEK_SET)
            assert os.read(fd, size) == wanted
            os.truncate(copy, 0)
            os.lseek(copy, 0, os.SEEK_SET)
            position = offset
            while sent := os.sendfile(copy, fd, position, offset + size - position):
                position += sent
            assert os.pread(copy, size, 0) == wanted
            for verb in ("map shared", "map private"):
                assert reader.ask(verb, path, offset, size) == wanted
        assert os.lseek(fd, -5, os.SEEK_END) == len(LARGE) - 5
        assert os.read(fd, 10) == LARGE[-5:]
        assert os.lseek(fd, -3, os.SEEK_CUR) == len(LARGE) - 3
        assert errno_of(os.lseek, fd, -1, os.SEEK_SET) == errno.EINVAL
    finally:
        os.close(fd)
        os.close(copy)


def test_s10_inode_numbers_outlive_a_restart_and_are_unique(node: Node, lake: Lake) -> None:
    for seed, name in enumerate(("a/v1", "a/v2", "b/v1", "b/v2/deep")):
        make_lake(lake.root / name, small_files=20, seed=seed)

    def inodes() -> dict[Path, int]:
        found = {path: path.stat().st_ino for path in walk(node.mountpoint)}
        for folder in {path.parent for path in found}:
            with os.scandir(folder) as entries:
                assert all(entry.inode() == found[Path(entry.path)] for entry in entries)
        return found | {node.mountpoint: node.mountpoint.stat().st_ino}

    before = inodes()
    assert len(set(before.values())) == len(before)
    node.restart()
    assert inodes() == before


@pytest.mark.expects_log("has drifted: 'place-.*/photos/v1/large'", "fetch failed: .*the catalog says", "read: ESTALE")
def test_s11_an_object_that_changed_gives_estale_and_what_is_resident_stays_readable(node: Node, lake: Lake) -> None:
    lake.put(f"{V}/large", LARGE, FIRST_MTIME_S)
    path = node.mountpoint / V / "large"
    assert read_part(path, 5 * MIB, BLOCK) == LARGE[5 * MIB : 5 * MIB + BLOCK]
    wait_until(lambda: node.ask("why", path=f"{V}/large")["blocks"]["resident"], what="filling the block")
    lake.put(f"{V}/large", OTHER)
    assert errno_of(read_part, path, 9 * MIB, BLOCK) == errno.ESTALE
    assert read_part(path, 5 * MIB, BLOCK) == LARGE[5 * MIB : 5 * MIB + BLOCK]
    assert node.version(V)["state"] == "drifted"
    assert node.version(V)["drifted"] == [f"{lake.prefix}/{V}/large"]
    node.restart()
    assert read_part(path, 5 * MIB, BLOCK) == LARGE[5 * MIB : 5 * MIB + BLOCK]


def test_s12_a_refresh_shows_new_files_in_time_and_an_open_file_stays_what_it_was(
    new_node: NewNode, lake: Lake
) -> None:
    node = new_node({"origin": {"names_ttl": "1h"}}).start()
    lake.put(f"{V}/kept", b"old", FIRST_MTIME_S)
    lake.put(f"{V}/gone", b"old")
    version = node.mountpoint / V
    assert sorted(os.listdir(version)) == ["gone", "kept"]
    with (version / "kept").open("rb") as old:
        assert old.read() == b"old"
        lake.put(f"{V}/kept", b"newer")
        lake.put(f"{V}/new", b"1")
        lake.delete(f"{V}/gone")
        assert node.ask("refresh", target=V)["changed"]
        wait_until(lambda: sorted(os.listdir(version)) == ["kept", "new"], SOON_S, "the new listing")
        wait_until(lambda: (version / "kept").read_bytes() == b"newer", SOON_S, "the new content")
        assert (version / "new").read_bytes() == b"1"
        assert not (version / "gone").exists()
        assert os.pread(old.fileno(), 100, 0) == b"old"
        assert os.fstat(old.fileno()).st_size == 3
