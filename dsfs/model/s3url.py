"""Where at the origin something lies: s3://bucket/prefix."""

import re
from dataclasses import dataclass

EXPECTED_S3_URL = "s3://<bucket> or s3://<bucket>/<prefix>"

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)


@dataclass(frozen=True, slots=True)
class S3Url:
    """A bucket and a prefix in it; the prefix has no slash at either end and may be empty."""

    bucket: str
    prefix: str = ""

    @property
    def key_prefix(self) -> str:
        """What the keys below start with: the prefix and its slash, or nothing."""
        return f"{self.prefix}/" if self.prefix else ""

    def below(self, name: str) -> "S3Url":
        """The location one component further down."""
        return S3Url(self.bucket, self.key_prefix + name)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


def parse_s3_url(text: str) -> S3Url:
    """The location `text` names, taken literally: "%20", "?" and "#" belong to the key as they stand."""
    scheme, separator, rest = text.partition("://")
    if scheme != "s3" or not separator:
        raise ValueError(f"expected {EXPECTED_S3_URL}")
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"expected {EXPECTED_S3_URL} (no bucket can be named {bucket!r})")
    prefix = prefix.removesuffix("/")
    components = prefix.split("/") if prefix else []
    if "" in components:
        raise ValueError(f"expected {EXPECTED_S3_URL} (without empty components: //)")
    if not {".", ".."}.isdisjoint(components):
        # A key may hold them, but clients and servers on the way take them for directions.
        raise ValueError(f"expected {EXPECTED_S3_URL} (without components . and ..)")
    return S3Url(bucket, prefix)
