"""Pins, last uses, events and shares on real NFS clients: seen at once by who has just looked, whatever is cached."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dsfs.model.event import Event
from dsfs.model.pin import Pin
from dsfs.model.reuse import HALF_LIFE_S
from dsfs.model.share import Shares
from dsfs.storage.bulletin import Bulletin, shares_at
from dsfs.storage.eventlog import EventLog
from dsfs.storage.filesystem import file_system_of
from dsfs.storage.lastuses import LastUses
from dsfs.storage.leftovers import server_now_ns
from dsfs.storage.pins import PinFolder
from tests.nfs.conftest import oldest_and_newest
from tests.rig.nfs.client import NfsClient
from tests.rig.nfs.server import export_path

HOUR_S = 3600
VERSIONS = 50


@dataclass(frozen=True)
class Folders:
    """What a daemon has of them."""

    pins: PinFolder
    uses: LastUses
    events: EventLog
    shares: Bulletin[Shares]


def folders(place: Path) -> Folders:
    for name in ("pins", "uses", "events"):
        (place / name).mkdir(exist_ok=True)
    fs = file_system_of(place)
    return Folders(
        PinFolder(place / "pins", fs, lambda: None),
        LastUses(place / "uses", fs),
        EventLog(place / "events", fs),
        shares_at(place / "shares", fs),
    )


def pin_of(version: str, at_ns: int) -> Pin:
    return Pin("photos", version, at_ns, 0, "ann", "gpu1", "")


def note(place: Path, number: int) -> None:
    """On one node: a pin in place of the one before, a use, an event, a share."""
    found = folders(place)
    found.pins.place(pin_of("v1", number))
    found.uses.begin("photos", "v1", server_now_ns(place))
    found.events.append("a" * 16, [Event(number, "pinned", "photos", "v1", 0, "", "a" * 16, "a")])
    found.shares.place(Shares(number, ()))


def look(place: Path) -> tuple[list[int], int, list[int], int]:
    """On another one: when each pin was set, when v1 was last used, when each event happened, when was counted."""
    found = folders(place)
    pins = [file.pin.at_ns for files in found.pins.all().files.values() for file in files if file.pin is not None]
    used_ns = found.uses.of([("photos", "v1")]).get(("photos", "v1"), 0)
    assert {use.used_ns for use in found.uses.all()} == ({used_ns} if used_ns else set())
    shares = found.shares.look()
    events = [event.at_ns for event in found.events.read({}, 0).events]
    return pins, used_ns, events, shares.counted_ns if shares else 0


def take_away(place: Path) -> bool:
    return folders(place).pins.remove("photos", "v1")


@oldest_and_newest
def test_what_one_node_notes_another_sees_at_once_by_the_server_s_clock(
    a: NfsClient, b: NfsClient, nfs_version: str
) -> None:
    for client in (a, b):
        client.mount("large", nfs_version, "actimeo=600")
    a.set_clock(-HOUR_S)
    place = export_path("large")
    before_ns = 0
    assert b.call(look, place) == ([], 0, [], 0)
    for number in range(1, 4):
        a.call(note, place, number)
        pins, used_ns, events, counted_ns = b.call(look, place)
        assert (pins, events, counted_ns) == ([number], list(range(1, number + 1)), number)
        assert used_ns > before_ns
        assert abs(used_ns / 1e9 - time.time()) < HOUR_S / 2
        before_ns = used_ns
    assert a.call(take_away, place)
    assert b.call(look, place)[0] == []
    assert not b.call(take_away, place)


def use_later(place: Path, seconds: float) -> None:
    """A use of v1 begins so much later, by the server's clock."""
    folders(place).uses.begin("photos", "v1", server_now_ns(place) + round(seconds * 1e9))


def uses_of_v1(place: Path) -> float:
    (use,) = folders(place).uses.all()
    return use.uses


@oldest_and_newest
def test_uses_are_counted_by_the_server_s_clock_and_seen_at_once(a: NfsClient, b: NfsClient, nfs_version: str) -> None:
    for client in (a, b):
        client.mount("large", nfs_version, "actimeo=600")
    a.set_clock(-HOUR_S)
    place = export_path("large")
    a.call(use_later, place, 0.0)
    assert b.call(uses_of_v1, place) == 1
    for count in (1.5, 1.75):
        for client in (a, b):  # the second finds that the first has just told
            client.call(use_later, place, HALF_LIFE_S if client is a else 0.0)
        for client in (a, b):
            assert client.call(uses_of_v1, place) == pytest.approx(count, abs=1e-3)


def begin_many(place: Path, later_s: float) -> None:
    uses, now_ns = folders(place).uses, server_now_ns(place)
    for number in range(VERSIONS):
        uses.begin("photos", f"v{number}", now_ns + round(later_s * 1e9))


def use_many(place: Path) -> None:
    uses = folders(place).uses
    for number in range(VERSIONS):
        uses.touch("photos", f"v{number}")


def look_often(place: Path, times: int) -> None:
    """As a daemon does, which keeps what it has read."""
    uses = folders(place).uses
    for _ in range(times):
        assert len(uses.all()) == VERSIONS


@oldest_and_newest
def test_last_uses_cost_a_request_for_each_version_and_a_few_when_a_use_begins(
    a: NfsClient, b: NfsClient, nfs_version: str
) -> None:
    for client in (a, b):
        client.mount("large", nfs_version)
    places = [export_path("large") / name for name in ("one", "another")]
    for place in places:
        a.call(Path.mkdir, place)
        a.call(begin_many, place, 0.0)

    def cost(client: NfsClient, work: Callable[..., None], *args: object) -> float:
        """Requests for each version; which ones is shown where the test fails."""
        before = client.mount_stats()
        client.call(work, *args)
        requests = (client.mount_stats() - before).operations
        print(client.name, work.__name__, dict(requests))
        return requests.total() / VERSIONS

    # The least of two first looks: what a client settles with the server for itself (once, 80 for each) is no cost.
    first = min(cost(b, look_often, place, 1) for place in places)
    assert first < 5.5
    assert cost(b, look_often, place, 4) < first + 3 * 1.2
    assert cost(a, use_many, place) < 1.2
    assert cost(a, begin_many, place, 0.0) < 6.5
    assert cost(a, begin_many, place, HALF_LIFE_S) < 10.5
