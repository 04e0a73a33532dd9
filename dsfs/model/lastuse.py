"""When a version was last used, by any node."""

from dataclasses import dataclass

from dsfs.model.document import decode, encode

FORMAT = 1
MOST_BYTES = 32 * 1024
TOLD_EVERY_S = 300.0  # so much later than `used_ns` a version may have been used, while its nodes run
FORGOTTEN_AFTER_S = 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class VersionNames:
    """What a use file says: for which version it is."""

    dataset: str
    version: str


@dataclass(frozen=True, slots=True)
class LastUse:
    """`used_ns`: the server's time when a node last told that somebody uses the version."""

    dataset: str
    version: str
    used_ns: int

    def is_forgotten(self, now_ns: int) -> bool:
        """Whether that is so long ago that nobody needs to know."""
        return now_ns - self.used_ns > FORGOTTEN_AFTER_S * 1e9


def content_of(dataset: str, version: str) -> bytes:
    """The use file of a version."""
    return encode(VersionNames(dataset, version), FORMAT)


def version_of(content: bytes) -> tuple[str, str]:
    """The dataset and version that the file is for; ValueError, with the reason, if it cannot be understood."""
    found = decode(VersionNames, content, FORMAT, MOST_BYTES)
    return found.dataset, found.version
