"""What nftables has counted, asked of the kernel: `nft` reads the whole ruleset for that, which takes 10 s for 1000 containers.

A dump is a request and many answers (linux/netfilter/nfnetlink.h, nf_tables.h):

    nlmsghdr 16 | family 1 | version 1 | resource 2 | attributes

Only names and packets are read of them. Works in the network namespace of the calling thread; blocks: 0.07 s for 300 containers.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator

from meshd.capture.rawnetlink import Attributes, attribute, attributes_of, message, messages_of, text_of

__all__ = ["chains_with_rules", "packets_counted"]

_NETLINK_NETFILTER = 12
_NFTABLES = 10  # subsystem
_GET_RULE, _GET_OBJECT = 7, 19
_NETDEV = 5  # NFPROTO_NETDEV
_REQUEST_DUMP, _INTERRUPTED = 0x301, 0x10  # flags
_ERROR, _DONE = 2, 3  # message types
_TABLE = 1  # NFTA_RULE_TABLE, NFTA_OBJ_TABLE
_RULE_CHAIN = 2
_OBJECT_NAME, _OBJECT_TYPE, _OBJECT_DATA = 2, 3, 4
_COUNTER = 1  # NFT_OBJECT_COUNTER
_COUNTER_PACKETS = 2
_FAMILY = struct.Struct("=BBH")
_RECEIVE_SIZE = 64 * 1024
_TRIES = 8


def packets_counted(table: str) -> dict[str, int]:
    """By name of the counter; empty if there is no such table. Raises OSError."""
    counted: dict[str, int] = {}
    for object_ in _dump(_GET_OBJECT, table, attribute(_OBJECT_TYPE, _COUNTER.to_bytes(4, "big"))):
        data = attributes_of(object_.get(_OBJECT_DATA, b""))
        counted[text_of(object_.get(_OBJECT_NAME, b""))] = int.from_bytes(data.get(_COUNTER_PACKETS, b""), "big")
    return counted


def chains_with_rules(table: str) -> set[str]:
    """Their names; empty if there is no such table. Raises OSError."""
    return {text_of(rule.get(_RULE_CHAIN, b"")) for rule in _dump(_GET_RULE, table)}


def _dump(kind: int, table: str, more: bytes = b"") -> list[Attributes]:
    """All of them at one time: what changes meanwhile makes the kernel say so, and it is asked again."""
    body = _FAMILY.pack(_NETDEV, 0, 0) + attribute(_TABLE, table.encode() + b"\0") + more
    request = message(_NFTABLES << 8 | kind, _REQUEST_DUMP, body)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as asking:
        asking.bind((0, 0))
        for _ in range(_TRIES):
            asking.send(request)
            answers = list(_answers(asking))
            if None not in answers:
                return [answer for answer in answers if answer is not None]
    raise OSError(errno.EAGAIN, "the rules change all the time")


def _answers(asking: socket.socket) -> Iterator[Attributes | None]:
    """Up to the end of the dump; None: it was interrupted. Raises OSError."""
    while True:
        for kind, flags, body in messages_of(asking.recv(_RECEIVE_SIZE)):
            if flags & _INTERRUPTED:
                yield None
            if kind == _ERROR:
                code = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                raise OSError(code, os.strerror(code))
            if kind == _DONE:
                return
            yield attributes_of(body[_FAMILY.size :])
