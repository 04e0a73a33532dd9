"""Processes that stand still: stopped by a SIGSTOP, perhaps of their own (DSFS_FREEZE_AT)."""

from pathlib import Path


def is_frozen(pid: int) -> bool:
    """Whether the process is stopped, with all of its threads."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
