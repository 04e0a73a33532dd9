"""What nodes write for each other: versions as file names, pins, use files and events, whole and damaged."""

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsfs.model import event, lastuse, pin
from dsfs.model.document import decode, encode
from dsfs.model.event import Event
from dsfs.model.pin import EXPIRED_SHOWN_S, NO_END_NS, Pin, PinFile, Pins
from dsfs.model.versionname import name_of, version_in
from dsfs.storage.filesystem import is_unfinished

NAMES = st.text(min_size=1, max_size=60)
NUMBERS = st.integers(0, 2**63 - 1)
PINS = st.builds(Pin, NAMES, NAMES, NUMBERS, NUMBERS, NAMES, NAMES, NAMES)
EVENTS = st.builds(Event, NUMBERS, NAMES, NAMES, NAMES, NUMBERS, NAMES, NAMES, NAMES)
NOW_NS = 1_800_000_000 * 10**9
PIN = Pin("photos", "v1", NOW_NS, 0, "ann", "gpu1", "for the paper")
EVENT = Event(NOW_NS, "pinned", "photos", "v1", 0, "by ann", "0123456789abcdef", "gpu1")

# ---------------------------------------------------------------- file names


@given(NAMES, NAMES)
def test_name_of_a_version_is_a_file_name_that_says_which(dataset: str, version: str) -> None:
    name = name_of(dataset, version)
    assert name.isascii()
    assert len(name) <= 180
    assert not set(name) & set("/\0 \n")
    assert not name.startswith(".")
    assert not is_unfinished(name)
    assert version_in(name) in ((dataset, version), None)


def test_name_of_a_usual_version_is_what_people_expect() -> None:
    assert name_of("imagenet", "v3.1_a-b~") == "imagenet,v3.1_a-b~"
    assert version_in("imagenet,v3.1_a-b~") == ("imagenet", "v3.1_a-b~")


@pytest.mark.parametrize(
    ("dataset", "version"), [(".", ".."), ("a,b", "c"), ("a", "b,c"), ("a%2Cb", "c"), ("x.new-1", "y"), ("\udcff", "é")]
)
def test_odd_names_come_back(dataset: str, version: str) -> None:
    assert version_in(name_of(dataset, version)) == (dataset, version)


def test_no_two_versions_have_one_name() -> None:
    long = [("a" * length, "b" * (300 - length)) for length in range(100, 200)]
    assert len({name_of(*names) for names in long}) == len(long)
    assert version_in(name_of(*long[0])) is None


@pytest.mark.parametrize("name", ["", "README", "a,b,c", "a%2cb,c", "imagenet,v3.json~/", ".a,b", "a,%FF"])
def test_what_is_no_name_of_a_version_is_told(name: str) -> None:
    assert version_in(name) is None


# ---------------------------------------------------------------- contents


@given(PINS, EVENTS)
def test_what_is_written_is_read(some_pin: Pin, some_event: Event) -> None:
    assert pin.pin_in(pin.content_of(some_pin)) == some_pin
    assert pin.pin_in(pin.content_of(some_pin) + b" " * 4096) == some_pin  # as O_DIRECT fills it up
    assert event.event_in(event.line_of(some_event)) == some_event
    assert event.line_of(some_event).count(b"\n") == 1
    counted = lastuse.CountedUses(some_pin.dataset, some_pin.version, 1.5)
    assert lastuse.counted_in(lastuse.content_of(counted)) == counted


def test_the_longest_that_is_written_can_be_read() -> None:
    name = "\udcff" * 255
    longest = Pin(name, name, NOW_NS, NOW_NS, name, name, "\udcff" * pin.MOST_CHARACTERS)
    assert pin.pin_in(pin.content_of(longest)) == longest
    told = Event(NOW_NS, "pinned", name, name, 2**60, "\udcff" * event.MOST_CHARACTERS, "0" * 16, name)
    assert event.event_in(event.line_of(told)) == told


def changed(value: Any, **changes: object) -> bytes:
    return json.dumps({"format": 1, **asdict(value), **changes}).encode()


DAMAGED = {
    "empty": b"",
    "torn": pin.content_of(PIN)[:40],
    "of zeros": bytes(4096),
    "no text": b"\xff\xfe",
    "no object": b"7",
    "nested": b"[" * 10_000,
    "long": b" " * pin.MOST_BYTES + pin.content_of(PIN),
    "another format": changed(PIN, format=2),
    "field missing": pin.content_of(PIN).replace(b'"until_ns"', b'"until"'),
    "negative": changed(PIN, until_ns=-1),
    "large number": changed(PIN, until_ns=10**30),
    "fraction": changed(PIN, until_ns=0.5),
    "flag for a number": changed(PIN, at_ns=True),
    "number for a name": changed(PIN, dataset=7),
    "null": changed(PIN, note=None),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_pin_is_refused_in_a_few_words(content: bytes) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - whatever of it is wrong
        pin.pin_in(content)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("line", [b"{}", b"null", event.line_of(EVENT)[:50], changed(EVENT, bytes="many")])
def test_damaged_line_is_no_event(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever of it is wrong
        event.event_in(line)


def test_event_of_a_kind_and_fields_that_are_not_known_yet_is_an_event() -> None:
    assert event.event_in(changed(EVENT, kind="sublimated", colour="red")).kind == "sublimated"


def test_kind_is_named_where_something_is_wrong() -> None:
    with pytest.raises(ValueError, match="pin without at_ns"):
        decode(Pin, encode(lastuse.VersionNames("a", "b"), 1).replace(b"dataset", b"datum"), 1, 1000)


# ---------------------------------------------------------------- what is pinned


def pins(*files: PinFile) -> Pins:
    return Pins({files[0].version_name: files})


def file_of(until_ns: int) -> PinFile:
    return PinFile("photos,v1,0.json", "photos,v1", Pin("photos", "v1", NOW_NS, until_ns, "", "", ""))


def test_pin_holds_until_it_is_over() -> None:
    for until_ns, holds in ((0, True), (NOW_NS + 1, True), (NOW_NS, False), (NOW_NS - 1, False)):
        assert (pins(file_of(until_ns)).until_ns("photos", "v1") > NOW_NS) is holds
    assert pins(file_of(0)).until_ns("photos", "v2") == 0
    assert Pins({}).until_ns("photos", "v1") == 0


def test_what_cannot_be_understood_holds_and_is_never_forgotten() -> None:
    damaged = PinFile("photos,v1,1.json", "photos,v1", None, "torn")
    found = pins(damaged, file_of(1))
    assert found.until_ns("photos", "v1") == NO_END_NS
    assert found.forgotten(2**62) == [file_of(1)]


def test_pin_that_is_over_is_shown_for_a_while() -> None:
    over = pins(file_of(NOW_NS))
    shown_ns = round(EXPIRED_SHOWN_S * 1e9)
    assert over.forgotten(NOW_NS + shown_ns - 1) == []
    assert over.forgotten(NOW_NS + shown_ns) == [file_of(NOW_NS)]


def test_event_concerns_what_it_names() -> None:
    assert [EVENT.concerns(names) for names in ([], ["photos"], ["photos", "v1"], ["photos", "v2"], ["x"])] == [
        True, True, True, False, False,
    ]  # fmt: skip
