"""A segment with known content, and somebody who damages its files."""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from crc32c import crc32c

from dsfs.model.blocks import BLOCK, BlockTable, PackBlocks, UniformBlocks, extent, pages
from dsfs.model.errors import BlockLostError
from dsfs.model.retention import NOTHING
from dsfs.storage.filesystem import FileSystem, file_system_of
from dsfs.storage.segment import SegmentFile, State

IDENTITY = "ab" * 20
SUFFIXES = ("", ".sum", ".part", ".map")

TABLES: dict[str, BlockTable] = {
    "large": UniformBlocks(3 * BLOCK + 100),
    "pack": PackBlocks([1, 4096, 5000, 8192, 70_000, 4095]),
}


@contextmanager
def medium(name: str, tmp_path: Path) -> Iterator[Path]:
    """A folder on the disk, whose file system wants O_DIRECT aligned, or on a tmpfs, which does not."""
    if name == "disk":
        yield tmp_path
    else:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            yield Path(folder)


class Sample:
    """What the segment holds once it is complete; `files` are closed by `close`, `made` is what those have told."""

    def __init__(self, folder: Path, blocks: BlockTable, fs: FileSystem | None = None) -> None:
        self.path = folder / IDENTITY[:2] / IDENTITY
        self.blocks = blocks
        folder.mkdir(exist_ok=True)
        self._fs = fs or file_system_of(folder)
        content = bytearray(Random(1).randbytes(blocks.size))
        for block in range(len(blocks)):  # padding is zeros
            end = blocks.offset(block) + blocks.length(block)
            content[end : pages(end)] = bytes(len(content[end : pages(end)]))
        self.content = bytes(content)
        self._files: list[SegmentFile] = []
        self.made = NOTHING

    def closed_file(self) -> SegmentFile:
        """The segment as a new process, or another node, knows it, before it is opened."""
        file = SegmentFile(self.path, IDENTITY, self.blocks, self._fs)
        self._files.append(file)
        return file

    def file(self) -> SegmentFile:
        """The segment as a new process, or another node, opens it."""
        file = self.closed_file()
        file.open()
        file.check()
        return file

    def close(self) -> None:
        """Close all files without any more I/O, as the end of the process does."""
        while self._files:
            file = self._files.pop()
            file.close()
            self.made += file.take_made()

    def bytes_of(self, block: int) -> bytes:
        start = self.blocks.offset(block)
        return self.content[start : start + self.blocks.length(block)]

    def fill(self, file: SegmentFile, first: int, end: int) -> None:
        """Write the blocks as the filler does."""
        offset, length = extent(self.blocks, first, end)
        buffer = page_aligned(length)
        buffer[:length] = self.content[offset : offset + length]
        file.write(first, [crc32c(self.bytes_of(block)) for block in range(first, end)], buffer)
        file.check()

    def fill_missing(self, file: SegmentFile) -> None:
        for block in range(len(self.blocks)):
            if not file.presence[block]:
                self.fill(file, block, block + 1)

    def read(self, file: SegmentFile, first: int, end: int) -> bytes:
        """The blocks with what lies between them, as the reader gets them; BlockLostError for a miss."""
        offset, length = extent(self.blocks, first, end)
        if file.state is State.SEALED:
            return bytes(file.read_sealed(offset, length) or b"")
        buffer = page_aligned(length)
        file.read_filling(first, end, buffer)
        return bytes(buffer[:length])

    def assert_right_or_lost(self, file: SegmentFile) -> None:
        """Every block that counts as resident has the right bytes, or says that it is lost and counts no longer."""
        for block in range(len(self.blocks)):
            for _ in range(3):  # what was sealed may have to be taken back before the block itself is looked at
                if not file.presence[block]:
                    break
                try:
                    got = self.read(file, block, block + 1)
                except BlockLostError:
                    continue
                assert got == self.bytes_of(block), f"block {block} is wrong"
                break
            else:
                raise AssertionError(f"block {block} is lost again and again, and still counts as resident")
        file.check()

    def complete(self, file: SegmentFile) -> None:
        """Go on until the segment is sealed, and right."""
        for _ in range(len(self.blocks) + 2):
            self.fill_missing(file)
            if file.seal():
                break
        file.check()
        assert file.state is State.SEALED
        assert file.read_sealed(0, self.blocks.size) == self.content
        assert ".part" not in self.names()

    def names(self) -> set[str]:
        """Suffixes of the files that are there, but for what a crash has left half."""
        if not self.path.parent.exists():
            return set()
        return {name.removeprefix(IDENTITY) for name in os.listdir(self.path.parent) if ".new-" not in name}

    def partly_filled(self) -> SegmentFile:
        """All blocks but the first."""
        file = self.file()
        self.fill(file, 1, len(self.blocks))
        return file

    def sealed(self) -> SegmentFile:
        file = self.file()
        self.complete(file)
        return file

    def beside(self, suffix: str) -> Path:
        return self.path.with_name(IDENTITY + suffix)


def page_aligned(length: int) -> memoryview:
    """Room for so many bytes and the rest of their last page."""
    return memoryview(mmap.mmap(-1, pages(length)))


def touch(path: Path) -> None:
    """Change the mtime for certain: two writes within one tick of the kernel's clock have the same."""
    os.utime(path, ns=(0, os.stat(path).st_mtime_ns + 1_000))


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        was = file.read(1)
        file.seek(offset)
        file.write(bytes([was[0] ^ 0x40]))
    touch(path)


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)
    touch(path)
