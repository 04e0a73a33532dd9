"""The verbs for pins and events, on an engine: what they answer, refuse, and tell of."""

import errno
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from dsfs.admin import pins, queries
from dsfs.admin.control import ASKED_BY
from dsfs.admin.events import EventVerbs
from dsfs.admin.pins import PinVerbs
from dsfs.model.blocks import PAGE
from dsfs.model.errors import BackingError, NotFoundError, UsageError
from dsfs.model.event import Kind
from dsfs.model.pin import EXPIRED_SHOWN_S, Pin
from dsfs.storage.pins import PinFolder
from tests.engine.engine import PREFIX, Engine, running, until
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults
from tests.engine.test_queries import queries_of, verbs_of

DAY_S = 86_400
ANN = {ASKED_BY: "ann"}
Answer = dict[str, Any]


def sample() -> FakeOrigin:
    origin = FakeOrigin()
    for version in ("v1", "v2", "release"):
        origin.put(f"{PREFIX}{version}/a", b"abc")
    return origin


@asynccontextmanager
async def asking(tmp_path: Path) -> AsyncIterator[tuple[Engine, PinVerbs]]:
    async with running(tmp_path, sample()) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.events.serve)
        folder = PinFolder(engine.backing.pins, engine.backing.file_system, engine.room.space)
        yield engine, PinVerbs(folder, engine.nodes, queries_of(engine), engine.events)
        await engine.events.end()
        nursery.cancel_scope.cancel()


async def listed(verbs: PinVerbs) -> list[Answer]:
    return cast(list[Answer], (await verbs.list({}))["pins"])


async def events_of(engine: Engine, **args: Any) -> Answer:
    return await EventVerbs(engine.events.log, engine.nodes, queries_of(engine)).events(args)


async def kinds_told(engine: Engine, count: int) -> list[str]:
    """The kinds of the first so many events, once they are written."""
    await until(lambda: len(engine.events.log.read({}, 0).events) >= count, "the events")
    return [event.kind for event in engine.events.log.read({}, 0).events]


async def test_pin_is_listed_and_told_of_until_it_is_taken_away(tmp_path: Path) -> None:
    async with asking(tmp_path) as (engine, verbs):
        assert await listed(verbs) == []
        answer = await verbs.pin({"target": "/mnt/photos/v1", "note": "paper", **ANN})
        assert (answer["dataset"], answer["version"], answer["state"], answer["user"], answer["note"]) == (
            "photos", "v1", "pinned", "ann", "paper",
        )  # fmt: skip
        assert answer["until_s"] is None
        assert answer["at_s"] == pytest.approx(time.time(), abs=60)
        assert await listed(verbs) == [answer]
        assert await verbs.unpin({"target": "photos/v1", **ANN}) == {"dataset": "photos", "version": "v1"}
        with pytest.raises(NotFoundError, match="photos/v1 is not pinned"):
            await verbs.unpin({"target": "photos/v1"})
        assert await listed(verbs) == []
        assert await kinds_told(engine, 2) == ["pinned", "unpinned"]
        assert [event["why"] for event in (await events_of(engine))["events"]] == ["by ann, paper", "by ann"]


async def test_pin_lasts_until_the_server_s_clock_says_so(tmp_path: Path) -> None:
    async with asking(tmp_path) as (_, verbs):
        answer: Answer = await verbs.pin({"target": "photos/v1", "for_s": 30 * DAY_S})
        assert answer["until_s"] - answer["at_s"] == pytest.approx(30 * DAY_S)
        until_s = time.time() + DAY_S
        assert (await verbs.pin({"target": "photos/v1", "until_s": until_s}))["until_s"] == pytest.approx(until_s)
        with pytest.raises(UsageError, match="that is over already"):
            await verbs.pin({"target": "photos/v1", "until_s": time.time() - DAY_S})
        with pytest.raises(UsageError, match="that is over already"):
            await verbs.pin({"target": "photos/v1", "for_s": 0})
        with pytest.raises(UsageError, match="expected a time before 2242"):  # else nobody could read it again
            await verbs.pin({"target": "photos/v1", "for_s": 90_000 * DAY_S})
        (pin,) = await listed(verbs)
        assert pin["until_s"] == pytest.approx(until_s)


async def test_pin_that_is_over_is_shown_for_a_while(tmp_path: Path) -> None:
    async with asking(tmp_path) as (_, verbs):
        now_ns = time.time_ns()
        for version, ago_s in (("v1", DAY_S), ("v2", EXPIRED_SHOWN_S + DAY_S)):
            verbs.pins.place(Pin("photos", version, 1, now_ns - round(ago_s * 1e9), "ann", "gpu1", ""))
        for _ in range(2):
            assert [(pin["version"], pin["state"]) for pin in await listed(verbs)] == [("v1", "expired")]
        assert list(verbs.pins.all().files) == ["photos,v1"]


@pytest.mark.expects_log("counts as a pin")
async def test_damaged_pin_is_listed_with_its_trouble(tmp_path: Path) -> None:
    async with asking(tmp_path) as (engine, verbs):
        for name in ("photos,v1,0.json", "0.json"):
            (engine.backing.pins / name).write_bytes(b"{")
        unknown, damaged = await listed(verbs)
        assert (damaged["dataset"], damaged["version"], damaged["state"]) == ("photos", "v1", "damaged")
        assert damaged["note"].startswith("photos,v1,0.json: ")
        assert (unknown["dataset"], unknown["state"]) == (None, "damaged")
        await verbs.unpin({"target": "photos/v1"})
        assert len(await listed(verbs)) == 1


