"""The router's port in pcap mode: an interface or bridge that is there already, opened in promiscuous mode.

pcapy-ng (libpcap) reads what comes *in* through the interface; frames of the mesh are sent out through it. Against a TAP:

- There is no vnet header. `Offload` makes one from the bytes of a captured frame and finishes what is to be sent; nothing is
  changed on the interface or on what is behind it, and so nothing has to be changed back.
- What we send must not pass for a sight of its sender here. Direction IN leaves our own frames out; where something sends them
  back to us (a loop, a mirror port), their source MAC was sent by us a moment ago, and they are dropped as `capture_echo`.
- The host itself is not part of the mesh: a filter in the kernel leaves out frames to the interface's own MAC, and our own
  datagrams where the interface has addresses.
- The interface is not ours. It may go down: reading goes on when it is up. It may go away: ENODEV, and it is opened anew when an
  interface of that name is there again.

libpcap has no errno for what it says in words, so frames are sent with write(2) on its descriptor, as its own sendpacket does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from meshd.drops import DropCounters, DropReason
from meshd.errors import UserError
from meshd.ids import Mac, format_mac

__all__ = ["ECHO_S", "MAX_SOURCES", "Offload", "PcapPort", "open_pcap", "underlay_filter"]

Buffer = bytes | bytearray | memoryview

ECHO_S = 1.0  # a MAC that moves here from another host is believed after so long without a frame from there
MAX_SOURCES = 4096  # source MACs of frames that we sent, the most recent ones
SNAPLEN = 1 << 18  # super-frames, with room
BUFFER_SIZE = 4 << 20  # of the kernel's ring: some milliseconds of a busy wire
_TIMEOUT_MS = 1  # libpcap has no immediate mode here: a block of the ring is handed over when full, or so old
_SKIPS = 64  # frames in a row that are not carried; then the loop gets its turn
_DOWN_OR_FULL = frozenset(
    {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ENETDOWN, errno.ENXIO, errno.ENODEV, errno.EIO}
)
# pcap.h: what activate returns
_NO_SUCH_DEVICE, _PERMISSION, _NOT_UP, _PROMISC_PERMISSION = -5, -8, -9, -11


@dataclass(slots=True, frozen=True)
class Offload:
    """The two halves of what a TAP's kernel would do; see `meshd.forward.offload`."""

    with_vnet: Callable[[bytes, int, int], bytearray | None]  # frame, MTU of the interface, largest packet of the mesh
    finished_frames: Callable[[Sequence[Buffer], int], list[Buffer]]  # vnet header and frame in parts, MTU


