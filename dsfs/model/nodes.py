"""Which nodes are alive, and what each has in use: judged from what one of them saw of all, by the server's clock.

Every time here is an mtime that the file server gave: of this node's own heartbeat, set a moment ago, and of the
others'.  No clock of a node enters but the one that counts seconds (monotonic), and that only to notice when the
server's was set: then a heartbeat may be of before or after, and nobody is declared silent who is not by both.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import NamedTuple

from dsfs.model.usage import Usage, UsedVersion

BEAT_S = 3.0
TOLERANCE_S = 10.0  # the controllers of a filer have a clock each
SILENT_AFTER_S = 3 * BEAT_S + TOLERANCE_S
# A takeover may keep a filer from answering for a minute, twice, and clients wait up to half a minute before they try
# again: so long a node that is silent may still be reading.
LEASE_S = 180.0
FORGOTTEN_AFTER_S = 7 * 86_400.0
MOST_STEPS = 16  # of the server's clock that are remembered

VersionKey = tuple[str, str, str]  # dataset, version, generation


class Life(Enum):
    ALIVE = "alive"
    SILENT = "silent"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One node as another saw it: the mtime of its heartbeat and what it told, None where that cannot be had.

    `trouble` then says why.
    """

    node: str
    beat_ns: int | None
    usage: Usage | None
    trouble: str = ""

    @property
    def is_current(self) -> bool:
        """Whether what the node told still holds.  It beats also while it cannot write."""
        return (
            self.usage is not None
            and self.beat_ns is not None
            and abs(self.beat_ns - self.usage.beat_ns) <= LEASE_S * 1e9
        )


@dataclass(frozen=True, slots=True)
class Uses:
    """What is told of each version, by node; the nodes that have a segment open.

    `whole`: versions of which any segment may be open, as a node has more segments open than it tells.  `unknown`:
    nodes that may have anything in use.
    """

    versions: Mapping[VersionKey, Mapping[str, UsedVersion]]
    segments: Mapping[str, frozenset[str]]
    whole: frozenset[VersionKey]
    unknown: frozenset[str]

    def is_open(self, segment: str, versions: Iterable[VersionKey]) -> bool:
        """Whether a segment that is part of these versions may be open on any node."""
        return segment in self.segments or not self.whole.isdisjoint(versions)

    def speeds(self) -> dict[VersionKey, float]:
        """At how many bytes a second each version is read, by all nodes together."""
        return {key: sum(told.bytes_per_s for told in by_node.values()) for key, by_node in self.versions.items()}


class ClockStep(NamedTuple):
    """The server's clock was set by `by_ns`; then it showed `first_ns`, or a little more."""

    by_ns: int
    first_ns: int


