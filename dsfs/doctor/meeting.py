"""Two nodes find each other by files in the backing directory, and talk.

    .dsfs-doctor-meeting/hello-<node>-<token>              I am here, and this is my token of today
                         met-<node>-<token>-<other token>  and I have seen yours
                         <token>-<token>/<token>-<topic>   what one says to the other
                         <token>-<token>/trials/<topic>/   where both try something out

A token is never used twice, so what a dead run has left is answered and does not answer.  A name is looked up only
after it was seen in a listing, and its file was complete by then: no cache of an NFS client, whatever its options, can
show another.  What is tried out lies two levels below, so that listing the messages tells the client nothing new about
it.
"""

import json
import os
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from dsfs.doctor.check import NotCheckedError
from dsfs.doctor.scratch import remove_abandoned
from dsfs.model.errors import DsfsError
from dsfs.storage.filesystem import replace_file

FOLDER = ".dsfs-doctor-meeting"
ANSWER_S = 30.0  # the longest that the other node may take for a step
_POLL_S = 0.05
_FAILED = "failed"
_LEFT = "left"


class NobodyCameError(DsfsError):
    """The other node did not show up, or stopped answering."""


class Meeting:
    """`place`: the backing directory.  `me` and `other`: hostnames; a domain may be left out."""

    def __init__(self, place: Path, me: str, other: str) -> None:
        self.other = short(other)
        self.is_first = False  # one of the two is
        self.others_hello = place
        self._me = short(me)
        self._token = uuid.uuid4().hex[:12]
        self._others_token = ""
        self._folder = place / FOLDER
        self._shared = self._folder

    def meet(self, timeout_s: float) -> None:
        """Wait for the other; NobodyCameError when the time is over."""
        _make_for_all(self._folder)
        hello = self._folder / f"hello-{self._me}-{self._token}"
        replace_file(hello, b"")
        remove_abandoned(self._folder, "", hello)
        give_up_at = time.monotonic() + timeout_s
        answered: set[str] = set()
        greeting = f"hello-{self.other}-"
        while not self._others_token:
            names = _names(self._folder)
            for name in names:
                token = name.removeprefix(greeting)
                if token != name and token.isalnum() and token not in answered:
                    replace_file(self._folder / f"met-{self._me}-{self._token}-{token}", b"")
                    answered.add(token)
            # Only one that lives can have written this node's token.
            alive = (token for token in answered if f"met-{self.other}-{token}-{self._token}" in names)
            self._others_token = next(alive, "")
            if not self._others_token:
                if time.monotonic() > give_up_at:
                    raise NobodyCameError(f"{self.other} did not come within {timeout_s:g} s")
                time.sleep(_POLL_S)
        first, second = sorted((self._token, self._others_token))
        self.is_first = self._token == first
        self.others_hello = self._folder / f"{greeting}{self._others_token}"
        self._shared = self._folder / f"{first}-{second}"
        _make_for_all(self._shared)
        _make_for_all(self._shared / "trials")

    def work(self, topic: str) -> Path:
        """A folder for both."""
        folder = self._shared / "trials" / topic
        _make_for_all(folder)
        return folder

    def say(self, topic: str, message: object = None) -> None:
        """Whatever JSON holds, once for each topic."""
        replace_file(self._shared / f"{self._token}-{topic}", json.dumps(message).encode())

    def hear(self, topic: str, timeout_s: float = ANSWER_S) -> Any:
        """What the other says to that.  NobodyCameError if it takes longer, NotCheckedError if it gave up there."""
        wanted, failed = (f"{self._others_token}-{word}" for word in (topic, f"{topic.split('-')[0]}-{_FAILED}"))
        give_up_at = time.monotonic() + timeout_s
        while wanted not in (names := _names(self._shared)):
            if failed in names:
                raise NotCheckedError(f"it failed on {self.other}")
            if time.monotonic() > give_up_at:
                raise NobodyCameError(f"{self.other} does not answer any more")
            time.sleep(_POLL_S)
        return json.loads((self._shared / wanted).read_bytes())

    def exchange(self, topic: str, message: object = None) -> Any:
        """Say it, and hear what the other says to the same."""
        self.say(topic, message)
        return self.hear(topic)

    def give_up(self, topic: str) -> None:
        """Tell the other not to wait for what begins with that topic."""
        self.say(f"{topic}-{_FAILED}")

    def leave(self) -> None:
        """Remove what this node has written; the last of the two removes what both have."""
        with suppress(OSError):
            if self._others_token:
                self.say(_LEFT)
                # One of the two sees both, and nobody takes away what the other has still to read.
                if f"{self._others_token}-{_LEFT}" in _names(self._shared):
                    shutil.rmtree(self._shared, ignore_errors=True)
            for name in _names(self._folder):
                if name.startswith((f"hello-{self._me}-{self._token}", f"met-{self._me}-{self._token}")):
                    (self._folder / name).unlink(missing_ok=True)
            os.rmdir(self._folder)


def short(hostname: str) -> str:
    """Without its domain."""
    return hostname.partition(".")[0]


def _make_for_all(folder: Path) -> None:
    """The other node may run as another user."""
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o777)


def _names(folder: Path) -> set[str]:
    """As they are on the server.

    Changing the folder is the only way to be sure.  A client of version 3 takes two changes within one tick of the
    server's clock for one, and, asked or not, never lists the second.
    """
    os.utime(folder)
    return set(os.listdir(folder))
