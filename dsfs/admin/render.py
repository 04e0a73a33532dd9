"""What the daemon answered, for people: tables and lines.  Names are escaped, they may hold anything."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from io import StringIO
from itertools import count
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsfs.admin.evictlines import eviction_lines, eviction_summary, leaving_row, staying_row
from dsfs.admin.warmlines import warm_line
from dsfs.model.printable import printable
from dsfs.model.quantity import format_duration, format_pct, format_size

Answer = Mapping[str, Any]

_NEWS_S = 600.0  # what was not filled is told so long; then it is a figure of `dsfs metrics`
VERSIONS_SHOWN = 3  # of those that a node reads
_WIDE = 100_000  # a pipe has no width: what goes into one must not be folded
_NODE_COLUMNS = (
    "NODE", "ID", "STATE", "LAST SEEN", "DSFS", "HITS", "CACHE", "ORIGIN", "BACKING", "ORIGINS", "READS NOW",
)  # fmt: skip
_TEXTS = frozenset(
    (
        "NAME", "VERSION", "STATE", "GENERATION", "NODE", "ID", "BACKING", "ORIGINS", "READS NOW", "IN USE BY", "UNTIL",
        "SINCE", "BY", "NOTE", "LEAVES", "STAYS", "WHY",
    )
)  # fmt: skip


class Page:
    """Text for a terminal, as wide as that is, or for a pipe; `now_s` is what "ago" counts from."""

    def __init__(self, now_s: float, *, is_terminal: bool = False) -> None:
        self._text = StringIO()
        self._console = Console(
            file=self._text, force_terminal=is_terminal, width=None if is_terminal else _WIDE,
            highlight=False, markup=False, emoji=False,
        )  # fmt: skip
        self._now_s = now_s

    def ls(self, answer: Answer) -> str:
        """The entries below a target."""
        columns = ("NAME", "SIZE", "RESIDENT", "%", "FILES", "STATE")
        self._table(columns, [_entry_row(entry) for entry in answer["entries"]])
        return self._text.getvalue()

    def status(self, answer: Answer) -> str:
        """The daemon, what it depends on, and its versions; then what is not as it should be."""
        self._pairs(self._status_pairs(answer))
        versions = answer.get("versions") or []
        if versions:
            self._line("")
            columns = ("VERSION", "SIZE", "RESIDENT", "%", "FILES", "STATE", "LAST USED", "GENERATION")
            self._table(columns, [_version_row(version) for version in versions])
        for version in versions:
            self._anomalies(version)
        return self._text.getvalue()

    def nodes(self, answer: Answer) -> str:
        """Every node that shares the backing directory; what is in use by whom; then what is not as it should be."""
        self._table(_NODE_COLUMNS, [self._node_row(node, answer["this"]) for node in answer["nodes"]])
        names = {node["node"]: _host(node) for node in answer["nodes"]}
        if in_use := answer["versions_in_use"]:
            self._line("")
            rows = [_use_row(version, names) for version in in_use]
            self._table(("VERSION", "GENERATION", "OPEN FILES", "IN USE BY"), rows)
        complaints = [f"{_host(node)}: {text}" for node in answer["nodes"] for text in _complaints(node)]
        complaints += [f"{names[node]}: what it has in use is not known" for node in answer["nodes_with_unknown_use"]]
        for line in ["", *complaints] if complaints else []:
            self._line(line)
        return self._text.getvalue()

    def pins(self, pins: Sequence[Answer]) -> str:
        """What is pinned, until when, and by whom."""
        self._table(("VERSION", "STATE", "UNTIL", "SINCE", "BY", "NODE", "NOTE"), [_pin_row(pin) for pin in pins])
        return self._text.getvalue()

    def eviction(self, answer: Answer, *, is_done: bool) -> str:
        """What leaves the cache, in this order, and what stays, and why."""
        for line in eviction_lines(answer):
            self._line(line)
        leaves, stays = answer["leaves"], answer["stays"]
        if leaves:
            self._line("")
            columns = ("", "LEAVES", "FREES", "SEGMENTS", "LAST USED", "WHY")
            self._table(columns, list(map(leaving_row, count(1), leaves)))
        if stays:
            self._line("")
            self._table(("STAYS", "HOLDS", "LAST USED", "WHY"), list(map(staying_row, stays)))
        self._line("")
        for line in eviction_summary(answer, is_done=is_done):
            self._line(line)
        return self._text.getvalue()

    def _node_row(self, node: Answer, this: str) -> tuple[str, ...]:
        seen, usage = node["seen_ago_s"], node["usage"]
        row = [
            _host(node),
            node["node"] + (" (this)" if node["node"] == this else ""),
            node["state"],
            "" if seen is None else f"{format_duration(round(seen))} ago",
        ]
        if usage is not None:
            traffic = usage["traffic"]
            row += [
                usage["program"]["version"],
                format_pct(traffic["cache_bytes"], traffic["read_bytes"]) if traffic["read_bytes"] else "",
                format_size(traffic["cache_bytes"]),
                format_size(traffic["origin_bytes"]),
            ]
            if node["state"] == "alive":
                origins = {origin["state"] for origin in usage["origins"]}
                row += [
                    usage["backing"]["state"],
                    next((state for state in ("failing", "ok") if state in origins), "unknown"),
                    ", ".join(_reading(version) for version in usage["versions"][:VERSIONS_SHOWN] if _is_held(version)),
                ]
        return (*row, *[""] * (len(_NODE_COLUMNS) - len(row)))

    def why(self, answer: Answer) -> str:
        """Where the bytes of one file come from."""
        self._pairs(self._why_pairs(answer))
        return self._text.getvalue()

    def _status_pairs(self, answer: Answer) -> Iterator[tuple[str, str]]:
        daemon = answer["daemon"]
        running = format_duration(self._now_s - daemon["started_s"])
        state = f"{daemon['state']}, dsfs {daemon['version']}, pid {daemon['pid']}, for {running}"
        yield "daemon", f"{daemon['mountpoint']}: {state}, {daemon['config']}"
        for origin in answer.get("origins") or []:
            traffic = f"{origin['requests']:,} requests, {format_size(origin['bytes'])}"
            yield "origin", f"{origin['id']}: {origin['state']}, {traffic}"
            if origin.get("error"):
                yield "", f"last error {self._ago(origin.get('error_at_s'))}: {origin['error']}"
        backing = answer["backing"]
        used = f"{format_size(backing['used_bytes'])} of {format_size(backing['limit_bytes'])} used"
        free, floor = backing["free_bytes"], backing["floor_bytes"]
        room = "" if free is None else f", {format_size(free)} free"
        room += f", {format_size(floor)} are never taken" if floor else ""
        yield "backing", f"{backing['path']}: {backing['state']}, {used}{room}"
        if backing["state"] != "ok":
            yield "", f"nothing is filled because {backing.get('reason') or 'of an unknown reason'}"
        unfilled_at_s = backing.get("unfilled_at_s")
        if unfilled_at_s is not None and (backing["state"] != "ok" or self._now_s - unfilled_at_s < _NEWS_S):
            unfilled = format_size(backing["unfilled_bytes"])
            yield "", f"{unfilled} were fetched and not filled so far, the last {self._ago(unfilled_at_s)}"
        if eviction := answer.get("eviction"):
            lines = [eviction["trouble"]] if eviction["trouble"] else []
            if eviction["host"]:
                leaving = f", {format_size(eviction['leaving_bytes'])} are leaving" if eviction["leaving_bytes"] else ""
                lines = [f"by {eviction['host']}, {format_duration(eviction['ago_s'])} ago{leaving}", *lines]
            yield from zip(("eviction", ""), lines, strict=False)
        memory = answer["memory"]
        yield (
            "memory",
            f"{format_size(memory['used_bytes'])} of {format_size(memory['limit_bytes'])} in buffers",
        )
        for warm in answer.get("warms") or []:
            yield "warm", warm_line(warm)

    def _anomalies(self, version: Answer) -> None:
        name = f"{version['dataset']}/{version['version']}"
        drifted = version.get("drifted") or []
        if drifted:
            self._line("")
            self._line(f"{name}: drifted, the origin has other objects than were listed; dsfs refresh {name}")
            for path in drifted:
                self._line(f"  {path}")
        if version.get("left_out"):
            self._line("")
            self._line(f"{name}: {version['left_out']:,} keys that no path can hold are left out")
            for key, reason in version.get("left_out_examples") or []:
                self._line(f"  {key}: {reason}")
        if (share := version.get("share")) and share["is_full"]:
            self._line("")
            self._line(f"{name}: {_share(share)}")

    def _why_pairs(self, answer: Answer) -> Iterator[tuple[str, str]]:
        found, segment, extent, blocks = (answer[name] for name in ("object", "segment", "extent", "blocks"))
        yield "path", str(answer["path"])
        yield "version", f"{answer['dataset']}/{answer['version']}, generation {answer['generation']}"
        yield "object", str(found["url"])
        modified = _moment(found.get("modified_s"))
        yield "", f"ETag {found.get('etag') or 'none'}, {found['size']:,} bytes, modified {modified}"
        if segment:
            place = f" at {segment['path']}" if segment.get("path") else ""
            yield "segment", f"{segment['identity']} ({segment['kind']}), {segment['state']}{place}"
        else:
            yield "segment", "none, the file is empty"
        if extent:
            yield "extent", f"{extent['length']:,} bytes at {extent['offset']:,}"
        if blocks:
            yield "blocks", f"resident {blocks['resident']:,} of {blocks['total']:,}"
        if share := answer.get("share"):
            yield "share", _share(share)
        fetch, error = answer.get("last_fetch"), answer.get("last_error")
        if fetch:
            cost = f"{format_size(fetch['bytes'])} in {fetch['seconds']:.3f} s, attempts: {fetch['attempts']}"
            yield "last fetch", f"{self._ago(fetch['at_s'])}, {cost}"
        else:
            yield "last fetch", "none since the daemon started"
        yield "last error", f"{self._ago(error['at_s'])}: {error['message']}" if error else "none"

    def _ago(self, moment_s: float | None) -> str:
        if moment_s is None:
            return "at an unknown time"
        return f"{format_duration(max(0.0, self._now_s - moment_s))} ago"

    def _line(self, text: str) -> None:
        self._console.print(Text(printable(text)), soft_wrap=True)

    def _pairs(self, pairs: Iterator[tuple[str, str]]) -> None:
        for name, text in pairs:
            self._line(f"{name:<10}  {text}")

    def _table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        shown = [place for place in range(len(columns)) if any(row[place] for row in rows) or place == 0]
        table = Table(box=None, pad_edge=False, header_style="bold")
        for place in shown:
            is_text = columns[place] in _TEXTS
            table.add_column(columns[place], justify="left" if is_text else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(row[place])) for place in shown))
        self._console.print(table)


def _amounts(holder: Answer) -> tuple[str, str, str, str]:
    """Size, resident, percentage and files; "" for what is not known."""
    size_bytes, resident_bytes, files = (holder.get(key) for key in ("bytes", "resident_bytes", "files"))
    return (
        "" if size_bytes is None else format_size(size_bytes),
        "" if resident_bytes is None else format_size(resident_bytes),
        "" if size_bytes is None or resident_bytes is None else format_pct(resident_bytes, size_bytes),
        "" if files is None else f"{files:,}",
    )


def _entry_row(entry: Answer) -> tuple[str, ...]:
    name = entry["name"] if entry["kind"] == "file" else f"{entry['name']}/"
    return (name, *_amounts(entry), entry.get("state") or "")


def _version_row(version: Answer) -> tuple[str, ...]:
    name = f"{version['dataset']}/{version['version']}"
    generation = (version.get("generation") or "")[:12]
    ago_s = version.get("last_used_ago_s")
    used = "" if ago_s is None else f"{format_duration(max(1, round(ago_s)))} ago"
    amounts = _amounts(version if generation else {"files": version.get("files")})  # how much it is was not listed yet
    return (name, *amounts, version.get("state") or "", used, generation)


def _host(node: Answer) -> str:
    return str(node["usage"]["host"]["name"]) if node["usage"] else "?"


def _is_held(version: Answer) -> bool:
    """Whether the node has files of it open, or warms it; else it was in use a moment ago."""
    return bool(version["open_files"] or version["is_warmed"])


def _reading(version: Answer) -> str:
    if not version["open_files"]:
        return f"{version['dataset']}/{version['version']} (warming)"
    files = "1 file" if version["open_files"] == 1 else f"{version['open_files']:,} files"
    return f"{version['dataset']}/{version['version']} ({files}, {format_size(int(version['bytes_per_s']))}/s)"


def _share(share: Answer) -> str:
    """How much of the backing directory a version in use may hold, and what that means now."""
    text = f"holds {format_size(share['held_bytes'])} of the {format_size(share['allotted_bytes'])} that it may"
    return f"{text}; what else is read of it here is not kept for now" if share["is_full"] else text


def _pin_row(pin: Answer) -> tuple[str, ...]:
    is_damaged = pin["state"] == "damaged"
    return (
        "?" if pin["dataset"] is None else f"{pin['dataset']}/{pin['version']}",
        pin["state"],
        _moment(pin["until_s"]) if pin["until_s"] else "" if is_damaged else "no end",
        "" if is_damaged else _moment(pin["at_s"]),
        pin["user"] or "",
        pin["node"] or "",
        pin["note"],
    )


def _use_row(version: Answer, names: Mapping[str, str]) -> tuple[str, ...]:
    by_node = version["open_files"]
    return (
        f"{version['dataset']}/{version['version']}",
        version["generation"][:12],
        f"{sum(by_node.values()):,}",
        ", ".join(names[node] for node in by_node),
    )


def _complaints(node: Answer) -> Iterator[str]:
    """What is not as it should be on the node."""
    if node["trouble"]:
        yield f"node {node['node']} cannot be understood: {node['trouble']}"
    if (usage := node["usage"]) is not None and node["state"] == "alive":
        if usage["backing"]["reason"]:
            yield f"nothing is filled because {usage['backing']['reason']}"
        for origin in usage["origins"]:
            if origin["reason"]:
                yield f"{origin['name']} fails: {origin['reason']}"
        yield from usage["trouble"]


def _moment(moment_s: float | None) -> str:
    if moment_s is None:
        return "unknown"
    return datetime.fromtimestamp(moment_s).astimezone().isoformat(sep=" ", timespec="seconds")
