"""The daemon's control socket: who may ask what, and one answer for each request.

Everyone may look; changing verbs are for root, the daemon's own user and the group "dsfs", as the kernel
names the peer (SO_PEERCRED, SO_PEERGROUPS).  A verb runs to its end even if its caller has gone.  Whatever a
client does, it costs the daemon no more than one connection: requests are bounded in size and time,
connections in number, and an exception in a verb is an answer and a log line.
"""

import grp
import logging
import os
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from dsfs.admin import protocol
from dsfs.model.errors import BusyError, DsfsError
from dsfs.model.setting import nearest

log = logging.getLogger(__name__)

ASKED_BY = "asked_by"  # the argument in which a changing verb finds the name of the user who asks
MAX_CONNECTIONS = 64
IDLE_S = 30.0  # a client that sends no whole request for so long is let go
NAME_S = 2.0  # the user database may be slow: then a number has to do for a name
REPLY_S = 10.0  # a client that does not take its answer for so long is let go

_SO_PEERGROUPS = 59  # of asm-generic/socket.h; Python has no name for it
_MAX_GETSOCKOPT_BYTES = 1024  # what Python's getsockopt can fetch


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing to ask for: `run` gets the arguments and gives what JSON can hold, or raises a DsfsError."""

    run: Callable[[dict[str, Any]], Awaitable[object]]
    changes: bool


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as it was when it connected."""

    pid: int
    uid: int
    groups: frozenset[int]


class ControlServer:
    """Answers on the Unix socket `path` as long as `serve` runs."""

    def __init__(self, path: Path, verbs: Mapping[str, Verb], *, group: str = "dsfs") -> None:
        self._path = path
        self._verbs = verbs
        self._group_id = _group_id(group)
        self._connections = 0

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once clients can connect.  BusyError if another daemon answers."""
        with self._listening() as listening:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
            task_status.started()
            await trio.serve_listeners(self._serve_connection, [listener])

    @contextmanager
    def _listening(self) -> Iterator[socket.socket]:
        """The socket, in place of one a dead daemon left; gone afterwards."""
        with protocol.directory_of(self._path) as (directory, address):
            self._refuse_if_answered(f"{address}/{self._path.name}")
            new_name = f"{self._path.name}.new"
            with suppress(FileNotFoundError):
                os.unlink(new_name, dir_fd=directory)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
                listening.bind(f"{address}/{new_name}")
                os.chmod(new_name, 0o666, dir_fd=directory)  # who may do what is decided by SO_PEERCRED
                listening.listen(MAX_CONNECTIONS)
                # Renamed only now: whoever finds the socket can connect to it.
                os.rename(new_name, self._path.name, src_dir_fd=directory, dst_dir_fd=directory)
                try:
                    yield listening
                finally:
                    with suppress(FileNotFoundError):
                        os.unlink(self._path.name, dir_fd=directory)

    def _refuse_if_answered(self, address: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(address)
            except (FileNotFoundError, ConnectionRefusedError):
                return
            except BlockingIOError:
                pass  # it exists and its queue is full
        raise BusyError(f"another daemon answers on {self._path}")

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        """One client from its connecting to its leaving; never raises for what the client does."""
        self._connections += 1
        try:
            async with stream:
                if self._connections > MAX_CONNECTIONS:
                    await _reply(stream, protocol.refusal("too many connections: try again", "BusyError"))
                    return
                peer = await _peer_of(stream)
                buffer = bytearray()
                while (line := await _next_line(stream, buffer)) is not None:
                    await _reply(stream, await self._answer(line, peer))
        except (trio.BrokenResourceError, OSError) as exc:
            log.debug("a client left early: %s", exc)
        finally:
            self._connections -= 1

    async def _answer(self, line: bytes, peer: Peer) -> bytes:
        try:
            name, args = protocol.request_of(line)
        except ValueError as exc:
            return protocol.refusal(f"not a request: {exc}", "RequestError")
        verb = self._verbs.get(name)
        if verb is None:
            hint = nearest(name, self._verbs)
            return protocol.refusal(f"the daemon knows no verb {name!r}{hint}", "RequestError")
        if verb.changes:
            if not self._may_change(peer):
                return protocol.refusal(
                    f"{name}: only root, the daemon's user and the group dsfs may do that", "PermissionError"
                )
            log.info("%s %s, asked for by uid %d, pid %d", name, args, peer.uid, peer.pid)
            args = {**args, ASKED_BY: await _user_name(peer.uid)}  # whatever the client says of it
        try:
            return protocol.line_of({"ok": True, "result": await verb.run(args)})
        except DsfsError as exc:
            return protocol.refusal(str(exc), type(exc).__name__)
        except Exception as exc:
            log.exception("%s %s: unexpected", name, args)
            return protocol.refusal(f"internal error in the daemon: {exc!r}; see its log", "InternalError")

    def _may_change(self, peer: Peer) -> bool:
        return peer.uid in (0, os.geteuid()) or self._group_id in peer.groups


async def _next_line(stream: trio.SocketStream, buffer: bytearray) -> bytes | None:
    """The next request; None once the client has left, is too slow, or sends one that is too long."""
    with trio.move_on_after(IDLE_S):
        while (end := buffer.find(b"\n")) < 0:
            if len(buffer) > protocol.MAX_REQUEST_BYTES:
                await _reply(stream, protocol.refusal("the request is too long", "RequestError"))
                return None
            received = await stream.receive_some(protocol.MAX_REQUEST_BYTES)
            if not received:
                return None
            buffer += received
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        return line
    return None


async def _reply(stream: trio.SocketStream, answer: bytes) -> None:
    """Send the answer, also while the daemon stops: `dsfs unmount` wants to hear that it will."""
    with trio.move_on_after(REPLY_S, shield=True):
        await stream.send_all(answer)


async def _peer_of(stream: trio.SocketStream) -> Peer:
    packed = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", packed)
    try:
        groups = stream.socket.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_GETSOCKOPT_BYTES)
        ids = struct.unpack(f"{len(groups) // 4}I", groups)
    except OSError:
        # More groups than Python can fetch, or a kernel without it: ask the user database, which may be slow.
        ids = tuple(await trio.to_thread.run_sync(_groups_of_user, uid, gid, abandon_on_cancel=True))
    return Peer(pid, uid, frozenset((gid, *ids)))


async def _user_name(uid: int) -> str:
    with trio.move_on_after(NAME_S), suppress(KeyError):
        found = await trio.to_thread.run_sync(pwd.getpwuid, uid, abandon_on_cancel=True)
        return found.pw_name
    return f"uid {uid}"


def _groups_of_user(uid: int, gid: int) -> list[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]


def _group_id(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
