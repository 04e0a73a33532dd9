"""An origin: whether it answers, lets this node in, and how fast it is."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from dsfs.doctor.check import Finding, fail, note, ok, warn
from dsfs.model.quantity import format_duration, format_size

SLOW_ANSWER_S = 1.0
OFF_CLOCK_S = 60.0
REFUSED_CLOCK_S = 900.0  # what S3 tolerates in a signature
SLOW_REQUEST_S = 1.0
SLOW_MB_S = 50.0
_LOOPBACK = ("127.", "localhost", "[::1]", "::1")


def reach(answer_s: float) -> Finding:
    measured = f"answers in {format_duration(answer_s)}"
    if answer_s > SLOW_ANSWER_S:
        return warn(measured, "Is a proxy in between, or a name server slow? Each new connection waits as long.")
    return ok(measured)


def transport(endpoint_url: str) -> Finding:
    parts = urlsplit(endpoint_url)
    if parts.scheme == "https" or (parts.hostname or "").startswith(_LOOPBACK):
        return ok(parts.scheme)
    return note(parts.scheme, "Bytes pass the network readable; https where it is not one's own.")


def clock(ahead_s: float | None) -> Finding:
    if ahead_s is None:
        return note("the origin tells no time", "")
    measured = f"the origin is {abs(ahead_s):,.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this node"
    if abs(ahead_s) > REFUSED_CLOCK_S:
        return fail(measured, "NTP on the node: requests whose signature is 15 minutes off are refused (403).")
    if abs(ahead_s) > OFF_CLOCK_S:
        return warn(measured, "NTP on the node: from 15 minutes on, signed requests are refused.")
    return ok(measured)


def credentials(are_wanted: bool) -> Finding:
    return ok("found" if are_wanted else "none wanted (unsigned)")


@dataclass(frozen=True, slots=True)
class Listing:
    """One LIST: its time, how many objects it gave, and how many of them have an ETag."""

    seconds: float
    objects: int
    with_etag: int


def listing(got: Listing) -> Finding:
    measured = f"{got.objects:,} objects in {format_duration(got.seconds)}"
    if got.objects == 0:
        return note("no objects", "Is the prefix right? There is nothing to mount.")
    if got.seconds > SLOW_REQUEST_S:
        return warn(measured, "A first look into a large version takes one such request for each 1,000 objects.")
    return ok(measured)


def etags(got: Listing) -> Finding:
    if got.with_etag == got.objects:
        return ok("all objects have one")
    return note(
        f"{got.objects - got.with_etag:,} of {got.objects:,} objects have none",
        "A changed object of the same size is then told by its time only.",
    )


def first_byte(median_s: float) -> Finding:
    measured = format_duration(median_s)
    if median_s > SLOW_REQUEST_S:
        return warn(measured, "Small files that are not resident take as long each: warm the version first.")
    return ok(measured)


@dataclass(frozen=True, slots=True)
class Throughput:
    """MB/s over one connection and over `connections`, of an object of so many bytes."""

    single_mb_s: float
    together_mb_s: float
    connections: int
    size: int


def throughput(got: Throughput) -> Finding:
    measured = (
        f"{got.single_mb_s:,.0f} MB/s over one connection, {got.together_mb_s:,.0f} over {got.connections}"
        f" ({format_size(got.size)} object)"
    )
    if got.together_mb_s < SLOW_MB_S:
        return warn(measured, "The first read of each version is as slow: look at the route, a proxy, or a rate limit.")
    return ok(measured)
