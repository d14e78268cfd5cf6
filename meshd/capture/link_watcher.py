"""Link events (an interface came, changed, went) told to the loop's thread.

A thread blocks on an rtnetlink socket of its own and reads `ifinfomsg` by hand (linux/rtnetlink.h), which is less code than
taking pyroute2's event machinery out of its loop. When the kernel dropped events (ENOBUFS), one RESYNC event tells the owner to
list anew.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from meshd.capture.rawnetlink import attributes_of, messages_of, text_of

__all__ = ["LinkChange", "LinkEvent", "LinkWatcher", "parse_link_messages"]

_RTMGRP_LINK = 1
_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_IFF_UP = 0x1
_RECEIVE_SIZE = 64 * 1024
_RECEIVE_BUFFER = 1024 * 1024  # some thousand events: a burst of container starts


class LinkChange(enum.Enum):
    PRESENT = "present"  # new or changed
    REMOVED = "removed"
    RESYNC = "resync"  # events were lost: list the links anew


@dataclass(slots=True, frozen=True, kw_only=True)
class LinkEvent:
    change: LinkChange
    name: str = ""
    index: int = 0
    up: bool = False
    master: int = 0  # index of the bridge it is a port of, 0 if none
    address: bytes = b""  # its MAC, if it has one
    mtu: int = 0


class LinkWatcher:
    """Watches the network namespace of the thread that calls `start`. `callback` runs on the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[LinkEvent], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._thread: threading.Thread | None = None
        self._wake = -1

    def start(self) -> None:
        """From the return of this call on no event is missed. Raises OSError."""
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            netlink.bind((0, _RTMGRP_LINK))
            self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        except OSError:
            netlink.close()
            raise
        self._thread = threading.Thread(target=self._watch, args=(netlink,), name="meshd-links", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close its socket. May be called again, or without `start`."""
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            os.close(self._wake)
            self._thread = None

    def _watch(self, netlink: socket.socket) -> None:
        poll = select.poll()
        poll.register(netlink, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        with netlink:
            while all(fd != self._wake for fd, _ in poll.poll()):
                events = _receive(netlink)
                try:
                    for event in events:
                        self._loop.call_soon_threadsafe(self._callback, event)
                except RuntimeError:  # the loop is closed: nobody listens any more
                    return


def _receive(netlink: socket.socket) -> list[LinkEvent]:
    try:
        data, (port_id, _groups) = netlink.recvfrom(_RECEIVE_SIZE)
    except OSError as error:
        if error.errno in (errno.EINTR, errno.EAGAIN):
            return []
        return [LinkEvent(change=LinkChange.RESYNC)]  # ENOBUFS: the socket works on, some events are gone
    if port_id != 0:  # only the kernel tells of links; any process may send to our socket
        return []
    return list(parse_link_messages(data))


def parse_link_messages(data: bytes) -> Iterator[LinkEvent]:
    """The events in one read; ends at the first message that does not fit."""
    for kind, _, body in messages_of(data):
        if kind in (_RTM_NEWLINK, _RTM_DELLINK) and len(body) >= _IFINFOMSG.size:
            event = _parse_link(kind, body)
            if event is not None:
                yield event


def _parse_link(kind: int, body: bytes) -> LinkEvent | None:
    family, _type, index, flags, _mask = _IFINFOMSG.unpack_from(body)
    if family != socket.AF_UNSPEC:
        return None  # AF_BRIDGE: RTM_DELLINK there means that a port left its bridge, the interface is still there
    attributes = attributes_of(body[_IFINFOMSG.size :])
    return LinkEvent(
        change=LinkChange.PRESENT if kind == _RTM_NEWLINK else LinkChange.REMOVED,
        name=text_of(attributes.get(_IFLA_IFNAME, b"")),
        index=index,
        up=bool(flags & _IFF_UP),
        master=_number(attributes.get(_IFLA_MASTER, b"")),
        address=attributes.get(_IFLA_ADDRESS, b""),
        mtu=_number(attributes.get(_IFLA_MTU, b"")),
    )


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder) if len(value) == 4 else 0
