"""What is said of a warm in one line, for people."""

from collections.abc import Mapping
from typing import Any

from dsfs.model.quantity import format_duration, format_pct, format_size

Answer = Mapping[str, Any]


def warm_name(warm: Answer) -> str:
    """What is being warmed, and where."""
    name = f"{warm['dataset']}/{warm['version']}"
    path = f" --path {warm['path']}" if warm["path"] else ""
    return name + path + (" on all nodes" if warm["nodes"] == "all" else "")


def warm_line(warm: Answer) -> str:
    """How far it has come, how fast it is, and what is in its way."""
    total, resident = warm["total_bytes"], warm["resident_bytes"]
    words = [str(warm["state"])]
    if total:
        words.append(f"{format_pct(resident, total)} of {format_size(total)}")
    if warm["rate_bytes_per_s"]:
        words.append(f"{format_size(warm['rate_bytes_per_s'])}/s")
    if warm["left_s"] is not None and resident < total:
        words.append(f"{format_duration(max(1.0, warm['left_s']))} left")
    reason = f" ({warm['reason']})" if warm["reason"] else ""
    return f"{warm_name(warm)}: {', '.join(words)}{reason}"


def missing_lines(warm: Answer) -> list[str]:
    """What is missing of it, and why."""
    return [
        f"{format_size(missing['bytes'])} missing: {missing['reason']}"
        + (f" (such as {missing['example']})" if missing["example"] else "")
        for missing in warm["missing"]
    ]
