"""The origin of the guest's nodes: a real S3 server on `srv`, and the suite's fault proxy before it.

Run as a program (`python -m tests.rig.nfs.origin DIRECTORY`) this module is the process there.
"""

import pickle
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from dsfs.admin.notify import Notifier
from tests.rig.faultproxy import FaultProxy
from tests.rig.nfs.exchange import exchange, serve
from tests.rig.nfs.machine import GuestMachine, GuestProcess
from tests.rig.s3server import S3Server

ADDRESS = "10.77.0.2"
SOCKET = "/run/origin.sock"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


class GuestOrigin:
    """`store` is where a test places objects (its server runs in the guest); `proxy` is asked and told as ever."""

    def __init__(self, machine: GuestMachine, directory: Path) -> None:
        self.store = S3Server(directory)
        self.store.root.mkdir(parents=True)
        self.proxy = cast(FaultProxy, _RemoteProxy(machine))
        self.endpoint_url = ""
        self._machine = machine
        self._directory = directory
        self._process: GuestProcess | None = None

    def __enter__(self) -> Self:
        log = self._directory / "origin.log"
        command = [sys.executable, "-m", "tests.rig.nfs.origin", str(self._directory)]
        self._process = self._machine.start(*command, log=log)
        if not self._process.wait_ready(START_TIMEOUT_S):
            raise RuntimeError(f"the origin did not start:\n{log.read_text()}")
        self.endpoint_url = self.proxy.endpoint_url
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)
        shutil.rmtree(self.store.root)


class _RemoteProxy:
    """Every attribute of the FaultProxy in the guest: methods are called there, values fetched from there."""

    def __init__(self, machine: GuestMachine) -> None:
        self._machine = machine

    def __getattr__(self, name: str) -> Any:
        call: Callable[..., Any] = partial(self._ask, name)
        return call if callable(getattr(FaultProxy, name)) else call()

    def _ask(self, name: str, *args: object, **kwargs: object) -> Any:
        return pickle.loads(self._machine.call(exchange, SOCKET, pickle.dumps((name, args, kwargs))))


def main() -> None:
    directory = Path(sys.argv[1])
    with (
        S3Server(directory) as server,
        FaultProxy(server.endpoint_url, root=server.root, address=ADDRESS) as proxy,
    ):

        def answer(request: bytes) -> bytes:
            name, args, kwargs = pickle.loads(request)
            attribute = getattr(proxy, name)
            return pickle.dumps(attribute(*args, **kwargs) if callable(attribute) else attribute)

        serve(SOCKET, answer, ready=lambda: Notifier.from_environment().ready(proxy.endpoint_url))


if __name__ == "__main__":
    main()
