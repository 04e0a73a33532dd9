"""The origin: one bucket of an object store.

Lists objects and fetches ranges of them; blocking, and safe to use from many threads.  A fetch is
one attempt: whether and when to try again is decided where the reader's patience is known.  Nothing leaves
`fetch` before the answer was checked to be of the object and range that were asked for, nothing but the
wanted bytes leaves it at all, and if it ends without an error they were all there.

Data comes by obstore.  boto3 stands in for it where obstore would not ask for exactly the key that is meant,
and where the server answers a range with status 200 (old SeaweedFS, lakeFS, rclone): obstore refuses that;
its Content-Range tells as surely as that of a 206 what it holds.
"""

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from dsfs.model.errors import DriftedError, DsfsError, NotFoundError, OriginError, OriginTemporaryError
from dsfs.model.objects import ObjectRef
from dsfs.model.printable import printable
from dsfs.storage.origin_answers import Answer, Wanted, check_answer
from dsfs.storage.origin_boto3 import Boto3Way
from dsfs.storage.origin_greeting import Greeting, greet
from dsfs.storage.origin_obstore import ObstoreWay, RangeStatusError, can_send
from dsfs.storage.origin_settings import OriginSettings

__all__ = ["Origin", "OriginSettings"]

log = logging.getLogger(__name__)

Way = Callable[[Wanted], AbstractContextManager[tuple[Answer, Iterable[memoryview]]]]


