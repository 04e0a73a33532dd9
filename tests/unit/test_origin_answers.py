"""What an answer of the origin must say, and which error an error answer means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.errors import (
    AccessDeniedError,
    BucketMissingError,
    DriftedError,
    DsfsError,
    NotFoundError,
    OriginTemporaryError,
)
from dsfs.model.objects import ObjectRef
from dsfs.storage.origin_answers import (
    Answer,
    Wanted,
    check_answer,
    error_of_answer,
    parse_content_range,
    plain_etag,
)
from dsfs.storage.origin_obstore import can_send

OBJECT = ObjectRef("train/a.bin", size=1000, etag="e1", modified_s=1_700_000_000)
WITHOUT_ETAG = ObjectRef("train/a.bin", size=1000, etag=None, modified_s=1_700_000_000)
RANGE = Wanted(OBJECT, 100, 50)


def answer(
    etag: str | None = "e1",
    total_size: int = 1000,
    modified_s: int | None = 1_700_000_000,
    offset: int = 100,
    length: int = 50,
) -> Answer:
    return Answer(etag, total_size, modified_s, offset, length)


def test_right_answer_is_accepted() -> None:
    check_answer("o", RANGE, answer())


def test_time_of_the_last_change_does_not_matter_where_there_is_an_etag() -> None:
    check_answer("o", RANGE, answer(modified_s=None))


def test_etag_of_the_answer_does_not_matter_where_the_catalog_has_none() -> None:
    check_answer("o", Wanted(WITHOUT_ETAG, 100, 50), answer(etag="anything"))


@pytest.mark.parametrize(
    ("obj", "wrong", "error"),
    [
        (OBJECT, answer(etag="e2"), DriftedError),
        (OBJECT, answer(total_size=1001), DriftedError),
        (OBJECT, answer(etag=None), OriginTemporaryError),
        (OBJECT, answer(offset=101), OriginTemporaryError),
        (OBJECT, answer(length=49), OriginTemporaryError),
        (OBJECT, answer(offset=0, length=1000), OriginTemporaryError),
        (WITHOUT_ETAG, answer(modified_s=1_700_000_001), DriftedError),
        (WITHOUT_ETAG, answer(modified_s=None), OriginTemporaryError),
    ],
)
def test_other_answer_is_refused(obj: ObjectRef, wrong: Answer, error: type[DsfsError]) -> None:
    with pytest.raises(error):
        check_answer("o", Wanted(obj, 100, 50), wrong)


@given(
    etag=st.sampled_from(["e1", "e2", None]),
    total_size=st.sampled_from([999, 1000]),
    modified_s=st.sampled_from([1_700_000_000, None]),
    offset=st.integers(99, 101),
    length=st.integers(49, 51),
)
def test_only_the_wanted_bytes_of_the_object_in_the_catalog_are_accepted(
    etag: str | None, total_size: int, modified_s: int | None, offset: int, length: int
) -> None:
    right = (etag, total_size, offset, length) == ("e1", 1000, 100, 50)
    try:
        check_answer("o", RANGE, Answer(etag, total_size, modified_s, offset, length))
    except (DriftedError, OriginTemporaryError):
        assert not right
    else:
        assert right


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (-1, 5), (0, 1001), (999, 2), (5, -1)])
def test_range_outside_the_object_cannot_be_wanted(offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="of an object of 1000"):
        Wanted(OBJECT, offset, length)


@pytest.mark.parametrize(
    ("etag", "if_match"), [("e1", '"e1"'), (None, None), ('W/"e', None), ("ü", None), ("a b", None)]
)
def test_if_match_is_sent_where_its_field_can_hold_the_etag(etag: str | None, if_match: str | None) -> None:
    assert Wanted(ObjectRef("k", 5, etag, 0), 0, 5).if_match == if_match


@pytest.mark.parametrize(("text", "etag"), [('"a-3"', "a-3"), ("a-3", "a-3"), ('""', None), ("", None), (None, None)])
def test_etag_is_opaque_and_an_empty_one_is_none(text: str | None, etag: str | None) -> None:
    assert plain_etag(text) == etag


def test_content_range_is_read() -> None:
    assert parse_content_range("bytes 5-9/10") == (5, 5, 10)


@pytest.mark.parametrize("text", ["", "bytes 5-9/*", "bytes */10", "5-9/10", "bytes 5-9/10 "])
def test_content_range_without_a_total_tells_too_little(text: str) -> None:
    with pytest.raises(ValueError, match="not a Content-Range"):
        parse_content_range(text)


@pytest.mark.parametrize(
    ("status", "code", "has_body", "error"),
    [
        (500, "InternalError", False, OriginTemporaryError),
        (503, "SlowDown", False, OriginTemporaryError),
        (429, None, False, OriginTemporaryError),
        (400, "BadRequest", False, OriginTemporaryError),
        (304, None, False, OriginTemporaryError),
        (301, "PermanentRedirect", False, OriginTemporaryError),
        (401, None, False, AccessDeniedError),
        (403, "SignatureDoesNotMatch", False, AccessDeniedError),
        (400, "ExpiredToken", False, AccessDeniedError),
        (404, "NoSuchBucket", False, BucketMissingError),
        (404, "NoSuchKey", False, NotFoundError),
        (404, None, False, NotFoundError),
        (404, None, True, OriginTemporaryError),
        (412, "PreconditionFailed", False, DriftedError),
        (416, "InvalidRange", False, DriftedError),
    ],
)
def test_status_and_code_decide_the_error(
    status: int, code: str | None, has_body: bool, error: type[DsfsError]
) -> None:
    found = error_of_answer("s3://lake/k", status, code, "told so", has_body=has_body)
    assert type(found) is error
    assert str(found).startswith(f"s3://lake/k: answered {status}")
    assert "told so" in str(found)


@pytest.mark.parametrize(
    "key",
    [
        "a", "a b", "a+b", "a%20b", "a#b?c", "ü/☃/😀", "...", "a/.hidden", "a/...", "~a", "*[]{}|\\^`<>\"'",
        "\x80", "x" * 1024,
    ],
)  # fmt: skip
def test_obstore_can_send_ordinary_and_odd_keys(key: str) -> None:
    assert can_send(key)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/./b",
        "a/..",
        "../a",
        "a\nb",
        "a\tb",
        "\x01",
        "\x7f",
        "a\0",
        "a\n",
    ],
)
def test_obstore_cannot_send_control_characters_and_path_arithmetic(key: str) -> None:
    assert not can_send(key)