class PcapPort:
    """An open interface: the `FramePort` of the engines. Non-blocking."""

    def __init__(self, handle: Any, name: str, index: int, mtu: int, limit: int, offload: Offload) -> None:
        self._handle = handle
        self._next = handle.next
        self._fd: int = handle.getfd()
        self._with_vnet = offload.with_vnet
        self._finished = offload.finished_frames
        self._sent: OrderedDict[bytes, float] = OrderedDict()  # source MAC → when
        self.name = name
        self.index = index
        self.mtu = mtu
        self.limit = min(limit, mtu)
        self.drops = DropCounters()
        os.set_blocking(self._fd, False)

    def fileno(self) -> int:
        return self._fd

    @property
    def there(self) -> bool:
        """Whether the interface that was opened still exists, also under another name."""
        try:
            socket.if_indextoname(self.index)
        except OSError:
            return False
        return self._fd >= 0

    def read(self) -> memoryview | None:
        """vnet_hdr + frame; None when there is nothing. Raises OSError: ENETDOWN once when it went down, ENODEV when it is gone."""
        for _ in range(_SKIPS):
            try:
                header, frame = self._next()
            except Exception as error:  # pcapy has one exception, and words in it
                code = errno.ENETDOWN if self.there else errno.ENODEV
                raise OSError(code, f"{self.name}: {error}") from error
            if header is None:
                return None
            if header.getlen() > len(frame):
                self.drops.add(DropReason.TOO_BIG)
            elif self._is_echo(frame[6:12]):
                self.drops.add(DropReason.CAPTURE_ECHO)
            elif (data := self._with_vnet(frame, self.mtu, self.limit)) is None:
                self.drops.add(DropReason.TOO_BIG)
            else:
                return memoryview(data)
        return None

    def _is_echo(self, source: bytes) -> bool:
        sent = self._sent.get(source)
        if sent is None:
            return False
        if time.monotonic() - sent < ECHO_S:
            return True
        del self._sent[source]
        return False

    def write(self, parts: Sequence[Buffer]) -> bool:
        """Send the frame of vnet_hdr + frame, cut and finished; False when the interface is down, gone or full."""
        frames = self._finished(parts, self.mtu)
        self._note_source(bytes(frames[0][6:12]))
        for frame in frames:
            try:
                os.write(self._fd, frame)
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    self.drops.add(DropReason.TOO_BIG)
                elif error.errno in _DOWN_OR_FULL:
                    return False
                else:
                    raise
        return True

    def _note_source(self, source: bytes) -> None:
        if source not in self._sent and len(self._sent) >= MAX_SOURCES:
            self._sent.popitem(last=False)
        self._sent[source] = time.monotonic()
        self._sent.move_to_end(source)

    def kernel_dropped(self) -> int:
        """Frames that the kernel dropped since we did not read fast enough, since the port was opened."""
        with contextlib.suppress(Exception):  # the interface is gone, and its count with it
            return int(self._handle.stats()[1])
        return 0

    def close(self) -> None:
        """Promiscuous mode ends with it. May be called again."""
        if self._fd >= 0:
            self._fd = -1
            self._handle.close()


def open_pcap(name: str, mtu: int, limit: int, offload: Offload, kernel_filter: str) -> PcapPort:
    """Open the interface. Raises UserError where the user can mend it, else OSError."""
    pcapy = _library()
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        raise UserError(f"there is no interface {name}") from None
    handle = pcapy.create(name)
    try:
        handle.set_snaplen(SNAPLEN)
        handle.set_promisc(1)
        handle.set_timeout(_TIMEOUT_MS)
        handle.set_buffer_size(BUFFER_SIZE)
        _check_activated(name, handle.activate())
        if handle.datalink() != pcapy.DLT_EN10MB:
            raise UserError(f"{name} carries no Ethernet frames", hint="give an Ethernet interface, a veth or a bridge")
        handle.setdirection(pcapy.PCAP_D_IN)
        handle.setnonblock(1)
        handle.setfilter(kernel_filter)
        return PcapPort(handle, name, index, mtu, limit, offload)
    except pcapy.PcapError as error:
        handle.close()
        raise UserError(f"cannot capture on {name}: {error}") from None
    except BaseException:
        handle.close()
        raise


def _library() -> ModuleType:
    """Only who captures so loads it."""
    try:
        import pcapy
    except ImportError as error:
        raise UserError(
            f"--capture pcap needs the library pcapy-ng, which cannot be loaded ({error})",
            hint="install it beside meshd: pip install pcapy-ng",
        ) from None
    module: ModuleType = pcapy
    return module


def _check_activated(name: str, status: int) -> None:
    """Positive: a warning, which is none of ours."""
    if status >= 0:
        return
    if status == _NO_SUCH_DEVICE:
        raise UserError(f"there is no interface {name}")
    if status == _NOT_UP:
        raise UserError(f"{name} is down", hint=f"ip link set {name} up")
    if status in (_PERMISSION, _PROMISC_PERMISSION):
        raise UserError(f"no permission to capture on {name}; run meshd as root (it needs CAP_NET_RAW)")
    raise UserError(f"cannot capture on {name}: libpcap refuses it ({status})")


def underlay_filter(mac: Mac, addresses: Sequence[str], port: int) -> str:
    """BPF: what comes in for the mesh, and neither for this host itself nor from other routers for ours."""
    wanted = f"not ether dst {format_mac(mac)}"
    if addresses:
        ours = " or ".join(f"host {address}" for address in addresses)
        wanted += f" and not (port {port} and ({ours}))"
    return wanted
