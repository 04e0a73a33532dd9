"""A backing directory that stops answering, for tests of what becomes of those who need it."""

from trio.testing import MockClock, wait_all_tasks_blocked

from dsfs.cache.health import LOOK_S, PROBE_S
from tests.engine.engine import Engine, until
from tests.engine.fake_origin import Gate
from tests.engine.faults import Faults

TIMEOUT_S = 5.0  # the nodes' `backing.timeout`


class Silence:
    """The backing directory stops answering, and starts again."""

    def __init__(self, engine: Engine, clock: MockClock, faults: Faults) -> None:
        self._engine = engine
        self._clock = clock
        self._faults = faults
        self._gate = Gate()

    def begin(self) -> None:
        """Nothing there is answered any more, and nobody has noticed yet."""
        self._gate = self._faults.silence()

    async def pass_time(self, seconds: float) -> None:
        await wait_all_tasks_blocked()
        self._clock.jump(seconds)
        await wait_all_tasks_blocked()

    async def notice(self) -> None:
        """Enough time passes for a probe to be begun, and to be late."""
        await self.pass_time(PROBE_S + LOOK_S)
        await until(self._gate.reached.is_set, "the probe")
        await self.pass_time(TIMEOUT_S + LOOK_S)
        assert not self._engine.health.is_ok

    async def end(self) -> None:
        """It answers again, and that has been noticed."""
        self._gate.open()
        self._clock.rate = 10.0
        await until(lambda: self._engine.health.is_ok, "a probe being answered in time")
        self._clock.rate = 0.0
