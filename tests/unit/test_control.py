"""The control socket: requests and answers, who may change things, and clients that misbehave."""

import grp
import os
import pwd
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dsfs.admin import client as client_module
from dsfs.admin import control, protocol
from dsfs.admin.client import ControlClient
from dsfs.admin.control import ControlServer, Peer, Verb
from dsfs.model.errors import BusyError, DaemonUnreachableError, DsfsError, NotFoundError


async def echo(args: dict[str, Any]) -> object:
    return args


async def missing(args: dict[str, Any]) -> object:
    raise NotFoundError("no dataset is named x")


async def broken(args: dict[str, Any]) -> object:
    raise ZeroDivisionError("oh")


VERBS = {
    "echo": Verb(echo, changes=False),
    "missing": Verb(missing, changes=False),
    "broken": Verb(broken, changes=False),
    "drop": Verb(echo, changes=True),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@asynccontextmanager
async def serving(path: Path, verbs: dict[str, Verb] = VERBS) -> AsyncIterator[ControlClient]:
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(path, verbs).serve)
        yield ControlClient(path)
        nursery.cancel_scope.cancel()


async def call(client: ControlClient, verb: str, args: dict[str, Any] | None = None) -> Any:
    return await trio.to_thread.run_sync(lambda: client.call(verb, args, timeout_s=10))


async def exchange(path: Path, sent: bytes) -> bytes:
    """What a client that sends just that, and no more, receives."""
    async with await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(sent)
        await stream.send_eof()
        return b"".join([received async for received in stream])


@pytest.mark.trio
async def test_answer_is_what_the_verb_gives(path: Path) -> None:
    async with serving(path) as client:
        args = {"target": "Grüße/\udce9\n", "now": True}
        assert await call(client, "echo", args) == args
        assert await call(client, "echo") == {}


@pytest.mark.trio
async def test_large_answer_arrives_whole(path: Path) -> None:
    async def many(args: dict[str, Any]) -> object:
        return list(range(500_000))

    async with serving(path, {"many": Verb(many, changes=False)}) as client:
        assert len(await call(client, "many")) == 500_000


@pytest.mark.trio
async def test_error_of_a_verb_is_of_the_same_class_at_the_client(path: Path) -> None:
    async with serving(path) as client:
        with pytest.raises(NotFoundError, match="no dataset is named x"):
            await call(client, "missing")


@pytest.mark.trio
@pytest.mark.expects_log("broken .*: unexpected")
async def test_bug_in_a_verb_is_an_answer_and_the_server_goes_on(path: Path) -> None:
    async with serving(path) as client:
        with pytest.raises(DsfsError, match="internal error in the daemon: ZeroDivisionError"):
            await call(client, "broken")
        assert await call(client, "echo") == {}


@pytest.mark.trio
async def test_unknown_verb_gets_the_nearest_one(path: Path) -> None:
    async with serving(path) as client:
        with pytest.raises(DsfsError, match=r"knows no verb 'ecco' \(did you mean echo\?\)"):
            await call(client, "ecco")


@pytest.mark.trio
async def test_requests_on_one_connection_are_answered_in_their_order(path: Path) -> None:
    async with serving(path):
        requests = b"".join(protocol.line_of({"verb": "echo", "args": {"n": n}}) for n in range(3))
        answers = await exchange(path, requests)
    assert [b'"n":%d' % n in line for n, line in enumerate(answers.splitlines())] == [True] * 3


@pytest.mark.trio
@pytest.mark.parametrize(
    "sent", [b"hello\n", b"[]\n", b"{}\n", b'{"verb":"echo","args":3}\n', b"\xff\n", b"[" * 60_000 + b"\n"]
)
async def test_what_is_no_request_is_refused(path: Path, sent: bytes) -> None:
    async with serving(path) as client:
        assert b'"kind":"RequestError"' in await exchange(path, sent)
        assert await call(client, "echo") == {}


@pytest.mark.trio
async def test_request_without_end_is_cut_off(path: Path) -> None:
    async with serving(path), await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(b"x" * (protocol.MAX_REQUEST_BYTES + 1))
        assert b"the request is too long" in await stream.receive_some(4096)
        assert await stream.receive_some(4096) == b""


