"""struct virtio_net_hdr (linux/virtio_net.h): what stands before every frame on a TAP, in native byte order.

flags 1 | gso_type 1 | hdr_len 2 | gso_size 2 | csum_start 2 | csum_offset 2
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from meshd.forward.ethernet import TCP, UDP, Headers

__all__ = [
    "GSO_ECN",
    "GSO_NONE",
    "NEEDS_CSUM",
    "PLAIN_VNET",
    "VNET_SIZE",
    "Vnet",
    "decode_vnet",
    "encode_vnet",
    "gso_kind",
]

NEEDS_CSUM = 1
GSO_NONE = 0
GSO_TCPV4 = 1
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
GSO_ECN = 0x80

_VNET = struct.Struct("=BBHHHH")
VNET_SIZE = _VNET.size
PLAIN_VNET = bytes(VNET_SIZE)  # a frame that is complete as it is

_KINDS = {(4, TCP): GSO_TCPV4, (6, TCP): GSO_TCPV6, (4, UDP): GSO_UDP_L4, (6, UDP): GSO_UDP_L4}


class Vnet(NamedTuple):
    flags: int
    gso_type: int
    header_length: int
    gso_size: int
    csum_start: int
    csum_offset: int


def decode_vnet(data: bytes | memoryview) -> Vnet:
    """The caller has checked that VNET_SIZE bytes are there."""
    return Vnet._make(_VNET.unpack_from(data))


def encode_vnet(headers: Headers, gso_size: int = 0) -> bytes:
    """For a frame whose L4 checksum is partial; with a `gso_size`, a super-frame. Positions come from parsed headers only."""
    gso_type = gso_kind(headers) if gso_size else GSO_NONE
    return _VNET.pack(NEEDS_CSUM, gso_type, headers.payload, gso_size, headers.l4, headers.checksum_offset)


def gso_kind(headers: Headers) -> int:
    """The gso_type that goes with these headers."""
    return _KINDS[headers.version, headers.protocol]
