"""What the daemon answers, as people see it."""

import json
from dataclasses import replace
from typing import Any

from dsfs.admin.render import Page
from dsfs.model.usage import Dependency, content_of
from tests.rig.usages import usage_of

NOW_S = 1_800_000_000.0
EVIL = "x\n\x1b[2Jy[red]"

STATUS: dict[str, Any] = {
    "daemon": {
        "pid": 7,
        "version": "0.1.0",
        "mountpoint": "/datasets",
        "config": "/etc/dsfs/dsfs.toml",
        "started_s": NOW_S - 7200,
        "state": "ready",
    },
    "origins": [
        {
            "id": "s3://lake",
            "state": "ok",
            "error": None,
            "error_at_s": None,
            "requests": 1234,
            "bytes": 5 * 2**30,
        },
        {
            "id": "s3://b",
            "state": "failing",
            "error": "403",
            "error_at_s": NOW_S - 5,
            "requests": 1,
            "bytes": 0,
        },
    ],
    "backing": {
        "path": "/mnt/dsfs",
        "state": "paused",
        "reason": "the limit is reached",
        "limit_bytes": 2**41,
        "used_bytes": 2**41,
        "floor_bytes": 2**30,
        "free_bytes": 2**40,
        "unfilled_bytes": 2**20,
        "unfilled_at_s": NOW_S - 7200,
    },
    "memory": {"limit_bytes": 2**29, "used_bytes": 2**20},
    "versions": [
        {
            "dataset": "speech",
            "version": "v1",
            "generation": "0123456789abcdef",
            "files": 1000,
            "bytes": 4000,
            "resident_bytes": 1000,
            "state": "drifted",
            "last_used_ago_s": 7384.2,
            "drifted": ["a/b.wav"],
            "left_out": 2,
            "left_out_examples": [["a//b", "empty component"], [EVIL, "why not"]],
        },
        {
            "dataset": "speech", "version": "v2", "files": None, "bytes": 0, "resident_bytes": 0, "generation": None,
            "state": "unlisted",
        },
    ],
}
WHY: dict[str, Any] = {
    "path": "speech/v1/a.wav",
    "dataset": "speech",
    "version": "v1",
    "generation": "0123",
    "object": {"url": "s3://lake/speech/v1/a.wav", "key": "k", "etag": None, "size": 5000, "modified_s": 0},
    "segment": {
        "identity": "ff00",
        "kind": "pack",
        "state": "filling",
        "path": "/mnt/dsfs/segments/ff/ff00.part",
    },
    "extent": {"offset": 4096, "length": 5000},
    "blocks": {"resident": 1, "total": 12},
    "share": {"allotted_bytes": 2**34, "held_bytes": 2**33, "is_full": False},
    "last_fetch": {"at_s": NOW_S - 60, "bytes": 5000, "seconds": 0.5, "attempts": 2},
    "last_error": {"at_s": NOW_S - 61, "message": "HTTP 503 SlowDown"},
}
USAGE = json.loads(content_of(usage_of("gpu1", files=2)))
PAUSED = Dependency("/mnt", "paused", "it is full")
TROUBLED = json.loads(content_of(replace(usage_of("gpu2"), backing=PAUSED, trouble=(EVIL,))))
FAILING = USAGE | {"origins": [{"name": "s3://lake", "state": "failing", "reason": "403"}]}
NODES: dict[str, Any] = {
    "this": "00bb",
    "nodes": [
        {"node": "00aa", "state": "alive", "seen_ago_s": 1.4, "trouble": "", "usage": USAGE},
        {"node": "00bb", "state": "alive", "seen_ago_s": 0, "trouble": "", "usage": TROUBLED},
        {"node": "00cc", "state": "silent", "seen_ago_s": 125, "trouble": "", "usage": FAILING},
        {"node": "00dd", "state": "unknown", "seen_ago_s": None, "trouble": "heartbeat: denied", "usage": None},
    ],
    "versions_in_use": [
        {
            "dataset": "photos",
            "version": "v1",
            "generation": "0123456789abcdef",
            "open_files": {"00aa": 2, "00cc": 1},
        }
    ],
    "segments_in_use": 2,
    "nodes_with_unknown_use": ["00dd"],
}
ENTRIES = [
    {
        "name": "speech",
        "kind": "dataset",
        "bytes": None,
        "resident_bytes": None,
        "files": None,
        "state": None,
    },
    {"name": EVIL, "kind": "file", "bytes": 10, "resident_bytes": 10, "files": None, "state": None},
]


