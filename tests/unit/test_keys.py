"""Keys as paths: what a path can hold, and why not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.keys import NAME_MAX, KeyPath, Unusable, key_path


def test_file_and_marker_have_paths():
    assert key_path("a/b/c.jpg", 5) == KeyPath((b"a", b"b"), b"c.jpg")
    assert key_path("c.jpg", 0) == KeyPath((), b"c.jpg")
    assert key_path("a/b/", 0) == KeyPath((b"a", b"b"), None)


@pytest.mark.parametrize(
    ("key", "size", "reason"),
    [
        ("a//b", 1, Unusable.EMPTY_NAME),
        ("/a", 1, Unusable.EMPTY_NAME),
        ("/", 0, Unusable.EMPTY_NAME),
        ("a//", 0, Unusable.EMPTY_NAME),
        (".", 1, Unusable.DOT_NAME),
        ("..", 1, Unusable.DOT_NAME),
        ("a/../../etc/passwd", 1, Unusable.DOT_NAME),
        ("a/./b", 1, Unusable.DOT_NAME),
        ("../", 0, Unusable.DOT_NAME),
        ("a\0b", 1, Unusable.NUL),
        ("a/" + "x" * (NAME_MAX + 1), 1, Unusable.LONG_NAME),
        ("é" * 128, 1, Unusable.LONG_NAME),
        ("a/\ud800", 1, Unusable.NOT_UTF8),
        ("a/b\udcff", 1, Unusable.NOT_UTF8),
        ("a/b/", 1, Unusable.MARKER_WITH_CONTENT),
    ],
)
def test_key_that_no_path_can_hold_has_a_reason(key, size, reason):
    assert key_path(key, size) is reason


@pytest.mark.parametrize(
    "key", ["x" * NAME_MAX, "é" * 127, "...", ".hidden", "a b", "a\nb", "a\\b", "a+b%25?&\"'", "\u202e", "\U0001f600"]
)
def test_odd_names_are_names(key):
    assert key_path(key, 1) == KeyPath((), key.encode())


@given(st.text(st.sampled_from("a./\0é\ud800"), min_size=1, max_size=12), st.integers(0, 1))
def test_usable_key_is_the_path_that_its_names_make(key, size):
    found = key_path(key, size)
    if isinstance(found, KeyPath):
        assert b"/".join([*found.directories, found.name or b""]).decode() == key
        names = [*found.directories, *([found.name] if found.name is not None else [])]
        assert not {b"", b".", b".."}.intersection(names)
        assert not any(b"\0" in name or b"/" in name for name in names)
