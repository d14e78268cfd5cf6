"""What a TAP's kernel does for the engine and a packet socket does not: vnet headers told from frames, and frames finished.

A captured frame comes without a vnet header. Frames of virtual interfaces (veth, bridges, a NIC behind GRO) may have a *partial*
checksum, the sum of the pseudo header alone, and may be super-frames of up to 64 KB. Both can be told from the bytes, so nothing
on the interface has to be changed, and the senders' offloads, often in other namespaces, stay on:

- The checksum field equals the pseudo header's sum: partial, unless the checksum is right as it stands. Where both hold, finishing
  it gives the same bytes. A frame whose bits were flipped on a wire passes for partial once in 65 536.
- TCP longer than `limit`: to be cut there. TCP is a stream, so where the sender's kernel would have cut is not asked; a segment
  that is merely larger than the mesh carries is cut too, if its checksum is right.
- UDP longer than the interface's MTU is a train of datagrams (UDP_SEGMENT) whose lengths nothing tells: it cannot be carried.
- Behind IPv6 extension headers the same, as far as `parse_chained` follows them; but TCP longer than the MTU to which they leave
  less than MIN_SEGMENT cannot be carried. Where a routing header has segments left, a partial checksum is over a destination that
  is further behind (RFC 8200 § 8.1) and is not noticed.

What is delivered leaves the other way round: cut to the interface's MTU, every checksum finished. Behind extension headers it is
finished as it comes: the mesh carries no partial checksum there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from meshd.forward.checksum import complete_checksum, is_right, pseudo_sum
from meshd.forward.entries import ENTRY_HEADER_SIZE
from meshd.forward.ethernet import TCP, Headers, parse_chained, parse_headers
from meshd.forward.segmentation import MIN_SEGMENT, segments
from meshd.forward.vnet import GSO_NONE, NEEDS_CSUM, PLAIN_VNET, VNET_SIZE, decode_vnet, encode_vnet

__all__ = ["finished_frames", "with_vnet"]

Buffer = bytes | bytearray | memoryview
_U16 = struct.Struct(">H")


def with_vnet(frame: bytes, mtu: int, limit: int) -> bytearray | None:
    """Vnet header and frame, as a TAP would have given them; None for what cannot be carried.

    `mtu`: of the interface. `limit`: the largest IP packet that the mesh carries, and no larger than `mtu`.
    """
    headers = parse_headers(frame) or parse_chained(frame)
    if headers is None:
        return bytearray(PLAIN_VNET + frame)
    size = headers.end - headers.l3
    room = limit - (headers.payload - headers.l3)
    if size > limit and headers.protocol == TCP and room >= MIN_SEGMENT and headers.end == len(frame):
        if size > mtu or _partial(frame, headers) or is_right(frame, headers):
            return _super_frame(frame, headers, room)
    elif size > mtu:
        return None
    if not _partial(frame, headers):
        return bytearray(PLAIN_VNET + frame)
    if headers.end == len(frame):
        return bytearray(encode_vnet(headers) + frame)
    data = bytearray(PLAIN_VNET + frame)  # padded: who finishes it by the vnet header would add the padding up
    complete_checksum(memoryview(data)[VNET_SIZE : VNET_SIZE + headers.end], headers.l4, headers.checksum_offset)
    return data


def _super_frame(frame: bytes, headers: Headers, size: int) -> bytearray:
    data = bytearray(encode_vnet(headers, size) + frame)
    if headers.chained and is_right(frame, headers):  # who cuts such a frame goes by the partial checksum in it
        pseudo = pseudo_sum(frame, headers, headers.end - headers.l4)
        _U16.pack_into(data, VNET_SIZE + headers.l4 + headers.checksum_offset, pseudo)
    return data


def _partial(frame: Buffer, headers: Headers) -> bool:
    field = _U16.unpack_from(frame, headers.l4 + headers.checksum_offset)[0]
    pseudo = pseudo_sum(frame, headers, headers.end - headers.l4)
    return field == pseudo and not is_right(frame, headers)


def finished_frames(parts: Sequence[Buffer], mtu: int) -> list[Buffer]:
    """The frames that stand in vnet header and frame: complete, and no longer than the interface takes where they can be cut."""
    data = bytearray().join(parts)
    frame = memoryview(data)[VNET_SIZE:]
    vnet = decode_vnet(memoryview(data))
    if not vnet.flags & NEEDS_CSUM and vnet.gso_type == GSO_NONE:
        return [frame]
    headers = parse_headers(frame)
    size = _segment_size(headers, vnet.gso_size, mtu)
    if headers is None or not size or headers.payload + size >= len(frame) or headers.end != len(frame):
        complete_checksum(frame, vnet.csum_start, vnet.csum_offset)
        return [frame]
    cut: list[Buffer] = []
    for entry in segments(memoryview(data), VNET_SIZE, headers, size):
        segment = bytearray(entry[ENTRY_HEADER_SIZE:])
        complete_checksum(segment, headers.l4, headers.checksum_offset)
        cut.append(segment)
    return cut


def _segment_size(headers: Headers | None, wanted: int, mtu: int) -> int:
    """The payload of one frame; 0: it stays in one piece."""
    if headers is None:
        return 0
    room = max(0, mtu - (headers.payload - headers.l3)) if headers.protocol == TCP else wanted
    return min(wanted or room, room)
