"""The codec of `.map` and `.sum` files: a header page, then 8 bytes a block.

    header   magic, format version, identity, number of blocks, bytes of the segment, inode and mtime of the sealed
             file (in a map: of the one that it was before somebody changed it, else 0), CRC32C of the records (0 in a
             map), CRC32C of the header itself
    record   CRC32C of the block's data, then PRESENT or 0; little-endian

A record is written after its data.  It need not be flushed before or after them: whoever finds a record
checks the data against it before the first use, so a record that outran its data costs one fetch, never a
wrong byte.
"""

import struct
from array import array
from dataclasses import dataclass

from crc32c import crc32c

from dsfs.model.blocks import PAGE

MAGIC = b"dsfsmap\0"
FORMAT = 1
PRESENT = 0x44534653
HEADER = struct.Struct("<8sI20sQQQqI")
RECORD_SIZE = 8
CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class MapHeader:
    """`inode` and `mtime_ns` are those of the sealed file; in a map 0, unless it was sealed before."""

    identity: str
    count: int
    size: int
    inode: int = 0
    mtime_ns: int = 0


class DamagedMapError(Exception):
    """The file is no map of this segment: too short, another format, another segment, or a wrong checksum."""


class BlockMap:
    """CRC32C and presence of every block, as two arrays."""

    def __init__(self, count: int) -> None:
        self.records = array("I", bytes(RECORD_SIZE * count))

    def __len__(self) -> int:
        return len(self.records) // 2

    def set(self, block: int, checksum: int) -> None:
        self.records[2 * block] = checksum
        self.records[2 * block + 1] = PRESENT

    def clear(self, block: int) -> None:
        self.records[2 * block] = self.records[2 * block + 1] = 0

    def checksum(self, block: int) -> int | None:
        """CRC32C of the block's data; None while it is not present."""
        return self.records[2 * block] if self.records[2 * block + 1] == PRESENT else None

    def presence(self, mark: int) -> bytes:
        """A byte a block: `mark` where it is present, else 0."""
        return bytes(mark if state == PRESENT else 0 for state in self.records[1::2])

    def learn(self, first: int, records: bytes) -> list[int]:
        """Take up records, as they stand in the file from `first` on, of blocks that were absent; returns those blocks.

        What is present here stays: `records` may have been read before it was written.
        """
        if records == self.encode(first, first + len(records) // RECORD_SIZE):
            return []
        whole = array("I", records[: len(records) // RECORD_SIZE * RECORD_SIZE])
        found = [
            first + place
            for place, state in enumerate(whole[1::2])
            if state == PRESENT and self.checksum(first + place) is None
        ]
        for block in found:
            self.set(block, whole[2 * (block - first)])
        return found

    def restore(self, first: int, records: bytes) -> None:
        """Take back what `encode` gave before."""
        self.records[2 * first : 2 * first + len(records) // 4] = array("I", records)

    def encode(self, first: int, end: int) -> bytes:
        """The records first..end-1 as they stand in the file at `position(first)`."""
        return self.records[2 * first : 2 * end].tobytes()


def position(block: int) -> int:
    """Offset of the record of `block` in the file."""
    return PAGE + RECORD_SIZE * block


def encode_header(header: MapHeader, records: bytes = b"") -> bytes:
    """One page.  `records` is all of them for a `.sum`; a map's records change and are not summed."""
    fixed = HEADER.pack(
        MAGIC,
        FORMAT,
        bytes.fromhex(header.identity),
        header.count,
        header.size,
        header.inode,
        header.mtime_ns,
        crc32c(records),
    )
    return (fixed + CRC.pack(crc32c(fixed))).ljust(PAGE, b"\0")


def decode(
    content: bytes, identity: str, count: int, size: int, *, sealed: bool
) -> tuple[MapHeader, BlockMap]:
    """Header and records of a `.map` (or, `sealed`, a `.sum`) of the segment `identity`; DamagedMapError if
    it is not one.

    A map that ends early has no records behind its end: those blocks are not present.
    """
    header, records_crc = decode_header(content)
    if (header.identity, header.count, header.size) != (identity, count, size):
        raise DamagedMapError(f"it describes {header.identity} ({header.count} blocks, {header.size} bytes)")
    records = content[PAGE : PAGE + RECORD_SIZE * count]
    if sealed and (len(records) != RECORD_SIZE * count or crc32c(records) != records_crc):
        raise DamagedMapError("its records do not match their checksum")
    block_map = BlockMap(count)
    whole = len(records) // RECORD_SIZE * RECORD_SIZE
    block_map.records[: whole // 4] = array("I", records[:whole])
    return header, block_map


def decode_header(content: bytes) -> tuple[MapHeader, int]:
    """Header, and the CRC32C it gives for all records; DamagedMapError if this is no header of our format."""
    if len(content) < PAGE:
        raise DamagedMapError("it is shorter than its header")
    fixed = content[: HEADER.size]
    magic, version, identity, count, size, inode, mtime_ns, records_crc = HEADER.unpack(fixed)
    if magic != MAGIC or version != FORMAT:
        raise DamagedMapError("it is of no known format")
    if CRC.unpack_from(content, HEADER.size)[0] != crc32c(fixed):
        raise DamagedMapError("its header does not match its checksum")
    return MapHeader(identity.hex(), count, size, inode, mtime_ns), records_crc
