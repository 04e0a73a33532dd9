"""The whole rig: the guest with its NFS server and clients, and an origin in it."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig.nfs.guest import Guest
from tests.rig.nfs.origin import GuestOrigin
from tests.rig.nfs.server import EXPORTS


class NfsRig:
    """`work`: a directory that is the same, and writable, here and in the guest; tests work below it."""

    def __init__(self, work: Path, nodes: Sequence[str] = ("a", "b", "c")) -> None:
        self._guest = Guest(work, nodes)
        self.server = self._guest.server
        self.clients = self._guest.clients
        self.origin = GuestOrigin(self.server, work / "nfs-origin")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            stack.enter_context(self._guest)
            stack.enter_context(self.origin)
            self.reset()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def reset(self) -> None:
        """After a test: no faults, all exports mounted as by default on all clients, and empty."""
        self.origin.proxy.clear()
        self.origin.proxy.release()
        self.origin.proxy.reset()
        self.server.reset()
        for client in self.clients:
            client.reset()
        for export in EXPORTS:
            self.server.clear(export)
