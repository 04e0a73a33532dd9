"""Catalogs that cannot be put into the backing directory: they are, as soon as that is possible."""

import errno
import os
from pathlib import Path

import pytest
from trio.testing import MockClock

from dsfs.cache.catalogs import SHARE_AGAIN_S
from tests.engine.engine import DATASET, PREFIX, Engine, Settings, running, until
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults
from tests.engine.silence import TIMEOUT_S, Silence


def sample() -> FakeOrigin:
    origin = FakeOrigin()
    origin.put(f"{PREFIX}v1/file", b"x" * 100)
    return origin


def shared(engine: Engine) -> list[str]:
    """The generations that all nodes find."""
    folder = engine.backing.generations / DATASET / "v1"
    return os.listdir(folder) if folder.exists() else []


@pytest.mark.expects_log("cannot be put into the backing directory yet")
@pytest.mark.parametrize("has_restarted", [False, True])
async def test_catalog_that_finds_no_room_is_shared_later_and_its_trouble_told_once(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    has_restarted: bool,
) -> None:  # fmt: skip
    faults = Faults(monkeypatch)
    faults.fail("generation.share", errno.ENOSPC, times=4 if has_restarted else 3)
    if has_restarted:
        async with running(tmp_path, sample()) as engine:
            await engine.open("v1/file")
        caplog.clear()
    async with running(tmp_path, sample()) as engine:
        await engine.open("v1/file")
        assert shared(engine) == []
        mock_clock.rate = 10 * SHARE_AGAIN_S
        await until(lambda: shared(engine), "the catalog")
        mock_clock.rate = 0.0
    assert faults.reached.count("generation.share") == 4 + has_restarted
    assert sum("cannot be put" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.expects_log("does not answer; until it does", "answers again")
async def test_catalog_of_a_version_that_is_listed_in_a_silence_is_shared_after_it(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, sample(), Settings(backing_timeout_s=TIMEOUT_S)) as engine:
        silence = Silence(engine, mock_clock, Faults(monkeypatch))
        silence.begin()
        await silence.notice()
        await engine.open("v1/file")
        await silence.end()
        assert shared(engine) == []
        mock_clock.jump(SHARE_AGAIN_S)
        await until(lambda: shared(engine), "the catalog")


@pytest.mark.expects_log("does not answer; until it does", "answers again")
async def test_catalog_that_is_there_is_not_copied_again_after_a_silence(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch)
    async with running(tmp_path, sample()) as engine:
        await engine.open("v1/file")
    async with running(tmp_path, sample(), Settings(backing_timeout_s=TIMEOUT_S)) as engine:
        silence = Silence(engine, mock_clock, faults)
        silence.begin()
        await silence.notice()
        await engine.open("v1/file")
        assert engine.library._catalogs.store.unshared
        await silence.end()
        faults.reached.clear()
        mock_clock.jump(SHARE_AGAIN_S)
        await until(lambda: not engine.library._catalogs.store.unshared, "a look at what is shared")
    assert "generation.copy" not in faults.reached
