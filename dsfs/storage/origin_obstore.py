"""The fast way to the origin's data: obstore sends the GET and receives the body without Python's lock held.

obstore reports errors as text only, so the status and the S3 code are read from it.  Its text also holds the
answer's body, which for a wrong signature quotes the signed request, session token included: no text of an
obstore error is passed on as a whole, and none is chained to the error raised.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError
from obstore.store import S3Store

from dsfs.model.errors import DsfsError, OriginTemporaryError
from dsfs.model.printable import printable
from dsfs.storage.origin_answers import Answer, Wanted, error_of_answer, plain_etag
from dsfs.storage.origin_settings import OriginSettings

if TYPE_CHECKING:
    from obstore import GetOptions  # the names of these are not there at run time
    from obstore.store import ClientConfig

MIN_CHUNK_BYTES = 256 * 1024
# Below the 60 s after which common load balancers forget a silent connection.
IDLE_TIMEOUT = timedelta(seconds=55)
# botocore renews credentials at the latest 10 minutes before they end: what it hands out is good for longer.
CREDENTIALS_TTL = timedelta(minutes=5)

# obstore's path type refuses control characters and the components "", "." and "..", and drops a slash at
# either end without a word.  Everything else it sends exactly.
_UNSENDABLE = re.compile(r"[\x00-\x1f\x7f]|(?:^|/)\.{0,2}(?:/|$)")
_STATUS = re.compile(r"status code: (\d{3})\b[^:]*(?:: (.*?))?\n\nDebug source:", re.DOTALL)
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_PROVIDER = re.compile(r"External AWS credential provider: (\w+)")
_CAUSES = (  # (sign in the text, what it means), the first that is found counts
    (re.compile(r"kind: Timeout\b"), "no answer in time"),
    (re.compile(r"InvalidCertificate\(\s*(\w+)"), "the certificate is not trusted"),
    (re.compile(r'"dns error"'), "the name of the endpoint is not known"),
    (re.compile(r"kind: Connect\b.*?(?:message: \"([^\"]+)\"|$)", re.DOTALL), "cannot connect"),
    (
        re.compile(r"IncompleteBody|IncompleteMessage"),
        "the connection was closed before the end of the answer",
    ),
    (re.compile(r"message: \"([^\"]+)\""), "the connection broke"),
)


class RangeStatusError(Exception):
    """A range was answered with a status other than 206; obstore does not say what else the answer holds."""


def can_send(key: str) -> bool:
    """Whether obstore would ask for exactly this key."""
    return _UNSENDABLE.search(key) is None


class ObstoreWay:
    """GETs for one bucket.  Thread-safe.  No retries; without them obstore resumes no body either."""

    def __init__(
        self,
        settings: OriginSettings,
        *,
        origin_id: str,
        endpoint_url: str,
        region: str,
        credentials: Boto3CredentialProvider | None,
        root_certificates: bytes | None,
    ) -> None:
        """`credentials` None = requests are not signed; `root_certificates` (PEM) are trusted as well."""
        client: ClientConfig = {
            "allow_http": endpoint_url.startswith("http://"),
            "connect_timeout": timedelta(seconds=settings.connect_timeout_s),
            "read_timeout": timedelta(seconds=settings.stall_timeout_s),
            "timeout": timedelta(seconds=settings.request_timeout_s),
            "pool_max_idle_per_host": str(settings.connections),
            "pool_idle_timeout": IDLE_TIMEOUT,
        }
        if root_certificates is not None:
            client["root_certificate"] = root_certificates
        self._origin_id = origin_id
        self._store = S3Store(
            settings.bucket,
            # Said even where it is the default: otherwise obstore looks for AWS_* variables of its own.
            endpoint=endpoint_url,
            region=region,
            virtual_hosted_style_request=False,
            skip_signature=credentials is None,
            s3_express=False,
            request_payer=False,
            credential_provider=credentials,
            client_options=client,
            retry_config={"max_retries": 0},
        )

    @contextmanager
    def get(self, wanted: Wanted) -> Iterator[tuple[Answer, Iterable[memoryview]]]:
        """The head of the answer, unchecked, and its body in buffers of MIN_CHUNK_BYTES and more.

        Raises RangeStatusError before the block; within it too the errors of obstore become a DsfsError.
        Leaving the block early closes the connection.
        """
        options: GetOptions = {}
        if not wanted.is_whole:
            options["range"] = (wanted.offset, wanted.offset + wanted.length)
        if wanted.if_match is not None:
            options["if_match"] = wanted.if_match
        try:
            result = obstore.get(self._store, wanted.obj.key, options=options)
            meta = result.meta
            first, end = result.range
            answer = Answer(
                etag=plain_etag(meta["e_tag"]),
                total_size=meta["size"],
                modified_s=int(meta["last_modified"].timestamp()) or None,  # obstore's word for none is 1970
                offset=first,
                length=end - first,
            )
            yield answer, (memoryview(buffer) for buffer in result.stream(min_chunk_size=MIN_CHUNK_BYTES))
        except (BaseError, FileNotFoundError) as error:
            raise _error_of(f"{self._origin_id}/{printable(wanted.obj.key)}", str(error)) from None


def _error_of(where: str, text: str) -> DsfsError | RangeStatusError:
    """The error that the text of an obstore error means."""
    if "non-partial response" in text:
        return RangeStatusError(where)
    if match := _STATUS.search(text):
        body = match[2] or ""
        code, message = _CODE.search(body), _MESSAGE.search(body)
        return error_of_answer(
            where, int(match[1]), code and code[1], message and message[1], has_body=bool(body.strip())
        )
    if match := _PROVIDER.search(text):
        return OriginTemporaryError(f"{where}: the credentials cannot be renewed ({match[1]})")
    for sign, meaning in _CAUSES:
        if match := sign.search(text):
            detail = f" ({match[1]})" if match.lastindex else ""
            return OriginTemporaryError(f"{where}: {meaning}{detail}")
    first_line = text.partition("\n")[0].removeprefix("Generic S3 error: ")
    return OriginTemporaryError(f"{where}: {first_line}")
