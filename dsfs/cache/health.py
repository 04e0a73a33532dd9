"""Whether the backing directory answers, and what becomes of those who wait for it while it does not.

No mount option bounds the time of an NFS call, and a thread inside one cannot be ended.  So whoever needs the backing
directory waits for a thread and never inside a call, and no longer than `late_s`: then the origin is asked.  Beside
that a probe asks the server every PROBE_S.  While one hangs, the directory is silent: whoever waits is let go at once,
nothing more is sent there but the probe, so the number of threads that hang is bounded.  The first probe that is
answered soon makes it ok again.  A server that is only slow answers probes.

Concurrency: the trio thread; a probe runs in a thread of its own, one at a time.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from dsfs.cache.pool import Bridge
from dsfs.model.errors import BackingSilentError
from dsfs.model.health import Condition, Health

log = logging.getLogger(__name__)

LOOK_S = 0.25  # how often the probe is looked at
PROBE_S = 2.0  # how often the server is asked, also while nobody needs it


@dataclass
class BackingHealth:
    """`probe` asks the server in any case (statvfs); `on_silent` is called when it has just become silent.

    `on_look` is called at every look: for those who have patience of their own to watch.
    """

    health: Health
    bridge: Bridge
    probe: Callable[[], object]
    on_silent: list[Callable[[], None]] = field(default_factory=list)
    on_look: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._waiting: set[trio.CancelScope] = set()
        self._probe_began_s: float | None = None
        self._probed_s = trio.current_time()

    @property
    def is_ok(self) -> bool:
        return self.health.since_s is None

    @property
    def condition(self) -> Condition:
        return self.health.condition(trio.current_time())

    @property
    def reason(self) -> str:
        """Since when it has not answered; "" while it is ok."""
        since_s = self.health.since_s
        return "" if since_s is None else f"it has not answered for {trio.current_time() - since_s:.0f} s"

    @contextmanager
    def patience(self, *, is_long: bool = False) -> Iterator[None]:
        """The block waits for the backing directory, in awaits that may be given up.

        BackingSilentError if that is silent, or becomes so meanwhile, or (unless `is_long`) takes longer than `late_s`.
        """
        if not self.is_ok:
            raise BackingSilentError(f"backing directory: {self.reason}")
        with trio.move_on_after(math.inf if is_long else self.health.late_s) as scope:
            self._waiting.add(scope)
            try:
                yield
            finally:
                self._waiting.discard(scope)
        if scope.cancelled_caught:
            raise BackingSilentError(f"backing directory: {self.reason or 'it did not answer in time'}")

    async def serve(self) -> None:
        """Service: probes, and looks at the probe."""
        while True:
            await trio.sleep(LOOK_S)
            try:
                self.look()
            except Exception:  # a service that ends would end the mount
                log.exception("unexpected error while looking after the backing directory")

    def look(self) -> None:
        """Notice that the probe is late; begin one if it is time for it."""
        now_s = trio.current_time()
        began_s = self._probe_began_s
        if began_s is not None and self.health.is_late(began_s, now_s) and self.health.late(began_s):
            self._became_silent()
        if began_s is None and now_s - self._probed_s >= PROBE_S:
            # A daemon thread of its own: it may hang for as long as the server is gone.
            threading.Thread(target=self._probe, args=(now_s,), name="backing-probe", daemon=True).start()
            self._probe_began_s = now_s
        for look in self.on_look:
            look()

    def _became_silent(self) -> None:
        log.warning("the backing directory does not answer; until it does, the origin is asked")
        for scope in list(self._waiting):
            scope.cancel()
        for tell in self.on_silent:
            tell()

    def _probe(self, began_s: float) -> None:
        try:
            self.probe()
        except OSError as exc:
            # An error is an answer; what is done about it is decided where data is read and written.
            log.debug("probe of the backing directory: %s", exc)
        self.bridge.post(lambda: self._probed(began_s))

    def _probed(self, began_s: float) -> None:
        now_s = trio.current_time()
        self._probe_began_s, self._probed_s = None, now_s
        silent_s = 0.0 if self.health.since_s is None else now_s - self.health.since_s
        if self.health.probed(began_s, now_s):
            log.warning("the backing directory answers again, after %.0f s", silent_s)
        elif not self.is_ok:
            self._probed_s = now_s - PROBE_S  # that one was late itself: the next one tells
