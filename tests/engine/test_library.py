"""Datasets, versions, generations: asked for once by many, believed for a while, known here without the origin."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dsfs.cache.library import ERROR_BELIEVED_S, Library
from dsfs.cache.versions import Version
from dsfs.model.errors import (
    AccessDeniedError,
    DriftedError,
    NotFoundError,
    OriginError,
    OriginTemporaryError,
    OriginTimeoutError,
)
from tests.engine.engine import DATASET, PREFIX, Settings, running, until
from tests.engine.fake_origin import FakeOrigin, Gate

DOWN = OriginTemporaryError("503")


def origin_with(*versions: str) -> FakeOrigin:
    origin = FakeOrigin()
    for version in versions or ("v1",):
        origin.put(f"{PREFIX}{version}/a", version.encode())
    return origin


async def look(library: Library, name: str = "v1") -> Version:
    """The version, with its catalog."""
    version = await library.version(await library.dataset(DATASET), name)
    await library.generation(version)
    return version


async def test_one_listing_serves_many_concurrent_lookups(tmp_path: Path) -> None:
    origin = origin_with()
    async with running(tmp_path, origin, Settings(at_home=True)) as engine:
        origin.list_gate = Gate()
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(look, engine.library)
            await until(origin.list_gate.reached.is_set)
            origin.list_gate.open()
        assert origin.lists == ["lake/", PREFIX, PREFIX + "v1/"]


async def test_cancelled_first_lookup_leaves_the_listing_to_the_others(tmp_path: Path) -> None:
    origin = origin_with()
    async with running(tmp_path, origin) as engine:
        version = await engine.library.version(await engine.library.dataset(DATASET), "v1")
        gate = origin.list_gate = Gate()
        with trio.CancelScope() as first:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.library.generation, version)
                await until(gate.reached.is_set)
                assert version.state == "listing"
                first.cancel()
        gate.open()
        generation = await engine.library.generation(version)
        assert generation.catalog.summary.files == 1
        assert origin.lists.count(PREFIX + "v1/") == 1


@pytest.mark.expects_log("cannot be listed")
async def test_listing_error_is_believed_for_a_moment(tmp_path: Path, mock_clock: MockClock) -> None:
    origin = origin_with()
    async with running(tmp_path, origin) as engine:
        version = await engine.library.version(await engine.library.dataset(DATASET), "v1")
        origin.fail_everything(AccessDeniedError("403"))
        lists = len(origin.lists)
        for _ in range(5):
            with pytest.raises(AccessDeniedError):
                await engine.library.generation(version)
        assert len(origin.lists) == lists + 1
        origin.fail_everything(None)
        mock_clock.jump(ERROR_BELIEVED_S)
        await engine.library.generation(version)
        assert version.state == "ready"


async def test_lookup_waits_for_a_listing_no_longer_than_the_timeout(tmp_path: Path, mock_clock: MockClock) -> None:
    origin = origin_with()
    async with running(tmp_path, origin, Settings(list_timeout_s=60)) as engine:
        version = await engine.library.version(await engine.library.dataset(DATASET), "v1")
        gate = origin.list_gate = Gate()
        errors: list[OriginTimeoutError] = []

        async def lookup() -> None:
            with pytest.raises(OriginTimeoutError, match="still being listed") as caught:
                await engine.library.generation(version)
            errors.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lookup)
            await until(gate.reached.is_set)
            mock_clock.jump(60)
            await until(lambda: errors)
        gate.open()
        assert (await engine.library.generation(version)).catalog.summary.files == 1


@pytest.mark.expects_log("cannot be listed")
async def test_known_version_is_served_while_the_origin_is_down(tmp_path: Path) -> None:
    origin = origin_with("v1", "v2")
    async with running(tmp_path, origin, Settings(at_home=True)) as engine:
        assert await engine.read_path("v1/a") == b"v1"
    origin.fail_everything(DOWN)
    async with running(tmp_path, origin, Settings(at_home=True)) as engine:
        assert await engine.library.dataset_names() == [DATASET]
        dataset = await engine.library.dataset(DATASET)
        assert await engine.library.version_names(dataset) == ["v1"]
        assert await engine.read_path("v1/a") == b"v1"
        with pytest.raises(OriginError):
            await engine.library.version(dataset, "v2")


@pytest.mark.expects_log("cannot be listed")
@pytest.mark.parametrize("fault", [DOWN, AccessDeniedError("403")])
async def test_names_that_nobody_knows_are_an_error_and_not_an_empty_list(tmp_path: Path, fault: OriginError) -> None:
    origin = origin_with()
    origin.fail_everything(fault)
    async with running(tmp_path / "home", origin, Settings(at_home=True)) as engine:
        with pytest.raises(type(fault)):
            await engine.library.dataset_names()
    async with running(tmp_path / "configured", origin) as engine:
        assert await engine.library.dataset_names() == [DATASET]
        with pytest.raises(type(fault)):
            await engine.library.version_names(await engine.library.dataset(DATASET))


@pytest.mark.expects_log("cannot be listed")
async def test_what_the_origin_listed_last_is_known_while_it_is_down(tmp_path: Path, mock_clock: MockClock) -> None:
    origin = origin_with("v1", "v2")
    async with running(tmp_path, origin, Settings(at_home=True, names_ttl_s=10)) as engine:
        library = engine.library
        assert await library.dataset_names() == [DATASET]
        assert await library.version_names(await library.dataset(DATASET)) == ["v1", "v2"]
        origin.fail_everything(DOWN)
        mock_clock.jump(3_600)
        assert await library.dataset_names() == [DATASET]
        dataset = await library.dataset(DATASET)
        assert await library.version_names(dataset) == ["v1", "v2"]
        assert (await library.version(dataset, "v2")).state == "unlisted"
        with pytest.raises(OriginError):
            await library.version(dataset, "v3")


@pytest.mark.expects_log("cannot be listed")
async def test_name_that_cannot_be_looked_up_is_asked_for_again_after_a_moment(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    origin = origin_with()
    async with running(tmp_path, origin, Settings(names_ttl_s=3_600)) as engine:
        dataset = await engine.library.dataset(DATASET)
        origin.fail_everything(DOWN)
        for _ in range(3):
            with pytest.raises(OriginError):
                await engine.library.version(dataset, "v1")
        assert len(origin.lists) == 1
        origin.fail_everything(None)
        mock_clock.jump(ERROR_BELIEVED_S + 0.1)
        assert (await engine.library.version(dataset, "v1")).name == "v1"


async def test_names_are_believed_for_their_time(tmp_path: Path, mock_clock: MockClock) -> None:
    origin = origin_with("v1")
    async with running(tmp_path, origin, Settings(names_ttl_s=10)) as engine:
        dataset = await engine.library.dataset(DATASET)
        assert await engine.library.version_names(dataset) == ["v1"]
        origin.put(PREFIX + "v2/a", b"v2")
        mock_clock.jump(9)
        assert await engine.library.version_names(dataset) == ["v1"]
        with pytest.raises(NotFoundError):
            await engine.library.version(dataset, "v2")
        assert len(origin.lists) == 1
        mock_clock.jump(2)
        assert await engine.library.version_names(dataset) == ["v1", "v2"]
        assert (await engine.library.version(dataset, "v2")).state == "unlisted"


async def test_dataset_or_version_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    origin = origin_with()
    async with running(tmp_path, origin, Settings(at_home=True)) as engine:
        with pytest.raises(NotFoundError):
            await engine.library.dataset("nothing")
        with pytest.raises(NotFoundError):
            await engine.library.version(await engine.library.dataset(DATASET), "v9")


async def test_refresh_without_a_change_keeps_the_generation(tmp_path: Path) -> None:
    origin = origin_with()
    async with running(tmp_path, origin) as engine:
        version = await look(engine.library)
        current, previous = await engine.library.refresh(version)
        assert current is previous is version.current
        assert len(version.generations) == 1


async def test_refresh_with_a_change_makes_a_generation_and_open_files_keep_theirs(tmp_path: Path) -> None:
    origin = origin_with()
    async with running(tmp_path, origin) as engine:
        version = await look(engine.library)
        old = await engine.open("v1/a")
        assert await engine.read(old) == b"v1"
        origin.put(PREFIX + "v1/a", b"changed")
        origin.put(PREFIX + "v1/b", b"new")
        current, previous = await engine.library.refresh(version)
        assert previous is not current
        assert version.generations == [previous, current]
        assert version.state == "ready"
        assert await engine.read_path("v1/a") == b"changed"
        assert await engine.read(old) == b"v1"
        engine.opener.release(old)
    async with running(tmp_path, origin) as engine:
        assert await engine.read_path("v1/b") == b"new"


LARGE, CHANGED, CHANGED_AGAIN = (bytes([number]) * 6_000_000 for number in range(3))


@pytest.mark.expects_log("fetch failed", "has drifted")
@pytest.mark.parametrize("size", [100, 6_000_000])
async def test_drift_that_an_open_file_of_an_old_generation_meets_is_not_that_of_the_new_one(
    tmp_path: Path, size: int
) -> None:
    """Neither where the file is an object of its own nor where it is a member of a pack."""
    origin = origin_with()
    origin.put(PREFIX + "v1/x", LARGE[:size])
    async with running(tmp_path, origin) as engine:
        version = await look(engine.library)
        old = await engine.open("v1/x")
        origin.put(PREFIX + "v1/x", CHANGED[:size])
        await engine.library.refresh(version)
        with pytest.raises(DriftedError):
            await engine.read(old)
        assert version.state == "ready"
        origin.put(PREFIX + "v1/x", CHANGED_AGAIN[:size])
        with pytest.raises(DriftedError):
            await engine.read_path("v1/x")
        assert version.state == "drifted"
        await engine.library.refresh(version)
        assert version.state == "ready"
        engine.opener.release(old)


@pytest.mark.expects_log("fetch failed", "has drifted")
async def test_drift_of_an_object_that_generations_share_is_that_of_the_new_one_too(tmp_path: Path) -> None:
    origin = origin_with()
    origin.put(PREFIX + "v1/x", LARGE)
    async with running(tmp_path, origin) as engine:
        version = await look(engine.library)
        old = await engine.open("v1/x")
        origin.put(PREFIX + "v1/a", b"changed")
        await engine.library.refresh(version)
        origin.put(PREFIX + "v1/x", CHANGED)
        with pytest.raises(DriftedError):
            await engine.read(old)
        assert version.state == "drifted"
        engine.opener.release(old)


async def test_refresh_back_to_what_was_before_takes_up_the_old_generation(tmp_path: Path) -> None:
    origin = origin_with()
    async with running(tmp_path, origin) as engine:
        version = await look(engine.library)
        first = version.current
        origin.put(PREFIX + "v1/a", b"changed")
        await engine.library.refresh(version)
        origin.put(PREFIX + "v1/a", b"v1")
        current, previous = await engine.library.refresh(version)
        assert current is first
        assert version.generations == [previous, first]
        assert await engine.read_path("v1/a") == b"v1"
        await engine.drop("v1")


@pytest.mark.expects_log("cannot be listed")
async def test_refresh_that_fails_leaves_the_version_as_it_is(tmp_path: Path) -> None:
    origin = origin_with()
    async with running(tmp_path, origin) as engine:
        version = await look(engine.library)
        origin.fail_everything(DOWN)
        with pytest.raises(OriginTemporaryError):
            await engine.library.refresh(version)
        origin.fail_everything(None)
        assert await engine.read_path("v1/a") == b"v1"


async def test_long_listings_do_not_hold_up_names(tmp_path: Path) -> None:
    versions = [f"v{number}" for number in range(12)]
    origin = origin_with(*versions)
    async with running(tmp_path, origin, Settings(names_ttl_s=0)) as engine:
        dataset = await engine.library.dataset(DATASET)
        found = [await engine.library.version(dataset, name) for name in versions]
        gate = origin.list_gate = Gate()
        async with trio.open_nursery() as nursery:
            for version in found:
                nursery.start_soon(engine.library.generation, version)
            await until(gate.reached.is_set)
            origin.list_gate = None
            with trio.fail_after(10):
                assert await engine.library.version_names(dataset) == sorted(versions)
            gate.open()
