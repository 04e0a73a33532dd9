"""Backing directories, room and segments in them, for tests that need no daemon around them."""

from pathlib import Path

from dsfs.model.account import Account
from dsfs.model.blocks import BLOCK, UniformBlocks
from dsfs.model.retention import Amount
from dsfs.storage.account import SharedAccount, count
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.residency import ResidencyIndex
from dsfs.storage.room import SMALL_BYTES, SMALL_PART, Room
from dsfs.storage.segment import SegmentFile
from tests.engine.segment_sample import Sample

HUGE = 1 << 50


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def room_of(
    backing: BackingDirectory,
    limit_bytes: int = HUGE,
    floor_bytes: int = 0,
    clock: Clock | None = None,
    node: str = "a",
) -> Room:
    """The room of one node, which may fill `limit_bytes` beside what is there."""
    room = Room(
        backing,
        SharedAccount(backing.path, backing.file_system, lambda: node),
        limit_bytes,
        lambda total: floor_bytes,
        clock or Clock(),
    )
    room.keep()
    set_fillable(room, limit_bytes)
    return room


def set_fillable(room: Room, size_bytes: int) -> None:
    """Make the limit such that so much may be filled beside what is there."""
    fillable_bytes = size_bytes + room.used_bytes
    room.limit_bytes = fillable_bytes + min(fillable_bytes // (SMALL_PART - 1), SMALL_BYTES)


def account_of(room: Room) -> Account:
    """The account as it is in its file."""
    found = room.account.look()
    assert found is not None
    return found


def counted(path: Path) -> Amount:
    """What everything in the backing directory takes."""
    found = count(path)
    assert found is not None
    return found


def indexed_bytes(index: ResidencyIndex) -> int:
    """What the index says is resident."""
    return sum(record.resident_bytes for record in index.get_many(index.identities()) if record is not None)


def segment_of(backing: BackingDirectory, blocks: int = 4) -> tuple[Sample, SegmentFile]:
    """A segment in it, open; the sample closes it."""
    sample = Sample(backing.path / "segments", UniformBlocks(blocks * BLOCK))
    return sample, sample.file()
