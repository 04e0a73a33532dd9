"""Trouble that a service lives with: it tries again later, and tells of it once."""

import logging
from types import TracebackType

from dsfs.model.errors import DsfsError


class Tolerance:
    """`with tolerance:` around an attempt.  `what` is told with each new error; `is_well`: the last attempt met none.

    A service that ends would end the mount, so that also what nobody expected goes to the log, and no further.
    """

    def __init__(self, log: logging.Logger, what: str) -> None:
        self.is_well = True
        self._log = log
        self._what = what
        self._told = ""

    def __enter__(self) -> None:
        self.is_well = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            self.is_well, self._told = True, ""
        elif isinstance(error, OSError | DsfsError):
            if str(error) != self._told:
                self._told = str(error)
                self._log.info("%s: %s", self._what, error)
        elif isinstance(error, Exception):
            self._log.error("unexpected error: %s", self._what, exc_info=error)
        else:
            return False  # cancelled
        return True
