"""Writing pcapng (draft-ietf-opsawg-pcapng): one section, one Ethernet interface, a block for each frame.

Each frame carries its direction as a flag, and as a comment what the mesh does with it. Written here, in forty lines, so that it
needs neither the optional scapy nor its second of loading; scapy's writer cannot set the direction.
"""

from __future__ import annotations

import struct

from meshd import __version__

__all__ = ["file_header", "packet"]

_SECTION, _INTERFACE, _ENHANCED_PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_LINKTYPE_ETHERNET = 1
_END, _COMMENT = 0, 1
_USER_APPLICATION, _IF_NAME, _FLAGS = 4, 2, 2
_INBOUND, _OUTBOUND = 1, 2


def file_header() -> bytes:
    section = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1) + _options(
        (_USER_APPLICATION, f"meshd {__version__}".encode())
    )
    interface = struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, 0) + _options((_IF_NAME, b"meshd"))
    return _block(_SECTION, section) + _block(_INTERFACE, interface)


def packet(frame: bytes, seconds: float, *, inward: bool, comment: str) -> bytes:
    """`seconds` since 1970."""
    stamp = round(seconds * 1e6)  # microseconds, unless an interface says otherwise
    head = struct.pack("<IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, len(frame), len(frame))
    flags = struct.pack("<I", _INBOUND if inward else _OUTBOUND)
    return _block(_ENHANCED_PACKET, head + _padded(frame) + _options((_COMMENT, comment.encode()), (_FLAGS, flags)))


def _options(*options: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("<HH", code, len(value)) + _padded(value) for code, value in (*options, (_END, b"")))


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length
