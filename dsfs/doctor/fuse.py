"""What the kernel offers a FUSE file system: asked by beginning to mount one, in a mount namespace of its own."""

import ctypes
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dsfs.doctor.check import NotCheckedError

DEVICE = Path("/dev/fuse")
_INIT = 26
_PASSTHROUGH = 1 << 37
_INIT_EXT = 1 << 30  # the flags go on in a second word
_HEADER = struct.Struct("=IIQQIIII")  # fuse_in_header: length, opcode, ...
_OFFER = struct.Struct("=IIIII")  # fuse_init_in: major, minor, readahead, flags, and more of them
_REQUEST_BYTES = 1 << 17
_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 1 << 14, 1 << 18


@dataclass(frozen=True, slots=True)
class Offer:
    """Version 7.`minor` of the protocol; `passthrough`: a file may be read without its daemon."""

    minor: int
    passthrough: bool


def offer() -> Offer:
    """What the kernel says in its first request.  Leaves this process in another mount namespace.

    NotCheckedError for who may not mount.
    """
    if os.geteuid() != 0:
        raise NotCheckedError("needs root")
    try:
        return _offer()
    except FileNotFoundError:
        raise NotCheckedError("see node.fuse_device") from None
    except PermissionError:
        raise NotCheckedError("needs CAP_SYS_ADMIN, which root has not in this container") from None


def _offer() -> Offer:
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory(prefix="dsfs-doctor-") as place:
        _succeed(libc.unshare(_CLONE_NEWNS))
        _succeed(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
            _succeed(libc.mount(b"dsfs-doctor", place.encode(), b"fuse", _MS_NOSUID | _MS_NODEV, options))
            try:
                return parse_offer(os.read(device, _REQUEST_BYTES))
            finally:
                libc.umount2(place.encode(), 0)
        finally:
            os.close(device)


def parse_offer(request: bytes) -> Offer:
    """The first request of a FUSE connection; ValueError if it is another one."""
    _length, opcode, *_ = _HEADER.unpack_from(request)
    if opcode != _INIT:
        raise ValueError(f"FUSE request {opcode} instead of INIT")
    _major, minor, _readahead, flags, more = _OFFER.unpack_from(
        request.ljust(_HEADER.size + _OFFER.size, b"\0"), _HEADER.size
    )
    if flags & _INIT_EXT:
        flags |= more << 32
    return Offer(minor, bool(flags & _PASSTHROUGH))


def _succeed(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