def nodes_page() -> str:
    return Page(NOW_S).nodes(NODES)


def status_page() -> str:
    return Page(NOW_S).status(STATUS)


def ls_page() -> str:
    return Page(NOW_S).ls({"entries": ENTRIES})


def why_page(answer: dict[str, Any]) -> str:
    return Page(NOW_S).why(answer)


def test_status_shows_the_daemon_what_it_depends_on_and_its_versions() -> None:
    lines = status_page().splitlines()
    assert lines[0] == "daemon      /datasets: ready, dsfs 0.1.0, pid 7, for 2h, /etc/dsfs/dsfs.toml"
    assert lines[1] == "origin      s3://lake: ok, 1,234 requests, 5.00 GiB"
    assert lines[3] == "            last error 5s ago: 403"
    assert "            nothing is filled because the limit is reached" in lines
    assert "memory      1.00 MiB of 512 MiB in buffers" in lines
    rows = [line.split() for line in lines if line.startswith("speech/v")]
    assert rows[0] == [
        "speech/v1",
        "3.91",
        "KiB",
        "1000",
        "B",
        "25.0",
        "%",
        "1,000",
        "drifted",
        "2h",
        "3m",
        "ago",
        "0123456789ab",
    ]
    assert rows[1] == ["speech/v2", "unlisted"]


def test_status_tells_no_room_that_is_not_known_and_no_floor_of_nothing() -> None:
    def line(**facts: object) -> str:
        page = Page(NOW_S).status(STATUS | {"backing": STATUS["backing"] | facts})
        return next(line for line in page.splitlines() if line.startswith("backing"))

    assert line().endswith("used, 1.00 TiB free, 1.00 GiB are never taken")
    assert line(floor_bytes=0).endswith("used, 1.00 TiB free")
    assert line(free_bytes=None, floor_bytes=None).endswith("2.00 TiB used")


def test_status_tells_what_was_not_filled_while_that_is_news() -> None:
    def told(**facts: object) -> bool:
        page = Page(NOW_S).status(STATUS | {"backing": STATUS["backing"] | facts})
        return "            1.00 MiB were fetched and not filled so far, the last " in page

    assert told()  # nothing is filled now
    assert told(state="ok", unfilled_at_s=NOW_S - 300)
    assert not told(state="ok")
    assert not told(state="ok", unfilled_at_s=None)


def test_status_tells_who_evicts_and_what_is_wrong_with_that() -> None:
    eviction = {"host": "gpu1", "ago_s": 7.0, "leaving_bytes": 2**30, "trouble": "all is owed"}
    nobody = {"host": "", "ago_s": None, "leaving_bytes": 0, "trouble": "no round"}
    shown = Page(NOW_S).status(STATUS | {"eviction": eviction})
    assert "eviction    by gpu1, 7s ago, 1.00 GiB are leaving\n            all is owed\n" in shown
    assert "\neviction    no round\n" in Page(NOW_S).status(STATUS | {"eviction": nobody})
    assert "eviction" not in Page(NOW_S).status(STATUS | {"eviction": None})


def test_status_names_drifted_files_and_keys_left_out_with_the_reason() -> None:
    page = status_page()
    assert (
        "speech/v1: drifted, the origin has other objects than were listed; dsfs refresh speech/v1\n  a/b.wav"
        in page
    )
    assert "speech/v1: 2 keys that no path can hold are left out\n  a//b: empty component\n" in page


def test_nodes_are_shown_with_what_they_do_while_they_are_alive() -> None:
    lines = nodes_page().splitlines()
    assert lines[0].split("  ")[0] == "NODE"
    rows = [line.split() for line in lines[1:5]]
    assert rows[0][:5] == ["gpu1", "00aa", "alive", "1s", "ago"]
    assert " ".join(rows[0][5:]) == "0.1.0 75.0 % 2.93 KiB 1000 B ok ok photos/v1 (2 files, 977 KiB/s)"
    assert rows[1][:4] == ["gpu2", "00bb", "(this)", "alive"]
    assert " ".join(rows[2]) == "gpu1 00cc silent 2m 5s ago 0.1.0 75.0 % 2.93 KiB 1000 B"
    assert rows[3] == ["?", "00dd", "unknown"]