async def test_version_that_is_not_there_is_refused_with_one_that_is_like_it(tmp_path: Path) -> None:
    async with asking(tmp_path) as (_, verbs):
        with pytest.raises(NotFoundError, match=r"has no version 'relaese' \(did you mean release\?\)"):
            await verbs.pin({"target": "photos/relaese"})
        with pytest.raises(NotFoundError, match=r"photoz.* \(did you mean photos\?\)"):
            await verbs.pin({"target": "photoz/v1"})
        assert await listed(verbs) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "argument 'target' is missing"),
        ({"target": "photos"}, "expected NAME/VERSION"),
        ({"target": "photos/v1", "note": 7}, "argument 'note' is no text"),
        ({"target": "photos/v1", "note": "x" * 501}, "a note has at most 500 characters"),
        ({"target": "photos/v1", "until_s": "soon"}, "argument 'until_s' is no time"),
        ({"target": "photos/v1", "until_s": float("nan")}, "argument 'until_s' is no time"),
        ({"target": "photos/v1", "for_s": -1}, "argument 'for_s' is no time"),
        ({"target": "photos/v1", "until_s": 10**12}, "argument 'until_s' is no time"),
    ],
)
async def test_what_makes_no_sense_is_refused(tmp_path: Path, args: Answer, message: str) -> None:
    async with asking(tmp_path) as (_, verbs):
        with pytest.raises(UsageError, match=message):
            await verbs.pin(args)


async def test_silent_or_broken_backing_directory_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "BACKING_ANSWERS_S", 0.05)
    monkeypatch.setattr(pins, "PLACED_S", 0.05)
    faults = Faults(monkeypatch)
    async with asking(tmp_path) as (engine, verbs):
        await verbs.pin({"target": "photos/v1"})
        asked: list[tuple[Any, Answer]] = [
            (verbs.pin, {"target": "photos/v2"}), (verbs.unpin, {"target": "photos/v1"}), (verbs.list, {}),
        ]  # fmt: skip
        for verb, args in asked:
            faults.fail("pins.list", errno.EIO)
            with pytest.raises(BackingError, match="the folder of pins: Input/output error"):
                await verb(args)
        gate = faults.hold("pins.list")
        for verb, args in asked:
            with pytest.raises(BackingError, match="backing directory does not answer"):
                await verb(args)
        gate.open()
        await until(lambda: not verbs.queries._limiter.borrowed_tokens, "the end of the threads that hung")
        faults.fail("events.list", errno.EIO)
        with pytest.raises(BackingError, match="the folder of events: Input/output error"):
            await events_of(engine)


# ---------------------------------------------------------------- events


async def test_drop_and_refresh_are_told_of(tmp_path: Path) -> None:
    async with asking(tmp_path) as (engine, _):
        await engine.read_path("v1/a")
        await engine.settle()
        verbs = verbs_of(engine)
        await verbs.drop({"target": "photos/v1", **ANN})
        await verbs.refresh({"target": "photos/v1", **ANN})  # nothing has changed
        cast(FakeOrigin, engine.origin).put(f"{PREFIX}v1/b", b"12345")
        await verbs.refresh({"target": "photos/v1", **ANN})
        assert await kinds_told(engine, 3) == ["published", "dropped", "refreshed"]
        published, dropped, refreshed = (await events_of(engine, target="photos/v1"))["events"]
        assert (published["why"], published["bytes"]) == ("1 file", 3)
        assert (dropped["why"], dropped["bytes"]) == ("by ann", 3 * PAGE)  # with its checksums
        assert (refreshed["why"], refreshed["bytes"]) == ("by ann", 8)


async def test_events_are_chosen_by_version_and_time_and_followed(tmp_path: Path) -> None:
    async with asking(tmp_path) as (engine, _):
        for version in ("v1", "v2"):
            engine.events.tell(Kind.DROPPED, "photos", version)
        engine.events.tell(Kind.STARTED)
        await kinds_told(engine, 3)
        everything = await events_of(engine)
        assert (len(everything["events"]), everything["left_out"], everything["damaged_lines"]) == (3, 0, 0)
        assert [event["version"] for event in (await events_of(engine, target="photos/v2"))["events"]] == ["v2"]
        assert len((await events_of(engine, target="photos"))["events"]) == 2
        assert len((await events_of(engine, last_s=3600))["events"]) == 3
        assert (await events_of(engine, since_s=time.time() + 3600))["events"] == []
        followed = await events_of(engine, read_until=everything["read_until"])
        assert (followed["events"], followed["read_until"]) == ([], everything["read_until"])
        for places in ({"a": -1}, {"a": "b"}, [1]):
            with pytest.raises(UsageError, match="argument 'read_until'"):
                await events_of(engine, read_until=places)


@pytest.mark.expects_log("has drifted")
async def test_drift_is_told_of_once(tmp_path: Path) -> None:
    async with asking(tmp_path) as (engine, _):
        files = [await engine.open("v1/a"), await engine.open("v2/a")]
        version = files[0].generation.version
        obj = files[0].generation.catalog.object_of(files[0].generation.catalog.resolve("a"))
        for _ in range(2):
            version.note_drift(obj)
        assert await kinds_told(engine, 3) == ["published", "published", "drifted"]
        for file in files:
            engine.opener.release(file)
        drifted = [event["why"] for event in (await events_of(engine))["events"] if event["kind"] == "drifted"]
        assert drifted == [f"{PREFIX}v1/a at the origin has changed"]
