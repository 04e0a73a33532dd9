"""File names for what concerns one version: the same on every node, and such that `ls` shows what they are for.

    imagenet,v3                                       a name with other characters than letters, digits, "_.-~" has %XX
    0f4a65ad68a1f72f63c9a4ac1b94e8d8b7a1c2d3          a digest, where that would be too long for a file name
"""

from hashlib import blake2b
from urllib.parse import quote, unquote_to_bytes

SEPARATOR = ","  # quote() leaves none in a name
_MOST_CHARACTERS = 180  # of the 255 that a file name may have, so that there is room for what others append


def name_of(dataset: str, version: str) -> str:
    """The file name; it neither begins with a dot nor looks like that of an unfinished file."""
    parts = [name.encode("utf-8", "surrogatepass") for name in (dataset, version)]
    name = SEPARATOR.join(quote(part, safe="").replace(".new-", "%2Enew-") for part in parts)
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > _MOST_CHARACTERS:
        return blake2b(b"\0".join(parts), digest_size=20, person=b"dsfs version").hexdigest()
    return name


def version_in(name: str) -> tuple[str, str] | None:
    """The dataset and the version; None for a digest, and for what is no such name."""
    try:
        dataset, version = (unquote_to_bytes(part).decode("utf-8", "surrogatepass") for part in name.split(SEPARATOR))
    except ValueError:
        return None
    return (dataset, version) if name_of(dataset, version) == name else None
