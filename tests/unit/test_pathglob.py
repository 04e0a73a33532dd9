"""Which paths a pattern selects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.pathglob import PathGlob


def selects(pattern: str, path: str) -> bool:
    glob = PathGlob(pattern)
    state = glob.start
    for name in path.split("/"):
        state = glob.step(state, name)
    return glob.selects(state)


@pytest.mark.parametrize(
    ("pattern", "selected", "left_out"),
    [
        ("train", ["train", "train/a", "train/x/y"], ["trains", "x/train", "test/train"]),
        ("/train/", ["train/a"], ["x"]),
        ("*.jpg", ["a.jpg", "a.jpg/in-a-directory"], ["x/a.jpg", "ajpg"]),
        ("train/*", ["train/a", "train/x/y"], ["a", "train"]),
        ("**/*.jpg", ["a.jpg", "x/a.jpg", "x/y/z.jpg"], ["x/a.png"]),
        ("train/**/*.jpg", ["train/a.jpg", "train/x/y/a.jpg"], ["a.jpg", "x/train/a.jpg", "train/a.png"]),
        ("**", ["a", "x/y"], []),
        ("train/**", ["train/a", "train/x/y"], ["test/a"]),
        ("**/mid/**/end", ["mid/end", "a/mid/b/mid/c/end", "mid/x/end"], ["mid/x", "a/end"]),
        ("0[0-4]?.tar", ["000.tar", "041.tar"], ["050.tar", "00.tar"]),
        ("a[.]b", ["a.b"], ["axb"]),
    ],
)
def test_pattern_selects(pattern: str, selected: list[str], left_out: list[str]) -> None:
    assert [path for path in selected if not selects(pattern, path)] == []
    assert [path for path in left_out if selects(pattern, path)] == []


@pytest.mark.parametrize("pattern", ["", "/", "a//b", "../x", "a/./b", "a\nb", "a\0b"])
def test_what_is_no_pattern_is_refused_with_an_example(pattern: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        PathGlob(pattern)


def test_walk_leaves_out_directories_below_which_nothing_can_match() -> None:
    glob = PathGlob("train/*/x")
    assert not glob.step(glob.start, "test")
    assert glob.step(glob.start, "train")


NAMES = st.sampled_from(["a", "b", "ab", "*", "**", "a*", "?"])
PATHS = st.lists(st.sampled_from(["a", "b", "ab", "ba"]), min_size=1, max_size=5)


def expected(pattern: list[str], names: list[str]) -> bool:
    """The same by trying everything."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(expected(pattern[1:], names[start:]) for start in range(len(names) + 1))
    one = {"*": lambda name: True, "?": lambda name: len(name) == 1, "a*": lambda name: name.startswith("a")}
    matches = one.get(pattern[0], lambda name: name == pattern[0])
    return bool(names) and matches(names[0]) and expected(pattern[1:], names[1:])


@given(pattern=st.lists(NAMES, min_size=1, max_size=4), names=PATHS)
def test_selection_is_that_of_trying_everything(pattern: list[str], names: list[str]) -> None:
    assert selects("/".join(pattern), "/".join(names)) == expected(pattern, names)
