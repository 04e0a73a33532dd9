"""ListObjectsV2 over the files below a directory: the part of the bench's origin that nginx cannot do.

Runs as its own process (`python -m bench.lister ROOT SOCKET`) behind nginx, so that a listing never competes
with a measuring process for Python's lock.  The files are walked once, at start: they must not change.
"""

import http.server
import os
import socketserver
import sys
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

ETAG = "0123456789abcdef0123456789abcdef"
"""Every object's ETag: shaped like an MD5, because clients take others for that of a multipart upload."""

MAX_KEYS = 1000
_PAST_ALL = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a bucket."""

    key: str
    size: int
    modified_s: int


@dataclass(slots=True)
class Page:
    """One answer: objects, common prefixes, and where the next page starts (None on the last)."""

    objects: list[Listed] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    next_token: str | None = None


class Bucket:
    """The objects of one bucket in UTF-8 order of their keys."""

    def __init__(self, objects: list[Listed]) -> None:
        # Python orders str by code point, which is the order of the UTF-8 bytes as well.
        self._objects = sorted(objects, key=lambda listed: listed.key)
        self._keys = [listed.key for listed in self._objects]

    def page(self, prefix: str, delimiter: str, after: str, max_keys: int) -> Page:
        """The objects below `prefix` behind `after`; with a delimiter, what is deeper as common prefixes."""
        page = Page()
        at = max(bisect_left(self._keys, prefix), bisect_right(self._keys, after) if after else 0)
        last = ""
        while at < len(self._keys) and self._keys[at].startswith(prefix):
            if len(page.objects) + len(page.prefixes) >= max_keys:
                page.next_token = last
                break
            key = self._keys[at]
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                common = key[: cut + len(delimiter)]
                page.prefixes.append(common)
                last = common + _PAST_ALL
                at = bisect_left(self._keys, last)
            else:
                page.objects.append(self._objects[at])
                last = key
                at += 1
        return page


def scan(directory: Path) -> Bucket:
    """All files below a directory as objects."""
    objects = []
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            found = os.stat(path)
            objects.append(Listed(os.path.relpath(path, directory), found.st_size, int(found.st_mtime)))
    return Bucket(objects)


def answer(bucket_name: str, bucket: Bucket, query: dict[str, str]) -> str:
    """The ListBucketResult document for one request."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    max_keys = min(int(query.get("max-keys") or MAX_KEYS), MAX_KEYS)
    after = query.get("continuation-token") or query.get("start-after") or ""
    page = bucket.page(prefix, delimiter, after, max_keys)
    url_encoded = query.get("encoding-type") == "url"

    def encode(text: str) -> str:
        return quote(text, safe="/") if url_encoded else escape(text)

    parts = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
        f"<Name>{escape(bucket_name)}</Name><Prefix>{encode(prefix)}</Prefix><MaxKeys>{max_keys}</MaxKeys>",
        f"<KeyCount>{len(page.objects) + len(page.prefixes)}</KeyCount>",
        f"<IsTruncated>{'false' if page.next_token is None else 'true'}</IsTruncated>",
    ]
    if delimiter:
        parts.append(f"<Delimiter>{encode(delimiter)}</Delimiter>")
    if url_encoded:
        parts.append("<EncodingType>url</EncodingType>")
    if page.next_token is not None:
        parts.append(f"<NextContinuationToken>{escape(page.next_token)}</NextContinuationToken>")
    for listed in page.objects:
        modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(listed.modified_s))
        parts.append(
            f"<Contents><Key>{encode(listed.key)}</Key><LastModified>{modified}</LastModified>"
            f"<ETag>&quot;{ETAG}&quot;</ETag><Size>{listed.size}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )
    parts += [f"<CommonPrefixes><Prefix>{encode(name)}</Prefix></CommonPrefixes>" for name in page.prefixes]
    parts.append("</ListBucketResult>")
    return "".join(parts)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, socket_path: str, buckets: dict[str, Bucket]) -> None:
        self.buckets = buckets
        super().__init__(socket_path, _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # headers and body leave in one write
    server: _Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        name = unquote(url.path).strip("/")
        bucket = self.server.buckets.get(name)
        if bucket is None:
            self._send(404, "<Error><Code>NoSuchBucket</Code><Message>no such bucket</Message></Error>")
        elif "location" in query:
            self._send(200, '<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>')
        elif "versioning" in query:
            self._send(200, "<VersioningConfiguration/>")
        else:
            self._send(200, answer(name, bucket, query))

    def do_HEAD(self) -> None:
        known = unquote(urlsplit(self.path).path).strip("/") in self.server.buckets
        self._send(200 if known else 404, "")

    def _send(self, status: int, document: str) -> None:
        body = document.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """nginx keeps the log."""


def main() -> None:
    root, socket_path = Path(sys.argv[1]), sys.argv[2]
    buckets = {entry.name: scan(entry) for entry in root.iterdir() if entry.is_dir()}
    with _Server(socket_path, buckets) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
