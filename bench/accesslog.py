"""The access log of the bench's origin: what was asked of it, and how many bytes it sent."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LOG_FORMAT = "$server_port $request_method $status $body_bytes_sent $request_uri"


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests by kind; `data_bytes` counts the bodies of object GETs only."""

    gets: int = 0
    heads: int = 0
    lists: int = 0
    others: int = 0
    failed: int = 0
    data_bytes: int = 0


def traffic(log: Path, mark: int, port: int) -> Traffic:
    """What was asked at a port since the log had `mark` bytes; requests still running are not in it."""
    with log.open() as lines:
        lines.seek(mark)
        return parse(lines, port)


def parse(lines: Iterable[str], port: int) -> Traffic:
    """The traffic of one port.  A line that is not in LOG_FORMAT raises ValueError."""
    gets = heads = lists = others = failed = data_bytes = 0
    for line in lines:
        line_port, method, status, body_bytes, uri = line.rstrip("\n").split(" ", 4)
        if int(line_port) != port:
            continue
        path, _, query = uri.partition("?")
        if int(status) >= 400:
            failed += 1
        elif method == "HEAD":
            heads += 1
        elif method == "GET" and "list-type=" in query:
            lists += 1
        elif method == "GET" and path.strip("/").count("/") >= 1:
            gets += 1
            data_bytes += int(body_bytes)
        else:
            others += 1
    return Traffic(gets, heads, lists, others, failed, data_bytes)
