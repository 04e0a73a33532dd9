"""Every error dsfs raises on purpose, with the errno its reader sees.

The class says what is true, not what was tried.  One place (mount/operations.py) turns a DsfsError into
the reply of a request; one place (cli.py) turns it into an exit code.
"""

import errno as errnos


class DsfsError(Exception):
    """Base of all errors raised on purpose; `errno` is what a reader of the mount gets."""

    errno = errnos.EIO


class ConfigError(DsfsError):
    """The configuration cannot be used; the message names the key.  Ends a command with exit code 2."""

    errno = errnos.EINVAL


class UsageError(DsfsError):
    """What was asked for makes no sense, whatever there is.  Ends a command with exit code 2."""

    errno = errnos.EINVAL


class NotFoundError(DsfsError):
    """No dataset, version or path of that name."""

    errno = errnos.ENOENT


class OriginError(DsfsError):
    """The origin did not deliver what was asked for.  `kind` is one of a few words, for counting."""

    kind = "other"


class OriginTemporaryError(OriginError):
    """A fault that another attempt may not meet: 5xx, SlowDown, time-out, reset, short or misplaced body."""

    kind = "temporary"


class OriginTimeoutError(OriginError):
    """`origin.timeout` passed before the wanted bytes were there."""


class AccessDeniedError(OriginError):
    """The origin answered 401 or 403, or there are no credentials."""

    kind = "refused"
    errno = errnos.EACCES


class DriftedError(OriginError):
    """The object at the origin is no longer the one the catalog names (changed, replaced or deleted)."""

    errno = errnos.ESTALE


class BucketMissingError(OriginError):
    """The origin has no bucket of that name."""

    kind = "no_bucket"


class BackingError(DsfsError):
    """The backing directory cannot be used (unknown format, wrong owner, not a directory)."""


class BackingSilentError(BackingError):
    """The backing directory does not answer: what it holds is asked of the origin.  Never reaches a reader."""


class BlockLostError(BackingError):
    """A block that was thought resident is not there, or not what was written: a miss, never an error to a reader."""


class NoRoomError(BackingError):
    """No room in the backing directory.  Never reaches a reader.

    `reason` is one word, for counting: "limit" or "floor" of the configuration is reached, "error" where the directory
    cannot be asked, "paused" after a fault.
    """

    errno = errnos.ENOSPC

    def __init__(self, message: str, reason: str = "paused") -> None:
        super().__init__(message)
        self.reason = reason


class MountpointError(DsfsError):
    """The mountpoint cannot be used; the message says why and what to do."""


class BusyError(DsfsError):
    """Another daemon holds the state directory or the mountpoint, or somebody uses a version; the message says who."""

    errno = errnos.EBUSY


class DaemonUnreachableError(DsfsError):
    """No daemon answers on the control socket."""

    errno = errnos.ECONNREFUSED
