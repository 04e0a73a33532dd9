"""The thorough way to the origin: boto3 finds the credentials, lists, and sends what obstore cannot.

Every error of boto3 and botocore leaves this module as one of dsfs.model.errors and is not chained to it: its
text may quote a signed request.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    SSLError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp
from obstore.auth.boto3 import Boto3CredentialProvider

from dsfs.model.errors import AccessDeniedError, ConfigError, DsfsError, OriginTemporaryError
from dsfs.model.objects import ObjectRef
from dsfs.model.printable import printable
from dsfs.storage.origin_answers import Answer, Wanted, error_of_answer, parse_content_range, plain_etag
from dsfs.storage.origin_obstore import CREDENTIALS_TTL
from dsfs.storage.origin_settings import OriginSettings

BUFFER_BYTES = 256 * 1024
LIST_ATTEMPTS = 3
NO_CREDENTIALS = (
    "there are no AWS credentials: none in the environment, in ~/.aws or from the machine's role"
    " (for a public bucket set unsigned = true)"
)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing."""

    objects: list[ObjectRef]
    prefixes: list[str]
    is_truncated: bool
    next_token: str | None


class Boto3Way:
    """One bucket through boto3.  Thread-safe.

    Credentials are looked for at the first request, and again at each until there are some: that may ask the
    network, and a daemon has to start without its origin.
    """

    def __init__(self, settings: OriginSettings) -> None:
        """Raises ConfigError for an endpoint boto3 cannot use or a profile that is not there."""
        self._settings = settings
        self._bucket = settings.bucket
        try:
            self._core = botocore.session.Session()
            self._core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
            self._session = boto3.Session(botocore_session=self._core)
            self.region: str = settings.region or self._session.region_name or "us-east-1"
            described = self._client(signature_version=UNSIGNED)
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(f"the origin cannot be used: {error}") from None
        self.endpoint_url: str = described.meta.endpoint_url
        described.close()
        host = urlsplit(self.endpoint_url).hostname or ""
        is_aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
        self.origin_id = f"s3://{self._bucket}" if is_aws else f"s3+{self.endpoint_url.rstrip('/')}/{self._bucket}"
        self._lock = threading.RLock()  # a boto3 session is not made for several threads
        self._made: tuple[Any, Any] | None = None

    def credentials(self) -> Boto3CredentialProvider | None:
        """What hands out credentials and renews them; None where requests are not to be signed.

        Raises AccessDeniedError when there are none.
        """
        if self._settings.unsigned:
            return None
        with self._lock, self._errors_of(None):
            if self._session.get_credentials() is None:
                raise NoCredentialsError
        return Boto3CredentialProvider(self._session, ttl=CREDENTIALS_TTL)

    def root_certificates(self) -> bytes | None:
        """The certificates of AWS_CA_BUNDLE or of `ca_bundle` in the AWS configuration; None without both."""
        path = self._core.get_config_variable("ca_bundle")
        if not path or not self.endpoint_url.startswith("https://"):
            return None
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"AWS_CA_BUNDLE: cannot read {path}: {error.strerror}") from error

    def list_objects(
        self,
        prefix: str,
        *,
        max_keys: int = 1000,
        start_after: str | None = None,
        token: str | None = None,
        delimiter: str | None = None,
    ) -> Page:
        """One page of what lies below `prefix`; names may come in any order the server likes."""
        wishes = {"StartAfter": start_after or None, "ContinuationToken": token, "Delimiter": delimiter}
        listing, _ = self._clients()
        with self._errors_of(prefix):
            reply = listing.list_objects_v2(
                Bucket=self._bucket,
                Prefix=prefix,
                MaxKeys=max_keys,
                **{name: value for name, value in wishes.items() if value is not None},
            )
        if "IsTruncated" not in reply:  # well-formed HTML passes botocore's parser as a listing of nothing
            raise OriginTemporaryError(f"{self._where(prefix)}: the answer to a LIST is none that S3 would give")
        return Page(
            objects=[self._object(found["Key"], found) for found in reply.get("Contents", ())],
            prefixes=[found["Prefix"] for found in reply.get("CommonPrefixes", ())],
            is_truncated=bool(reply["IsTruncated"]),
            next_token=reply.get("NextContinuationToken"),
        )

    @contextmanager
    def get(self, wanted: Wanted) -> Iterator[tuple[Answer, Iterable[memoryview]]]:
        """As ObstoreWay.get; a 200 with a Content-Range is taken for the 206 it should have been."""
        key = wanted.obj.key
        wishes = {"IfMatch": wanted.if_match}
        if not wanted.is_whole:
            wishes["Range"] = f"bytes={wanted.offset}-{wanted.offset + wanted.length - 1}"
        deadline = time.monotonic() + self._settings.request_timeout_s
        _, single = self._clients()
        with self._errors_of(key):
            reply = single.get_object(
                Bucket=self._bucket,
                Key=key,
                **{name: value for name, value in wishes.items() if value is not None},
            )
            body = reply["Body"]
            try:
                yield self._answer(key, reply), self._buffers(key, body, deadline)
            finally:
                body.close()  # what was not read to its end does not go back to the pool

    def close(self) -> None:
        with self._lock:
            made, self._made = self._made, None
        for client in made or ():
            client.close()

    def _clients(self) -> tuple[Any, Any]:
        """(for requests that boto3 may repeat, for single attempts)"""
        with self._lock:
            if self._made is None:
                signing: dict[str, Any] = {}
                if self.credentials() is None:
                    signing["signature_version"] = UNSIGNED
                self._made = (
                    self._client(attempts=LIST_ATTEMPTS, **signing),
                    self._client(attempts=1, **signing),
                )
            return self._made

    def _client(self, attempts: int = 1, **signing: Any) -> Any:
        addressing = {} if self._settings.endpoint_url is None else {"s3": {"addressing_style": "path"}}
        config = Config(
            connect_timeout=self._settings.connect_timeout_s,
            read_timeout=self._settings.stall_timeout_s,
            max_pool_connections=self._settings.connections + 2,
            retries={"mode": "standard", "total_max_attempts": attempts},
            tcp_keepalive=True,
            # Some servers send the checksum of the whole object with a range: boto3 would refuse that.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            **addressing,
            **signing,
        )
        return self._session.client(
            "s3", endpoint_url=self._settings.endpoint_url, region_name=self.region, config=config
        )

    def _buffers(self, key: str, body: Any, deadline: float) -> Iterator[memoryview]:
        while buffer := body.read(BUFFER_BYTES):
            yield memoryview(buffer)
            if time.monotonic() > deadline:
                raise OriginTemporaryError(
                    f"{self._where(key)}: no complete answer within {self._settings.request_timeout_s:g} s"
                )

    def _answer(self, key: str, reply: Mapping[str, Any]) -> Answer:
        modified: datetime | None = reply.get("LastModified")
        total: int = reply["ContentLength"]
        offset, length = 0, total
        if "ContentRange" in reply:
            try:
                offset, length, total = parse_content_range(reply["ContentRange"])
            except ValueError as error:
                raise OriginTemporaryError(f"{self._where(key)}: {error}") from None
        return Answer(
            etag=plain_etag(reply.get("ETag")),
            total_size=total,
            modified_s=int(modified.timestamp()) if modified is not None else None,
            offset=offset,
            length=length,
        )

    def _object(self, key: str, found: Mapping[str, Any]) -> ObjectRef:
        modified, size = found.get("LastModified"), found.get("Size")
        if modified is None or size is None:
            raise OriginTemporaryError(f"{self._where(key)}: the origin tells neither size nor Last-Modified")
        return ObjectRef(key, size, plain_etag(found.get("ETag")), int(modified.timestamp()))

    def _where(self, key: str | None) -> str:
        return self.origin_id if not key else f"{self.origin_id}/{printable(key)}"

    @contextmanager
    def _errors_of(self, key: str | None) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise _error_of_reply(self._where(key), error.response) from None
        except (BotoCoreError, ResponseParserError, OSError) as error:
            raise _error_of(self._where(key), error) from None


