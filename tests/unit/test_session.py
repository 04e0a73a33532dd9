"""What pyfuse3 logs of replies that could not be given."""

import errno
import logging
import os

import pytest

from dsfs.mount.session import is_worth_telling


@pytest.mark.parametrize(
    ("message", "number", "is_told"),
    [
        ("fuse_release(): fuse_reply_* failed with %s", errno.ENOENT, False),
        ("fuse_release(): fuse_reply_* failed with %s", errno.EINVAL, True),
        ("something else: %s", errno.ENOENT, True),
    ],
)
def test_only_of_a_request_that_is_still_there_an_unsent_reply_is_told(
    message: str, number: int, is_told: bool
) -> None:
    record = logging.LogRecord("pyfuse3", logging.ERROR, "", 0, message, (os.strerror(number),), None)
    assert is_worth_telling(record) is is_told
