"""What lies in a backing directory, as its files say, without asking a daemon."""

import os
from pathlib import Path

from dsfs.model.blocks import BlockTable, PackBlocks, UniformBlocks
from dsfs.model.trashname import stamp_in
from dsfs.storage import blockmap
from dsfs.storage.blockmap import DamagedMapError
from dsfs.storage.catalog import Catalog


def files_below(folder: Path) -> list[str]:
    """Every file, by its path relative to `folder`."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def hidden_in(backing: Path) -> list[Path]:
    """What was hidden of segments and is not deleted yet."""
    return [path for path in backing.glob("segments/*/*") if stamp_in(path.name) is not None]


def age(backing: Path) -> None:
    """Let what a crash may have left half made be older than anything another node is about to complete."""
    for path in backing.rglob("*"):
        is_sealed = path.suffix == ".part" and path.with_suffix("").exists()  # the same file, perhaps
        if ".new-" in path.name or (path.suffix in (".part", ".map", ".sum") and not is_sealed):
            os.utime(path, (0, 0))


def segments_of(catalog_file: Path) -> dict[str, BlockTable]:
    """The segments of a version, by identity, with their blocks."""
    catalog = Catalog(catalog_file)
    try:
        packs = {catalog.pack(number).identity: number for number in range(catalog.summary.packs)}
        return {
            identity: PackBlocks(catalog.member_sizes(packs[identity])) if identity in packs else UniformBlocks(size)
            for identity, size, _ in catalog.segments()
        }
    finally:
        catalog.close()


def whole_segments(catalog_file: Path) -> list[str]:
    """The files below segments/ once every segment of the version is sealed: these and no others."""
    return sorted(f"{identity[:2]}/{identity}{end}" for identity in segments_of(catalog_file) for end in ("", ".sum"))


def recorded_bytes(backing: Path, catalog_file: Path) -> int:
    """Bytes of the version's files that sealed segments and maps vouch for."""
    return sum(
        sum(blocks.length(block) for block in _recorded(backing / "segments" / identity[:2] / identity, blocks))
        for identity, blocks in segments_of(catalog_file).items()
    )


def _recorded(path: Path, blocks: BlockTable) -> list[int]:
    if path.exists():
        return list(range(len(blocks)))
    try:
        content = path.with_name(path.name + ".map").read_bytes()
        _, block_map = blockmap.decode(content, path.name, len(blocks), blocks.size, sealed=False)
        has_data = path.with_name(path.name + ".part").exists()
    except (FileNotFoundError, DamagedMapError):
        return []
    return [block for block, state in enumerate(block_map.presence(1)) if state and has_data]
