"""What `dsfs evict` shows: lines about the room, a row for each version that leaves or stays, and what comes of it."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from dsfs.model.quantity import format_duration, format_pct, format_size

Answer = Mapping[str, Any]


def eviction_lines(answer: Answer) -> Iterator[str]:
    """How much room there is, and how much is wanted."""
    used, limit = answer["used_bytes"], answer["limit_bytes"]
    leaving = f", {format_size(answer['leaving_bytes'])} of that leaving" if answer["leaving_bytes"] else ""
    part = format_pct(used, limit) if used <= limit else "above the limit"
    yield f"used        {format_size(used)} of {format_size(limit)} ({part}){leaving}"
    if answer["granted_bytes"]:
        yield f"granted     {format_size(answer['granted_bytes'])} to nodes that fill, which counts as used"
    yield f"watermarks  {format_size(answer['high_bytes'])} and {format_size(answer['low_bytes'])}"
    if answer["wanted_bytes"]:
        yield f"wanted      {format_size(answer['wanted_bytes'])} more"


def leaving_row(place: int, verdict: Answer) -> tuple[str, ...]:
    return (
        str(place), _name(verdict), format_size(verdict["bytes"]), f"{verdict['segments']:,}", _last_used(verdict),
        verdict["why"],
    )  # fmt: skip


def staying_row(verdict: Answer) -> tuple[str, ...]:
    return _name(verdict), format_size(verdict["bytes"]), _last_used(verdict), _why_it_stays(verdict)


def eviction_summary(answer: Answer, *, is_done: bool) -> Iterator[str]:
    """What comes of it."""
    freed = sum(verdict["bytes"] for verdict in answer["leaves"])
    grace = format_duration(answer["grace_s"])
    if not answer["leaves"]:
        yield "Nothing leaves." if is_done else "Nothing would leave."
    elif is_done:
        yield f"{format_size(freed)} are hidden, and will be deleted once {grace} are over and nobody has them open."
    else:
        yield f"{format_size(freed)} would leave: hidden at once, deleted after {grace} at the earliest."
    if answer["missing_bytes"]:
        missing, wanted = answer["missing_bytes"], answer["wanted_bytes"]
        missing = min(missing, wanted or missing)  # what is above the watermark anyway is not wanted
        what = "of what is wanted cannot be had: the rest stays" if wanted else "too much stays,"
        why = "for the reasons above" if answer["stays"] else "and belongs to no version (catalogs, what nodes tell)"
        yield f"{format_size(missing)} {what} {why}."
    if answer["missing_inodes"]:
        yield f"{answer['missing_inodes']:,} inodes are wanted and cannot be had."


def _name(verdict: Answer) -> str:
    name = f"{verdict['dataset']}/{verdict['version']}"
    return f"{name} (generation {verdict['generation'][:12]})" if not verdict.get("is_current", True) else name


def _last_used(verdict: Answer) -> str:
    ago_s = verdict["last_used_ago_s"]
    return "" if ago_s is None else "now" if ago_s == 0 else f"{format_duration(max(1, round(ago_s)))} ago"


def _why_it_stays(verdict: Answer) -> str:
    why = str(verdict["why"])
    if verdict["rule"] == "pinned" and verdict.get("pinned_until_s"):
        until = datetime.fromtimestamp(verdict["pinned_until_s"]).astimezone()
        return f"{why} until {until.isoformat(sep=' ', timespec='minutes')}"
    if verdict["nodes"]:
        nodes = ", ".join(verdict["nodes"])
        why += f" by {nodes}" if verdict["rule"] == "in_use" else f" ({nodes})"
        if verdict.get("in_use_for_s"):
            why += f" since {format_duration(verdict['in_use_for_s'])}"
    return why
