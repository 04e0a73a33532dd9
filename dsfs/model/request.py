"""A request to warm a version, as one node writes it down for itself or for all: a small JSON document."""

import json
from dataclasses import dataclass
from hashlib import blake2b

from dsfs.model.pathglob import PathGlob

FORMAT = 1
MAX_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class WarmRequest:
    """What is to be resident: of NAME/VERSION the files that the pattern selects, or all (None)."""

    dataset: str
    version: str
    path: str | None = None

    @property
    def target(self) -> str:
        return f"{self.dataset}/{self.version}"

    @property
    def id(self) -> str:
        """The same on every node, so that to ask twice is to ask once."""
        text = "\0".join((self.dataset, self.version, self.path or ""))
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=b"dsfs warm").hexdigest()

    def encode(self) -> bytes:
        described = {"dataset": self.dataset, "version": self.version, "path": self.path}
        return (json.dumps({"format": FORMAT, "do": "warm", **described}) + "\n").encode()


def decode(content: bytes) -> WarmRequest:
    """The request; ValueError if it is none, or one that this version of dsfs does not know."""
    found = json.loads(content) if len(content) <= MAX_BYTES else None
    if not isinstance(found, dict):
        raise ValueError("it is no request")
    if (found.get("format"), found.get("do")) != (FORMAT, "warm"):
        raise ValueError(f"it is a request of format {found.get('format')!r} for {found.get('do')!r}")
    dataset, version, path = (found.get(name) for name in ("dataset", "version", "path"))
    if not isinstance(dataset, str) or not isinstance(version, str) or not isinstance(path, str | None):
        raise ValueError("it names no version")
    if path is not None:
        PathGlob(path)
    return WarmRequest(dataset, version, path)
