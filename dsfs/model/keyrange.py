"""Where to cut a range of keys that is being listed, so that others list the rest of it at the same time.

Nobody knows where the keys lie before they are listed.  What is known is the newest page, often the first key
behind the range, and that names are made of digits and letters: a key that keeps its first characters and has
a greater one of the same kind in the next place is a good guess at what comes later.  A bad guess costs one
LIST; whether the listing is right does not depend on any.
"""

from bisect import bisect_left
from collections.abc import Sequence
from math import inf

KEY_MAX = 1024  # bytes; longer keys there are none, and some servers refuse to start after one
_KINDS = ("0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_FIRST_SURROGATE, _AFTER_SURROGATES, _END_OF_UNICODE = 0xD800, 0xE000, 0x110000
_MOST_BETWEEN = 32  # guesses between two characters that are of no kind
_PLACES = 4  # characters that tell how far a key is on the way from one to another


def cuts_towards(last: str, *, end: str, beyond: str, count: int) -> list[str]:
    """At most `count` keys, ascending, that cut the keys behind `last` up to `end` into ranges of like size.

    For a range whose keys are likely to go on to its end, because the next one begins right there: with
    `beyond`, whose first characters are therefore those of the last keys.
    """
    place = _shared(last, beyond)
    chars = _between(last[place : place + 1], beyond[place : place + 1])
    here, there = _counting(last[place + 1 : place + 2]), _counting(beyond[place + 1 : place + 2])
    found = {last[:place] + char for char in chars}
    found |= {last[:place] + char + other for char in chars for other in here}
    found |= {last[: place + 1] + other for other in here}
    found |= {beyond[: place + 1] + other for other in there}
    return _spread(sorted(key for key in found if last < key < end), count)


def cuts_ahead(first: str, last: str, *, end: str | None, fixed: int, count: int) -> list[str]:
    """At most `count` keys, ascending, that cut the keys behind `last` up to `end` near and far.

    For a range whose keys may stop anywhere.  `first` and `last` are the ends of the newest page; `end` None:
    the range goes on to the last key that shares the first `fixed` characters.
    """
    widest = fixed if end is None else max(fixed, _shared(last, end))
    narrowest = min(max(_shared(first, last), widest), len(last) - 1)
    found = [last[:place] + char for place in range(narrowest, widest - 1, -1) for char in _after(last[place])]
    return _spread([key for key in found if end is None or key < end], count)


def pages_left(first: str, last: str, beyond: str) -> float:
    """An estimate of how many pages like the one from `first` to `last` there are before `beyond`."""
    place = _shared(first, beyond)
    low, high = first[place : place + 1], beyond[place : place + 1]
    chars = [low, *_between(low, high), high]
    start, here, stop = (_measure(key[place : place + _PLACES], chars) for key in (first, last, beyond))
    return max(0.0, stop - here) / (here - start) if start < here else inf


def _measure(text: str, chars: Sequence[str]) -> float:
    """How far `text` is on the way from 0 to 1, if in each place all characters are equally frequent.

    `chars` are those of the first place, in order.
    """
    value, width = 0.0, 1.0
    for char in text:
        width /= len(chars)
        value += width * bisect_left(chars, char)
        chars = _kind(char)
    return value


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    length = min(len(one), len(other))
    return next((place for place in range(length) if one[place] != other[place]), length)


def _kind(char: str) -> str:
    """The characters that are likely where `char` is, in order."""
    return next((kind for kind in _KINDS if char and char in kind), char)


def _counting(char: str) -> str:
    """The digits if `char` is one.  Letters make words, which seldom count up."""
    return _KINDS[0] if char in _KINDS[0] and char else ""


def _after(char: str) -> list[str]:
    """Some greater characters, in order, the last of them greater than all that are likely in this place."""
    kind = _kind(char)
    if kind == _KINDS[0]:
        codes = [*range(ord(char) + 1, ord(kind[-1]) + 2)]
    elif len(kind) > 1:  # letters make words, which seldom count up: three guesses
        codes = sorted({ord(char) + 1, (ord(char) + ord(kind[-1]) + 1) // 2 + 1, ord(kind[-1]) + 1})
    elif char.isascii():
        codes = [ord(char) + 1]
    else:  # a script whose extent is not known
        codes = [ord(char) + (1 << power) for power in range(0, 13, 2)]
    return [chr(code) for code in codes if _is_character(code)]


def _between(low: str, high: str) -> list[str]:
    """Likely characters behind `low` and before `high`, in order."""
    likely = sorted(char for char in {*_kind(low), *_kind(high)} if low < char < high)
    if likely or not low or not high:
        return likely
    step = max(1, (ord(high) - ord(low)) // _MOST_BETWEEN)
    return [chr(code) for code in range(ord(low) + step, ord(high), step) if _is_character(code)]


def _is_character(code: int) -> bool:
    return code < _FIRST_SURROGATE or _AFTER_SURROGATES <= code < _END_OF_UNICODE


def _spread(keys: list[str], count: int) -> list[str]:
    """`count` of the keys, evenly spread over them."""
    keys = [key for key in keys if len(key.encode("utf-8", "surrogatepass")) <= KEY_MAX]
    if len(keys) <= count:
        return keys
    return [keys[(cut + 1) * len(keys) // (count + 1)] for cut in range(count)]
