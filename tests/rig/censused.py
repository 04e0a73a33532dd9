"""A backing directory with plain segments and generations, its census, and a recount that walks."""

import os
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from dsfs.model.blocks import PAGE
from dsfs.model.nodes import VersionKey
from dsfs.model.retention import Amount
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.census import Census, HeldSegment
from dsfs.storage.censusscan import DAY_NS, SAFE_NS, Scan
from dsfs.storage.filesystem import replace_file
from dsfs.storage.generations import SEGMENTS, GenerationStore, PlacedGeneration
from dsfs.storage.segmentlist import IDENTITY_BYTES, SegmentList

A, B = ("photos", "v1", "aa" * 20), ("photos", "v1", "bb" * 20)  # generations of one version


def identity(number: int) -> str:
    """Some in each of a few folders."""
    return f"{number % 5:02x}{number:038x}"


def ids(segments: Iterable[HeldSegment]) -> list[str]:
    return [segment.identity for segment in segments]


class Place:
    """A node, as far as its census goes, with its state at `state`; `now_ns` is the server's time, which goes on by
    hand."""

    def __init__(self, state: Path, backing: Path) -> None:
        self.state = state
        self.state.mkdir(parents=True, exist_ok=True)
        self.backing = BackingDirectory(backing)
        self.store = GenerationStore(
            self.state / "catalogs", self.backing.generations, self.backing.file_system, lambda size: nullcontext()
        )
        self.now_ns = os.stat(self.backing.path).st_mtime_ns + SAFE_NS
        self.reopen_only()

    @property
    def file(self) -> Path:
        """That of the census."""
        return self.state / "census.mdb"

    def reopen(self) -> None:
        """As after a restart."""
        self.census.close()
        self.reopen_only()

    def reopen_only(self) -> None:
        """After it was closed."""
        self.census = Census(self.file, self.backing)

    def scan(self, *, hours: float = 0.01, most_entries: int = 10**9) -> Scan:
        """A round, so long after what was before it."""
        self.now_ns += int(hours * DAY_NS / 24)
        return self.census.scan(self.now_ns, most_entries)

    # ---------------------------------------------------------------- what others do

    def path(self, number: int, suffix: str = "") -> Path:
        path = self.backing.segment_path(identity(number) + suffix)
        path.parent.mkdir(exist_ok=True)
        return path

    def seal(self, number: int, pages: int = 2) -> None:
        for suffix in (".map", ".part"):
            self.path(number, suffix).unlink(missing_ok=True)
        replace_file(self.path(number, ".sum"), bytes(PAGE))
        replace_file(self.path(number), b"x" * pages * PAGE)

    def fill(self, number: int, pages: int = 1) -> None:
        """Begin it, or go on; all that is there has so many pages then."""
        self.path(number, ".map").write_bytes(bytes(PAGE))
        with self.path(number, ".part").open("ab") as file:
            os.pwrite(file.fileno(), b"y" * pages * PAGE, 0)
            file.truncate(64 * PAGE)

    def drop(self, number: int) -> None:
        self.backing.remove_segment(identity(number))

    def place(
        self, key: VersionKey, numbers: list[int], catalog: bytes = b"c" * PAGE
    ) -> PlacedGeneration:
        """As after a listing."""
        built = self.state / "built.mdb"
        built.write_bytes(catalog)
        raw = b"".join(sorted(bytes.fromhex(identity(number)) for number in numbers))
        dataset, version, generation = key
        placed = self.store.add(
            dataset, version, built, {"generation": generation}, SegmentList(raw, len(numbers) * 3 * PAGE)
        )
        self.store.share(dataset, version, placed)
        return placed

    def assert_right(self) -> None:
        """What the census says is what a recount says."""
        assert self.census.total() == recount(self.backing.path)
        held = held_in(self.backing.path)
        generations = {generation.key: generation for generation in self.census.generations()}
        assert generations.keys() == held.keys()
        for key, segments in held.items():
            amount = sum(segments.values(), Amount())
            assert generations[key].held == amount
            found = {segment.identity: segment for segment in self.census.segments_of(key)}
            assert {name: Amount(each.size_bytes, each.inodes) for name, each in found.items()} == segments
            for name, each in found.items():
                assert set(each.others) == {other for other in held if other != key and name in held[other]}
        hidden = {str(path.relative_to(self.backing.path)) for path in self.backing.path.rglob("*.trash-*")}
        assert {trashed.name for trashed in self.census.trash()} == hidden


def recount(backing: Path) -> Amount:
    """What everything takes."""
    found = [os.lstat(path) for path in (backing, *backing.rglob("*"))]
    assert len({stat.st_ino for stat in found}) == len(found)
    return Amount(sum(stat.st_blocks * 512 for stat in found), len(found))


def held_in(backing: Path) -> dict[VersionKey, dict[str, Amount]]:
    """What there is of each generation, by segment."""
    held = {}
    for file in (backing / "versions").glob(f"*/*/*/{SEGMENTS}"):
        if ".trash-" in file.parent.name:
            continue
        raw = file.read_bytes()
        names = [raw[at : at + IDENTITY_BYTES].hex() for at in range(0, len(raw), IDENTITY_BYTES)]
        dataset, version, generation = file.parts[-4:-1]
        taken = {name: _taken(backing, name) for name in names}
        held[dataset, version, generation] = {name: amount for name, amount in taken.items() if amount.inodes}
    return held


def _taken(backing: Path, name: str) -> Amount:
    files = [path for path in (backing / "segments").glob(f"*/{name}*") if ".trash-" not in path.name]
    found = [os.lstat(path) for path in files]
    return Amount(sum(stat.st_blocks * 512 for stat in found), len(found))
