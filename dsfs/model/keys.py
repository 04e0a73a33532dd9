"""Object keys as paths: the names a key consists of, or the reason why no path can hold it."""

from dataclasses import dataclass
from enum import StrEnum

NAME_MAX = 255  # bytes; the longest name Linux lets a directory hold
_NOT_NAMES = frozenset({b".", b".."})


class Unusable(StrEnum):
    """Why a key is left out; the text is what `dsfs status` shows."""

    EMPTY_NAME = "has an empty component"
    DOT_NAME = "has a component '.' or '..'"
    NUL = "has a NUL character"
    LONG_NAME = f"has a component longer than {NAME_MAX} bytes"
    NOT_UTF8 = "is not valid UTF-8"
    MARKER_WITH_CONTENT = "names a directory but has content"
    ALSO_DIRECTORY = "is also a directory of other keys"


@dataclass(frozen=True, slots=True)
class KeyPath:
    """Where a key lies: the directories on the way, outermost first, and the file's name.

    `name` is None for the marker of a directory (a key that ends in "/"), whose own name is the last of
    `directories`.
    """

    directories: tuple[bytes, ...]
    name: bytes | None


def key_path(key: str, size: int) -> KeyPath | Unusable:
    """The path of an object of `size` bytes; `key` is relative to the version and not empty.

    Only the key itself is judged: that a file and a directory want the same name (ALSO_DIRECTORY) is for those
    to find who know the other keys.
    """
    if "\0" in key:
        return Unusable.NUL
    try:
        names = key.encode("utf-8").split(b"/")
    except UnicodeEncodeError:
        return Unusable.NOT_UTF8
    name = names.pop() or None
    components = names if name is None else [*names, name]
    if b"" in components:
        return Unusable.EMPTY_NAME
    if not _NOT_NAMES.isdisjoint(components):
        return Unusable.DOT_NAME
    if max(map(len, components)) > NAME_MAX:
        return Unusable.LONG_NAME
    if name is None and size:
        return Unusable.MARKER_WITH_CONTENT
    return KeyPath(tuple(names), name)
