"""The library: which datasets and versions there are, and the catalog of each version in use.

Names come from the origin (believed for `names_ttl`) and from the catalogs that are here; a version's catalog
is opened, copied or listed when somebody first looks into it, once for all who do.  A version's files never
change under a reader: a refresh makes a new generation beside the old one, and who has the old one open keeps
it.

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
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import trio
from cachetools import TTLCache

from dsfs.cache.catalogs import Catalogs
from dsfs.model.errors import DsfsError, NotFoundError, OriginError, OriginTimeoutError
from dsfs.model.keys import KeyPath, key_path
from dsfs.model.objects import ObjectRef, identity_of
from dsfs.storage.catalog import Catalog, Entry
from dsfs.storage.catalog_build import build_catalog
from dsfs.storage.catalog_format import Summary
from dsfs.storage.generations import CATALOG, PlacedGeneration
from dsfs.storage.listing import list_version
from dsfs.storage.origin import Origin

log = logging.getLogger(__name__)
T = TypeVar("T")

ERROR_BELIEVED_S = 2.0  # a listing that failed is not repeated for each lookup
WORKERS = 8  # threads for names and catalogs
LISTINGS = 4  # versions listed at once; they may take minutes, and names are not to wait for them
DRIFTED_SHOWN = 100  # paths of drifted files kept for `status`
NAMES_KEPT = 10_000


@dataclass(frozen=True)
class Dataset:
    """A dataset: its versions are the names below `prefix` at `origin`."""

    name: str
    origin: Origin
    prefix: str
    uid: int
    gid: int
    file_mode: int
    dir_mode: int


@dataclass(eq=False)
class Generation:
    """One catalog in use; `path` is its file."""

    version: "Version"
    catalog: Catalog
    path: Path

    @property
    def id(self) -> str:
        return self.catalog.generation

    def identity_of(self, entry: Entry) -> str:
        """The segment that holds the file."""
        if entry.pack >= 0:
            return self.catalog.pack(entry.pack).identity
        dataset = self.version.dataset
        return identity_of(self.catalog.object_of(entry).fingerprint(dataset.origin.origin_id))


@dataclass(eq=False)
class Version:
    """A version somebody has looked at.  `drifted`: keys the origin has other objects for; `listed`: keys
    seen so far by a listing;
    `is_catalogued`: its catalog is here, so that no listing is needed.
    """

    dataset: Dataset
    name: str
    generations: list[Generation] = field(default_factory=list)
    first: Generation | None = None
    drifted: dict[str, float] = field(default_factory=dict)
    listed: int = 0
    ready: trio.Event | None = None
    error: DsfsError | None = None
    error_until_s: float = 0.0
    is_catalogued: bool = False

    @property
    def current(self) -> Generation | None:
        return self.generations[-1] if self.generations else None

    @property
    def state(self) -> str:
        if self.ready is not None:
            return "listing"
        if self.drifted:
            return "drifted"
        return "ready" if self.generations else "unlisted"

    def note_drift(self, obj: ObjectRef) -> None:
        """A fetch found another object than the catalog's."""
        if obj.key not in self.drifted and len(self.drifted) < DRIFTED_SHOWN:
            self.drifted[obj.key] = time.time()
            log.warning(
                "%s/%s has drifted: %r at the origin is not the catalog's; `dsfs refresh` makes a new generation",
                self.dataset.name, self.name, obj.key,
            )  # fmt: skip


@dataclass(eq=False)
class _Question:
    """Names that the origin is being asked for, for all who want them."""

    answered: trio.Event = field(default_factory=trio.Event)
    found: list[str] | OriginError = field(default_factory=list)


