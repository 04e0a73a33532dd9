"""Pins, last uses and events on real NFS clients: seen at once by one that has just looked, whatever it has cached."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from dsfs.model.event import Event
from dsfs.model.pin import Pin
from dsfs.storage.eventlog import EventLog
from dsfs.storage.filesystem import file_system_of
from dsfs.storage.lastuses import LastUses
from dsfs.storage.pins import PinFolder
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


def folders(place: Path) -> Folders:
    for name in ("pins", "uses", "events"):
        (place / name).mkdir(exist_ok=True)
    fs = file_system_of(place)
    return Folders(
        PinFolder(place / "pins", fs, lambda: None), LastUses(place / "uses", fs), EventLog(place / "events", fs)
    )


def pin_of(version: str, at_ns: int) -> Pin:
    return Pin("photos", version, at_ns, 0, "ann", "gpu1", "")


def note(place: Path, number: int) -> None:
    """On one node: a pin in place of the one before, a use, an event."""
    found = folders(place)
    found.pins.place(pin_of("v1", number))
    found.uses.touch("photos", "v1")
    found.events.append("a" * 16, [Event(number, "pinned", "photos", "v1", 0, "", "a" * 16, "a")])


def look(place: Path) -> tuple[list[int], int, list[int]]:
    """On another one: when each pin was set, when v1 was last used, when each event happened."""
    found = folders(place)
    pins = [file.pin.at_ns for files in found.pins.all().files.values() for file in files if file.pin is not None]
    used_ns = found.uses.of([("photos", "v1")]).get(("photos", "v1"), 0)
    assert {use.used_ns for use in found.uses.all()} == ({used_ns} if used_ns else set())
    return pins, used_ns, [event.at_ns for event in found.events.read({}, 0).events]


def take_away(place: Path) -> bool:
    return folders(place).pins.remove("photos", "v1")


@pytest.mark.parametrize("nfs_version", ["3", "4.2"])
def test_what_one_node_notes_another_sees_at_once_by_the_server_s_clock(
    a: NfsClient, b: NfsClient, nfs_version: str
) -> None:
    for client in (a, b):
        client.mount("large", nfs_version, "actimeo=600")
    a.set_clock(-HOUR_S)
    place = export_path("large")
    before_ns = 0
    assert b.call(look, place) == ([], 0, [])
    for number in range(1, 4):
        a.call(note, place, number)
        pins, used_ns, events = b.call(look, place)
        assert (pins, events) == ([number], list(range(1, number + 1)))
        assert used_ns > before_ns
        assert abs(used_ns / 1e9 - time.time()) < HOUR_S / 2
        before_ns = used_ns
    assert a.call(take_away, place)
    assert b.call(look, place)[0] == []
    assert not b.call(take_away, place)


def use_many(place: Path) -> None:
    uses = folders(place).uses
    for number in range(VERSIONS):
        uses.touch("photos", f"v{number}")


def count_uses(place: Path) -> int:
    return len(folders(place).uses.all())


@pytest.mark.parametrize("nfs_version", ["3", "4.2"])
def test_last_uses_cost_a_request_for_each_version(a: NfsClient, b: NfsClient, nfs_version: str) -> None:
    for client in (a, b):
        client.mount("large", nfs_version)
    place = export_path("large")
    a.call(use_many, place)
    costs = []
    for client, work in ((b, count_uses), (b, count_uses), (a, use_many)):
        before = client.mount_stats()
        assert client.call(work, place) in (VERSIONS, None)
        costs.append(sum((client.mount_stats() - before).operations.values()))
    first, again, touched = costs
    assert first <= VERSIONS + 20
    assert again <= VERSIONS + 10
    assert touched <= VERSIONS + 10
