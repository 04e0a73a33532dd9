"""Sizes, durations and shares, and the escaping of names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsfs.model import quantity
from dsfs.model.printable import printable
from dsfs.model.quantity import Share


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("2TiB", 2 * 2**40),
        ("512MiB", 512 * 2**20),
        ("512MB", 512 * 10**6),
        ("1.5 GiB", 3 * 2**29),
        ("10kB", 10_000),
        ("7B", 7),
        ("0", 0),
    ],
)
def test_size_is_read_with_its_unit(text: str, size_bytes: int) -> None:
    assert quantity.parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "2", "-2TiB", "2TX", "TiB", "1e3B", "2 T i B", "9" * 4000 + "B", "٣GiB"]
)
def test_size_without_a_known_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size with its unit"):
        quantity.parse_size(text)


def test_unit_in_the_wrong_case_gets_a_hint() -> None:
    with pytest.raises(ValueError, match=r"did you mean MiB\?"):
        quantity.parse_size("512mib")


@pytest.mark.parametrize(
    ("text", "duration_s"), [("250ms", 0.25), ("30s", 30), ("1.5m", 90), ("12h", 43_200), ("7d", 604_800)]
)
def test_duration_is_read_with_its_unit(text: str, duration_s: float) -> None:
    assert quantity.parse_duration(text) == duration_s


def test_duration_without_a_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a duration with its unit"):
        quantity.parse_duration("30")


@given(st.integers(0, 2**60))
def test_exact_size_is_read_back_without_loss(size_bytes: int) -> None:
    assert quantity.parse_size(quantity.exact_size(size_bytes)) == size_bytes


@given(st.integers(0, 10**12))
def test_exact_duration_is_read_back_without_loss(duration_ms: int) -> None:
    assert quantity.parse_duration(quantity.exact_duration(duration_ms / 1000)) == duration_ms / 1000


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1536 * 2**20, "1.50 GiB"), (100 * 2**30, "100 GiB")],
)
def test_size_for_people_has_three_digits(size_bytes: int, text: str) -> None:
    assert quantity.format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(0.0421, "42ms"), (5.4, "5s"), (125, "2m 5s"), (3600, "1h"), (273_600, "3d 4h"), (86_401, "1d")],
)
def test_duration_for_people_has_two_units(duration_s: float, text: str) -> None:
    assert quantity.format_duration(duration_s) == text


def test_share_is_a_percentage_or_a_size() -> None:
    assert quantity.parse_share("5%").of(1000) == 50
    assert quantity.parse_share("0.5%").of(1001) == 6
    assert quantity.parse_share("100GiB").of(1) == 100 * 2**30
    assert [str(quantity.parse_share(text)) for text in ("5%", "0.25%", "100GiB")] == [
        "5%",
        "0.25%",
        "100GiB",
    ]


@pytest.mark.parametrize("text", ["101%", "5", "%", "5%%", "5 GiX"])
def test_share_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a percentage"):
        quantity.parse_share(text)


def test_share_of_nothing_given_is_refused() -> None:
    with pytest.raises(ValueError, match="either a percentage or a size"):
        Share()


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 10, "0 %"), (1, 10**9, "0.1 %"), (5, 10, "50.0 %"), (10**9 - 1, 10**9, "99.9 %"), (0, 0, "100 %")],
)
def test_percentage_is_all_or_nothing_only_when_it_is(part: int, whole: int, text: str) -> None:
    assert quantity.format_pct(part, whole) == text


def test_names_are_escaped_where_they_do_not_show_as_themselves() -> None:
    assert printable("plain-name_1.wav") == "plain-name_1.wav"
    assert printable("Grüße 日本") == "Grüße 日本"
    assert printable("a\nb\x1b[31m\u202e\u2028") == r"a\nb\x1b[31m\u202e\u2028"
    assert printable("caf\udce9") == r"caf\xe9"


@given(st.text())
def test_escaped_names_are_one_line_that_every_terminal_can_take(name: str) -> None:
    escaped = printable(name)
    assert len(escaped.splitlines()) <= 1
    assert "\x1b" not in escaped
    escaped.encode()
