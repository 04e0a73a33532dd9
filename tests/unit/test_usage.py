"""What nodes tell each other survives the way through a file, and nothing else is taken for it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.usage import (
    FORMAT,
    MOST_BYTES,
    MOST_SEGMENTS,
    MOST_VERSIONS,
    Dependency,
    Host,
    Program,
    Traffic,
    Usage,
    UsedVersion,
    content_of,
    usage_in,
)
from tests.rig.usages import usage_of, used

NUMBERS = st.integers(0, 2**63 - 1)
FLOATS = st.floats(0, 1e18)
TEXTS = st.text(max_size=20)
DEPENDENCIES = st.builds(Dependency, TEXTS, TEXTS, TEXTS)
USED = st.builds(UsedVersion, TEXTS, TEXTS, TEXTS, NUMBERS, st.booleans(), NUMBERS, FLOATS, NUMBERS, NUMBERS)
USAGES = st.builds(
    Usage,
    host=st.builds(Host, TEXTS, TEXTS),
    program=st.builds(Program, TEXTS, TEXTS, NUMBERS, TEXTS, st.booleans()),
    beat_ns=NUMBERS,
    versions=st.lists(USED, max_size=3).map(tuple),
    versions_left_out=NUMBERS,
    segments=st.lists(TEXTS, max_size=3).map(tuple),
    segments_left_out=NUMBERS,
    traffic=st.builds(Traffic, NUMBERS, NUMBERS, NUMBERS, FLOATS, NUMBERS, NUMBERS, NUMBERS),
    backing=DEPENDENCIES,
    origins=st.lists(DEPENDENCIES, max_size=3).map(tuple),
    trouble=st.lists(TEXTS, max_size=3).map(tuple),
)


@given(USAGES)
def test_what_is_told_is_what_is_heard(usage: Usage) -> None:
    assert usage_in(content_of(usage)) == usage


def test_name_that_is_no_utf8_is_told() -> None:
    version = replace(used(), version="v\udcff")
    usage = replace(usage_of(), versions=(version,))
    assert usage_in(content_of(usage)) == usage


def test_the_most_that_is_told_can_be_heard() -> None:
    version = UsedVersion("\udcff" * 255, "\udcff" * 255, "0" * 40, 2**40, False, 2**62, 1e12, 2**62, 64)
    usage = replace(usage_of(), versions=(version,) * MOST_VERSIONS, segments=("0" * 40,) * MOST_SEGMENTS)
    assert usage_in(content_of(usage)) == usage


def test_fields_of_a_newer_dsfs_are_left_alone() -> None:
    usage = usage_of()
    told = json.loads(content_of(usage))
    told["temperature"] = {"kelvin": 300}
    told["host"]["rack"] = 7
    assert usage_in(json.dumps(told).encode()) == usage


def changed(**changes: Any) -> bytes:
    return json.dumps(json.loads(content_of(usage_of())) | changes).encode()


DAMAGED = {
    "empty": b"",
    "torn": content_of(usage_of())[:100],
    "of zeros": bytes(4096),
    "no text": b"\xff\xfe",
    "no object": b"[]",
    "nested": b"[" * 100_000,
    "long": b" " * MOST_BYTES + content_of(usage_of()),
    "another format": changed(format=FORMAT + 1),
    "format that is no number": changed(format=["x" * 10_000]),
    "field missing": content_of(usage_of()).replace(b'"segments"', b'"segment"'),
    "negative": changed(segments_left_out=-1),
    "large number": changed(beat_ns=10**30),
    "large number for a float": changed(traffic=json.loads(content_of(usage_of()))["traffic"] | {"recent_s": 10**400}),
    "no number": content_of(usage_of()).replace(b"60.0", b"NaN"),
    "flag for a number": changed(segments_left_out=True),
    "number for a name": changed(segments=[7]),
    "name for a list": changed(segments="abc"),
    "list for an object": changed(host=[]),
    "null": changed(host=None),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_is_damaged_is_refused_in_a_few_words(content: bytes) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - whatever of it is wrong
        usage_in(content)
    assert len(str(refusal.value)) < 200
