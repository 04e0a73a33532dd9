"""`dsfs doctor` on real NFS clients: mounts as they should be and as they should not, and two nodes that meet."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dsfs.config.document import load
from dsfs.doctor import directory, nfs, pair
from dsfs.doctor.check import Area
from dsfs.doctor.examine import examine
from dsfs.doctor.scratch import Scratch
from tests.rig.consultation import FAIL, NOTE, OK, UNKNOWN, WARN, Report
from tests.rig.nfs.client import NfsClient
from tests.rig.nfs.rig import NfsRig
from tests.rig.nfs.server import export_path
from tests.rig.node import PATIENT, Node
from tests.rig.reading import SourceVersion

GOOD = "nconnect=2,lookupcache=positive,rsize=262144,wsize=262144"
VERSION_3 = {"nfs.version": WARN, "nfs.slots": WARN, "nfs.lease": NOTE, "nfs.client_id": UNKNOWN}
OPTIONS = {  # version and options beside the good ones -> what is not ok then
    ("4.1", ""): {},
    # The other export is mounted like this already, over one connection: that decides.
    ("4.2", ""): {"nfs.version": NOTE, "nfs.connections": NOTE},
    ("3", ""): VERSION_3,
    ("3", "nolock"): {**VERSION_3, "nfs.locking": FAIL},
    ("4.1", "actimeo=0"): {"nfs.attributes": WARN},
    ("4.1", "actimeo=600"): {"nfs.attributes": NOTE},
    ("4.1", "noac"): {"nfs.attributes": WARN, "nfs.writes": WARN},
    ("4.1", "soft"): {"nfs.hard": WARN},
    ("4.1", "softerr"): {"nfs.hard": WARN},
    ("4.1", "lookupcache=all"): {"nfs.lookupcache": WARN},
    ("4.1", "nocto"): {"nfs.close_to_open": NOTE},
    ("4.1", "rsize=65536"): {"nfs.transfer": WARN},
    ("4.1", "nconnect=1"): {"nfs.connections": NOTE},
    ("4.1", "ro"): {"nfs.access": FAIL},
}
UNTUNED = {"nfs.slots": NOTE, "nfs.read_ahead": WARN}  # what no mount option sets
SLOTS = Path("/sys/module/nfs/parameters/max_session_slots")
HOUR_S = 3600
NOBODY = "http://127.0.0.1:9"  # no origin listens there
READ_AHEAD_KB = 8192

Verdicts = dict[str, str]
NewDoctor = Callable[..., Node]


@pytest.fixture
def on_small(rig: NfsRig, tmp_path: Path) -> NewDoctor:
    """Makes nodes whose directory is on the small export: it has not the room to measure speed, so that is quick."""

    def make(client: NfsClient, endpoint_url: str = NOBODY) -> Node:
        return Node(
            tmp_path / client.name, endpoint_url, rig.origin.store.env(), machine=client,
            backing=export_path("small") / "backing",
            settings={**PATIENT, "backing": {"limit": "40MiB"}},
        )  # fmt: skip

    return make


def look(config: Path, kind: str, **changes: Any) -> Verdicts:
    """On a node: the verdicts on one area.  `changes`: to its checks."""
    loaded = load(config)
    area: Area[Any] = nfs.area(loaded)
    if kind == "directory":
        area = directory.area(loaded, Scratch(loaded.backing.path))
    checks = tuple(dataclasses.replace(check, **changes) for check in area.checks)
    rows = examine(dataclasses.replace(area, checks=checks))
    return {row.check: row.finding.verdict.value for row in rows}


def look_with(config: Path, other: str) -> Verdicts:
    return {row.check: row.finding.verdict.value for row in examine(pair.area(load(config), other, 30.0))}


def other_than_ok(verdicts: Verdicts) -> Verdicts:
    return {check: verdict for check, verdict in verdicts.items() if verdict != OK}


@pytest.fixture
def tuned(a: NfsClient) -> Iterator[NfsClient]:
    """Mounted as the README says, with the settings of the node that it names."""
    a.mount("small", "4.1", GOOD)
    device = a.check("mountpoint", "--fs-devno", str(export_path("small"))).strip()
    before = a.call(SLOTS.read_text)
    a.call(SLOTS.write_text, "180")
    a.call(Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text, str(READ_AHEAD_KB))
    yield a
    a.call(SLOTS.write_text, before)


def hidden_names(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


def test_a_mount_as_the_readme_says_is_ok(
    tuned: NfsClient, on_small: NewDoctor, version: SourceVersion, rig: NfsRig
) -> None:
    with on_small(tuned, rig.origin.endpoint_url) as node:
        report = Report(node.command("doctor", "--json"))
        assert report.other_than_ok() == {"origin.transport": NOTE}
        assert {report[name] for name in report.named("nfs")} == {OK}
        assert tuned.call(hidden_names, node.backing) == []


def test_mount_options_are_judged(a: NfsClient, on_small: NewDoctor) -> None:
    config = on_small(a).config
    seen = {}
    for version, options in OPTIONS:
        a.mount("small", version, ",".join(filter(None, [GOOD, options])))
        seen[version, options] = other_than_ok(a.call(look, config, "nfs"))
    assert seen == {case: {**UNTUNED, **verdicts} for case, verdicts in OPTIONS.items()}


def test_a_silent_server_is_a_verdict(a: NfsClient, on_small: NewDoctor) -> None:
    node = on_small(a)
    a.cut()
    seen = a.call_within(30, look, node.config, "directory", deadline_s=1.0)
    assert (seen.pop("directory.answers"), set(seen.values())) == (FAIL, {UNKNOWN})
    assert a.call_within(30, look, node.config, "nfs")["nfs.version"] == NOTE  # the kernel knows it


def test_a_pair_sees_what_one_client_cannot(
    a: NfsClient, b: NfsClient, on_small: NewDoctor, version: SourceVersion, rig: NfsRig
) -> None:
    """A node mounted well, and one that believes missing names and whose clock is wrong."""
    a.mount("small", "4.1", GOOD)
    b.mount("small", "4.1", f"{GOOD},lookupcache=all")
    b.set_clock(HOUR_S)
    one, two = on_small(a), on_small(b, rig.origin.endpoint_url)
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(n.command, "doctor", "--json", "--with", o) for n, o in ((one, "b"), (two, "a"))]
        seen_by_a, seen_by_b = (Report(done.result()) for done in running)
    expected = {**dict.fromkeys(seen_by_a.named("pair"), OK), "pair.clocks": WARN, "pair.mounts": NOTE}
    assert {name: seen_by_a[name] for name in expected} == expected
    assert {name: seen_by_b[name] for name in expected} == {**expected, "pair.names": WARN}
    assert [seen_by_b[name] for name in ("directory.clock", "origin.clock", "origin.list")] == [WARN, FAIL, FAIL]
    assert seen_by_b.checks["directory.clock"]["value"]["ahead_s"] == pytest.approx(-HOUR_S, abs=60)
    assert seen_by_b.code == 6
    assert a.call(hidden_names, export_path("small")) == []


def test_a_pair_on_version_3(a: NfsClient, b: NfsClient, on_small: NewDoctor) -> None:
    for client in (a, b):
        client.mount("small", "3", GOOD)
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(c.call, look_with, on_small(c).config, o) for c, o in ((a, "b"), (b, "a"))]
        for done in running:
            assert other_than_ok(done.result()) == {"pair.open_unlink": NOTE, "pair.client_ids": UNKNOWN}
