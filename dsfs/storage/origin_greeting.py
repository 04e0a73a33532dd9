"""Whether anything answers at an origin's address, and what time it is there: one request that needs no credentials.

Pure HTTP: it tells a network that does not get there from a key that is refused, and a clock that is wrong from both.
"""

import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from dsfs.model.errors import OriginTemporaryError


@dataclass(frozen=True, slots=True)
class Greeting:
    """`seconds`: until the answer, connecting included.  `ahead_s`: how far its Date is ahead of this machine's clock.

    None where it sends no Date; of whole seconds.
    """

    seconds: float
    status: int
    ahead_s: float | None


def greet(endpoint_url: str, root_certificates: bytes | None, timeout_s: float) -> Greeting:
    """OriginTemporaryError, with the reason, if there is no answer.  Any status is one."""
    certificates = root_certificates.decode() if root_certificates else None
    context = ssl.create_default_context(cadata=certificates) if endpoint_url.startswith("https:") else None
    request = urllib.request.Request(endpoint_url, method="HEAD")
    before, started = time.time(), time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=context) as answer:
            status, date = answer.status, answer.headers["Date"]
    except urllib.error.HTTPError as refusal:
        with refusal:
            status, date = refusal.code, refusal.headers["Date"]
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise OriginTemporaryError(f"{endpoint_url}: {reason}") from None
    seconds = time.monotonic() - started
    return Greeting(seconds, status, _ahead_s(date, before + seconds / 2))


def _ahead_s(date: str | None, now_s: float) -> float | None:
    """A Date is cut to whole seconds, so half of one is added."""
    try:
        return parsedate_to_datetime(date or "").timestamp() + 0.5 - now_s
    except ValueError:
        return None
