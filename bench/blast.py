"""Small datagrams at a given rate, many in one system call: a generator and a sink that leave the CPU to what is measured.

    python -m bench.blast send ADDRESS PORT SIZE RATE SECONDS      RATE in datagrams/s, 0: as many as possible
    python -m bench.blast receive PORT                             until standard input ends

Both print one JSON object. iperf3 makes a system call a datagram, which on a shared CPU ends below what an overlay carries, so this
calls sendmmsg(2) and recvmmsg(2) through ctypes. Due datagrams are sent every PAUSE seconds; what the scheduler made late by more
than CATCH_UP is not made up for (a burst would be lost in somebody's queue, through no fault of theirs) and so is not sent at all:
the caller sees that in `sent`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import socket
import sys
import time

BATCH = 64
PAUSE = 0.0001
CATCH_UP = 0.008
MAX_DATAGRAM = 2048
RECEIVE_BUFFER = 8 << 20
MSG_WAITFORONE = 0x10000
SO_RCVBUFFORCE = 33
# What an ICMP answer or a full queue does to a send; the datagram is lost, as any other may be.
LOST = (errno.ECONNREFUSED, errno.ENOBUFS, errno.EAGAIN, errno.EINTR, errno.EHOSTUNREACH)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr of 64-bit Linux."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr: the header and the length that was moved."""

    _fields_ = (("header", _Header), ("moved", ctypes.c_uint32))


class Batch:
    """BATCH messages over one buffer: what is sent is always the same, what is received is only counted."""

    def __init__(self, size: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._buffer = ctypes.create_string_buffer(size)
        self._iovec = _Iovec(ctypes.addressof(self._buffer), size)
        self._messages = (_Message * BATCH)()
        for message in self._messages:
            message.header.iov = ctypes.pointer(self._iovec)
            message.header.iov_length = 1

    def send(self, descriptor: int, count: int) -> int:
        """How many were sent. Raises OSError."""
        return self._checked(self._libc.sendmmsg(descriptor, self._messages, count, 0))

    def receive(self, descriptor: int) -> int:
        """How many there were. Raises OSError."""
        return self._checked(self._libc.recvmmsg(descriptor, self._messages, BATCH, MSG_WAITFORONE, None))

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            if number not in LOST:
                raise OSError(number, os.strerror(number))
            return 0
        return result


class Schedule:
    """How many datagrams are due, with times in seconds since the beginning."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._taken = 0.0  # sent or given up

    def due(self, now: float) -> int:
        if not self._rate:
            return BATCH
        behind = self._rate * now - self._taken
        allowed = max(self._rate * CATCH_UP, 1.0)
        if behind > allowed:
            self._taken += behind - allowed
            behind = allowed
        return min(int(behind), BATCH)

    def sent(self, count: int) -> None:
        self._taken += count


def send(address: str, port: int, size: int, rate: float, seconds: float) -> dict[str, float]:
    batch, schedule = Batch(size), Schedule(rate)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        total, began = 0, time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            if not (due := schedule.due(now)):
                time.sleep(PAUSE)
                continue
            schedule.sent(due)
            total += batch.send(sock.fileno(), due)
    return {"sent": total, "seconds": now}


def receive(port: int) -> dict[str, float]:
    batch, total = Batch(MAX_DATAGRAM), 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        sock.setblocking(False)
        sock.bind(("", port))
        print("listening", flush=True)
        while True:
            if got := batch.receive(sock.fileno()):
                total += got
                continue
            ready, _, _ = select.select([sock, sys.stdin], [], [])
            if sock not in ready:
                return {"received": total}


def main(arguments: list[str]) -> int:
    match arguments:
        case ["send", address, port, size, rate, seconds]:
            print(json.dumps(send(address, int(port), int(size), float(rate), float(seconds))))
        case ["receive", port]:
            print(json.dumps(receive(int(port))))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
