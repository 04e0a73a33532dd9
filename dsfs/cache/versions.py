"""Datasets, their versions, and the generations of those, as this node has them in use.

Concurrency: the trio thread owns them.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio

from dsfs.cache.events import Events
from dsfs.cache.names import OriginPrefix
from dsfs.model.errors import DsfsError, NotFoundError
from dsfs.model.event import Kind
from dsfs.model.nodes import VersionKey
from dsfs.model.objects import ObjectRef, identity_of
from dsfs.model.reuse import Reading
from dsfs.storage.catalog import Catalog, Entry
from dsfs.storage.origin import Origin

log = logging.getLogger(__name__)

DRIFTED_SHOWN = 100  # paths of drifted files kept for `status`


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

    @property
    def place(self) -> OriginPrefix:
        """Where its versions are listed."""
        return OriginPrefix(self.origin, self.prefix)


@dataclass(eq=False)
class Generation:
    """One catalog in use; `path` is its file; `drifted`: keys the origin has other objects for since it was listed.

    `open_files` counts mapped ones too, `warms` those that are at it; `reading`: since it came into use (heartbeat.py).
    """

    version: "Version"
    catalog: Catalog
    path: Path
    drifted: set[str] = field(default_factory=set)
    open_files: int = 0
    warms: int = 0
    reading: Reading = field(default_factory=Reading)

    @property
    def id(self) -> str:
        return self.catalog.generation

    @property
    def key(self) -> VersionKey:
        return self.version.dataset.name, self.version.name, self.id

    @property
    def is_held(self) -> bool:
        """Whether it is in use however silent that is."""
        return bool(self.open_files or self.warms)

    @contextlib.contextmanager
    def being_warmed(self) -> Iterator[None]:
        """While a warm is at it."""
        self.warms += 1
        try:
            yield
        finally:
            self.warms -= 1

    def identity_of(self, entry: Entry) -> str:
        """The segment that holds the file."""
        if entry.pack >= 0:
            return self.catalog.pack(entry.pack).identity
        dataset = self.version.dataset
        return identity_of(self.catalog.object_of(entry).fingerprint(dataset.origin.origin_id))

    def holds(self, obj: ObjectRef) -> bool:
        """Whether the catalog has this object: its key with the same content."""
        origin_id = self.version.dataset.origin.origin_id
        try:
            entry = self.catalog.resolve(obj.key.removeprefix(self.catalog.summary.prefix))
        except NotFoundError:
            return False
        return not entry.is_dir and self.catalog.object_of(entry).fingerprint(origin_id) == obj.fingerprint(origin_id)


@dataclass(eq=False)
class Version:
    """A version somebody has looked at.

    `listed`: keys seen so far by a listing; `is_catalogued`: its catalog is here, so that no listing is needed;
    `was_used`: somebody has looked into it since that was last told (lastuse.py).
    """

    dataset: Dataset
    name: str
    events: Events
    generations: list[Generation] = field(default_factory=list)
    first: Generation | None = None
    listed: int = 0
    ready: trio.Event | None = None
    error: DsfsError | None = None
    error_until_s: float = 0.0
    is_catalogued: bool = False
    was_used: bool = False

    @property
    def current(self) -> Generation | None:
        return self.generations[-1] if self.generations else None

    @property
    def state(self) -> str:
        if self.ready is not None:
            return "listing"
        if self.current is None:
            return "unlisted"
        return "drifted" if self.current.drifted else "ready"

    def note_drift(self, obj: ObjectRef) -> None:
        """A fetch found another object at the origin than `obj`.

        The current generation has drifted if it has that one, too.  If not, a file that was opened before a refresh was
        read, or a segment that an older generation shares: what the refresh found is as it was.
        """
        if self.current is None or not self.current.holds(obj):
            return
        drifted = self.current.drifted
        if not drifted:
            self.events.tell(Kind.DRIFTED, self.dataset.name, self.name, f"{obj.key} at the origin has changed")
        if obj.key not in drifted and len(drifted) < DRIFTED_SHOWN:
            drifted.add(obj.key)
            log.warning(
                "%s/%s has drifted: %r at the origin is not the catalog's; `dsfs refresh` makes a new generation",
                self.dataset.name, self.name, obj.key,
            )  # fmt: skip
