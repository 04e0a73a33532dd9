"""A daemon that answers on its control socket from a table."""

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from dsfs.admin.control import ControlServer, Verb
from tests.unit.test_render import NODES

NOW_S = 1_800_000_000.0
STATUS = {
    "daemon": {
        "pid": 7,
        "version": "0.1.0",
        "mountpoint": "/datasets",
        "config": "/etc/dsfs/dsfs.toml",
        "started_s": NOW_S - 7200,
        "state": "ready",
    },
    "backing": {
        "path": "/mnt/dsfs",
        "state": "ok",
        "limit_bytes": 2**41,
        "used_bytes": 0,
        "floor_bytes": 0,
        "free_bytes": 2**41,
    },
    "memory": {"limit_bytes": 2**29, "used_bytes": 0},
    "versions": [{"dataset": "speech", "version": "v1", "resident_bytes": 1024}],
}
V1 = {"dataset": "speech", "version": "v1"}
WHY = {
    "path": "speech/v1/a",
    "dataset": "speech",
    "version": "v1",
    "generation": "0123",
    "object": {"url": "s3://lake/speech/v1/a", "size": 0},
    "segment": None,
    "extent": None,
    "blocks": None,
}
WARM = {
    "id": "0123-this", "dataset": "speech", "version": "v1", "path": None, "nodes": "this", "state": "incomplete",
    "is_over": True, "reason": "drifted", "total_bytes": 4096, "resident_bytes": 1024, "rate_bytes_per_s": 0,
    "left_s": None, "quiet_s": 0.0, "missing": [{"reason": "drifted", "bytes": 3072, "example": ""}],
}  # fmt: skip
PIN = V1 | {
    "state": "pinned", "at_s": NOW_S - 60, "until_s": None, "user": "ann", "node": "gpu1", "note": "paper\n",
}  # fmt: skip
EVENT = V1 | {
    "at_s": NOW_S, "kind": "dropped", "bytes": 4096, "why": "by ann\n", "node": "0123456789abcdef", "host": "gpu1",
}  # fmt: skip


EVICTION = {
    "limit_bytes": 100, "high_bytes": 90, "low_bytes": 80, "used_bytes": 50, "granted_bytes": 0, "leaving_bytes": 0,
    "wanted_bytes": 0, "missing_bytes": 0, "missing_inodes": 0, "grace_s": 600.0, "leaves": [], "stays": [],
}  # fmt: skip


class FakeDaemon:
    """A control server in a thread of its own; `asked` is what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, object] = {
            "status": STATUS,
            "nodes": NODES,
            "ls": {"entries": [{"name": "speech", "kind": "dataset"}]},
            "why": WHY,
            "drop": V1 | {"dropped_bytes": 4096, "segments": 2},
            "evict": EVICTION,
            "evict_plan": EVICTION,
            "refresh": V1 | {"changed": True, "generation": "new", "previous": "old", "files": 3, "bytes": 9},
            "metrics": {"text": "dsfs_fill_bytes_total 5\n"},
            "warm": WARM,
            "warms": {"warms": [WARM]},
            "warm_stop": {"stopped": 2},
            "pin": PIN,
            "unpin": V1,
            "pins": {"pins": [PIN]},
            "events": {"events": [EVENT], "left_out": 3, "damaged_lines": 2, "read_until": {"a.1.jsonl": 7}},
        }
        self._ready = threading.Event()

    def __enter__(self) -> "FakeDaemon":
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join()

    async def _main(self) -> None:
        verbs = {name: Verb(self._verb(name), changes=False) for name in self.answers}
        with trio.CancelScope() as self._scope:
            self._token = trio.lowlevel.current_trio_token()
            async with trio.open_nursery() as nursery:
                await nursery.start(ControlServer(self.path, verbs).serve)
                self._ready.set()

    def _verb(self, name: str) -> Callable[[dict[str, Any]], Awaitable[object]]:
        async def run(args: dict[str, Any]) -> object:
            self.asked.append((name, args))
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return run
