"""The library: which datasets and versions there are, and the catalog of each version in use.

Names come from the origin (names.py) and from the catalogs that are here; a version's catalog is opened, copied or
listed when somebody first looks into it, once for all who do.  A version's files never change under a reader: a
refresh makes a new generation beside the old one, and who has the old one open keeps it.

Concurrency: the trio thread owns all state; what blocks runs in worker threads of a limiter of its own.  A
listing runs in the service nursery, so that a reader who gives up leaves it to the others.
"""

import contextlib
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from dsfs.cache.catalogs import Catalogs
from dsfs.cache.events import Events
from dsfs.cache.names import OriginNames, OriginPrefix
from dsfs.cache.versions import Dataset, Generation, Version
from dsfs.model.errors import DsfsError, NotFoundError, OriginError, OriginTimeoutError
from dsfs.model.event import Kind
from dsfs.storage.catalog import Catalog
from dsfs.storage.catalog_build import build_catalog
from dsfs.storage.catalog_format import Summary
from dsfs.storage.generations import CATALOG, PlacedGeneration
from dsfs.storage.listing import list_version
from dsfs.storage.segmentlist import SegmentList, list_segments

log = logging.getLogger(__name__)
T = TypeVar("T")

ERROR_BELIEVED_S = 2.0  # a version whose listing failed is not listed again for each lookup
WORKERS = 8  # threads for names and catalogs
LISTINGS = 4  # versions listed at once; they may take minutes, and names are not to wait for them


class DatasetSource(Protocol):
    """What the configuration says of datasets; see datasets.py."""

    configured: list[str]
    home: OriginPrefix | None

    def find(self, name: str) -> Dataset: ...


