"""The verbs for pins: to pin a version, to take the pin away, to see them all."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from dsfs.admin.control import ASKED_BY, Verb
from dsfs.admin.queries import Answer, Queries
from dsfs.admin.targets import VERSION, number_of, text_of
from dsfs.cache.events import Events
from dsfs.model.errors import NotFoundError, UsageError
from dsfs.model.event import Kind
from dsfs.model.moment import MOST_SECONDS
from dsfs.model.pin import MOST_CHARACTERS, Pin, PinFile
from dsfs.model.setting import nearest
from dsfs.model.versionname import version_in
from dsfs.storage.nodes import NodesDirectory
from dsfs.storage.pins import PinFolder

PLACED_S = 10.0  # what it may take to write a pin, or to take one away


@dataclass
class PinVerbs:
    """One method for each verb."""

    pins: PinFolder
    nodes: NodesDirectory
    queries: Queries
    events: Events

    def table(self) -> Mapping[str, Verb]:
        return {
            "pin": Verb(self.pin, changes=True),
            "unpin": Verb(self.unpin, changes=True),
            "pins": Verb(self.list, changes=False),
        }

    async def pin(self, args: dict[str, Any]) -> Answer:
        """Pin NAME/VERSION, in place of an earlier pin."""
        names = self._names(args)
        note, user = text_of(args, "note", default=""), text_of(args, ASKED_BY, default="")
        if len(note) > MOST_CHARACTERS:
            raise UsageError(f"a note has at most {MOST_CHARACTERS} characters")
        until_s, for_s = (number_of(args, name) for name in ("until_s", "for_s"))
        await self._make_sure(*names)

        def place() -> tuple[Pin, int]:
            now_ns = self.nodes.now_ns()
            until_ns = now_ns + round(for_s * 1e9) if for_s is not None else round((until_s or 0) * 1e9)
            pin = Pin(*names, now_ns, until_ns, user, socket.gethostname(), note)
            if pin.is_over(now_ns):
                raise UsageError("argument 'until': that is over already")
            if until_ns >= MOST_SECONDS * 10**9:
                raise UsageError("argument 'until': expected a time before 2242")
            self.pins.place(pin)
            return pin, now_ns

        pin, now_ns = await self.queries.ask_folder("pins", place, PLACED_S)
        self.events.tell(Kind.PINNED, *names, ", ".join(filter(None, (f"by {user}" if user else "", note))))
        return _facts(pin, now_ns)

    async def unpin(self, args: dict[str, Any]) -> Answer:
        """Take the pin of NAME/VERSION away; also of a version that is gone."""
        dataset, version = self._names(args)
        user = text_of(args, ASKED_BY, default="")
        if not await self.queries.ask_folder("pins", partial(self.pins.remove, dataset, version), PLACED_S):
            raise NotFoundError(f"{dataset}/{version} is not pinned")
        self.events.tell(Kind.UNPINNED, dataset, version, f"by {user}" if user else "")
        return {"dataset": dataset, "version": version}

    async def list(self, args: dict[str, Any]) -> Answer:
        """Every pin, also those that are over since a short time, and those that cannot be understood."""

        def look() -> list[Answer]:
            pins, now_ns = self.pins.all(), self.nodes.now_ns()
            self.pins.forget(pins, now_ns)
            files = (file for name in sorted(pins.files) for file in pins.files[name])
            gone = set(pins.forgotten(now_ns))
            return [_described(file, now_ns) for file in files if file not in gone]

        return {"pins": await self.queries.ask_folder("pins", look)}

    def _names(self, args: dict[str, Any]) -> tuple[str, str]:
        dataset, version = VERSION.names_in(text_of(args, "target"), self.queries.mountpoint)
        return dataset, version

    async def _make_sure(self, name: str, version: str) -> None:
        """NotFoundError, with a name that is like it, if there is no such version."""
        library = self.queries.library
        try:
            dataset = await library.dataset(name)
        except NotFoundError as exc:
            raise NotFoundError(f"{exc}{nearest(name, await library.dataset_names())}") from None
        try:
            await library.version(dataset, version)
        except NotFoundError as exc:
            raise NotFoundError(f"{exc}{nearest(version, await library.version_names(dataset))}") from None


def _described(file: PinFile, now_ns: int) -> Answer:
    if file.pin is not None:
        return _facts(file.pin, now_ns)
    dataset, version = version_in(file.version_name) or (None, None)
    return {
        "dataset": dataset, "version": version, "state": "damaged", "at_s": None, "until_s": None, "user": None,
        "node": None, "note": f"{file.name}: {file.trouble}",
    }  # fmt: skip


def _facts(pin: Pin, now_ns: int) -> Answer:
    return {
        "dataset": pin.dataset,
        "version": pin.version,
        "state": "expired" if pin.is_over(now_ns) else "pinned",
        "at_s": pin.at_ns / 1e9,
        "until_s": pin.until_ns / 1e9 if pin.until_ns else None,
        "user": pin.user,
        "node": pin.node,
        "note": pin.note,
    }
