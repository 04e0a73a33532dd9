"""A function called in a process of a node: what crosses over, pickled in a file.

Whatever module the function is in is imported there as it is here; arguments, result and exception are copies.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any


def place(path: Path, function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """Write down what is to be called."""
    path.write_bytes(pickle.dumps((function, args, kwargs)))


def perform(path: Path) -> None:
    """Call it, here, and write down what came of it."""
    function, args, kwargs = pickle.loads(path.read_bytes())
    try:
        outcome: tuple[bool, object] = (True, function(*args, **kwargs))
    except Exception as error:
        outcome = (False, error)
    try:
        pickled = pickle.dumps(outcome)
    except Exception as error:
        pickled = pickle.dumps((False, TypeError(f"cannot be sent back: {outcome[1]!r}: {error}")))
    outcome_file(path).write_bytes(pickled)


def outcome(path: Path) -> Any:
    """What the function returned; raises what it raised."""
    succeeded, value = pickle.loads(outcome_file(path).read_bytes())
    if not succeeded:
        raise value
    return value


def outcome_file(path: Path) -> Path:
    return path.with_suffix(".outcome")