def _moment(text: str) -> datetime:
    """A time of an answer.  botocore's own parser takes 70 % of the CPU time of a LIST (1,000 keys: 170 ms for 50)."""
    try:
        return datetime.fromisoformat(text)  # the form in listings
    except ValueError:
        parsed: datetime = parse_timestamp(text)
        return parsed


def _error_of_reply(where: str, reply: Mapping[str, Any]) -> DsfsError:
    head = reply.get("ResponseMetadata", {})
    status = head.get("HTTPStatusCode", 0)
    told = reply.get("Error", {})
    code, message = told.get("Code"), told.get("Message")
    if code == str(status):  # botocore's stand-in where the answer has no code
        code = message = None
    has_body = head.get("HTTPHeaders", {}).get("content-length") != "0"
    return error_of_answer(where, status, code, message, has_body=has_body)


def _error_of(where: str, error: Exception) -> DsfsError:
    """The error that one of botocore, without an answer's status, means."""
    match error:
        case NoCredentialsError():
            return AccessDeniedError(f"{where}: {NO_CREDENTIALS}")
        case PartialCredentialsError() | TokenRetrievalError() | UnauthorizedSSOTokenError():
            return AccessDeniedError(f"{where}: the AWS credentials are not usable: {error}")
        case ReadTimeoutError() | ConnectTimeoutError():
            return OriginTemporaryError(f"{where}: no answer in time")
        case EndpointConnectionError():
            return OriginTemporaryError(f"{where}: cannot connect")
        case SSLError():
            return OriginTemporaryError(f"{where}: the certificate is not trusted")
        case ResponseParserError():
            return OriginTemporaryError(f"{where}: the answer is none that S3 would give")
        case _:
            return OriginTemporaryError(f"{where}: the connection broke ({type(error).__name__})")
