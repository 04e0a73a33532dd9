"""The text of /proc/self/mountstats and its neighbours, as kernels write it."""

import struct
from pathlib import Path

import pytest

from dsfs.doctor.fuse import Offer, parse_offer
from dsfs.doctor.mountstats import NfsMount, Operation, parse
from dsfs.doctor.nfs import addresses_in, traffic_of
from dsfs.doctor.node import allowed_memory

# Of Linux 6.12; some counts are larger than they were, and operations that were never sent are left out.
TEXT = Path(__file__).with_name("mountstats.txt").read_bytes()

PNFS = TEXT.replace(b"pnfs=not configured", b"pnfs=LAYOUT_NFSV4_1_FILES").replace(b"expired=0", b"expired=12")

SERVERS = """NV SERVER   PORT USE HOSTNAME
v4 0a4d0001  801   2 10.77.0.1
v4 20010db8000000000000000000000001  801   1 filer
v3 0a4d0002  801   2 10.77.0.2
"""


def mount(path: str = "/mnt/large", text: bytes = TEXT) -> NfsMount:
    found = parse(text, Path(path))
    assert found is not None
    return found


def test_the_topmost_mount_of_a_place_is_read() -> None:
    found = mount()
    assert (found.source, found.version, found.connections) == ("10.77.0.1:/large", "4.1", 4)
    assert found.options["lookupcache"] == "pos"
    assert "hard" in found.options
    assert found.number("rsize") == 262144
    assert found.number("retry", default=7) == 7
    assert (found.layouts, found.lease_s, found.lease_expired_s) == ("", 30, 0)


def test_operations_that_were_sent_are_counted() -> None:
    operations = mount().operations
    assert operations.keys() == {"NULL", "READ", "OPEN_NOATTR"}
    assert operations["READ"] == Operation(requests=1000, retransmissions=3, queue_s=0.5, answer_s=2.0)
    sums = traffic_of([operations["READ"], Operation(1000, 0, 0.5, 0.0)])
    assert (sums.requests, sums.retransmissions, sums.queue_ms, sums.answer_ms) == (2000, 3, 0.5, 1.0)
    assert traffic_of([]).requests == 0


def test_version_3_has_no_lease_and_names_may_have_spaces() -> None:
    found = mount("/mnt/my data")
    assert (found.source, found.version, found.connections) == ("10.77.0.1:/mnt/my data", "3", 1)
    assert (found.lease_s, found.lease_expired_s, found.layouts) == (None, None, "")
    assert found.operations["GETATTR"].requests == 10


def test_layouts_and_a_lost_lease_are_seen() -> None:
    found = mount(text=PNFS)
    assert (found.layouts, found.lease_expired_s) == ("LAYOUT_NFSV4_1_FILES", 12)


def test_what_is_not_nfs_is_not_there() -> None:
    assert parse(TEXT, Path("/sys")) is None
    assert parse(TEXT, Path("/mnt")) is None
    assert parse(b"", Path("/mnt")) is None


def test_addresses_of_data_servers() -> None:
    assert addresses_in(SERVERS) == ["10.77.0.1", "2001:db8::1"]


@pytest.mark.parametrize(
    ("flags", "more", "offered"),
    [(1 << 30, 1 << 5, True), (1 << 30, 1 << 4, False), (0, 1 << 5, False)],
)
def test_first_request_of_the_kernel_tells_what_it_offers(flags: int, more: int, offered: bool) -> None:
    request = struct.pack("=IIQQIIII", 104, 26, 1, 0, 0, 0, 0, 0) + struct.pack("=IIIII", 7, 40, 131072, flags, more)
    assert parse_offer(request.ljust(104, b"\0")) == Offer(40, offered)


def test_an_old_kernel_has_one_word_of_flags() -> None:
    request = struct.pack("=IIQQIIII", 56, 26, 1, 0, 0, 0, 0, 0) + struct.pack("=IIII", 7, 31, 131072, 0)
    assert parse_offer(request) == Offer(31, False)


def test_another_request_is_no_offer() -> None:
    with pytest.raises(ValueError, match="instead of INIT"):
        parse_offer(struct.pack("=IIQQIIII", 40, 3, 1, 1, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("memory.max", "1073741824\n", 1 << 30),
        ("memory.max", "max\n", None),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", None),
        ("other", "1", None),
    ],
)
def test_memory_that_a_cgroup_allows(tmp_path: Path, name: str, text: str, allowed: int | None) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert allowed_memory(tmp_path) == allowed
