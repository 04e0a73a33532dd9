"""What the reading verbs answer while something is wrong, and what they say to requests that are."""

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from dsfs.admin import queries
from dsfs.admin.nodes import Neighbours
from dsfs.admin.queries import Queries
from dsfs.admin.residents import Residents
from dsfs.admin.verbs import Verbs
from dsfs.cache.datasets import Datasets
from dsfs.cache.heartbeat import Heartbeat
from dsfs.model.errors import BackingError, BusyError, UsageError
from dsfs.model.standing import Standing
from dsfs.storage.backing import MARK
from dsfs.storage.bulletin import standing_at
from dsfs.storage.nodes import NodesDirectory
from tests.engine.engine import MIB, PREFIX, Engine, running
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults
from tests.rig.usages import usage_of

CONTENT = b"x" * (5 * MIB)


def sample() -> FakeOrigin:
    origin = FakeOrigin()
    for version in ("v1", "v2"):
        origin.put(f"{PREFIX}{version}/large", CONTENT)
    return origin


def spoil_catalogs(directory: Path, version: str) -> None:
    """Of the version, here and in the backing directory."""
    for catalog in directory.glob(f"**/photos/{version}/*/catalog.mdb"):
        catalog.write_bytes(b"")


def queries_of(engine: Engine) -> Queries:
    datasets = cast(Datasets, SimpleNamespace(origins=[engine.origin], count=lambda: None))
    standing = standing_at(engine.backing.standing, engine.backing.file_system)
    return Queries(
        engine.library, engine.opener, engine.filler, lambda: engine.memory.used_bytes, engine.backing, engine.room,
        engine.health, Residents(engine.index, engine.filler, standing, engine.nodes), datasets, engine.warmer,
        engine.uses, engine.nodes, Path("/mnt"), Path("/etc/dsfs.toml"), engine.settings.memory_bytes,
    )  # fmt: skip


def verbs_of(engine: Engine) -> Verbs:
    asked = queries_of(engine)
    heartbeat = Heartbeat(
        engine.nodes, engine.library, engine.segments, asked.datasets, engine.backing, engine.room, engine.metrics,
        asked.mountpoint,
    )  # fmt: skip
    stop = lambda *, now: None  # noqa: E731
    return Verbs(
        asked, engine.library, engine.dropper, Neighbours(heartbeat, asked.ask_backing), engine.metrics, asked.datasets,
        engine.events, stop,
    )  # fmt: skip


@pytest.mark.expects_log("is damaged and left out|v1 cannot be listed")
async def test_status_shows_the_other_versions_beside_one_that_cannot_be_made_ready(tmp_path: Path) -> None:
    origin = sample()
    async with running(tmp_path, origin) as engine:
        for version in ("v1", "v2"):
            await engine.read_path(f"{version}/large")
    spoil_catalogs(tmp_path, "v1")
    async with running(tmp_path, origin) as engine:
        origin.fail_everything(BackingError("the only way to it is closed"))
        answer = await queries_of(engine).status(None)
        broken, whole = cast(list[dict[str, Any]], answer["versions"])
        assert (broken["version"], broken["state"], broken["generation"]) == ("v1", "unlisted", None)
        assert broken["error"] == "the only way to it is closed"
        assert (whole["version"], whole["state"], whole["resident_bytes"]) == ("v2", "ready", len(CONTENT))


@pytest.mark.expects_log("cannot be opened")
async def test_segment_that_is_in_use_and_not_opened_is_resident_as_the_index_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = sample()
    async with running(tmp_path, origin) as engine:
        await engine.read_path("v1/large")
    async with running(tmp_path, origin) as engine:
        Faults(monkeypatch).fail("segment.open_sealed", errno.EIO)
        engine.opener.release(await engine.open("v1/large"))
        version = await engine.library.version(await engine.library.dataset("photos"), "v1")
        generation = await engine.library.generation(version)
        entry = generation.catalog.resolve("large")
        assert await engine.opener.resident_blocks(generation, entry) == (40, 40)


async def test_why_leaves_no_user_behind(tmp_path: Path) -> None:
    async with running(tmp_path, sample()) as engine:
        answer = await queries_of(engine).why("photos/v1/large")
        assert answer["blocks"] == {"resident": 0, "total": 40}
        assert [segment.users for segment in engine.segments] == [0]


