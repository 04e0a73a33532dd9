"""What is said of an event in one line, for people."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dsfs.model.printable import printable
from dsfs.model.quantity import format_size

Answer = Mapping[str, Any]


def event_line(event: Answer) -> str:
    """When, where, what, how much and why."""
    at = datetime.fromtimestamp(event["at_s"]).astimezone().isoformat(sep=" ", timespec="seconds")
    what = "/".join(filter(None, (event["dataset"], event["version"]))) or "node"
    size = f" {format_size(event['bytes'])}" if event["bytes"] else ""
    why = f" ({event['why']})" if event["why"] else ""
    return printable(f"{at}  {event['host']}  {what} {event['kind']}{size}{why}")


def damage_line(answer: Answer) -> list[str]:
    """What could not be shown, if there was such."""
    lines = []
    if answer["left_out"]:
        lines.append(f"{answer['left_out']:,} older ones are left out; --since or NAME/VERSION shows fewer")
    if answer["damaged_lines"]:
        lines.append(f"{answer['damaged_lines']:,} lines cannot be understood and are left out")
    return lines
