"""The warms of this node: those it was asked for itself, and those that all nodes were asked for.

A request is a file (storage/requests.py), in the state directory or in the backing directory.  Every node looks there
now and then, begins what is new, and ends what is gone.  So a warm outlives its daemon, and needs nobody who hands it
out.  The node that finds all of it resident takes the request away.

Concurrency: the trio thread; folders are looked at in worker threads, one at a time each, and nobody waits for them.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import trio

from dsfs.cache.warm import THIS, Phase, Services, Warm
from dsfs.model.errors import BackingError
from dsfs.model.request import WarmRequest
from dsfs.storage.requests import RequestFolder

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_S = 10.0  # how often the folders are looked at
EXPIRY_S = 60.0  # and how often for requests that are too old
ANSWERS_S = 10.0  # a folder that is silent for so long is reported as such
AT_ONCE = 4  # warms under way; others wait for their turn
ENDED_KEPT = 32  # warms that have ended and are still shown


@dataclass
class Warmer:
    """`folders`: where the requests for ALL nodes and for THIS one lie."""

    services: Services
    folders: Mapping[str, RequestFolder]
    _warms: dict[tuple[str, WarmRequest], Warm] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._at_once = trio.CapacityLimiter(AT_ONCE)
        self._threads = {nodes: trio.CapacityLimiter(1) for nodes in self.folders}
        self._looks = {nodes: trio.Lock() for nodes in self.folders}

    @property
    def warms(self) -> list[Warm]:
        """Those under way, and the last that have ended."""
        return list(self._warms.values())

    async def begin(self, request: WarmRequest, nodes: str) -> Warm:
        """Ask for the warm, and begin it.  BackingError if the request cannot be written."""
        async with self._looks[nodes]:
            await self._ask(nodes, partial(self.folders[nodes].place, request))
            self._take_up(nodes, await self._ask(nodes, self.folders[nodes].all))
        if (warm := self._warms.get((nodes, request))) is None:
            raise BackingError(f"the request to warm {request.target} has gone again")
        return warm

    async def stop(self, dataset: str, version: str) -> int:
        """End all warms of the version, on all nodes; how many there were.

        BackingError if a request cannot be taken away; on this node they have ended all the same.
        """
        ended: set[tuple[str, WarmRequest]] = set()
        for (nodes, request), warm in self._warms.items():
            if (request.dataset, request.version) == (dataset, version) and not warm.is_over:
                ended.add((nodes, request))
                warm.end(Phase.STOPPED, "on request")
        for nodes in self.folders:
            async with self._looks[nodes]:
                for request in await self._ask(nodes, self.folders[nodes].all):
                    if (request.dataset, request.version) == (dataset, version):
                        ended.add((nodes, request))
                        await self._ask(nodes, partial(self.folders[nodes].withdraw, request))
        return len(ended)

    def close(self) -> None:
        """The daemon stops: begin nothing more.  The requests stay, and so does what is resident."""
        self._nursery.cancel_scope.cancel()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Service: looks at each folder for as long as the daemon runs."""
        async with trio.open_nursery() as self._nursery:
            for nodes in self.folders:
                self._nursery.start_soon(self._keep_looking, nodes)
            task_status.started()

    # ---------------------------------------------------------------- what the folders say

    async def _keep_looking(self, nodes: str) -> None:
        expiry_s = 0.0
        while True:
            try:
                async with self._looks[nodes]:
                    requests = await self._ask(nodes, self.folders[nodes].all)
                    if trio.current_time() >= expiry_s:
                        expiry_s = trio.current_time() + EXPIRY_S
                        await self._expire(nodes, requests)
                    self._take_up(nodes, requests)
                    await self._take_away(nodes, requests)
            except BackingError as exc:
                log.info("requests for %s nodes cannot be read: %s", nodes, exc)
            except Exception:  # a service that ends would end the mount
                log.exception("unexpected error while looking for requests")
            await trio.sleep(LOOK_S)

    async def _expire(self, nodes: str, requests: dict[WarmRequest, int]) -> None:
        for request in await self._ask(nodes, partial(self.folders[nodes].expired, requests)):
            if (warm := self._warms.get((nodes, request))) is not None and not warm.is_over:
                warm.end(Phase.EXPIRED, "it was asked for too long ago")
            await self._ask(nodes, partial(self.folders[nodes].withdraw, request))
            del requests[request]

    def _take_up(self, nodes: str, requests: Mapping[WarmRequest, int]) -> None:
        """Begin what is new, and end what is gone."""
        for request, asked_ns in requests.items():
            known = self._warms.get((nodes, request))
            if known is None or (known.is_over and known.asked_ns != asked_ns):
                self._warms.pop((nodes, request), None)  # the newest comes last
                warm = Warm(self.services, request, asked_ns, nodes)
                self._warms[nodes, request] = warm
                self._nursery.start_soon(self._run, nodes, warm)
            else:
                known.asked_ns = asked_ns
        over = []
        for (of, request), warm in self._warms.items():
            if of == nodes and request not in requests:
                if warm.is_over:
                    over.append((of, request))
                elif not warm.is_withdrawn:
                    warm.withdraw()
        for key in over[: max(0, len(over) - ENDED_KEPT)]:
            del self._warms[key]

    async def _take_away(self, nodes: str, requests: Mapping[WarmRequest, int]) -> None:
        """Those requests for which nobody has anything left to do."""
        for request in requests:
            await self._take_away_of(nodes, self._warms[nodes, request])

    async def _take_away_of(self, nodes: str, warm: Warm) -> None:
        if warm.is_final or (warm.is_over and nodes == THIS):
            await self._ask(nodes, partial(self.folders[nodes].withdraw, warm.request))

    async def _run(self, nodes: str, warm: Warm) -> None:
        async with self._at_once:
            await warm.run()
        with suppress(BackingError):  # the next look takes it away
            async with self._looks[nodes]:
                if self._warms.get((nodes, warm.request)) is warm:  # else it was asked for anew
                    await self._take_away_of(nodes, warm)

    async def _ask(self, nodes: str, question: Callable[[], T]) -> T:
        """What `question` returns, asked in the one thread of this folder.  BackingError, also if it takes too long."""
        try:
            with trio.fail_after(ANSWERS_S):
                return await trio.to_thread.run_sync(question, abandon_on_cancel=True, limiter=self._threads[nodes])
        except trio.TooSlowError:
            raise BackingError("the folder of requests does not answer") from None
        except OSError as exc:
            raise BackingError(f"the folder of requests: {exc.strerror}") from exc
