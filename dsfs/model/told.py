"""From when on what nodes have told of themselves is known: who deletes has to wait for that.

A node beats first and tells after that, so what it told with a beat is there for sure when the next beat is seen.
"""

from dataclasses import dataclass, field

from dsfs.model.nodes import BEAT_S, Look


@dataclass(slots=True)
class Told:
    """Kept by who looks at all nodes, from one look to the next."""

    _beats: dict[str, int] = field(default_factory=dict)
    _until_ns: dict[str, int] = field(default_factory=dict)
    _now_ns: int = 0

    def note(self, look: Look) -> None:
        """Another look.  Where the server's clock was set back, what was known by the old one is forgotten."""
        if look.now_ns < self._now_ns:
            self._until_ns.clear()
        self._now_ns = look.now_ns
        beats = {seen.node: seen.beat_ns for seen in look.sightings if seen.beat_ns is not None}
        for node, beat_ns in beats.items():
            if (before_ns := self._beats.get(node, beat_ns)) < beat_ns:
                self._until_ns[node] = before_ns
        self._beats = beats

    def is_complete(self, look: Look, moment_ns: int) -> bool:
        """Whether all nodes that may have something open have told what they had open at that moment, or since.

        A node notes what it is about to tell up to a beat before it says so.
        """
        return all(
            self._until_ns.get(seen.node, -1) >= moment_ns + BEAT_S * 1e9
            for seen in look.sightings
            if look.has_lease(seen)
        )
