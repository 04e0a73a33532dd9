"""Where an origin is and how long to wait for it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OriginSettings:
    """One bucket.

    `endpoint_url` and `region` None = what the AWS configuration says.  `connections`: idle ones kept, and
    the most that boto3 opens.  `stall_timeout_s`: the longest silence within one answer; `request_timeout_s`:
    the longest time for a whole one, the pauses of its consumer included.  `unsigned`: send no credentials.
    """

    bucket: str
    endpoint_url: str | None
    region: str | None
    connections: int = 64
    connect_timeout_s: float = 5
    stall_timeout_s: float = 10
    request_timeout_s: float = 60
    unsigned: bool = False
