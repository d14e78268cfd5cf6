"""Two more sockets behind the same UDP port, for what is not sealed: a flood of handshakes fills one buffer and nobody else's.

All three are in one SO_REUSEPORT group, and a classic BPF program chooses by the type, the low half of the first byte: 4 (data)
and 8 (relay) to the first socket; all others to the third if their source is a member's address, else to the second. What a
socket cannot hold is dropped by the kernel, at the kernel's price, while data and members wait in queues of their own.

The first socket is bound before it becomes shareable, so another program on this port still meets EADDRINUSE.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable, Iterator

from meshd.net.udp import UdpPort

__all__ = ["MAX_STEERED", "SIDE_BUFFER", "open_side_ports", "steer"]

SIDE_BUFFER = 1 << 20  # some 1300 handshakes: longer queues make true ones late
MAX_STEERED = 256  # members' addresses that the program compares; those of others are strangers' to it
_SO_RXQ_OVFL = 40
_SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h
_FIRST, _STRANGERS, _MEMBERS = 0, 1, 2

# linux/filter.h: code, jump if true, jump if false, k. Loads are from the UDP payload, or from the IP header at _NETWORK.
_LINE = struct.Struct("=HBBI")
_LOAD_BYTE, _LOAD_WORD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x20, 0x54, 0x15, 0x06
_NETWORK = 0xFFF00000  # SKF_NET_OFF
_SOURCE = {socket.AF_INET: (12, 4), socket.AF_INET6: (8, 16)}  # where in the IP header, and its size


def open_side_ports(port: UdpPort) -> list[UdpPort]:
    """Empty where the kernel has no such thing: then `port` gets everything, as before."""
    first = port.shareable()
    opened: list[UdpPort] = []
    try:
        opened.append(UdpPort(_beside(first)))  # _STRANGERS
        opened.append(UdpPort(_beside(first)))  # _MEMBERS
        steer(port, ())
    except OSError:
        for side in opened:
            side.close()
        return []
    return opened


def _beside(first: socket.socket) -> socket.socket:
    sock = socket.socket(first.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        if first.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SIDE_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(first.getsockname())
    except OSError:
        sock.close()
        raise
    return sock


def steer(port: UdpPort, members: Iterable[str]) -> None:
    """From now on these addresses are members'; those of the other family are passed over. Raises OSError."""
    sock = port.shareable()
    program = _program(sock.family, members)
    held = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // _LINE.size, ctypes.addressof(held))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, described)


def _program(family: socket.AddressFamily | int, members: Iterable[str]) -> bytes:
    """An empty datagram has no first byte: the program ends there, with the first socket."""
    lines = [
        (_LOAD_BYTE, 0, 0, 0),
        (_AND, 0, 0, 0x0F),
        (_JUMP_IF_EQUAL, 1, 0, 4),
        (_JUMP_IF_EQUAL, 0, 1, 8),
        (_RETURN, 0, 0, _FIRST),
    ]
    for address in list(_packed(family, members))[-MAX_STEERED:]:
        lines += _compare(_SOURCE[socket.AddressFamily(family)][0], address)
    lines.append((_RETURN, 0, 0, _STRANGERS))
    return b"".join(_LINE.pack(*line) for line in lines)


def _compare(at: int, address: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Word for word; at the first that differs, past the end of this address."""
    words = struct.unpack(f">{len(address) // 4}I", address)
    for number, word in enumerate(words):
        yield _LOAD_WORD, 0, 0, _NETWORK + at + 4 * number
        yield _JUMP_IF_EQUAL, 0, 2 * (len(words) - number) - 1, word
    yield _RETURN, 0, 0, _MEMBERS


def _packed(family: socket.AddressFamily | int, members: Iterable[str]) -> Iterator[bytes]:
    for member in members:
        try:
            yield socket.inet_pton(family, member.partition("%")[0])
        except OSError:
            continue
