"""Names of the things meshd moves and talks to: hosts, MACs, endpoints, segments, slots.

Kept apart everywhere: *peer* (an identity), *endpoint* (ip:port), *path* (a peer through an endpoint), *link* (a control
connection), *session* (keys with a peer), *flow* (a cached verdict), *slot* (where a flow points).
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple, NewType

__all__ = [
    "BROADCAST_MAC",
    "DEFAULT_PORT",
    "HOST_ID_SIZE",
    "SHORT_ID_SIZE",
    "Address",
    "Endpoint",
    "HostId",
    "LinkId",
    "Mac",
    "Relayed",
    "SegmentId",
    "ShortId",
    "SlotId",
    "format_mac",
    "host_name",
    "is_multicast",
    "parse_endpoint",
    "parse_mac",
    "peer_label",
    "short_id",
]

HostId = NewType("HostId", bytes)  # 16 bytes: the first of BLAKE2s(Ed25519 public key)
ShortId = NewType("ShortId", bytes)  # 8 bytes: the first half of a HostId, as it stands on the wire
Mac = NewType("Mac", bytes)  # 6 bytes
SegmentId = NewType("SegmentId", int)  # 16 bits: an isolated layer-2 network; 0 today
SlotId = NewType("SlotId", int)  # where a flow points, see forward.slots
LinkId = NewType("LinkId", int)  # one TCP control connection of this process, never reused

HOST_ID_SIZE = 16
SHORT_ID_SIZE = 8
DEFAULT_PORT = 6783
BROADCAST_MAC = Mac(b"\xff" * 6)

_MAC = re.compile(r"[0-9a-f]{1,2}(:[0-9a-f]{1,2}){5}")


class Endpoint(NamedTuple):
    """Where datagrams go: a numeric address and a UDP (and TCP) port. Prints as `10.0.0.1:6783` or `[fd00::1]:6783`."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Relayed(NamedTuple):
    """Where datagrams go that other hosts pass on: to the host of this short id, whatever the way.

    Stands where an endpoint stands.
    """

    peer: ShortId

    def __str__(self) -> str:
        return f"relayed to {self.peer.hex()}"


Address = Endpoint | Relayed


def parse_endpoint(text: str) -> Endpoint:
    """Parse what `str(Endpoint)` prints. Raises ValueError unless the address is numeric and the port in 1..65535."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"not an ip:port: {text!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return Endpoint(str(ipaddress.ip_address(host)), int(port))


def short_id(host: HostId) -> ShortId:
    return ShortId(host[:SHORT_ID_SIZE])


def host_name(host: HostId) -> Mac:
    """The 48 bits that people see as the peer's name, unless `--name` gave others."""
    return Mac(host[:6])


def format_mac(mac: bytes) -> str:
    return mac.hex(":")


def parse_mac(text: str) -> Mac:
    """Parse `7a:0f:…` or Weave's short form `::1` (leading zeros left out). Raises ValueError."""
    lowered = text.strip().lower()
    if lowered.startswith("::"):
        tail = lowered[2:].split(":")
        lowered = ":".join(["0"] * (6 - len(tail)) + tail)
    if not _MAC.fullmatch(lowered):
        raise ValueError(f"not a MAC address: {text!r}")
    return Mac(bytes(int(part, 16) for part in lowered.split(":")))


def is_multicast(mac: bytes) -> bool:
    """True for every group address, broadcast included (IEEE 802.3: the I/G bit)."""
    return bool(mac[0] & 1)


def peer_label(name: str, nickname: str) -> str:
    """`7a:0f:f6:ec:1c:93(host2)`, the form in which every listing shows a peer."""
    return f"{name}({nickname})"
