"""An S3 origin for keys that no plain directory can hold: real HTTP on loopback, objects in memory.

It lists (version 2, with delimiter, start-after and url encoding) and delivers whole objects and ranges.  It checks
no signature: that is what the rig's S3Server is for.
"""

import hashlib
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

MODIFIED = "2023-11-14T22:13:20.000Z"
MODIFIED_HTTP = "Tue, 14 Nov 2023 22:13:20 GMT"
MODIFIED_S = 1_700_000_000


class CannedOrigin:
    """Holds `objects` (key -> content), in whatever bucket is asked for."""

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        self._objects = dict(objects)
        self._etags = {content: etag(content) for content in set(objects.values())}
        self._keys = sorted(self._objects, key=str.encode)
        self._sort_keys = [key.encode() for key in self._keys]
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def get(self, key: str) -> bytes | None:
        return self._objects.get(key)

    def page(self, prefix: str, delimiter: str, after: str, max_keys: int) -> str:
        """The XML of one page; `after` is the last key or common prefix of the page before."""
        place = max(bisect_left(self._sort_keys, prefix.encode()), bisect_right(self._sort_keys, after.encode()))
        contents: list[str] = []
        prefixes: list[str] = []
        last = ""
        while place < len(self._keys) and self._keys[place].startswith(prefix):
            if len(contents) + len(prefixes) == max_keys:
                break
            key = self._keys[place]
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                last = f"{prefix}{head}{delimiter}"
                if last != after:
                    prefixes.append(f"<CommonPrefixes><Prefix>{_encoded(last)}</Prefix></CommonPrefixes>")
                while place < len(self._keys) and self._keys[place].startswith(last):
                    place += 1
            else:
                last = key
                contents.append(self._described(key))
                place += 1
        more = place < len(self._keys) and self._keys[place].startswith(prefix)
        token = f"<NextContinuationToken>{_encoded(last)}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>'
            f"<Prefix>{_encoded(prefix)}</Prefix><EncodingType>url</EncodingType><MaxKeys>{max_keys}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(contents)}{''.join(prefixes)}"
            "</ListBucketResult>"
        )

    def _described(self, key: str) -> str:
        content = self._objects[key]
        return (
            f"<Contents><Key>{_encoded(key)}</Key><LastModified>{MODIFIED}</LastModified>"
            f"<ETag>&quot;{self._etags[content]}&quot;</ETag><Size>{len(content)}</Size></Contents>"
        )


def etag(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _encoded(text: str) -> str:
    return escape(quote(text))


def _handler(origin: CannedOrigin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            _, _, key = unquote(url.path).lstrip("/").partition("/")
            if key:
                self._object(key)
                return
            query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
            after = max(unquote(query.get("continuation-token", "")), query.get("start-after", ""))
            xml = origin.page(
                query.get("prefix", ""), query.get("delimiter", ""), after, int(query.get("max-keys", "1000"))
            )
            self._answer(200, xml.encode(), {"Content-Type": "application/xml"})

        def _object(self, key: str) -> None:
            content = origin.get(key)
            if content is None:
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {"Content-Type": "application/xml"})
                return
            fields = {"ETag": f'"{etag(content)}"', "Last-Modified": MODIFIED_HTTP}
            wanted = self.headers.get("Range")
            if wanted is None:
                self._answer(200, content, fields)
                return
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last) + 1]
            place = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            self._answer(206, part, fields | {"Content-Range": place})

        def _answer(self, status: int, body: bytes, fields: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in fields.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the proxy before it keeps the record."""

    return Handler
