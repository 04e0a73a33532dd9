"""What pyfuse3 logs of replies that could not be given, and how a session ends."""

import errno
import logging
import os

import pyfuse3
import pytest

from dsfs.mount.session import Session, is_worth_telling


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


def never_mounted() -> Session:
    return Session.__new__(Session)


@pytest.mark.parametrize("is_in_group", [False, True])
async def test_mount_that_was_taken_away_while_a_request_was_read_is_an_end(
    monkeypatch: pytest.MonkeyPatch, *, is_in_group: bool
) -> None:
    error = OSError(errno.ECONNABORTED, "fuse_session_receive_buf failed")

    async def main(*_: int) -> None:
        raise ExceptionGroup("nursery", [error]) if is_in_group else error

    monkeypatch.setattr(pyfuse3, "main", main)
    await never_mounted().serve()


async def test_other_errors_of_the_session_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    aborted, other = OSError(errno.ECONNABORTED, "aborted"), OSError(errno.EIO, "what happened")

    async def main(*_: int) -> None:
        raise ExceptionGroup("nursery", [aborted, other])

    monkeypatch.setattr(pyfuse3, "main", main)
    with pytest.raises(ExceptionGroup) as raised:
        await never_mounted().serve()
    assert raised.value.subgroup(lambda error: error is other) is not None
    assert raised.value.subgroup(lambda error: error is aborted) is None
