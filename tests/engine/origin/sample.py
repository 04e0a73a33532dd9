"""The object and the origin that the tests of this folder share."""

from random import Random

from dsfs.model.objects import ObjectRef
from dsfs.storage.origin import Origin, OriginSettings

BUCKET = "lake"
KEY = "photos/v1/a.bin"
CONTENT = Random(7).randbytes(3 * 1024 * 1024 + 17)


def settings(
    endpoint_url: str,
    *,
    bucket: str = BUCKET,
    unsigned: bool = False,
    stall_timeout_s: float = 10,
    request_timeout_s: float = 60,
) -> OriginSettings:
    return OriginSettings(
        bucket,
        endpoint_url,
        region=None,
        connections=8,
        connect_timeout_s=1,
        stall_timeout_s=stall_timeout_s,
        request_timeout_s=request_timeout_s,
        unsigned=unsigned,
    )


def listed(origin: Origin, key: str = KEY) -> ObjectRef:
    """The object as a catalog would hold it."""
    objects, _ = origin.list_page(key, "")
    return next(found for found in objects if found.key == key)


def read(origin: Origin, obj: ObjectRef, offset: int, length: int) -> bytes:
    return b"".join(origin.fetch(obj, offset, length))
