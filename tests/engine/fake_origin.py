"""An origin in memory whose answers follow a script: which attempt at which key fails, stops, or waits, and where.

It keeps the contract of dsfs.storage.origin.Origin.fetch; test_fake_origin.py holds the two against each other.

Concurrency: safe to use from the worker threads of the engine; `_lock` guards what is counted and the scripts.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from hashlib import md5

from dsfs.model.errors import DriftedError, DsfsError, OriginTemporaryError
from dsfs.model.objects import ObjectRef
from dsfs.storage.origin import Origin

CHUNK = 256 * 1024  # bytes; as the real one
GATE_TIMEOUT_S = 30  # a test that fails must not leave a thread behind for ever


@dataclass
class Gate:
    """Holds an answer before the byte it was made for until `open`."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def open(self) -> None:
        self.opened.set()


@dataclass(frozen=True)
class Turn:
    """What happens to one attempt after `after` bytes: wait at the gate, then fail with the error, if there are any."""

    after: int = 0
    error: Exception | None = None
    gate: Gate | None = None


@dataclass(frozen=True)
class Get:
    """One GET that was made."""

    key: str
    offset: int
    length: int


class FakeOrigin(Origin):
    """A bucket.  A subclass for the types' sake: nothing of the real one is used."""

    def __init__(self, origin_id: str = "s3://fake") -> None:
        self.origin_id = origin_id
        self.last_error = None
        self.last_success_at = None
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[ObjectRef, bytes]] = {}
        self._turns: defaultdict[str, deque[Turn]] = defaultdict(deque)
        self._gates: list[Gate] = []
        self._always: dict[str, DsfsError] = {}
        self._failing: DsfsError | None = None
        self.list_gate: Gate | None = None
        self.gets: list[Get] = []
        self.sent_bytes = 0
        self.lists: list[str] = []

    # -- the script ------------------------------------------------------------------------------------------

    def put(self, key: str, content: bytes, modified_s: int = 1_700_000_000) -> ObjectRef:
        """Place an object, or replace it."""
        obj = ObjectRef(key, len(content), md5(content, usedforsecurity=False).hexdigest(), modified_s)
        with self._lock:
            self._objects[key] = (obj, content)
        return obj

    def delete(self, key: str) -> None:
        with self._lock:
            del self._objects[key]

    def content(self, key: str) -> bytes:
        return self._objects[key][1]

    def fail(self, key: str, *errors: Exception, after: int = 0) -> None:
        """The next attempts at the key fail, one error each, after so many bytes."""
        with self._lock:
            self._turns[key].extend(Turn(after, error) for error in errors)

    def hold(self, key: str, after: int = 0, error: Exception | None = None) -> Gate:
        """The next attempt at the key waits after so many bytes for the gate; then it fails, if there is an error."""
        gate = Gate()
        with self._lock:
            self._gates.append(gate)
            self._turns[key].append(Turn(after, error, gate))
        return gate

    def fail_always(self, key: str, error: DsfsError | None) -> None:
        """Every attempt at the key fails at once; None = no more."""
        with self._lock:
            if error is None:
                self._always.pop(key, None)
            else:
                self._always[key] = error

    def fail_everything(self, error: DsfsError | None) -> None:
        """Every request fails; None = no more."""
        self._failing = error

    def close(self) -> None:
        """Let go of whoever waits at a gate."""
        for gate in self._gates:
            gate.open()

    # -- what was asked --------------------------------------------------------------------------------------

    def count(self, key: str) -> int:
        """GETs made for the key."""
        return sum(get.key == key for get in self.gets)

    def statistics(self) -> dict[str, int]:
        with self._lock:
            return {
                "list_requests": len(self.lists), "get_requests": len(self.gets),
                "get_bytes": self.sent_bytes, "errors": 0,
            }  # fmt: skip

    # -- as the real one -------------------------------------------------------------------------------------

    def fetch(self, obj: ObjectRef, offset: int, length: int) -> Generator[memoryview, None, None]:
        assert 0 <= offset < offset + length <= obj.size, f"a GET of {length} bytes at {offset} of {obj}"
        with self._lock:
            self.gets.append(Get(obj.key, offset, length))
            found = self._objects.get(obj.key)
            turn = self._turns[obj.key].popleft() if self._turns[obj.key] else Turn()
            error = self._failing or self._always.get(obj.key)
        if error is not None:
            raise error.with_traceback(None)
        if found is None:
            raise DriftedError(f"{self.origin_id}/{obj.key}: answered 404 NoSuchKey")
        if replace(found[0], modified_s=obj.modified_s) != obj:
            raise DriftedError(f"{self.origin_id}/{obj.key}: has ETag {found[0].etag}")
        content = memoryview(found[1])[offset : offset + length]
        if turn == Turn():
            yield from self._sent(content)
            return
        yield from self._sent(content[: turn.after])
        if turn.gate is not None:
            turn.gate.reached.set()
            if not turn.gate.opened.wait(GATE_TIMEOUT_S):
                raise OriginTemporaryError("the test never opened the gate")
        if turn.error is not None:
            raise turn.error.with_traceback(None)
        yield from self._sent(content[turn.after :])

    def _sent(self, content: memoryview) -> Generator[memoryview, None, None]:
        for start in range(0, len(content), CHUNK):
            chunk = content[start : start + CHUNK]
            with self._lock:
                self.sent_bytes += len(chunk)
            yield chunk

    def names_below(self, prefix: str) -> list[str]:
        self._listed(prefix)
        below = (key.removeprefix(prefix).partition("/") for key in sorted(self._objects) if key.startswith(prefix))
        return list(dict.fromkeys(name for name, slash, _ in below if slash and name))

    def list_page(self, prefix: str, start_after: str, max_keys: int = 1000) -> tuple[list[ObjectRef], bool]:
        self._listed(prefix)
        keys = sorted(key for key in self._objects if key.startswith(prefix) and key > start_after)
        return [self._objects[key][0] for key in keys[:max_keys]], len(keys) > max_keys

    def _listed(self, prefix: str) -> None:
        with self._lock:
            self.lists.append(prefix)
            gate, error = self.list_gate, self._failing
        if gate is not None:
            gate.reached.set()
            gate.opened.wait(GATE_TIMEOUT_S)
        if error is not None:
            raise error.with_traceback(None)
