"""What the reading verbs answer: status, ls, why.  Facts only; how they look is the client's matter.

Concurrency: the trio thread; sums over a version's segments run in a worker thread on the index.  What waits
for the backing directory runs in a few threads of its own, and nobody waits long for it.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import trio

from dsfs import __version__
from dsfs.admin.residents import Found, Residents, eviction_facts
from dsfs.admin.targets import ANYTHING, FILE, VERSION, VERSIONS
from dsfs.admin.warming import facts_of
from dsfs.cache.datasets import Datasets
from dsfs.cache.fill import Filler
from dsfs.cache.health import BackingHealth
from dsfs.cache.library import Library
from dsfs.cache.open import Opener
from dsfs.cache.versions import Generation, Version
from dsfs.cache.warmer import Warmer
from dsfs.model.blocks import RUN
from dsfs.model.errors import BackingError, DsfsError, NotFoundError
from dsfs.model.health import Condition
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.catalog import Entry
from dsfs.storage.lastuses import LastUses
from dsfs.storage.nodes import NodesDirectory
from dsfs.storage.origin import Origin
from dsfs.storage.room import Room

log = logging.getLogger(__name__)

Answer = dict[str, object]
T = TypeVar("T")

ENTRIES_SHOWN = 10_000  # `ls` of a directory: more would hold up the daemon while it is encoded
DRIFTED_SHOWN = 20
BACKING_ANSWERS_S = 2.0  # a backing directory that is silent for so long is reported as such
CATALOGS_FOUND_S = 5.0  # then those in the backing directory are left out that nobody has looked at
BACKING_QUESTIONS = 4  # threads that may hang in it at once


@dataclass
class Queries:
    """`state` tells what the daemon is doing: "running" or "stopping"."""

    library: Library
    opener: Opener
    filler: Filler
    buffered_bytes: Callable[[], int]
    backing: BackingDirectory
    room: Room
    health: BackingHealth
    residents: Residents
    datasets: Datasets
    warmer: Warmer
    uses: LastUses
    nodes: NodesDirectory
    mountpoint: Path
    config_path: Path
    memory_limit_bytes: int
    state: str = "running"
    started_s: float = 0.0
    _limiter: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(BACKING_QUESTIONS), init=False)

    async def ask_backing(self, question: Callable[[], T], within_s: float | None = None) -> T:
        """What `question`, which may wait for the backing directory, returns; BackingError if it takes too long."""
        try:
            with trio.fail_after(BACKING_ANSWERS_S if within_s is None else within_s):
                return await trio.to_thread.run_sync(question, abandon_on_cancel=True, limiter=self._limiter)
        except trio.TooSlowError:
            raise BackingError("backing directory does not answer") from None

    async def ask_folder(self, name: str, question: Callable[[], T], within_s: float | None = None) -> T:
        """The same, of its folder of that name; BackingError also if the folder says no, or is known to be silent."""
        try:
            with self.health.patience(is_long=True):
                return await self.ask_backing(question, within_s)
        except OSError as exc:
            raise BackingError(f"the folder of {name}: {exc.strerror}") from exc

    async def free_bytes(self) -> int | None:
        """Free bytes of the backing directory's file system; None if it does not tell."""
        try:
            return (await self.ask_backing(self.room.space))[1]
        except (BackingError, OSError):
            return None

    # ---------------------------------------------------------------- status

    async def status(self, target: str | None) -> Answer:
        """All of the daemon, or what concerns NAME or NAME/VERSION."""
        names = VERSIONS.names_in(target or "", self.mountpoint)
        versions = [
            version
            for version in await self._versions(names)
            if not names or (version.dataset.name == names[0] and names[1:] in ([], [version.name]))
        ]
        backing = await self._backing()
        is_answering = backing["free_bytes"] is not None
        last_used_ago_s = await self._last_used_ago_s(versions) if is_answering else {}
        found = await self.found() if is_answering else None
        return {
            "daemon": {
                "pid": os.getpid(),
                "version": __version__,
                "mountpoint": str(self.mountpoint),
                "config": str(self.config_path),
                "started_s": self.started_s,
                "state": self.state,
            },
            "origins": [_origin(origin) for origin in self.datasets.origins],
            "backing": backing,
            "eviction": eviction_facts(found, time.time() - self.started_s) if is_answering else None,
            "memory": {"limit_bytes": self.memory_limit_bytes, "used_bytes": self.buffered_bytes()},
            "versions": [
                await self._version(version, found) | {"last_used_ago_s": last_used_ago_s.get(version)}
                for version in versions
            ],
            "warms": [facts_of(warm) for warm in self.warmer.warms if not warm.is_over],
        }

    async def _versions(self, names: list[str]) -> list[Version]:
        """The versions somebody has looked at, and all that have a catalog here."""
        with trio.move_on_after(CATALOGS_FOUND_S) as scope:
            await self.library.meet_catalogued()
        if scope.cancelled_caught:
            log.warning("the catalogs in the backing directory cannot be found: it does not answer")
        if len(names) == 2:
            return [await self.library.version(await self.library.dataset(names[0]), names[1])]
        if names:
            await self.library.dataset(names[0])
        return sorted(self.library.versions, key=lambda version: (version.dataset.name, version.name))

    async def _backing(self) -> Answer:
        try:
            with self.health.patience():
                reason, free, floor = await self.ask_backing(self._look_at_room)
        except BackingError as exc:
            reason, free, floor = str(exc), None, None
        condition = self.health.condition
        return {
            "path": str(self.backing.path),
            "state": condition.value if condition is not Condition.OK else "paused" if reason else "ok",
            "reason": reason,
            "limit_bytes": self.room.limit_bytes,
            "used_bytes": self.room.used_bytes,
            "floor_bytes": floor,
            "free_bytes": free,
            "unfilled_bytes": self.room.unfilled_bytes,
            "unfilled_at_s": self.room.unfilled_at_s,
        }

    def _look_at_room(self) -> tuple[str, int | None, int | None]:
        """In a worker thread: why nothing is filled ("" while fills go on); free bytes, and the floor, if known."""
        reason = self.room.why_not_filling()
        try:
            _, free, floor = self.room.space()
        except OSError:
            return reason, None, None
        return reason, free, floor

    async def _last_used_ago_s(self, versions: list[Version]) -> dict[Version, float]:
        """How long ago somebody used each of them, on any node; without those of which that is not known."""

        def look() -> dict[Version, float]:
            used = self.uses.of((version.dataset.name, version.name) for version in versions)
            now_ns = self.nodes.now_ns()
            names = ((version, (version.dataset.name, version.name)) for version in versions)
            return {version: max(0, now_ns - used[key]) / 1e9 for version, key in names if key in used}

        try:
            return await self.ask_folder("uses", look)
        except BackingError as exc:
            log.info("when versions were last used is not known: %s", exc)
            return {}

    async def _version(self, version: Version, found: Found | None) -> Answer:
        """A version that cannot be made ready is told with its `error`: the others are to be shown."""
        answer: Answer = {
            "dataset": version.dataset.name,
            "version": version.name,
            "state": version.state,
            "error": str(version.error) if version.error else None,
            "drifted": sorted(version.current.drifted)[:DRIFTED_SHOWN] if version.current else [],
        }
        generation = version.current
        if generation is None and version.ready is None and version.is_catalogued:
            try:
                generation = await self.library.generation(version)
            except DsfsError as exc:
                answer["error"] = str(exc)
            answer["state"] = version.state
        if generation is None:
            return answer | {
                "generation": None, "files": version.listed, "bytes": 0, "resident_bytes": 0, "left_out": 0,
                "left_out_examples": [], "share": None,
            }  # fmt: skip
        summary = generation.catalog.summary
        return answer | {
            "generation": generation.id,
            "files": summary.files,
            "bytes": summary.bytes,
            "resident_bytes": await self.residents.bytes_of(generation, found),
            "left_out": summary.left_out,
            "left_out_examples": [list(example) for example in summary.left_out_examples],
            "share": self._share(generation),
        }

    def _share(self, generation: Generation) -> Answer | None:
        """What of the backing directory the version may hold, and holds as far as this node knows; None: no limit."""
        shares = self.filler.shares
        if (share := shares.share(generation.key)) is None:
            return None
        return {
            "allotted_bytes": share.allotted_bytes,
            "held_bytes": share.held_bytes,
            "is_full": not shares.has_room(generation.key, RUN),
        }

    async def resident_bytes(self, found: Found | None) -> dict[str, int]:
        """How much is resident of each version in use, by NAME/VERSION."""
        return {
            f"{version.dataset.name}/{version.name}": await self.residents.bytes_of(generation, found)
            for version in self.library.versions
            if (generation := version.current) is not None
        }

    async def found(self) -> Found | None:
        """What the last round of eviction found; None if nobody has had one lately, or it cannot be seen."""
        try:
            return await self.ask_folder("standing", self.residents.look)
        except BackingError as exc:
            log.info("what is resident is known of this node only: %s", exc)
            return None

    # ---------------------------------------------------------------- ls

    async def ls(self, target: str | None) -> Answer:
        """What is at NAME, NAME/VERSION[/PATH], or at the top."""
        names = ANYTHING.names_in(target or "", self.mountpoint)
        if not names:
            datasets = await self.library.dataset_names()
            return {"entries": [_named(name, "dataset") for name in datasets]}
        dataset = await self.library.dataset(names[0])
        if len(names) == 1:
            entries, found = [], await self.found()
            for name in await self.library.version_names(dataset):
                version = await self.library.version(dataset, name)
                facts = await self._version(version, found)
                is_known = version.current is not None
                entries.append(
                    _named(name, "version")
                    | {"state": facts["state"]}
                    | ({key: facts[key] for key in ("bytes", "resident_bytes", "files")} if is_known else {})
                )
            return {"entries": entries}
        generation, entry = await self._resolve(names)
        if not entry.is_dir:
            return {"entries": [await self._listed(generation, entry)]}
        entries = []
        for child in generation.catalog.children(entry.index):
            if len(entries) == ENTRIES_SHOWN:
                return {"entries": entries, "truncated": True}
            entries.append(await self._listed(generation, child))
        return {"entries": entries}

    async def _listed(self, generation: Generation, entry: Entry) -> Answer:
        answer = _named(os.fsdecode(entry.name), "directory" if entry.is_dir else "file")
        if not entry.is_dir:
            resident, total = await self.opener.resident_blocks(generation, entry)
            answer |= {
                "bytes": entry.size,
                "resident_bytes": entry.size * resident // total if total else 0,
                "files": 1,
            }
        return answer

    # ---------------------------------------------------------------- why

    async def why(self, path: str) -> Answer:
        """Where the bytes of one file come from."""
        names = FILE.names_in(path, self.mountpoint)
        generation, entry = await self._resolve(names)
        if entry.is_dir:
            raise NotFoundError(f"{path!r} is a directory")
        version = generation.version
        origin_id = version.dataset.origin.origin_id
        obj = generation.catalog.object_of(entry)
        answer: Answer = {
            "path": str(self.mountpoint / "/".join(names)),
            "dataset": version.dataset.name,
            "version": version.name,
            "generation": generation.id,
            "object": {
                "url": f"{origin_id}/{obj.key}",
                "key": obj.key,
                "etag": obj.etag,
                "size": obj.size,
                "modified_s": obj.modified_s,
            },
            "segment": None,
            "extent": None,
            "blocks": None,
            "share": self._share(generation),
            "last_fetch": None,
            "last_error": None,
        }
        if not entry.size:
            return answer
        segment = await self.opener.segment(generation, entry)
        try:
            resident, total = await self.opener.resident_blocks(generation, entry)
        finally:
            segment.release()
        fetch, error = segment.last_fetch, segment.last_error
        return answer | {
            "segment": {
                "identity": segment.identity,
                "kind": "pack" if entry.pack >= 0 else "large",
                "state": segment.file.state.value,
                "path": str(segment.file.path),
            },
            "extent": {"offset": entry.offset, "length": entry.size},
            "blocks": {"resident": resident, "total": total},
            "last_fetch": fetch
            and {
                "at_s": fetch.at_s,
                "bytes": fetch.bytes,
                "seconds": fetch.seconds,
                "attempts": fetch.attempts,
            },
            "last_error": error and {"at_s": error[0], "message": error[1]},
        }

    async def version(self, target: str) -> Version:
        """The version that NAME/VERSION, or a path of the mount, names."""
        name, version = VERSION.names_in(target, self.mountpoint)
        return await self.library.version(await self.library.dataset(name), version)

    async def _resolve(self, names: list[str]) -> tuple[Generation, Entry]:
        version = await self.library.version(await self.library.dataset(names[0]), names[1])
        generation = await self.library.generation(version)
        return generation, generation.catalog.resolve("/".join(names[2:]))


def _named(name: str, kind: str) -> Answer:
    return {"name": name, "kind": kind, "bytes": None, "resident_bytes": None, "files": None, "state": None}


def _origin(origin: Origin) -> Answer:
    counts, failure = origin.statistics(), origin.failure
    return {
        "id": origin.origin_id,
        "state": origin.state,
        "error": failure[1] if failure else None,
        "error_at_s": failure[0] if failure else None,
        "requests": counts["list_requests"] + counts["get_requests"],
        "bytes": counts["get_bytes"],
    }
