"""What an answer of the origin must say before its bytes are believed, and which error an error answer means.

Pure.  Both ways of sending a GET (obstore, boto3) pass through the same check, so they cannot differ in what
they accept: the ETag of the catalog (where it has none, its Last-Modified), the total size, the range.
If-Match alone is not trusted: there are servers that ignore it.
"""

import re
from dataclasses import dataclass

from dsfs.model.errors import (
    AccessDeniedError,
    BucketMissingError,
    DriftedError,
    DsfsError,
    NotFoundError,
    OriginTemporaryError,
)
from dsfs.model.objects import ObjectRef

MESSAGE_MAX_CHARACTERS = 200
REFUSED_STATUS = (401, 403)
REFUSED_CODES = (  # these come with status 400
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
)
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
STRONG_ETAG = re.compile(r"[\x21\x23-\x7e]+")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one GET asks for: `length` bytes of `obj` from `offset` on, never none."""

    obj: ObjectRef
    offset: int
    length: int

    def __post_init__(self) -> None:
        if self.offset < 0 or self.length <= 0 or self.offset + self.length > self.obj.size:
            raise ValueError(f"{self.length} bytes at {self.offset} of an object of {self.obj.size}")

    @property
    def is_whole(self) -> bool:
        return self.length == self.obj.size

    @property
    def if_match(self) -> str | None:
        """The value of an If-Match field; None where the catalog has no ETag that such a field can hold."""
        etag = self.obj.etag
        return f'"{etag}"' if etag is not None and STRONG_ETAG.fullmatch(etag) else None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the head of an accepted answer says; None = nothing."""

    etag: str | None
    total_size: int
    modified_s: int | None
    offset: int
    length: int


def plain_etag(text: str | None) -> str | None:
    """An ETag without its quotes; None for an empty one (some servers send that for lack of a better)."""
    return (text or "").strip('"') or None


def check_answer(where: str, wanted: Wanted, answer: Answer) -> None:
    """Return only if the bytes behind `answer` are the wanted ones.

    Raises DriftedError when the object is another than the catalog's, OriginTemporaryError when the answer
    does not tell, or when it holds another range.
    """
    obj = wanted.obj
    if answer.total_size != obj.size:
        raise DriftedError(f"{where}: has {answer.total_size} bytes, the catalog says {obj.size}")
    if obj.etag is not None:
        if answer.etag is None:
            raise OriginTemporaryError(f"{where}: the answer names no ETag, the catalog says {obj.etag}")
        if answer.etag != obj.etag:
            raise DriftedError(f"{where}: has ETag {answer.etag}, the catalog says {obj.etag}")
    elif answer.modified_s is None:
        raise OriginTemporaryError(f"{where}: the answer names neither ETag nor Last-Modified")
    elif answer.modified_s != obj.modified_s:
        raise DriftedError(f"{where}: was modified at {answer.modified_s}, the catalog says {obj.modified_s}")
    if (answer.offset, answer.length) != (wanted.offset, wanted.length):
        raise OriginTemporaryError(
            f"{where}: asked for {wanted.length} bytes at {wanted.offset},"
            f" the answer holds {answer.length} at {answer.offset}"
        )


def parse_content_range(text: str) -> tuple[int, int, int]:
    """(offset, length, total size) of a Content-Range; ValueError for any other text."""
    match = CONTENT_RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"not a Content-Range of known total: {text[:MESSAGE_MAX_CHARACTERS]!r}")
    first, last, total = (int(group) for group in match.groups())
    return first, last - first + 1, total


def error_of_answer(
    where: str, status: int, code: str | None, message: str | None, *, has_body: bool
) -> DsfsError:
    """The error that an answer with this status means; `code` and `message` as in an S3 error body.

    A 404 is believed when it comes as S3 sends it, with a code or without a body: a web
    server or load balancer in the wrong place also answers 404, with a page, and knows nothing of the object.
    """
    text = f"{where}: answered {status}" + (f" {code}" if code else "")
    if message:
        text += f": {message[:MESSAGE_MAX_CHARACTERS]}"
    if code == "NoSuchBucket":
        return BucketMissingError(text)
    if status == 404 and (code or not has_body):
        return NotFoundError(text)
    if status in (412, 416):
        return DriftedError(text)
    if status in REFUSED_STATUS or code in REFUSED_CODES:
        return AccessDeniedError(text)
    if status in (301, 307, 308):
        text += " (a redirect: is the region of the bucket another, or the endpoint?)"
    return OriginTemporaryError(text)