@pytest.mark.trio
async def test_client_that_asks_nothing_is_let_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "IDLE_S", 0.05)
    async with serving(path), await trio.open_unix_socket(str(path)) as stream:
        with trio.fail_after(10):
            assert await stream.receive_some(1) == b""


@pytest.mark.trio
async def test_client_that_leaves_early_harms_nobody(path: Path) -> None:
    async with serving(path) as client:
        for sent in (b"", b'{"verb":', protocol.line_of({"verb": "echo"})):
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(sent)
        assert await call(client, "echo") == {}


@pytest.mark.trio
async def test_one_connection_too_many_is_told_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CONNECTIONS", 1)
    async with serving(path) as client, await trio.open_unix_socket(str(path)) as first:
        await first.send_all(protocol.line_of({"verb": "echo"}))
        await first.receive_some(4096)
        with pytest.raises(BusyError, match="too many connections"):
            await call(client, "echo")


@pytest.mark.trio
async def test_client_that_is_refused_before_it_has_asked_is_told_why(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = threading.Event()
    line_of = protocol.line_of

    def line_once_refused(message: dict[str, Any]) -> bytes:
        assert refused.wait(10)
        return line_of(message)

    monkeypatch.setattr(protocol, "line_of", line_once_refused)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def refuse_once() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(line_of({"ok": False, "error": "too many connections", "kind": "BusyError"}))
            refused.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, refuse_once)
            with pytest.raises(BusyError, match="too many connections"):
                await call(ControlClient(path), "echo")


@pytest.mark.trio
async def test_answer_is_sent_although_the_verb_stops_the_daemon(path: Path) -> None:
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await call(ControlClient(path), "stop"))

    async with trio.open_nursery() as clients, trio.open_nursery() as daemon:

        async def stop(args: dict[str, Any]) -> object:
            daemon.cancel_scope.cancel()
            return {"stopped": True}

        await daemon.start(ControlServer(path, {"stop": Verb(stop, changes=True)}).serve)
        clients.start_soon(ask)
    assert answers == [{"stopped": True}]
    assert os.listdir(path.parent) == []


@pytest.mark.trio
async def test_everyone_may_connect(path: Path) -> None:
    async with serving(path):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o666


@pytest.mark.trio
@pytest.mark.needs("root")
async def test_other_user_may_look_but_not_change(path: Path) -> None:
    os.chmod(path.parent, 0o711)
    async with serving(path):
        looks, changes = await trio.to_thread.run_sync(answers_to_user, 65_534, path)
    assert b'"ok":true' in looks
    assert b'"kind":"PermissionError"' in changes


@pytest.mark.trio
async def test_own_user_may_change_and_is_named_to_the_verb(path: Path) -> None:
    name = pwd.getpwuid(os.geteuid()).pw_name
    async with serving(path) as client:
        for said in ({}, {control.ASKED_BY: "somebody else"}):
            answer = await call(client, "drop", {"target": "a/b", **said})
            assert answer == {"target": "a/b", control.ASKED_BY: name}