class DatasetSource(Protocol):
    """What the configuration says of datasets; see datasets.py."""

    configured: list[str]
    home: tuple[Origin, str] | None

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
    ) -> None:
        self._catalogs = catalogs
        self._work_dir = work_dir
        shutil.rmtree(work_dir, ignore_errors=True)  # a crash may have left what it was listing
        self._configured = datasets.configured
        self._find_dataset = datasets.find
        self._home = datasets.home
        self._nursery = nursery
        self._list_timeout_s = list_timeout_s
        self._limiter = trio.CapacityLimiter(WORKERS)
        self._listings = trio.CapacityLimiter(LISTINGS)
        self._datasets: dict[str, Dataset] = {}
        self._opened_catalogs: dict[Path, Catalog] = {}
        self._opening = threading.Lock()
        self._versions: dict[tuple[str, str], Version] = {}
        self._names: TTLCache[str, list[str]] = TTLCache(NAMES_KEPT, names_ttl_s, timer=trio.current_time)
        self._no_names: TTLCache[str, OriginError] = TTLCache(NAMES_KEPT, ERROR_BELIEVED_S, timer=trio.current_time)
        self._questions: dict[str, _Question] = {}

    # ---------------------------------------------------------------- names

    async def dataset_names(self) -> list[str]:
        """All datasets; those that are known here when the origin does not answer."""
        known = set(self._configured)
        if self._home is not None:
            known |= await self._catalogs.datasets()
            known |= set(await self._names_below("", *self._home, fallback=True))
        return sorted(known)

    async def version_names(self, dataset: Dataset) -> list[str]:
        """All versions of the dataset; those that are known here when the origin does not answer."""
        known = await self._catalogs.versions(dataset.name)
        return sorted(known | set(await self._names_below(dataset.name, dataset.origin, dataset.prefix, fallback=True)))

    async def dataset(self, name: str) -> Dataset:
        """The dataset; NotFoundError if there is none, OriginError if nobody can tell."""
        if name not in self._datasets:
            is_known = name in self._configured or (self._home and name in await self._catalogs.datasets())
            if not is_known and (
                self._home is None or name not in await self._names_below("", *self._home, fallback=False)
            ):
                raise NotFoundError(f"there is no dataset {name!r}")
            self._datasets[name] = self._find_dataset(name)
        return self._datasets[name]

    async def version(self, dataset: Dataset, name: str) -> Version:
        """The version, perhaps without its catalog yet; NotFoundError if there is none."""
        key = (dataset.name, name)
        if key not in self._versions:
            if (
                name not in self._names.get(dataset.name, ())
                and name not in await self._catalogs.versions(dataset.name)
                and name not in await self._names_below(dataset.name, dataset.origin, dataset.prefix, fallback=False)
            ):
                raise NotFoundError(f"dataset {dataset.name!r} has no version {name!r}")
            self._versions.setdefault(key, Version(dataset, name))
        return self._versions[key]

    async def _names_below(self, key: str, origin: Origin, prefix: str, *, fallback: bool) -> list[str]:
        """The names of directories below the prefix.

        The origin is asked once for all who want to know.  An error is remembered too; with `fallback` it counts as no
        names.
        """
        found = self._no_names.get(key) or self._names.get(key)
        if found is None:
            if (question := self._questions.get(key)) is None:
                question = self._questions[key] = _Question()
                self._nursery.start_soon(self._ask_names, key, origin, prefix, question)
            await question.answered.wait()
            found = question.found
        if isinstance(found, OriginError):
            if not fallback:
                raise found.with_traceback(None)
            return []
        return found

    async def _ask_names(self, key: str, origin: Origin, prefix: str, question: _Question) -> None:
        try:
            names = await self._run(partial(origin.names_below, prefix))
            self._names[key] = question.found = [name for name in names if isinstance(key_path(name, 0), KeyPath)]
        except OriginError as exc:
            log.warning("the names below %s/%s cannot be listed: %s", origin.origin_id, prefix, exc)
            self._no_names[key] = question.found = exc
        except Exception as exc:
            log.exception("unexpected error while listing the names below %s/%s", origin.origin_id, prefix)
            self._no_names[key] = question.found = OriginError(f"unexpected {type(exc).__name__}: {exc}")
        finally:
            del self._questions[key]
            question.answered.set()

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
                    self._versions.setdefault((name, version), Version(dataset, version)).is_catalogued = True

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
                async with self._catalogs.turn(*names) as others_had_it:
                    if others_had_it and not is_refresh:
                        placed = await self._catalogs.current(*names)
                    if placed is None:
                        placed = await self._listed(version)
            await self._make_current(version, placed.path / CATALOG)
            if is_refresh:
                version.drifted.clear()
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

    async def _make_current(self, version: Version, path: Path) -> None:
        known = next((generation for generation in version.generations if generation.path == path), None)
        if known is None:
            known = Generation(version, await self._run(partial(self._opened, path)), path)
        else:  # it has come back if it is not the current one
            version.generations.remove(known)
        version.generations.append(known)
        version.first = version.first or known

    def _opened(self, path: Path) -> Catalog:
        """In a worker thread: the catalog in that file, which LMDB opens only once in a process."""
        with self._opening:
            if path not in self._opened_catalogs:
                self._opened_catalogs[path] = Catalog(path)
            return self._opened_catalogs[path]

    async def _listed(self, version: Version) -> PlacedGeneration:
        """The generation that the origin has now."""
        built, summary = await self._run(partial(self._list, version), self._listings)
        names = version.dataset.name, version.name
        current = await self._catalogs.current(*names)
        if current is not None and current.generation == summary.generation:
            await self._run(built.unlink)
            return current
        return await self._catalogs.add(*names, built, asdict(summary))

    def _list(self, version: Version) -> tuple[Path, Summary]:
        """In a worker thread: a catalog of what the origin has now."""
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
        return built, summary

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