@dataclass(frozen=True, slots=True)
class Look:
    """All nodes at one moment.

    `now_ns`: the server's time; `step_ns`: by how much its clock was set of late; `steps`: each time that it was, as
    far as this node knows.
    """

    now_ns: int
    step_ns: int
    sightings: tuple[Sighting, ...]
    steps: tuple[ClockStep, ...] = ()

    def by_clock_of_now(self, time_ns: int) -> int:
        """What the server would have said at that time of its clock, had that gone then as it does now.

        Where it may have said so before it was set or after, it is after: so nothing is older than it is for sure.
        """
        passed_ns, lowest_ns = 0, inf  # what the clock shows since a step is no less than that
        for step in reversed(self.steps):
            lowest_ns = min(lowest_ns, step.first_ns)
            if time_ns >= lowest_ns:
                break
            passed_ns += step.by_ns
        return time_ns + passed_ns

    def age_s(self, sighting: Sighting) -> float | None:
        """How long ago the node was alive for sure.

        None if its heartbeat cannot be had, or is of before the server's clock was set back.
        """
        if sighting.beat_ns is None:
            return None
        ages = (self.now_ns - sighting.beat_ns, self.now_ns - self.step_ns - sighting.beat_ns)
        age_s = min(ages, key=abs) / 1e9
        return max(0.0, age_s) if age_s >= -SILENT_AFTER_S else None

    def life(self, sighting: Sighting) -> Life:
        if sighting.usage is not None and sighting.usage.program.is_stopped:
            return Life.STOPPED
        if sighting.beat_ns is None:
            return Life.UNKNOWN
        age_s = self.age_s(sighting)
        return Life.ALIVE if age_s is not None and age_s <= SILENT_AFTER_S else Life.SILENT

    @property
    def alive(self) -> int:
        """How many nodes are."""
        return sum(self.life(sighting) is Life.ALIVE for sighting in self.sightings)

    def uses(self) -> Uses:
        """What the nodes have in use: those that are alive, and those that have not been silent for LEASE_S.

        What a node has opened since its last beat is not told yet.  So who removes a segment hides it first, so that
        nobody opens it any more, and looks again after LEASE_S: by then it is told, or who has it open lost its lease.
        """
        versions: dict[VersionKey, dict[str, UsedVersion]] = {}
        segments: dict[str, frozenset[str]] = {}
        whole, unknown = set(), set()
        for sighting in self.sightings:
            if not self.has_lease(sighting):
                continue
            usage = sighting.usage
            if usage is None or not sighting.is_current or usage.versions_left_out:
                unknown.add(sighting.node)
            if usage is not None:
                for told in usage.versions:
                    versions.setdefault(told.key, {})[sighting.node] = told
                    if usage.segments_left_out:
                        whole.add(told.key)
                for identity in usage.segments:
                    segments[identity] = segments.get(identity, frozenset()) | {sighting.node}
        return Uses(versions, segments, frozenset(whole), frozenset(unknown))

    def has_lease(self, sighting: Sighting) -> bool:
        """Whether the node may have open what it told, or more."""
        life = self.life(sighting)
        if life is Life.SILENT:
            age_s = self.age_s(sighting)
            return age_s is not None and age_s <= LEASE_S
        return life is not Life.STOPPED

    def forgotten(self) -> list[str]:
        """The nodes of which nothing was heard for so long that they may go."""
        return [
            sighting.node
            for sighting in self.sightings
            if (age_s := self.age_s(sighting)) is not None and age_s > FORGOTTEN_AFTER_S
        ]


@dataclass(slots=True)
class ServerClock:
    """Notices when the server's clock is set: it is asked now and then, and seconds are counted in between.

    `step_ns`: by how much it was set at the last time that is less than LEASE_S ago, else 0: by then every node that is
    alive has beaten by the new clock.  `steps`: the last MOST_STEPS times.
    """

    step_ns: int = 0
    steps: tuple[ClockStep, ...] = ()
    _stepped_s: float = 0.0
    _last: tuple[float, float, int] | None = None

    def note(self, asked_s: float, answered_s: float, server_ns: int) -> None:
        """The server said `server_ns` at some moment between those two of this node's monotonic clock."""
        if self._last is not None:
            last_asked_s, last_answered_s, last_ns = self._last
            least_s, most_s = asked_s - last_answered_s, answered_s - last_asked_s
            passed_s = (server_ns - last_ns) / 1e9
            if not least_s - TOLERANCE_S <= passed_s <= most_s + TOLERANCE_S:
                self.step_ns = round((passed_s - (least_s + most_s) / 2) * 1e9)
                self._stepped_s = answered_s
                step = ClockStep(self.step_ns, server_ns - round(most_s * 1e9))
                self.steps = (*self.steps, step)[-MOST_STEPS:]
            elif answered_s - self._stepped_s > LEASE_S:
                self.step_ns = 0
        self._last = (asked_s, answered_s, server_ns)

    def time_at(self, moment_s: float) -> int | None:
        """The server's time at that moment of the monotonic clock, from what it said last; None if it never did."""
        if self._last is None:
            return None
        asked_s, answered_s, server_ns = self._last
        return server_ns + round((moment_s - (asked_s + answered_s) / 2) * 1e9)