async def test_backing_directory_that_does_not_answer_holds_up_neither_status_nor_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "BACKING_ANSWERS_S", 0.05)
    async with running(tmp_path, sample()) as engine:
        verbs = verbs_of(engine)
        gate = Faults(monkeypatch).hold("backing.statvfs")
        for _ in range(queries.BACKING_QUESTIONS + 1):  # also once every thread hangs
            answer = cast(dict[str, Any], (await verbs.status({}))["backing"])
            assert (answer["state"], answer["reason"]) == ("paused", "backing directory does not answer")
            assert answer["free_bytes"] is answer["floor_bytes"] is None
        assert "\ndsfs_backing_free_bytes " not in await metrics_of(verbs)
        gate.open()


async def metrics_of(verbs: Verbs) -> str:
    return str(cast(dict[str, Any], await verbs.metrics_text({}))["text"])


async def test_metrics_tell_on_any_node_what_is_leaving_and_whether_that_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, sample()) as engine:
        verbs = verbs_of(engine)
        assert "\ndsfs_evict_leaving_bytes " not in await metrics_of(verbs)  # nobody has had a round
        said = standing_at(engine.backing.standing, engine.backing.file_system)
        for trouble in ("", "a snapshot holds them"):
            said.place(Standing(engine.nodes.now_ns(), "other", "far", 7 * MIB, 0, trouble, True, ()))
            text = await metrics_of(verbs)
            assert f"\ndsfs_evict_leaving_bytes {7 * MIB}\n" in text
            assert f"\ndsfs_evict_troubled_nodes {int(bool(trouble))}\n" in text


async def test_backing_directory_whose_mark_is_gone_has_no_free_bytes_and_a_reason(tmp_path: Path) -> None:
    async with running(tmp_path, sample()) as engine:
        verbs = verbs_of(engine)
        (engine.backing.path / MARK).unlink()
        await engine.read_path("v1/large")
        await engine.settle()
        text = await metrics_of(verbs)
        assert "\ndsfs_backing_free_bytes " not in text
        assert engine.backing.cluster not in text
        assert 'dsfs_fill_skipped_bytes_total{reason="error"}' in text
        answer = cast(dict[str, Any], (await verbs.status({}))["backing"])
        assert "dsfs.json is gone" in answer["reason"]
        assert answer["free_bytes"] is None


@pytest.mark.expects_log("cannot be found: it does not answer")
async def test_status_shows_the_known_versions_while_the_backing_directory_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "CATALOGS_FOUND_S", 0.05)
    async with running(tmp_path, sample()) as engine:
        await engine.read_path("v1/large")
        monkeypatch.setattr(engine.library, "meet_catalogued", trio.sleep_forever)
        (version,) = cast(list[dict[str, Any]], (await queries_of(engine).status(None))["versions"])
        assert version["version"] == "v1"


@pytest.mark.parametrize(
    ("verb", "argument", "wrong"),
    [
        ("status", "target", ["/", "/elsewhere", "/mntx/photos", "photos/v1/large", "/mnt/photos/v1/large"]),
        ("ls", "target", ["/", "/elsewhere/photos"]),
        ("why", "path", ["/", "photos", "photos/v1", "/mnt", "/mnt/photos/v1", "/photos/v1/large"]),
        ("drop", "target", ["/", "photos", "/mnt", "/mnt/photos", "photos/v1/large", "/mnt/photos/v1/large"]),
        ("refresh", "target", ["/", "photos", "/mnt/photos", "photos/v1/large"]),
    ],
)
async def test_target_that_makes_no_sense_is_wrong_usage_in_every_verb(
    tmp_path: Path, verb: str, argument: str, wrong: list[str]
) -> None:
    async with running(tmp_path, sample()) as engine:
        for target in wrong:
            with pytest.raises(UsageError, match=r"expected NAME|is not below the mountpoint /mnt"):
                await verbs_of(engine).table()[verb].run({argument: target})


