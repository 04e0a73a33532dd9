"""The hook before libfuse's reply to OPENDIR.  That it works is seen at a mount: tests/mount/test_semantics.py."""

import sys
from pathlib import Path

import pytest

from dsfs.mount import openreply


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (Path("/nowhere/pyfuse3.so"), "No such file"),
        (Path(__file__), "Magic number does not match"),
        (Path(sys.executable), "no relocation"),
    ],
)
def test_a_library_that_does_not_call_the_function_is_refused(library: Path, reason: str) -> None:
    with pytest.raises(openreply.HookError, match=reason):
        openreply.install(library)
