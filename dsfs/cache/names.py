"""The names that origins list: which datasets there are, and which versions of each.

An origin is asked once for all who want to know, believed for `ttl_s`, and an error of it for a moment.  What it said
last is kept beyond that: while it does not answer, a name it has told before is no less there.

Concurrency: the trio thread owns all state; the question itself runs in a worker thread, in the service nursery, so
that a reader who gives up leaves it to the others.
"""

import logging
from dataclasses import dataclass, field
from functools import partial

import trio
from cachetools import TTLCache

from dsfs.model.errors import DsfsError, OriginError
from dsfs.model.keys import KeyPath, key_path
from dsfs.storage.origin import Origin

log = logging.getLogger(__name__)

ERROR_BELIEVED_S = 2.0  # a listing that failed is not repeated for each lookup
NAMES_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class OriginPrefix:
    """Where names are listed: the directories directly below `prefix`."""

    origin: Origin
    prefix: str


@dataclass(eq=False)
class _Question:
    """Names that the origin is being asked for, for all who want them."""

    answered: trio.Event = field(default_factory=trio.Event)
    found: list[str] | OriginError = field(default_factory=list)


class OriginNames:
    """What is listed at each place."""

    def __init__(self, nursery: trio.Nursery, limiter: trio.CapacityLimiter, ttl_s: float) -> None:
        self._nursery = nursery
        self._limiter = limiter
        clock = trio.current_time
        self._fresh: TTLCache[OriginPrefix, list[str]] = TTLCache(NAMES_KEPT, ttl_s, clock)
        self._failed: TTLCache[OriginPrefix, OriginError] = TTLCache(NAMES_KEPT, ERROR_BELIEVED_S, clock)
        self._last: dict[OriginPrefix, list[str]] = {}
        self._questions: dict[OriginPrefix, _Question] = {}

    async def at(self, place: OriginPrefix) -> list[str]:
        """All names there; OriginError if the origin does not tell."""
        found = self._failed.get(place) or self._fresh.get(place)
        if found is None:
            if (question := self._questions.get(place)) is None:
                question = self._questions[place] = _Question()
                self._nursery.start_soon(self._ask, place, question)
            await question.answered.wait()
            found = question.found
        if isinstance(found, OriginError):
            raise found.with_traceback(None)
        return found

    async def has(self, place: OriginPrefix, name: str) -> bool:
        """Whether the name is there; OriginError if the origin does not tell, and has not told of it before."""
        try:
            return name in await self.at(place)
        except OriginError:
            if name in self.last(place):
                return True
            raise

    def is_fresh(self, place: OriginPrefix, name: str) -> bool:
        """Whether the name was listed within `ttl_s`."""
        return name in self._fresh.get(place, ())

    def last(self, place: OriginPrefix) -> list[str]:
        """What was listed there when the origin last answered, however long ago."""
        return self._last.get(place, [])

    async def _ask(self, place: OriginPrefix, question: _Question) -> None:
        where = f"{place.origin.origin_id}/{place.prefix}"
        try:
            names = await trio.to_thread.run_sync(
                partial(place.origin.names_below, place.prefix), abandon_on_cancel=True, limiter=self._limiter
            )
            question.found = [name for name in names if isinstance(key_path(name, 0), KeyPath)]
            self._fresh[place] = self._last[place] = question.found
        except DsfsError as exc:
            log.warning("the names below %s cannot be listed: %s", where, exc)
            self._failed[place] = question.found = exc if isinstance(exc, OriginError) else OriginError(str(exc))
        except Exception as exc:
            log.exception("unexpected error while listing the names below %s", where)
            self._failed[place] = question.found = OriginError(f"unexpected {type(exc).__name__}: {exc}")
        finally:
            del self._questions[place]
            question.answered.set()
