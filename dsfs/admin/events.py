"""The verb for events: what has happened to the cache, on all nodes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsfs.admin.control import Verb
from dsfs.admin.queries import Answer, Queries
from dsfs.admin.targets import VERSIONS, number_of, text_of
from dsfs.model.errors import UsageError
from dsfs.model.event import Event
from dsfs.storage.eventlog import EventLog, Excerpt
from dsfs.storage.nodes import NodesDirectory

EVENTS_SHOWN = 10_000  # the newest; more would hold up the daemon while they are encoded
READ_S = 10.0  # what reading them may take


@dataclass
class EventVerbs:
    """Reads the events in the backing directory."""

    log: EventLog
    nodes: NodesDirectory
    queries: Queries

    def table(self) -> Mapping[str, Verb]:
        return {"events": Verb(self.events, changes=False)}

    async def events(self, args: dict[str, Any]) -> Answer:
        """Events in the order of their times.

        `read_until` says how far the files were read: given back, it is answered with what has come since.
        """
        names = VERSIONS.names_in(text_of(args, "target", default=""), self.queries.mountpoint)
        since_s, last_s = (number_of(args, name) for name in ("since_s", "last_s"))
        read_until = _places(args)

        def read() -> Excerpt:
            since_ns = round((since_s or 0) * 1e9)
            if last_s is not None:
                since_ns = self.nodes.now_ns() - round(last_s * 1e9)
            return self.log.read(read_until, since_ns)

        excerpt = await self.queries.ask_folder("events", read, READ_S)
        found = [event for event in excerpt.events if event.concerns(names)]
        return {
            "events": [_facts(event) for event in found[-EVENTS_SHOWN:]],
            "left_out": max(0, len(found) - EVENTS_SHOWN),
            "damaged_lines": excerpt.damaged_lines,
            "read_until": excerpt.read_until,
        }


def _places(args: dict[str, Any]) -> dict[str, int]:
    places = args.get("read_until") or {}
    if not isinstance(places, dict) or any(type(place) is not int or place < 0 for place in places.values()):
        raise UsageError("argument 'read_until' is none that was answered")
    return places


def _facts(event: Event) -> Answer:
    return {
        "at_s": event.at_ns / 1e9,
        "kind": event.kind,
        "dataset": event.dataset,
        "version": event.version,
        "bytes": event.bytes,
        "why": event.why,
        "node": event.node,
        "host": event.host,
    }