class Origin:
    """One bucket.

    `origin_id` is "s3://bucket", or "s3+http://host:port/bucket" where the endpoint is not AWS's.
    `last_error` is (time, message) of the last request the origin failed; an object that changed or is not
    there is no failure of the origin.  `last_success_at` is the time of the last one it answered.
    """

    def __init__(self, settings: OriginSettings) -> None:
        """No I/O but the AWS configuration files.  Raises ConfigError if nothing can be done with them."""
        self._settings = settings
        self._boto3 = Boto3Way(settings)
        self.origin_id = self._boto3.origin_id
        self.endpoint_url = self._boto3.endpoint_url
        self.last_error: tuple[float, str] | None = None
        self.last_success_at: float | None = None
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("list_requests", "get_requests", "get_bytes"), 0)
        self._failures: dict[str, int] = {}
        self._obstore: ObstoreWay | None = None  # made at the first fetch, as it needs credentials
        self._obstore_lock = threading.Lock()
        self._ranges_by_boto3 = False

    def greet(self, timeout_s: float) -> Greeting:
        """What answers at its address, whoever asks.  OriginTemporaryError if nothing does."""
        return greet(self.endpoint_url, self._boto3.root_certificates(), timeout_s)

    def check_credentials(self) -> None:
        """AccessDeniedError if there are none, and requests have to be signed.  Asks a machine's role for them, too."""
        self._boto3.credentials()

    def names_below(self, prefix: str) -> list[str]:
        """The names, without slashes, of the "directories" directly below `prefix` ("" or ending in one)."""
        names: list[str] = []
        token: str | None = None
        while True:
            with self._counted("list_requests"):
                page = self._boto3.list_objects(prefix, token=token, delimiter="/")
                if page.is_truncated and page.next_token in (None, token):
                    raise OriginTemporaryError(f"{self._where(prefix)}: a listing that does not go on")
            names += (found.removeprefix(prefix).removesuffix("/") for found in page.prefixes)
            if not page.is_truncated:
                return [name for name in names if name]
            token = page.next_token

    def list_page(self, prefix: str, start_after: str, max_keys: int = 1000) -> tuple[list[ObjectRef], bool]:
        """One LIST: objects below `prefix` with keys behind `start_after`, and whether there are more."""
        with self._counted("list_requests"):
            page = self._boto3.list_objects(prefix, start_after=start_after, max_keys=max_keys)
            if any(found.key <= start_after for found in page.objects):
                raise OriginTemporaryError(f"{self._where(prefix)}: the server ignores start-after in a LIST")
            if page.is_truncated and not page.objects:
                raise OriginTemporaryError(f"{self._where(prefix)}: a listing that does not go on")
        return page.objects, page.is_truncated

    def fetch(self, obj: ObjectRef, offset: int, length: int) -> Generator[memoryview, None, None]:
        """The bytes of `obj` from `offset` on, exactly `length` of them, in buffers of 256 KiB and more.

        One GET.  Raises DriftedError if the object is not the one `obj` says, AccessDeniedError,
        BucketMissingError, and OriginTemporaryError for all that another attempt may not meet.  Closing the
        generator early closes the connection.
        """
        wanted = Wanted(obj, offset, length)
        if can_send(obj.key) and (wanted.is_whole or not self._ranges_by_boto3):
            try:
                yield from self._deliver(wanted, self._by_obstore)
            except RangeStatusError:
                yield from self._deliver(wanted, self._boto3.get)
                with self._lock:
                    is_news, self._ranges_by_boto3 = not self._ranges_by_boto3, True
                if is_news:
                    log.info("%s answers ranges with status 200: from now on they are fetched by boto3", self.origin_id)
        else:
            yield from self._deliver(wanted, self._boto3.get)

    @property
    def failure(self) -> tuple[float, str] | None:
        """`last_error`, unless a request was answered since."""
        error, success_at = self.last_error, self.last_success_at
        return error if error is not None and (success_at is None or error[0] > success_at) else None

    @property
    def state(self) -> str:
        """How it is for all that is known: "ok", "failing", or "unknown"."""
        return "failing" if self.failure else "unknown" if self.last_success_at is None else "ok"

    def statistics(self) -> dict[str, int]:
        """list_requests, get_requests and get_bytes since the start."""
        with self._lock:
            return dict(self._counts)

    def failures(self) -> dict[str, int]:
        """How many requests have failed since the start, by the kind of the OriginError."""
        with self._lock:
            return dict(self._failures)

    def close(self) -> None:
        """Close idle connections; fetches under way go on."""
        self._boto3.close()
        with self._obstore_lock:
            self._obstore = None

    def _deliver(self, wanted: Wanted, way: Way) -> Generator[memoryview, None, None]:
        where = self._where(wanted.obj.key)
        received = 0
        with self._counted("get_requests"):
            try:
                with way(wanted) as (answer, pieces):
                    check_answer(where, wanted, answer)
                    for piece in pieces:
                        received += len(piece)
                        if received > wanted.length:
                            raise OriginTemporaryError(f"{where}: more than the {wanted.length} bytes announced")
                        self._add("get_bytes", len(piece))
                        yield piece
            except NotFoundError as error:  # the catalog names it
                raise DriftedError(str(error)) from None
            if received < wanted.length:
                raise OriginTemporaryError(f"{where}: {received} of the {wanted.length} bytes announced")

    def _by_obstore(self, wanted: Wanted) -> AbstractContextManager[tuple[Answer, Iterable[memoryview]]]:
        with self._obstore_lock:
            if self._obstore is None:
                self._obstore = ObstoreWay(
                    self._settings,
                    origin_id=self.origin_id,
                    endpoint_url=self.endpoint_url,
                    region=self._boto3.region,
                    credentials=self._boto3.credentials(),
                    root_certificates=self._boto3.root_certificates(),
                )
            way = self._obstore
        return way.get(wanted)

    def _where(self, key: str) -> str:
        return f"{self.origin_id}/{printable(key)}"

    def _add(self, name: str, amount: int) -> None:
        with self._lock:
            self._counts[name] += amount

    @contextmanager
    def _counted(self, requests: str) -> Iterator[None]:
        """Counts the request made in the block and remembers how it ended."""
        self._add(requests, 1)
        try:
            yield
        except (DriftedError, NotFoundError):
            self.last_success_at = time.time()
            raise
        except DsfsError as error:
            self.last_error = (time.time(), str(error))
            kind = error.kind if isinstance(error, OriginError) else OriginError.kind
            with self._lock:
                self._failures[kind] = self._failures.get(kind, 0) + 1
            raise
        self.last_success_at = time.time()