@pytest.mark.trio
async def test_user_without_a_name_is_a_number(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    async with serving(path) as client:
        monkeypatch.setattr(pwd, "getpwuid", unknown)
        assert (await call(client, "drop"))[control.ASKED_BY] == f"uid {os.geteuid()}"


def test_members_of_the_group_and_root_may_change(path: Path) -> None:
    group_id = os.getegid()
    server = ControlServer(path, VERBS, group=grp.getgrgid(group_id).gr_name)
    stranger, other_group = os.geteuid() + 1, group_id + 1
    assert server._may_change(Peer(1, stranger, frozenset({other_group, group_id})))
    assert server._may_change(Peer(1, 0, frozenset()))
    assert not server._may_change(Peer(1, stranger, frozenset({other_group})))


def test_where_there_is_no_such_group_nobody_is_a_member(path: Path) -> None:
    server = ControlServer(path, VERBS, group="no such group")
    assert not server._may_change(Peer(1, os.geteuid() + 1, frozenset({0})))


@pytest.mark.trio
async def test_socket_of_a_dead_daemon_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(path) as client:
        assert await call(client, "echo") == {}


@pytest.mark.trio
async def test_socket_of_a_living_daemon_is_not_taken(path: Path) -> None:
    async with serving(path) as client:
        with pytest.RaisesGroup(pytest.RaisesExc(BusyError, match="another daemon answers")):
            async with serving(path):
                pass
        assert await call(client, "echo") == {}


@pytest.mark.trio
async def test_path_longer_than_an_address_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / "e"
    deep.mkdir(parents=True)
    async with serving(deep / "control.sock") as client:
        assert await call(client, "echo") == {}
        assert await trio.to_thread.run_sync(client.daemon_pid) == os.getpid()


@pytest.mark.parametrize("exists", [True, False])
def test_without_a_daemon_the_client_says_how_to_start_one(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "state" / "control.sock"
    if exists:
        path.parent.mkdir()
    with pytest.raises(DaemonUnreachableError, match=r"no daemon answers on .*control\.sock .*`dsfs mount`"):
        ControlClient(path).call("status")


@pytest.mark.trio
async def test_daemon_that_does_not_answer_is_given_up(path: Path) -> None:
    async def forever(args: dict[str, Any]) -> object:
        return await trio.sleep_forever()

    async with serving(path, {"status": Verb(forever, changes=False)}) as client:
        with pytest.raises(DaemonUnreachableError, match=r"has not answered for 0\.05 s"):
            await trio.to_thread.run_sync(lambda: client.call("status", timeout_s=0.05))


@pytest.mark.trio
async def test_answer_that_takes_long_is_waited_for_as_long_as_the_daemon_lives(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PING_S", 0.01)
    pinged = trio.Event()

    async def ping(args: dict[str, Any]) -> object:
        pinged.set()
        raise BusyError("too many connections")  # also that is an answer

    async def evict(args: dict[str, Any]) -> object:
        await pinged.wait()
        return "done"

    async with serving(path, {"ping": Verb(ping, changes=False), "evict": Verb(evict, changes=False)}) as client:
        assert await trio.to_thread.run_sync(lambda: client.call("evict", timeout_s=None)) == "done"


@pytest.mark.trio
async def test_daemon_that_comes_to_stand_still_is_given_up_however_long_an_answer_may_take(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PING_S", 0.01)
    monkeypatch.setattr(client_module, "ANSWER_S", 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        with pytest.raises(DaemonUnreachableError, match=r"has not answered for 0\.1 s"):
            await trio.to_thread.run_sync(lambda: ControlClient(path).call("evict", timeout_s=None))


@pytest.mark.trio
@pytest.mark.parametrize(
    ("answer", "message"),
    [(b"", "ended before it answered"), (b"SSH-2.0\n", "is not dsfs"), (b"[]\n", "is not dsfs")],
)
async def test_what_is_no_answer_is_an_error(path: Path, answer: bytes, message: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve_once() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, serve_once)
            with pytest.raises(DsfsError, match=message):
                await call(ControlClient(path), "status")


def answers_to_user(uid: int, path: Path) -> tuple[bytes, bytes]:
    """What the verbs `echo` and `drop` answer to another user: asked by a process of that user."""
    requests = protocol.line_of({"verb": "echo"}) + protocol.line_of({"verb": "drop"})
    # The other user cannot walk to the directory of the test: a descriptor of it comes from here.
    directory = os.open(path.parent, os.O_PATH)
    code = (
        "import os, socket, sys\n"
        f"os.fchdir({directory})\n"
        f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        f"s.connect({path.name!r})\n"
        f"s.sendall({requests!r})\n"
        "f = s.makefile('rb'); sys.stdout.buffer.write(f.readline() + f.readline())\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], pass_fds=(directory,), capture_output=True, check=True, timeout=30
        )
    finally:
        os.close(directory)
    looks, changes = done.stdout.splitlines()
    return looks, changes
