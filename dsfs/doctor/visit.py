"""One run of the doctor: all areas of a configuration, one after the other, as they would slow each other down."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dsfs.admin.streams import Parts
from dsfs.config import Config
from dsfs.doctor import directory, nfs, node, origin, pair
from dsfs.doctor.check import Area, Check
from dsfs.doctor.examine import Row, examine
from dsfs.doctor.report import Pages, exit_code, to_json
from dsfs.doctor.scratch import Scratch
from dsfs.model.printable import printable

CHECKS: tuple[Check[Any, Any], ...] = (*node.CHECKS, *nfs.CHECKS, *directory.CHECKS, *origin.CHECKS, *pair.CHECKS)


def visit(
    config: Config, *, other: str | None, wait_s: float, as_json: bool, is_terminal: bool
) -> Parts:
    """Look at everything: gives what is to be written, as it is found, and returns the exit code.

    `other`: a node that does the same now, and is waited for so long.
    """
    areas: list[Area[Any]] = [
        node.area(config),
        nfs.area(config),
        directory.area(config, Scratch(config.backing.path)),
        *origin.areas(config),
    ]
    if other is not None:
        areas.append(pair.area(config, other, wait_s))
    pages = Pages(is_terminal=is_terminal)
    found: list[tuple[str, Row]] = []
    for area in areas:
        with _announced(area.title):
            rows = list(examine(area))
        found += [(area.title, row) for row in rows]
        if not as_json:
            yield pages.area(area.title, rows)
    rows = [row for _, row in found]
    yield json.dumps(to_json(found), indent=2) + "\n" if as_json else pages.summary(rows)
    return exit_code(rows)


@contextmanager
def _announced(title: str) -> Iterator[None]:
    """While it lasts, a terminal shows what is looked at."""
    if not sys.stderr.isatty():
        yield
        return
    print(f"looking at {printable(title)} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
