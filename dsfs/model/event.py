"""Events: what happened to the cache, when, on which node, why, and how much of it, as one line of JSON each."""

from dataclasses import dataclass
from enum import StrEnum

from dsfs.model.document import decode, encode

FORMAT = 1
MOST_BYTES = 16 * 1024  # of a line
MOST_CHARACTERS = 500  # of a reason


class Kind(StrEnum):
    """What happened.  Another version of dsfs may know more of them."""

    STARTED = "started"  # a node
    STOPPED = "stopped"
    PUBLISHED = "published"  # a version was listed for the first time, and is there for all nodes
    WARMED = "warmed"  # all that was asked for is resident
    CACHED = "cached"  # all of a version is resident, whoever read it
    EVICTED = "evicted"
    DROPPED = "dropped"
    REFRESHED = "refreshed"  # there is a new generation
    DRIFTED = "drifted"
    PINNED = "pinned"
    UNPINNED = "unpinned"


@dataclass(frozen=True, slots=True)
class Event:
    """`at_ns`: by the server's clock; `node`: its id, `host`: its name.

    `dataset` and `version` are "", and `bytes` 0, where it concerns none.
    """

    at_ns: int
    kind: str
    dataset: str
    version: str
    bytes: int
    why: str
    node: str
    host: str

    def concerns(self, names: list[str]) -> bool:
        """Whether it is about [], [dataset] or [dataset, version]."""
        return [self.dataset, self.version][: len(names)] == names


def line_of(event: Event) -> bytes:
    """The line, with its end."""
    return encode(event, FORMAT)


def event_in(line: bytes) -> Event:
    """What the line says; ValueError if it cannot be understood."""
    return decode(Event, line, FORMAT, MOST_BYTES)
