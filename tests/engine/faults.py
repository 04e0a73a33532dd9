"""Faults of the backing directory, at the named points of dsfs.storage."""

import os
import threading

import pytest

from dsfs.storage import faultpoint
from tests.engine.fake_origin import GATE_TIMEOUT_S, Gate

THREADS_THERE = ("backing-", "filling-", "sealing-", "claims-")


class Faults:
    """Lets operations fail or wait at their points for as long as the test runs.  `reached`: those that were passed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._lock = threading.Lock()
        self._errors: dict[str, tuple[int, int]] = {}
        self._gates: dict[str, Gate] = {}
        self._silence: Gate | None = None
        self.reached: list[str] = []
        monkeypatch.setattr(faultpoint, "hook", self._reach)

    def fail(self, point: str, number: int, times: int = 1) -> None:
        """The operation at `point` fails so often with this errno."""
        with self._lock:
            self._errors[point] = (number, times)

    def hold(self, point: str) -> Gate:
        """Whoever comes to `point` waits until the gate is opened."""
        gate = self._gates[point] = Gate()
        return gate

    def silence(self) -> Gate:
        """Every thread that is for the backing directory waits at its next point until the gate is opened."""
        self._silence = Gate()
        return self._silence

    def _reach(self, point: str) -> None:
        self.reached.append(point)
        with self._lock:
            number, times = self._errors.get(point, (0, 0))
            if times:
                self._errors[point] = (number, times - 1)
        if times:
            raise OSError(number, os.strerror(number))
        gate = self._gates.get(point)
        if gate is None and threading.current_thread().name.startswith(THREADS_THERE):
            gate = self._silence
        if gate is not None:
            gate.reached.set()
            gate.opened.wait(GATE_TIMEOUT_S)
