"""A mounted tree against a plain directory: whatever is done, in whatever order, both must show the same.

Hypothesis chooses the steps.  They are the same in every run; with `--hypothesis-profile=explore` they are new ones,
and a failure prints the steps and what reproduces them.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.mount.conftest import BUCKET
from tests.rig.daemonlog import unexpected_lines
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import make_lake
from tests.rig.node import MIB, Node
from tests.rig.reader import ReaderProcess
from tests.rig.reading import forget_pages
from tests.rig.s3server import S3Server

PREFIX = "reference"
VERSIONS = ("photos/v1", "photos/v2")
EXAMPLES, STEPS = 6, 25
MOST_FILES_OPEN = 8
PAGE = 4096

places = st.tuples(st.integers(0, 2**32), st.integers(0, 2**32))  # of a file, of an offset in it
sizes = st.sampled_from([0, 1, 511, PAGE, 128 * 1024, 128 * 1024 + 1, MIB, 3 * MIB]) | st.integers(0, 2 * MIB)


class Reference:
    """The plain directory that the origin serves, the node that mounts it, and processes that read there."""

    def __init__(self, plain: Path, node: Node, readers: list[ReaderProcess]) -> None:
        self.plain = plain
        self.node = node
        self.readers = readers
        self.files = [str(path.relative_to(plain)) for path in sorted(plain.rglob("*")) if path.is_file()]
        self.folders = [str(path.relative_to(plain)) for path in sorted(plain.rglob("*")) if path.is_dir()]

    def mounted(self, name: str) -> Path:
        return self.node.mountpoint / name

    def place(self, place: tuple[int, int]) -> tuple[str, int]:
        """A file, and an offset in it or a little behind its end."""
        name = self.files[place[0] % len(self.files)]
        return name, place[1] % ((self.plain / name).stat().st_size + 10)

    def content(self, name: str, offset: int, size: int) -> bytes:
        with (self.plain / name).open("rb") as file:
            return os.pread(file.fileno(), size, offset)


class MountedTree(RuleBasedStateMachine):
    """One long-lived mount; an example begins with nothing open, and with whatever the ones before left resident."""

    reference: ClassVar[Reference]

    @initialize(drop=st.booleans())
    def begin(self, drop: bool) -> None:
        self.open: dict[int, str] = {}
        if drop:
            self.drop(0)

    @rule(place=places)
    def open_file(self, place: tuple[int, int]) -> None:
        if len(self.open) < MOST_FILES_OPEN:
            name, _ = self.reference.place(place)
            self.open[os.open(self.reference.mounted(name), os.O_RDONLY)] = name

    @rule(which=st.integers(0, MOST_FILES_OPEN))
    def close_file(self, which: int) -> None:
        if self.open:
            fd = list(self.open)[which % len(self.open)]
            del self.open[fd]
            os.close(fd)

    @rule(which=st.integers(0, MOST_FILES_OPEN), at=st.integers(0, 2**32), size=sizes, forget=st.booleans())
    def read_open_file(self, which: int, at: int, size: int, forget: bool) -> None:
        if not self.open:
            return
        fd, name = list(self.open.items())[which % len(self.open)]
        offset = at % (os.fstat(fd).st_size + 10)
        if forget:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, size, offset) == self.reference.content(name, offset, size)

    @rule(which=st.integers(0, MOST_FILES_OPEN), back=st.integers(0, 300_000), size=sizes)
    def seek_from_the_end_and_read_on(self, which: int, back: int, size: int) -> None:
        if not self.open:
            return
        fd, name = list(self.open.items())[which % len(self.open)]
        offset = os.lseek(fd, -min(back, os.fstat(fd).st_size), os.SEEK_END)
        assert os.read(fd, size) == self.reference.content(name, offset, size)
        assert os.lseek(fd, 0, os.SEEK_CUR) == min(offset + size, os.fstat(fd).st_size)

    @rule(place=places, size=sizes, shared=st.booleans())
    def map_file(self, place: tuple[int, int], size: int, shared: bool) -> None:
        name, offset = self.reference.place(place)
        if self.reference.mounted(name).stat().st_size:  # an empty file cannot be mapped
            verb = "map shared" if shared else "map private"
            got = self.reference.readers[0].ask(verb, self.reference.mounted(name), offset, size)
            assert got == self.reference.content(name, offset, size)

    @rule(places=st.lists(st.tuples(places, sizes), min_size=2, max_size=6), forget=st.booleans())
    def read_with_threads_and_processes(self, places: list[tuple[tuple[int, int], int]], forget: bool) -> None:
        reference = self.reference
        wanted = [(*reference.place(place), size) for place, size in places]
        if forget:
            for name, _, _ in wanted:
                forget_pages(reference.mounted(name))
        for reader, (name, offset, size) in zip(reference.readers, wanted, strict=False):
            reader.begin("read", reference.mounted(name), offset, size)
        with ThreadPoolExecutor(4) as threads:
            got = list(threads.map(lambda read: _pread(reference.mounted(read[0]), *read[1:]), wanted))
        assert got == [reference.content(*read) for read in wanted]
        for reader, read in zip(reference.readers, wanted, strict=False):
            assert reader.answer() == reference.content(*read)

    @rule(which=st.integers(0, 2**16))
    def list_folder(self, which: int) -> None:
        name = self.reference.folders[which % len(self.reference.folders)]
        mounted, plain = self.reference.mounted(name), self.reference.plain / name
        assert sorted(os.listdir(mounted)) == sorted(os.listdir(plain))
        with os.scandir(mounted) as entries:
            for entry in entries:
                facts = (plain / entry.name).stat()
                assert entry.is_dir() == (plain / entry.name).is_dir()
                if not entry.is_dir():
                    assert (entry.stat().st_size, int(entry.stat().st_mtime)) == (facts.st_size, int(facts.st_mtime))

    @rule(name=st.sampled_from(VERSIONS))
    def read_all_of_a_version(self, name: str) -> None:
        for file in self.reference.files:
            if file.startswith(f"{name}/"):
                assert self.reference.mounted(file).read_bytes() == (self.reference.plain / file).read_bytes()

    @rule(which=st.integers(0, 1))
    def drop(self, which: int) -> None:
        self.reference.node.ask("drop", target=VERSIONS[which])

    @rule(which=st.integers(0, 1))
    def refresh(self, which: int) -> None:
        assert not self.reference.node.ask("refresh", target=VERSIONS[which])["changed"]

    @rule(killed=st.booleans())
    def restart(self, killed: bool) -> None:
        self.teardown()
        if killed:
            self.reference.node.kill()
            self.reference.node.start()
        else:
            self.reference.node.restart()

    @invariant()
    def daemon_lives(self) -> None:
        assert self.reference.node.process is not None
        assert self.reference.node.process.poll() is None

    def teardown(self) -> None:
        while self.open:
            os.close(self.open.popitem()[0])


def _pread(path: Path, offset: int, size: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


@pytest.fixture
def reference(s3: S3Server, shared_proxy: FaultProxy, tmp_path: Path) -> Iterator[Reference]:
    plain = s3.root / BUCKET / PREFIX
    for seed, name in enumerate(VERSIONS):
        make_lake(plain / name, small_files=25, large_sizes_bytes=(5 * MIB + 77, 128 * 1024 * 40), seed=seed)
    node = Node(tmp_path / "node", shared_proxy.endpoint_url, s3.env(), url=f"s3://{BUCKET}/{PREFIX}")
    with node.start(), ReaderProcess() as one, ReaderProcess() as two:
        yield Reference(plain, node, [one, two])
        assert node.stop() == 0
    assert not unexpected_lines(node.log_text())


@pytest.mark.time_limit(120)
def test_whatever_is_done_the_mounted_tree_is_the_plain_directory(reference: Reference) -> None:
    MountedTree.reference = reference
    profile = hypothesis.settings()
    run_state_machine_as_test(
        MountedTree,
        settings=hypothesis.settings(
            profile,
            deadline=None,
            max_examples=EXAMPLES if profile.derandomize else profile.max_examples,
            stateful_step_count=STEPS,
            print_blob=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
