"""UDP ports of the underlay: batches in one system call each way, and what the kernel lacks made up for.

Sending, UDP_SEGMENT lets the kernel (or the card) cut one buffer into up to 64 datagrams; where it is refused (EIO: a device
without checksum offload, EINVAL, ENOPROTOOPT) the port cuts itself from then on. Receiving, UDP_GRO brings up to 64 KB of equal
datagrams in one read. The receive buffer is 8 MB, as the default holds three such super-datagrams. Path MTU is measured by the
mesh itself: with IP_PMTUDISC_PROBE the kernel sets DF and neither its cache nor a forged ICMP decides.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Literal

from meshd.drops import DropReason, Unsent
from meshd.errors import UserError
from meshd.ids import Endpoint
from meshd.net.scope import host_of

__all__ = ["MAX_DATAGRAM", "PASSED_OVER", "SOCKET_BUFFER", "UdpPort", "open_udp_port"]

Buffer = bytes | bytearray | memoryview

MAX_DATAGRAM = 65535
SOCKET_BUFFER = 8 << 20
SEND_BUFFER = 4 << 20
PASSED_OVER = 64

# linux/udp.h, asm-generic/socket.h, linux/in.h, linux/in6.h: not all in Python 3.11's socket module
_UDP_SEGMENT, _UDP_GRO = 103, 104
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE, _SO_RXQ_OVFL = 33, 32, 40
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_FULL = (errno.EAGAIN, errno.ENOBUFS)
_NO_SEGMENTING = (errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EOPNOTSUPP)
# What an ICMP about an earlier datagram may leave behind: not about this call, which is tried once more.
_STALE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPROTO)
_U16 = struct.Struct("=H")
_INT = struct.Struct("=i")
_UNSIGNED = struct.Struct("=I")
_ANCILLARY = socket.CMSG_SPACE(_INT.size) + socket.CMSG_SPACE(_UNSIGNED.size)


class UdpPort:
    """The `DatagramPort` over one socket; owns it. Non-blocking. `segmenting` and `grouping` say what the kernel does for us."""

    direct = True  # the native engine may use the descriptor itself

    def __init__(self, sock: socket.socket) -> None:
        self.family: int = 6 if sock.family == socket.AF_INET6 else 4
        # A kernel that does not know it passes over it in a send, and finds the whole buffer too long.
        self.segmenting = _try_option(sock, socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
        self._socket = sock
        self._receive = sock.recvmsg
        self._send: Callable[..., int] = sock.sendmsg
        self._overflow = 0
        self._source = Endpoint("", 0)
        self._source_address: object = None
        self.grouping = _try_option(sock, socket.IPPROTO_UDP, _UDP_GRO, 1)

    @property
    def local(self) -> Endpoint:
        host, port = self._socket.getsockname()[:2]
        return Endpoint(host, port)

    def fileno(self) -> int:
        return self._socket.fileno()

    def shareable(self) -> socket.socket:
        """The socket, which others of this process may now bind beside: see `net.steer`."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return self._socket

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> tuple[bytes, int, Endpoint, int] | None:
        """One read. Empty datagrams and errors that ICMP left on the socket are passed over, PASSED_OVER of them: then it is as if
        nothing had come, though the socket is readable still, and whoever waits for it has their turn."""
        for _ in range(PASSED_OVER):
            try:
                data, ancillary, _flags, address = self._receive(MAX_DATAGRAM, _ANCILLARY)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in _STALE:
                    continue
                raise
            if data:
                break
        else:
            return None
        segment = len(data)
        for level, kind, value in ancillary:
            if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
                segment = _INT.unpack_from(value)[0] or segment
            elif level == socket.SOL_SOCKET and kind == _SO_RXQ_OVFL:
                self._overflow = _UNSIGNED.unpack_from(value)[0]
        if address != self._source_address:
            self._source_address = address
            self._source = Endpoint(host_of(address), address[1])
        return data, segment, self._source, self._overflow

    def send(self, parts: Sequence[Buffer], segment_size: int, destination: Endpoint) -> Unsent | None:
        """See `DatagramPort.send`."""
        if not segment_size:
            reason = self._send_one(parts, (), destination)
            return None if reason is None else Unsent(reason, 1)
        if self.segmenting:
            control = ((socket.IPPROTO_UDP, _UDP_SEGMENT, _U16.pack(segment_size)),)
            try:
                reason = self._send_one(parts, control, destination, _NO_SEGMENTING)
            except OSError:
                pass
            else:
                return None if reason is None else Unsent(reason, -(-sum(map(len, parts)) // segment_size))
        return self._send_cut(b"".join(parts), segment_size, destination)

    def _send_cut(self, data: bytes, size: int, destination: Endpoint) -> Unsent | None:
        """One by one. Once some were sent, a refusal is about one datagram (a firewall's), and the ones behind it may pass."""
        count = -(-len(data) // size)
        unsent: Unsent | None = None
        sent = 0
        for number in range(count):
            reason = self._send_one((data[number * size : (number + 1) * size],), (), destination)
            if reason is None:
                sent += 1
                self.segmenting = False  # it was UDP_SEGMENT that was refused, not the size or the destination
                continue
            full = reason is DropReason.QUEUE_FULL
            unsent = Unsent(reason, count - sent if full or not sent else number + 1 - sent)
            if full or not sent:
                break
        return unsent

    def _send_one(
        self,
        parts: Sequence[Buffer],
        control: Sequence[tuple[int, int, bytes]],
        destination: Endpoint,
        raised: Sequence[int] = (),
    ) -> DropReason | None:
        """One call of sendmsg, or two. Errors in `raised` are the caller's, all others become reasons."""
        code = 0
        for _ in range(2):
            try:
                self._send(parts, control, 0, destination)
            except OSError as error:
                code = error.errno or errno.EIO
                if code in raised:
                    raise
                if code in _STALE:
                    continue
                break
            return None
        if code in _FULL:
            return DropReason.QUEUE_FULL
        return DropReason.TOO_BIG if code == errno.EMSGSIZE else DropReason.SEND_FAILED


def open_udp_port(family: Literal[4, 6], host: str, port: int) -> UdpPort:
    """A bound socket with all options set. Raises UserError when the port is taken, OSError for what the user cannot mend."""
    sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        _set_options(sock, family)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"UDP port {port} is taken by another program; use --port or stop it") from None
        # gaierror: of an interface that there is not (fe80::1%eth9)
        if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            raise UserError(f"{host} is no address of this host") from None
        raise
    return UdpPort(sock)


def _set_options(sock: socket.socket, family: Literal[4, 6]) -> None:
    if family == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
    if not _try_option(sock, socket.SOL_SOCKET, _SO_RCVBUFFORCE, SOCKET_BUFFER):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    if not _try_option(sock, socket.SOL_SOCKET, _SO_SNDBUFFORCE, SEND_BUFFER):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


def _try_option(sock: socket.socket, level: int, option: int, value: int) -> bool:
    """Set an option that not every kernel (or user) may set."""
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True
