"""The values that name things at the origin and in the backing directory."""

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One object of the origin, as a listing or a catalog names it.

    `etag` is opaque and without its quotes; None where the origin gives none.  `modified_s` is the origin's
    Last-Modified in whole seconds since the epoch (HTTP dates hold no more).
    """

    key: str
    size: int
    etag: str | None
    modified_s: int

    def fingerprint(self, origin_id: str) -> bytes:
        """20 bytes that change when the content may have: origin, key, size and ETag.

        Where there is no ETag the time of the last change stands in for it.
        """
        version = f"etag {self.etag}" if self.etag is not None else f"modified {self.modified_s}"
        text = "\0".join((origin_id, self.key, str(self.size), version))
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).digest()


def identity_of(fingerprints: bytes) -> str:
    """The name of the segment that holds the objects with these fingerprints, in this order (40 hex digits)."""
    return blake2b(fingerprints, digest_size=20, person=b"dsfs segment").hexdigest()
