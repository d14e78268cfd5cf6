"""The router's port: a TAP device through which super-frames of up to 64 KB come and go.

With IFF_VNET_HDR every frame is preceded by a `virtio_net_hdr` (10 bytes, native byte order) that tells whether its checksum is
still to be filled in and how it is to be cut. With TUNSETOFFLOAD the kernel leaves that work to us, so one read brings a whole
TCP burst. The device is not persistent: it lives as long as the descriptor. When somebody deletes it, the descriptor answers
EBADFD once and must be opened anew; while it is only down, writes answer EIO and it comes back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from pyroute2 import IPRoute

from meshd.capture.links import check_ifname, require_link
from meshd.capture.sysctl import disable_ipv6
from meshd.errors import UserError

__all__ = ["MAX_FRAME", "TX_QUEUE_FRAMES", "VNET_HEADER_SIZE", "TapDevice", "open_tap", "prepare_tap", "tap_tx_dropped"]

Buffer = bytes | bytearray | memoryview

VNET_HEADER_SIZE = 10
MAX_FRAME = VNET_HEADER_SIZE + 14 + 65535  # header, Ethernet, and the largest IP packet
# Towards us, in (super-)frames. At 60 000 a second 1000 were 16 ms, which a busy host's scheduler takes now and then; more than
# this only adds delay: when we do not keep up, TCP must be told.
TX_QUEUE_FRAMES = 2000

_DEVICE = "/dev/net/tun"
# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_TUNGETIFF = 0x800454D2
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x0002, 0x1000, 0x4000, 0x8000
_CSUM, _TSO4, _TSO6, _TSO_ECN, _USO4, _USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
# USO needs Linux 6.2; a kernel that knows a bit less refuses the whole set.
_OFFLOADS = {
    ("csum", "tso", "uso"): _CSUM | _TSO4 | _TSO6 | _TSO_ECN | _USO4 | _USO6,
    ("csum", "tso"): _CSUM | _TSO4 | _TSO6 | _TSO_ECN,
    ("csum",): _CSUM,
    (): 0,
}
_TX_DROP_COLUMN = 11  # eight of receive, then bytes, packets, errs, drop
_NOT_NOW = (errno.EAGAIN, errno.EINTR)
_DOWN_OR_FULL = (errno.EAGAIN, errno.EIO, errno.ENOBUFS, errno.ENOMEM)


class TapDevice:
    """An open TAP: the `FramePort` of the engines. Non-blocking; owns its descriptor and one read buffer."""

    __slots__ = ("_buffer", "_view", "fd", "name", "offloads")
    direct = True  # the native engine may use the descriptor itself

    def __init__(self, fd: int, name: str, offloads: tuple[str, ...]) -> None:
        self.fd = fd
        self.name = name
        self.offloads = offloads  # of "csum", "tso", "uso": what the kernel leaves to us
        self._buffer = bytearray(MAX_FRAME)
        self._view = memoryview(self._buffer)

    def fileno(self) -> int:
        return self.fd

    @property
    def there(self) -> bool:
        """Whether the device still exists, under its name: another one may have that by now."""
        request = bytearray(40)
        try:
            fcntl.ioctl(self.fd, _TUNGETIFF, request)
        except OSError:
            return False
        return bytes(request[:16]).rstrip(b"\0") == self.name.encode()

    def read(self) -> memoryview | None:
        """vnet_hdr + frame, borrowed until the next read; None when there is nothing. Raises OSError (EBADFD: deleted).

        Empty for a frame that the kernel could not describe (EINVAL, "unexpected GSO type" in its log): it is gone.
        """
        try:
            size = os.readv(self.fd, (self._buffer,))
        except OSError as error:
            if error.errno in _NOT_NOW:
                return None
            if error.errno != errno.EINVAL:
                raise
            size = 0
        return self._view[:size]

    def write(self, parts: Sequence[Buffer]) -> bool:
        """Write vnet_hdr + frame given in parts; False when the device is down or full. Raises OSError (EINVAL: a runt)."""
        try:
            os.writev(self.fd, parts)
        except OSError as error:
            if error.errno in _DOWN_OR_FULL:
                return False
            raise
        return True

    def close(self) -> None:
        """The device goes with its descriptor. May be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_tap(name: str) -> TapDevice:
    """Make the TAP `name` and open it. Raises UserError where the user can mend it, else OSError."""
    check_ifname(name)
    fd = _open_device()
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_TUN_EXCL)
        fcntl.ioctl(fd, _TUNSETIFF, request)
        fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_SIZE))
        offloads = _set_offloads(fd)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EBUSY, errno.EEXIST, errno.EINVAL):
            raise UserError(
                f"an interface {name} exists already and is not ours to use",
                hint=f"stop the program that made it, or remove it with `ip link del {name}`",
            ) from None
        if error.errno == errno.EPERM:
            raise UserError("no permission to make a TAP device; run meshd as root (it needs CAP_NET_ADMIN)") from None
        raise
    return TapDevice(fd, name, offloads)


def prepare_tap(ipr: IPRoute, name: str, mtu: int) -> None:
    """Everything that the device needs before it becomes a port of the bridge: MTU, queue, no IPv6 of the host, up."""
    index = require_link(ipr, name).index
    disable_ipv6(name)
    ipr.link("set", index=index, mtu=mtu, txqlen=TX_QUEUE_FRAMES, state="up")


def tap_tx_dropped(name: str) -> int:
    """Frames that the kernel dropped because we did not read fast enough (or the device was down), since it was made.

    From /proc/net/dev (of the calling thread's namespace), which waits for no lock; but each interface before this one takes 5 µs.
    0 if it is gone.
    """
    with Path("/proc/thread-self/net/dev").open() as lines:
        for line in lines:
            device, _, counters = line.partition(":")
            if device.strip() == name:
                return int(counters.split()[_TX_DROP_COLUMN])
    return 0


def _open_device() -> int:
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, OSError) as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise UserError(
                f"{_DEVICE} is missing: the kernel has no TUN/TAP",
                hint="load it with `modprobe tun`, or in a container start it with --device /dev/net/tun",
            ) from None
        if error.errno in (errno.EPERM, errno.EACCES):
            raise UserError(f"no permission to open {_DEVICE}; run meshd as root") from None
        raise


def _set_offloads(fd: int) -> tuple[str, ...]:
    for names, bits in _OFFLOADS.items():
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, bits)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            continue
        return names
    return ()