def test_nodes_tell_what_is_read_or_warmed_and_not_what_was_a_moment_ago() -> None:
    def row(**use: object) -> str:
        usage = USAGE | {"versions": [USAGE["versions"][0] | use]}
        first, *others = NODES["nodes"]
        page = Page(NOW_S).nodes(NODES | {"nodes": [first | {"usage": usage}, *others]})
        return page.splitlines()[1].rstrip()

    assert row(open_files=0, is_warmed=True).endswith("photos/v1 (warming)")
    assert "photos" not in row(open_files=0)


def test_status_tells_of_a_version_that_holds_its_share() -> None:
    share = {"allotted_bytes": 2**34, "held_bytes": 2**34, "is_full": True}
    line = "speech/v1: holds 16.0 GiB of the 16.0 GiB that it may; what else is read of it here is not kept for now"
    for told, is_shown in ((share, True), (share | {"is_full": False}, False)):
        versions = [STATUS["versions"][0] | {"share": told}]
        assert (line in Page(NOW_S).status(STATUS | {"versions": versions}).splitlines()) is is_shown


def test_nodes_end_with_what_is_in_use_and_what_is_wrong() -> None:
    lines = nodes_page().splitlines()
    assert lines[7].split() == ["photos/v1", "0123456789ab", "3", "gpu1,", "gpu1"]
    assert lines[9:] == [
        "gpu2: nothing is filled because it is full",
        r"gpu2: x\n\x1b[2Jy[red]",
        "?: node 00dd cannot be understood: heartbeat: denied",
        "?: what it has in use is not known",
    ]


def test_pins_are_shown_with_what_is_known_of_each() -> None:
    pin = {
        "dataset": "speech", "version": "v1", "state": "pinned", "at_s": NOW_S, "until_s": NOW_S + 60, "user": "ann",
        "node": "gpu1", "note": EVIL,
    }  # fmt: skip
    unknown = dict.fromkeys(pin) | {"state": "damaged", "note": "x.json: torn"}
    page = Page(NOW_S).pins([pin, pin | {"until_s": None, "user": ""}, unknown])
    header, first, second, third = page.splitlines()
    assert header.split() == ["VERSION", "STATE", "UNTIL", "SINCE", "BY", "NODE", "NOTE"]
    assert first.startswith("speech/v1  pinned   2027-01-15 0")
    assert first.endswith(r"ann  gpu1  x\n\x1b[2Jy[red]")
    assert "pinned   no end" in second
    assert third.split() == ["?", "damaged", "x.json:", "torn"]


def test_name_from_the_origin_cannot_steer_the_terminal() -> None:
    for page in (status_page(), ls_page(), nodes_page()):
        assert "\x1b" not in page
        assert r"x\n\x1b[2Jy[red]" in page


def test_ls_shows_directories_with_a_slash_and_only_columns_in_use() -> None:
    header, first, _ = ls_page().splitlines()
    assert header.split() == ["NAME", "SIZE", "RESIDENT", "%"]
    assert first.strip() == "speech/"


def test_why_shows_object_segment_extent_blocks_fetch_and_error() -> None:
    page = why_page(WHY)
    for line in (
        "object      s3://lake/speech/v1/a.wav",
        "segment     ff00 (pack), filling at /mnt/dsfs/segments/ff/ff00.part",
        "extent      5,000 bytes at 4,096",
        "blocks      resident 1 of 12",
        "share       holds 8.00 GiB of the 16.0 GiB that it may",
        "last fetch  1m ago, 4.88 KiB in 0.500 s, attempts: 2",
        "last error  1m 1s ago: HTTP 503 SlowDown",
    ):
        assert line in page.splitlines()
    assert "ETag none, 5,000 bytes, modified 1970-01-01" in page or "modified 1969-12-31" in page


def test_why_of_an_empty_file_that_was_never_fetched() -> None:
    page = why_page(WHY | dict.fromkeys(("segment", "extent", "blocks", "last_fetch", "last_error")))
    assert "segment     none, the file is empty" in page
    assert "last fetch  none since the daemon started" in page