async def test_target_may_be_a_path_below_the_mountpoint(tmp_path: Path) -> None:
    async with running(tmp_path, sample()) as engine:
        verbs = verbs_of(engine)
        for target in ("photos/v1", "photos/v1/", "/mnt/photos/v1", "/mnt/photos/v1/"):
            (version,) = cast(list[dict[str, Any]], (await verbs.status({"target": target}))["versions"])
            assert (version["dataset"], version["version"]) == ("photos", "v1")
            refreshed = await verbs.refresh({"target": target})
            assert (refreshed["dataset"], refreshed["version"]) == ("photos", "v1")
            assert len(cast(list[Any], (await verbs.ls({"target": target}))["entries"])) == 1
            assert (await verbs.drop({"target": target}))["version"] == "v1"
        for target in ("", "/mnt", "/mnt/"):
            assert (await verbs.status({"target": target}))["versions"]
            assert (await verbs.ls({"target": target}))["entries"]


@pytest.mark.parametrize(
    ("verb", "args", "message"),
    [
        ("why", {}, "argument 'path' is missing"),
        ("why", {"path": 5}, "argument 'path' is no text: 5"),
        ("status", {"target": 5}, "argument 'target' is no text: 5"),
        ("ls", {"target": ["a"]}, r"argument 'target' is no text: \['a'\]"),
        ("drop", {}, "argument 'target' is missing"),
        ("refresh", {"target": None}, "argument 'target' is missing"),
    ],
)
async def test_argument_that_is_no_text_is_refused(
    tmp_path: Path, verb: str, args: dict[str, Any], message: str
) -> None:
    async with running(tmp_path, sample()) as engine:
        with pytest.raises(UsageError, match=message):
            await verbs_of(engine).table()[verb].run(args)


async def test_version_in_use_is_dropped_only_by_force(tmp_path: Path) -> None:
    async with running(tmp_path, sample()) as engine:
        verbs = verbs_of(engine)
        opened = await engine.open("v1/large")
        with pytest.raises(BusyError, match=r"photos/v1 is in use by \S+ \(1 file open\); --force drops it"):
            await verbs.drop({"target": "photos/v1"})
        assert (await verbs.drop({"target": "photos/v2"}))["version"] == "v2"
        assert (await verbs.drop({"target": "photos/v1", "force": True}))["version"] == "v1"
        engine.opener.release(opened)
        assert (await verbs.drop({"target": "photos/v1"}))["version"] == "v1"


async def test_version_that_is_warmed_is_dropped_only_by_force(tmp_path: Path) -> None:
    async with running(tmp_path, sample()) as engine:
        verbs = verbs_of(engine)
        await engine.read_path("v1/large")
        (version,) = engine.library.versions
        assert version.current is not None
        with version.current.being_warmed():
            with pytest.raises(BusyError, match=r"in use by \S+ \(warming it\)"):
                await verbs.drop({"target": "photos/v1"})
            assert (await verbs.drop({"target": "photos/v1", "force": True}))["version"] == "v1"
        other = NodesDirectory(engine.backing.nodes, "other", engine.backing.file_system)
        other.beat(usage_of("far", files=0, is_warmed=True))
        with pytest.raises(BusyError, match=r"in use by far \(warming it\)"):
            await verbs.drop({"target": "photos/v1"})
        other.leave(usage_of("far"))


async def test_version_that_another_node_uses_or_may_use_is_dropped_only_by_force(tmp_path: Path) -> None:
    async with running(tmp_path, sample()) as engine:
        verbs = verbs_of(engine)
        other = NodesDirectory(engine.backing.nodes, "other", engine.backing.file_system)
        other.beat(usage_of("far", files=2))
        with pytest.raises(BusyError, match=r"in use by far \(2 files open\)"):
            await verbs.drop({"target": "photos/v1"})
        (engine.backing.nodes / "other" / "usage").write_text("nonsense")
        with pytest.raises(BusyError, match=r"in use by other \(what it uses is not known\)"):
            await verbs.drop({"target": "photos/v2"})
        other.leave(usage_of("far", is_stopped=True))
        for version in ("v1", "v2"):
            await verbs.drop({"target": f"photos/{version}"})


async def test_version_is_not_dropped_while_nobody_can_tell_who_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, sample()) as engine:
        verbs = verbs_of(engine)
        Faults(monkeypatch).fail("nodes.beat", errno.EROFS)
        with pytest.raises(BackingError, match="the nodes cannot be seen"):
            await verbs.drop({"target": "photos/v1"})
        assert (await verbs.drop({"target": "photos/v1", "force": True}))["version"] == "v1"
