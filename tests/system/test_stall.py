"""An origin that has fallen silent holds up only who needs it, and many readers do not take more memory than agreed."""

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.rig.background import in_background
from tests.rig.fault import Fault
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import MIB
from tests.rig.node import PATIENT, Node
from tests.rig.reading import SourceVersion, make_version, read_at
from tests.rig.s3server import S3Server
from tests.rig.wait import wait_until

NewNode = Callable[..., Node]
CONNECTIONS = 4
READ_TIMEOUT_S = 30
PROMPT_S = 5  # what needs no origin takes milliseconds; a busy machine adds to it
MEMORY_LIMIT_BYTES = 64 * MIB
OVERHEAD_BYTES = 150 * MIB  # what the daemon may take beside its buffers


def peak_rss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def test_stalled_connections_hold_up_nobody_who_does_not_need_them(
    new_node: NewNode, proxy: FaultProxy, version: SourceVersion
) -> None:
    node = new_node(settings={"origin": {**PATIENT["origin"], "connections": CONNECTIONS}}).start()
    tree = version.tree(node.mountpoint)
    resident, silent = version.large[0], version.large[1]
    assert version.wrong_files(node.mountpoint, [resident]) == []
    wait_until(node.segment_files, what="the file being sealed")
    proxy.add(Fault(action="stall"))
    size = version.size_of(silent)
    step = size // (2 * CONNECTIONS)
    readings = [in_background(partial(read_at, tree / silent, at, 4096)) for at in range(0, size - 4096, step)]
    wait_until(lambda: proxy.stalled == CONNECTIONS, what="all connections being stalled")

    began = time.monotonic()
    assert len(os.listdir(tree)) == len({name.partition("/")[0] for name in version.digests})
    assert (tree / version.small[0]).stat().st_size == version.size_of(version.small[0])
    assert version.wrong_files(node.mountpoint, [resident]) == []
    assert node.ask("status")["daemon"]["state"] == "running"
    assert node.ask("why", path=f"{version.name}/{silent}")["blocks"]["resident"] == 0
    assert time.monotonic() - began < PROMPT_S
    assert not any(reading.done() for reading in readings)

    proxy.clear()
    proxy.release()
    source = (version.source / silent).read_bytes()
    for at, reading in zip(range(0, size - 4096, step), readings, strict=True):
        assert reading.result(READ_TIMEOUT_S) == source[at : at + 4096]
    assert version.wrong_files(node.mountpoint) == []
    assert node.stop() == 0


def test_a_silent_origin_leaves_threads_and_memory_to_the_others(
    new_node: NewNode, proxy: FaultProxy, version: SourceVersion, s3: S3Server
) -> None:
    url = "s3://lake/datasets/photos"
    elsewhere = f'[[dataset]]\nname = "elsewhere"\nurl = "{url}"\nendpoint_url = "{s3.endpoint_url}"\n'
    settings = {"origin": {**PATIENT["origin"], "connections": CONNECTIONS}, "memory": {"limit": "64MiB"}}
    node = new_node(settings=settings, more=elsewhere).start()
    tree = version.tree(node.mountpoint)
    silent = [tree / name for name in version.large]
    sizes = [file.stat().st_size for file in silent]
    proxy.add(Fault(action="stall"))
    readings = [
        in_background(partial(read_at, file, at, 4096))
        for file, size in zip(silent, sizes, strict=True)
        for at in range(0, size - 4096, MIB // 2)
    ]
    wait_until(lambda: proxy.stalled == CONNECTIONS, what="all connections being stalled")

    began = time.monotonic()
    other = SourceVersion("elsewhere/v1", version.source, version.digests)
    assert other.wrong_files(node.mountpoint) == []
    assert time.monotonic() - began < PROMPT_S
    assert not any(reading.done() for reading in readings)

    proxy.clear()
    proxy.release()
    assert all(len(reading.result(READ_TIMEOUT_S)) == 4096 for reading in readings)
    assert version.wrong_files(node.mountpoint) == []
    assert node.stop() == 0


@pytest.mark.expects_log("fetch failed", "read: EIO", "did not come")
def test_unmount_goes_on_while_all_connections_are_stalled(
    new_node: NewNode, proxy: FaultProxy, version: SourceVersion
) -> None:
    node = new_node(settings={"origin": {**PATIENT["origin"], "connections": CONNECTIONS}}).start()
    tree = version.tree(node.mountpoint)
    size = tree.joinpath(version.large[1]).stat().st_size
    proxy.add(Fault(action="stall"))
    readings = [
        in_background(partial(read_at, tree / version.large[1], at, 4096))
        for at in range(0, size - 4096, size // (2 * CONNECTIONS))
    ]
    wait_until(lambda: proxy.stalled == CONNECTIONS, what="all connections being stalled")
    unmounted = node.command("unmount", "--now")
    assert unmounted.returncode == 0, unmounted.stderr
    assert node.wait(PROMPT_S) == 0
    assert not node.is_mounted()
    assert all(isinstance(reading.exception(READ_TIMEOUT_S), OSError) for reading in readings)


@pytest.mark.expects_log("slow")
def test_many_readers_of_large_files_take_no_more_memory_than_agreed(
    new_node: NewNode, proxy: FaultProxy, s3: S3Server
) -> None:
    sizes = [12 * MIB + number for number in range(40)]
    films = make_version(s3.bucket("lake"), "films/v1", small_files=0, large_sizes_bytes=sizes, empty_files=0)
    node = new_node(settings={**PATIENT, "memory": {"limit": "64MiB"}}).start()

    def digest(name: str) -> str:
        with (films.tree(node.mountpoint) / name).open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(len(sizes)) as pool:
        assert list(pool.map(digest, films.digests)) == list(films.digests.values())
    assert node.ask("status")["memory"]["used_bytes"] <= MEMORY_LIMIT_BYTES
    assert peak_rss_bytes(node.pid) <= MEMORY_LIMIT_BYTES + OVERHEAD_BYTES
    assert proxy.data_bytes <= films.size_bytes * 1.02
    assert node.stop() == 0
