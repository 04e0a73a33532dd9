"""Names from the origin as text that is safe on a terminal and in a log.

An object key may hold anything: a newline forges a log line, an escape sequence rewrites a screen, a mark of
writing direction shows one name as another.
"""

import unicodedata

# Cc control, Cf format (bidirectional marks, zero width), Cs lone surrogate, Co private use, Cn unassigned,
# Zl and Zp line and paragraph separators.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    """`text` with every character that does not show as itself written as an escape (\\n, \\x1b, \\u202e)."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if _is_unsafe(char) else char for char in text)


def _is_unsafe(char: str) -> bool:
    return unicodedata.category(char) in _UNSAFE_CATEGORIES


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode gives it
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
