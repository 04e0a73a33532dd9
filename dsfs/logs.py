"""The daemon's log: text or JSON lines, a level per module, and no flood of the same message.

A message is the same as another when logger, level and format string are equal, whatever is filled in.
Within a window the first few are written; the rest is counted, and one line says how many there were.  The
table of what was seen is bounded.  Debug messages are never held back: who switches them on wants them all.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from cachetools import TTLCache

from dsfs.model.printable import printable

ROOT = "dsfs"
WINDOW_S = 60.0
BURST = 10
TABLE_SIZE = 1024

_RepeatKey = tuple[str, int, str]


def configure(
    level: str = "info",
    format: str = "text",
    levels: Mapping[str, str] | None = None,
    *,
    stream: TextIO | None = None,
) -> "LogWriter":
    """Send the log of this process to `stream` (standard error), in place of whatever was configured before.

    `levels` names modules without the leading "dsfs." ("cache.fetch").  What the libraries below log appears
    from warning upwards.  Call `write_summaries` of the result before the process ends.
    """
    writer = LogWriter(stream or sys.stderr)
    writer.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, LogWriter):
            root.removeHandler(old)
    root.addHandler(writer)
    root.setLevel(logging.WARNING)
    for name in [name for name in logging.root.manager.loggerDict if name.startswith(f"{ROOT}.")]:
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.getLogger(ROOT).setLevel(level.upper())
    for module, module_level in (levels or {}).items():
        logging.getLogger(f"{ROOT}.{module}").setLevel(module_level.upper())
    return writer


def _module(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT}.")


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


class TextFormatter(logging.Formatter):
    """`<UTC time> <LEVEL> <module>: <message>`; a traceback follows on indented lines."""

    def format(self, record: logging.LogRecord) -> str:
        head = f"{_timestamp(record)} {record.levelname} {_module(record)}: {printable(record.getMessage())}"
        if record.exc_info is None:
            return head
        trace = self.formatException(record.exc_info).splitlines()
        return "\n    ".join([head, *map(printable, trace)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, module, message, thread, and traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "module": _module(record),
            "message": record.getMessage(),
            "thread": record.threadName,
        }
        if record.exc_info is not None:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


@dataclass(slots=True)
class _Repeats:
    """How often one message came in its window; `held_back` of them were not written."""

    written: int = 0
    held_back: int = 0


class LogWriter(logging.StreamHandler[TextIO]):
    """Writes records to a stream, repeats in a summary.

    INVARIANT: `_seen` is touched with the handler's lock held only; logging holds it around `emit`.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        window_s: float = WINDOW_S,
        burst: int = BURST,
        table_size: int = TABLE_SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stream)
        self._window_s = window_s
        self._burst = burst
        self._seen: TTLCache[_RepeatKey, _Repeats] = TTLCache(table_size, window_s, timer=clock)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it; and write what must be said about windows that ended."""
        over = list(self._seen.expire())
        is_held_back = record.levelno > logging.DEBUG and self._is_held_back(record, over)
        self._summarise(over)
        if not is_held_back:
            super().emit(record)

    def _is_held_back(self, record: logging.LogRecord, over: list[tuple[_RepeatKey, _Repeats]]) -> bool:
        key = (record.name, record.levelno, str(record.msg))
        repeats = self._seen.get(key)
        if repeats is None:
            if len(self._seen) >= self._seen.maxsize:
                over.append(self._seen.popitem())
            repeats = self._seen[key] = _Repeats()
        if repeats.written < self._burst:
            repeats.written += 1
            return False
        repeats.held_back += 1
        return True

    def write_summaries(self) -> None:
        """Write what was counted so far: at the end, or when nothing else may be logged for a while."""
        self.acquire()
        try:
            over = list(self._seen.items())
            self._seen.clear()
            self._summarise(over)
        finally:
            self.release()

    def _summarise(self, over: list[tuple[_RepeatKey, _Repeats]]) -> None:
        for (name, level, message), repeats in over:
            if repeats.held_back:
                summary = logging.LogRecord(
                    name, level, "", 0, "%d more like this within %.0f s: %s",
                    (repeats.held_back, self._window_s, message), None,
                )  # fmt: skip
                super().emit(summary)
