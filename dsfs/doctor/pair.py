"""What one client of the file server cannot see alone: two nodes meet, and each judges what it sees of the other."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dsfs import __version__
from dsfs.config import Config
from dsfs.doctor import mountstats, nfs, semantics, turns
from dsfs.doctor.check import Area, Check, NotCheckedError
from dsfs.doctor.judgement import pair as judge
from dsfs.doctor.meeting import ANSWER_S, Meeting, NobodyCameError, short
from dsfs.doctor.scratch import Scratch
from dsfs.model.errors import ConfigError
from dsfs.storage.mounts import mount_of

T = TypeVar("T")

_STEPS_S = 3 * ANSWER_S  # of a check
_SAME_OPTIONS = ("vers", "proto", "rsize", "wsize", "lookupcache")


@dataclass
class Pair:
    """`facts` are what the nodes have told each other when they met."""

    config: Config
    meeting: Meeting
    wait_s: float
    has_met: bool = False
    facts: tuple[dict[str, Any], dict[str, Any]] = field(default_factory=lambda: ({}, {}))

    def both(self, key: str, otherwise: str = "") -> judge.Both:
        """What each said of itself; NotCheckedError, with `otherwise`, if one of them has nothing to say."""
        here, there = self._facts_of(key)
        if here is None or there is None:
            raise NotCheckedError(otherwise)
        return judge.Both(str(here), str(there))

    def apart_s(self) -> float:
        """How far this node's clock is ahead of the other's, each compared with the file server's."""
        here, there = self._facts_of("server_ahead_s")
        return float(there) - float(here)

    def _facts_of(self, key: str) -> tuple[Any, Any]:
        self.require_met()
        here, there = (facts[key] for facts in self.facts)
        return here, there

    def require_met(self) -> None:
        if not self.has_met:
            raise NotCheckedError("the other node is not there")


@contextmanager
def _opened(config: Config, other: str, wait_s: float) -> Iterator[Pair]:
    pair = Pair(config, Meeting(Scratch(config.backing.path).place, socket.gethostname(), other), wait_s)
    try:
        yield pair
    finally:
        pair.meeting.leave()


def _meet(pair: Pair) -> float:
    started = time.monotonic()
    pair.meeting.meet(pair.wait_s)
    pair.has_met = True
    waited_s = time.monotonic() - started
    own = {
        "version": __version__,
        "user": os.geteuid(),
        "server_ahead_s": semantics.server_ahead_s(pair.meeting.work("clock") / f"clock-{pair.meeting.is_first}"),
        **_mount_facts(pair.config),
    }
    pair.facts = (own, pair.meeting.exchange("facts", own))
    return waited_s


def _mount_facts(config: Config) -> dict[str, str | None]:
    mount = mount_of(Path(os.path.realpath(config.backing.path)))
    found = mountstats.read(mount.mountpoint) if mount else None
    if mount is None or found is None:
        return {"mount": None, "client_id": None}
    told = None
    with suppress(NotCheckedError):
        identity = nfs.client_id(nfs.NfsClient(found, mount.device))
        told = " ".join(filter(None, (identity.hostname, identity.unique)))
    options = (f"{key}={found.options[key]}" for key in _SAME_OPTIONS if key in found.options)
    return {"mount": ",".join(options), "client_id": told}


def _user(pair: Pair) -> judge.User:
    pair.require_met()
    return judge.User(pair.facts[1]["user"], os.stat(pair.meeting.others_hello).st_uid)


def _together(measure: Callable[[Meeting], T]) -> Callable[[Pair], T]:
    """A measurement that both nodes make at the same time."""

    def wrapped(pair: Pair) -> T:
        pair.require_met()
        try:
            return measure(pair.meeting)
        except NobodyCameError:
            pair.has_met = False  # it is waited for once
            raise

    return wrapped


CHECKS: tuple[Check[Pair, Any], ...] = (
    Check(
        "pair.met", "whether the other node runs it, too, in the same directory", "yes; a failure otherwise",
        _meet, judge.met,
        remedy="Run `dsfs doctor --with THIS-NODE` there at the same time, with the same directory as backing.path.",
    ),
    Check(
        "pair.versions", "the versions of dsfs", "the same; a note otherwise",
        lambda pair: pair.both("version"), judge.versions,
    ),
    Check(
        "pair.mounts", "NFS version, transfer sizes and lookupcache of both", "the same; a note otherwise",
        lambda pair: pair.both("mount", "not NFS on both"), judge.mounts,
    ),
    Check(
        "pair.client_ids", "by what the server knows the two nodes", "different names; a failure otherwise",
        lambda pair: pair.both("client_id", "not NFS 4 on both"), judge.client_ids,
    ),
    Check(
        "pair.users", "whose the files of the other node are here", "its user's; a failure otherwise",
        _user, judge.users,
    ),
    Check(
        "pair.clocks", "the clocks of the two nodes, each against the file server's",
        f"within {judge.OFF_CLOCK_S:g} s; a note for more, a warning above {judge.WRONG_CLOCK_S:g} s",
        Pair.apart_s, judge.clocks,
    ),
    Check(
        "pair.locks", "whether a lock of one node excludes the other, and is free when it lets go",
        "yes; a note for mandatory locks, a failure otherwise", _together(turns.locks), judge.locks, _STEPS_S,
    ),
    Check(
        "pair.names", "when a name is seen that was looked up before the other node made it",
        f"within {judge.PROMPT_S:g} s; a warning for later, a failure for never",
        _together(turns.names), judge.names, _STEPS_S,
    ),
    Check(
        "pair.sizes", "when the growth of an open file is seen", "at once when asked for; a failure otherwise",
        _together(turns.sizes), judge.sizes, _STEPS_S,
    ),
    Check(
        "pair.direct", "whether O_DIRECT reads what the other node wrote into a hole that was read before",
        "yes; a failure otherwise", _together(turns.direct), judge.direct, _STEPS_S,
    ),
    Check(
        "pair.links", f"who gets a name that both link, {judge.LINKS} times", "one of them; a failure otherwise",
        _together(turns.links), judge.links, _STEPS_S,
    ),
    Check(
        "pair.open_unlink", "whether a file stays readable that the other node removes while it is open here",
        "yes; a note otherwise", _together(turns.open_unlink), judge.open_unlink, _STEPS_S,
    ),
    Check(
        "pair.page_cache", "whether pages stay in memory when the other node reads the file",
        "all; a warning otherwise", _together(turns.page_cache), judge.page_cache, _STEPS_S,
    ),
)  # fmt: skip


def area(config: Config, other: str, wait_s: float) -> Area[Pair]:
    """`wait_s`: how long the other node is waited for.  ConfigError if it is this one."""
    if short(other) == short(socket.gethostname()):
        raise ConfigError(f"--with {other}: that is this node; name the other one")
    meeting, *others = CHECKS
    return Area(
        f"this node and {other}", partial(_opened, config, other, wait_s),
        (replace(meeting, deadline_s=wait_s + ANSWER_S), *others),
        "The file server is silent: see the checks of the backing directory.",
    )  # fmt: skip
