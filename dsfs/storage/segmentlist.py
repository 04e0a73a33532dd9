"""Which segments a generation has: the file `segments` beside its catalog, so that nobody copies or opens that to know.

    segments       the identities, 20 raw bytes each, in ascending order, each once
    summary.json   how many there are, what they take when all are sealed, and a digest of the file

Concurrency: blocking calls.
"""

from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from dsfs.model.blocks import pages
from dsfs.storage import blockmap
from dsfs.storage.catalog import Catalog

IDENTITY_BYTES = 20


@dataclass(frozen=True, slots=True)
class SegmentList:
    """`identities`: as in the file; `size_bytes`: what all of them take in the backing directory, with their
    checksums."""

    identities: bytes
    size_bytes: int

    def __len__(self) -> int:
        return len(self.identities) // IDENTITY_BYTES

    @property
    def digest(self) -> str:
        return blake2b(self.identities, digest_size=20).hexdigest()


def list_segments(catalog: Path) -> SegmentList:
    """Those of the catalog in that file, which lies on local disk; CatalogFileError if it is none."""
    found: set[bytes] = set()
    size_bytes = 0
    with closing(Catalog(catalog)) as opened:
        for identity, size, blocks in opened.segments():
            found.add(bytes.fromhex(identity))
            size_bytes += pages(size) + pages(blockmap.position(blocks))
    return SegmentList(b"".join(sorted(found)), size_bytes)