class Library:
    """Finds datasets, versions and their generations."""

    def __init__(
        self,
        catalogs: Catalogs,
        work_dir: Path,
        datasets: DatasetSource,
        nursery: trio.Nursery,
        names_ttl_s: float,
        list_timeout_s: float,
        events: Events,
    ) -> None:
        self._catalogs = catalogs
        self._work_dir = work_dir
        shutil.rmtree(work_dir, ignore_errors=True)  # a crash may have left what it was listing
        self._configured = datasets.configured
        self._find_dataset = datasets.find
        self._home = datasets.home
        self._nursery = nursery
        self._list_timeout_s = list_timeout_s
        self._events = events
        self._limiter = trio.CapacityLimiter(WORKERS)
        self._listings = trio.CapacityLimiter(LISTINGS)
        self._datasets: dict[str, Dataset] = {}
        self._opened_catalogs: dict[Path, Catalog] = {}
        self._opening = threading.Lock()
        self._versions: dict[tuple[str, str], Version] = {}
        self._names = OriginNames(nursery, self._limiter, names_ttl_s)

    # ---------------------------------------------------------------- names

    async def dataset_names(self) -> list[str]:
        """All datasets; while the origin does not answer, those that are known, and OriginError if there is none."""
        known = set(self._configured)
        if self._home is None:
            return sorted(known)
        return await self._named(known | await self._catalogs.datasets(), self._home)

    async def version_names(self, dataset: Dataset) -> list[str]:
        """All versions of the dataset; while the origin does not answer as `dataset_names`."""
        return await self._named(await self._catalogs.versions(dataset.name), dataset.place)

    async def _named(self, known: set[str], place: OriginPrefix) -> list[str]:
        try:
            return sorted(known | set(await self._names.at(place)))
        except OriginError:
            known |= set(self._names.last(place))
            if not known:
                raise  # nobody may take what cannot be seen for something that is empty
            return sorted(known)

    async def dataset(self, name: str) -> Dataset:
        """The dataset; NotFoundError if there is none, OriginError if nobody can tell."""
        if name not in self._datasets:
            is_known = name in self._configured or (self._home and name in await self._catalogs.datasets())
            if not is_known and (self._home is None or not await self._names.has(self._home, name)):
                raise NotFoundError(f"there is no dataset {name!r}")
            self._datasets[name] = self._find_dataset(name)
        return self._datasets[name]

    async def version(self, dataset: Dataset, name: str) -> Version:
        """The version, perhaps without its catalog yet; NotFoundError if there is none."""
        if (known := self._versions.get((dataset.name, name))) is not None:
            return known
        if (
            not self._names.is_fresh(dataset.place, name)
            and name not in await self._catalogs.versions(dataset.name)
            and not await self._names.has(dataset.place, name)
        ):
            raise NotFoundError(f"dataset {dataset.name!r} has no version {name!r}")
        return self._met(dataset, name)

    # ---------------------------------------------------------------- catalogs

    @property
    def versions(self) -> list[Version]:
        """Every version somebody has looked at."""
        return list(self._versions.values())

    async def meet_catalogued(self) -> None:
        """Take every version that has a catalog here into `versions`."""
        for name in await self._catalogs.datasets():
            if name in self._configured or self._home is not None:
                dataset = await self.dataset(name)
                for version in await self._catalogs.versions(name):
                    self._met(dataset, version).is_catalogued = True

    def _met(self, dataset: Dataset, name: str) -> Version:
        return self._versions.setdefault((dataset.name, name), Version(dataset, name, self._events))

    async def generation(self, version: Version) -> Generation:
        """The current generation, opened or listed now if need be; OriginError if that fails or takes too long."""
        if version.current is None:
            if version.ready is None:
                if version.error is not None and trio.current_time() < version.error_until_s:
                    raise version.error.with_traceback(None)
                version.ready = trio.Event()
                self._nursery.start_soon(self._make_ready, version, version.ready, False)
            await self._wait_ready(version, version.ready)
        assert version.current is not None
        return version.current

    async def refresh(self, version: Version) -> tuple[Generation, Generation | None]:
        """List the version anew; returns (current, previous), the same generation twice if nothing has changed."""
        previous = version.current or await self.generation(version)
        while version.ready is not None:
            await version.ready.wait()
        version.ready = trio.Event()
        self._nursery.start_soon(self._make_ready, version, version.ready, True)
        await self._wait_ready(version, version.ready)
        assert version.current is not None
        return version.current, previous

    async def _wait_ready(self, version: Version, ready: trio.Event) -> None:
        try:
            with trio.fail_after(self._list_timeout_s):
                await ready.wait()
        except trio.TooSlowError:
            raise OriginTimeoutError(
                f"{version.dataset.name}/{version.name}: still being listed after {self._list_timeout_s:g} s"
                f" ({version.listed} keys so far)"
            ) from None
        if version.error is not None:
            raise version.error.with_traceback(None)

    async def _make_ready(self, version: Version, ready: trio.Event, is_refresh: bool) -> None:
        version.error = None
        try:
            names = version.dataset.name, version.name
            placed = None if is_refresh else await self._catalogs.current(*names)
            if placed is None:
                async with self._catalogs.turn(*names):
                    placed = None if is_refresh else await self._catalogs.current(*names)
                    placed = placed or await self._listed(version)
            current = await self._make_current(version, placed.path / CATALOG)
            if is_refresh:
                current.drifted.clear()
        except NotFoundError as exc:  # nothing there (yet): no fault of anybody
            log.info("%s/%s: %s", version.dataset.name, version.name, exc)
            version.error = exc
        except DsfsError as exc:
            log.warning("%s/%s cannot be listed: %s", version.dataset.name, version.name, exc)
            version.error = exc
        except Exception as exc:
            log.exception("unexpected error while listing %s/%s", version.dataset.name, version.name)
            version.error = OriginError(f"unexpected {type(exc).__name__}: {exc}")
        finally:
            version.error_until_s = trio.current_time() + ERROR_BELIEVED_S
            version.ready = None
            ready.set()

    async def _make_current(self, version: Version, path: Path) -> Generation:
        known = next((generation for generation in version.generations if generation.path == path), None)
        if known is None:
            known = Generation(version, await self._run(partial(self._opened, path)), path)
        else:  # it has come back if it is not the current one
            version.generations.remove(known)
        version.generations.append(known)
        version.first = version.first or known
        return known

    def _opened(self, path: Path) -> Catalog:
        """In a worker thread: the catalog in that file, which LMDB opens only once in a process."""
        with self._opening:
            if path not in self._opened_catalogs:
                self._opened_catalogs[path] = Catalog(path)
            return self._opened_catalogs[path]

    async def _listed(self, version: Version) -> PlacedGeneration:
        """The generation that the origin has now."""
        built, summary, segments = await self._run(partial(self._list, version), self._listings)
        names = version.dataset.name, version.name
        current = await self._catalogs.current(*names)
        if current is not None and current.generation == summary.generation:
            await self._run(built.unlink)
            return current
        placed = await self._catalogs.add(*names, built, asdict(summary), segments)
        if current is None:
            files = "1 file" if summary.files == 1 else f"{summary.files:,} files"
            self._events.tell(Kind.PUBLISHED, *names, files, summary.bytes)
        return placed

    def _list(self, version: Version) -> tuple[Path, Summary, SegmentList]:
        """In a worker thread: a catalog of what the origin has now, and its segments."""
        dataset = version.dataset
        began = time.monotonic()
        prefix = f"{dataset.prefix}{version.name}/"
        self._work_dir.mkdir(parents=True, exist_ok=True)
        built = self._work_dir / f"{uuid.uuid4().hex}.mdb"

        def progress(keys: int) -> None:
            version.listed = keys

        with contextlib.closing(list_version(dataset.origin, prefix, self._work_dir, on_progress=progress)) as objects:
            summary = build_catalog(objects, prefix=prefix, origin_id=dataset.origin.origin_id, path=built)
        if not summary.files and not summary.directories and not summary.left_out:
            built.unlink()
            raise NotFoundError(f"there is nothing below {dataset.origin.origin_id}/{prefix}")
        log.info(
            "%s/%s: %d files listed in %.1f s, generation %s",
            dataset.name, version.name, summary.files, time.monotonic() - began, summary.generation,
        )  # fmt: skip
        return built, summary, list_segments(built)

    async def segment_identities(self, version: Version) -> list[str]:
        """Every segment of every generation of the version, also of those no longer in use."""
        await self.generation(version)
        # Not given up when cancelled: `close` must not come while a thread reads a catalog.
        return await trio.to_thread.run_sync(partial(self._identities, version), limiter=self._limiter)

    def _identities(self, version: Version) -> list[str]:
        """In a worker thread."""
        found: dict[str, None] = {}
        for path in self._catalogs.store.catalogs(version.dataset.name, version.name):
            found.update((identity, None) for identity, _, _ in self._opened(path).segments())
        return list(found)

    async def _run(self, work: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter or self._limiter)

    def close(self) -> None:
        for catalog in self._opened_catalogs.values():
            catalog.close()
