"""Pins: which versions are not to be evicted, as nodes write it down for each other.

What cannot be understood is a pin, too: nothing is evicted because a file is unreadable.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dsfs.model.document import decode, encode
from dsfs.model.versionname import name_of

FORMAT = 1
MOST_BYTES = 32 * 1024
MOST_CHARACTERS = 500  # of a note
EXPIRED_SHOWN_S = 7 * 86_400.0  # so long a pin that is over is still shown
NO_END_NS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Pin:
    """A version is pinned since `at_ns` until `until_ns` (0: until somebody takes the pin away), by the server's clock.

    `user` asked for it on `node`.
    """

    dataset: str
    version: str
    at_ns: int
    until_ns: int
    user: str
    node: str
    note: str

    @property
    def target(self) -> str:
        return f"{self.dataset}/{self.version}"

    def is_over(self, now_ns: int, since_s: float = 0.0) -> bool:
        """Whether it has ended, and that at least `since_s` ago."""
        return bool(self.until_ns) and now_ns >= self.until_ns + round(since_s * 1e9)


@dataclass(frozen=True, slots=True)
class PinFile:
    """What the file of that name says: a pin, or None where it cannot be understood, and why.

    `version_name`: of the version that is meant (versionname.py).
    """

    name: str
    version_name: str
    pin: Pin | None
    trouble: str = ""

    @property
    def until_ns(self) -> int:
        """NO_END_NS also where that cannot be understood."""
        return self.pin.until_ns or NO_END_NS if self.pin is not None else NO_END_NS


@dataclass(frozen=True, slots=True)
class Pins:
    """All pins at one moment: by version name, the newest first."""

    files: Mapping[str, tuple[PinFile, ...]]

    def until_ns(self, dataset: str, version: str) -> int:
        """Before that time, by the server's clock, the version must not be evicted; 0: nobody has pinned it."""
        return max((file.until_ns for file in self.files.get(name_of(dataset, version), ())), default=0)

    def forgotten(self, now_ns: int) -> list[PinFile]:
        """Those that were over so long ago that they may go."""
        return [
            file
            for files in self.files.values()
            for file in files
            if file.pin is not None and file.pin.is_over(now_ns, EXPIRED_SHOWN_S)
        ]


def content_of(pin: Pin) -> bytes:
    """The file of a pin."""
    return encode(pin, FORMAT)


def pin_in(content: bytes) -> Pin:
    """What the file says; ValueError, with the reason, if it cannot be understood."""
    return decode(Pin, content, FORMAT, MOST_BYTES)
