"""When a version was last used, by any node, and how often it came into use (model/reuse.py)."""

from dataclasses import dataclass

from dsfs.model.document import decode, encode
from dsfs.model.retention import ACTIVE_S
from dsfs.model.reuse import another_use

FORMAT = 1
MOST_BYTES = 32 * 1024
TOLD_EVERY_S = 300.0  # so much later than `used_ns` a version may have been used, while its nodes run
FORGOTTEN_AFTER_S = 366 * 86_400.0
# A use begins at least ACTIVE_S after the last word of the one before, give or take what clocks differ by: so a use
# file whose mtimes lie closer together counts the same uses.
SAME_USE_S = ACTIVE_S - 60.0


@dataclass(frozen=True, slots=True)
class VersionNames:
    """What every use file says: for which version it is."""

    dataset: str
    version: str


@dataclass(frozen=True, slots=True)
class CountedUses(VersionNames):
    """And how often that came into use, where an old use counts less."""

    uses: float = 1.0


@dataclass(frozen=True, slots=True)
class LastUse:
    """`used_ns`: the server's time when a node last told that somebody uses the version."""

    dataset: str
    version: str
    used_ns: int
    uses: float

    def is_forgotten(self, now_ns: int) -> bool:
        """Whether that is so long ago that nobody needs to know."""
        return now_ns - self.used_ns > FORGOTTEN_AFTER_S * 1e9


def uses_after(uses: float, idle_s: float) -> float | None:
    """The count when a node begins to use a version of which nobody has told for so long; None: it is the same use."""
    return another_use(uses, idle_s) if idle_s > ACTIVE_S else None


def content_of(counted: CountedUses) -> bytes:
    """The use file of a version."""
    return encode(counted, FORMAT)


def counted_in(content: bytes) -> CountedUses:
    """What the file says: one use, if it does not count them; ValueError, with the reason, if it makes no sense."""
    try:
        return decode(CountedUses, content, FORMAT, MOST_BYTES)
    except ValueError:
        found = decode(VersionNames, content, FORMAT, MOST_BYTES)
        return CountedUses(found.dataset, found.version)
