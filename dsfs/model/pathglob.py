"""Which files of a version a pattern selects: `*`, `?` and `[...]` within a name, `**` for any number of directories.

A pattern that matches a directory selects everything below it.  Matching goes name by name from the top, so that a walk
leaves out the directories below which nothing can match.
"""

import re
from collections.abc import Iterable
from fnmatch import translate

State = frozenset[int]  # how much of the pattern, in names, a path may have matched; empty: nothing below it can match
ANY_DIRECTORIES = "**"


class PathGlob:
    """`pattern` is relative to the version.  ValueError, for people, if it is none."""

    def __init__(self, pattern: str) -> None:
        names = pattern.strip("/").split("/")
        if not pattern.isprintable() or any(name in ("", ".", "..") for name in names):
            raise ValueError(f'{pattern!r} is no pattern of paths below a version, such as "train/**/*.jpg"')
        self.pattern = "/".join(names)
        self._names = [None if name == ANY_DIRECTORIES else re.compile(translate(name)) for name in names]
        self.start: State = self._with_skipped([0])

    def step(self, state: State, name: str) -> State:
        """The state below `name`, which lies in a directory of that state."""
        reached: list[int] = []
        for place in state:
            if place == len(self._names):
                return frozenset([place])  # all below is selected
            expected = self._names[place]
            if expected is None:
                reached.append(place)
            elif expected.match(name):
                reached.append(place + 1)
        return self._with_skipped(reached)

    def selects(self, state: State) -> bool:
        """Whether what has this state is selected, with all that lies below it."""
        return len(self._names) in state

    def _with_skipped(self, places: Iterable[int]) -> State:
        """The places, and those behind a `**` that stands for no directory."""
        found: set[int] = set()
        for place in places:
            found.add(place)
            while place < len(self._names) and self._names[place] is None:
                place += 1
                found.add(place)
        return frozenset(found)
