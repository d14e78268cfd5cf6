"""What a frame is, in one line: by scapy where it is installed (the extra `decode`), else by the few headers known here.

Of scapy only the layers that inner traffic has are loaded: all of them would take another second.
"""

from __future__ import annotations

import functools
import importlib
import ipaddress
import logging
import struct
from collections.abc import Callable

from meshd.control.render import clean

__all__ = ["describe", "load_decoder", "plain_summary"]

_LAYERS = ("l2", "inet", "inet6", "dns", "dhcp", "dhcp6", "ntp", "vrrp", "vxlan")
_VLAN = (0x8100, 0x88A8)
_FLAGS = ((2, "S"), (16, "A"), (1, "F"), (4, "R"), (8, "P"), (32, "U"))
_PROTOCOLS = {1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}


def describe(frame: bytes, *, verbose: bool = False) -> str:
    """One line, or with `verbose` one more for each field. Never raises, and steers no terminal."""
    decode = _scapy()
    if decode is None:
        return clean(plain_summary(frame))
    try:
        return decode(frame, verbose)
    except Exception:  # scapy's dissectors meet whatever a container sends
        return clean(plain_summary(frame))


def load_decoder() -> None:
    """Takes half a second where there is scapy; else the first frame does."""
    _scapy()


@functools.cache
def _scapy() -> Callable[[bytes, bool], str] | None:
    for name in ("scapy.runtime", "scapy.loading"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        layers = [importlib.import_module(f"scapy.layers.{name}") for name in _LAYERS]
    except Exception:  # not installed, or broken: the lines below serve too
        return None
    ether = layers[0].Ether

    def decode(frame: bytes, verbose: bool) -> str:
        packet = ether(frame)
        summary = clean(packet.summary())
        if not verbose:
            return summary
        fields = packet.show(dump=True).splitlines()
        return "\n".join([summary, *(clean(f"    {line}") for line in fields)])

    return decode


def plain_summary(frame: bytes) -> str:
    """The line without scapy."""
    try:
        return _ethernet(frame)
    except (struct.error, IndexError, ValueError):
        return f"{frame[6:12].hex(':')} > {frame[:6].hex(':')} cut short"


def _ethernet(frame: bytes) -> str:
    kind, at, tags = int.from_bytes(frame[12:14], "big"), 14, ""
    while kind in _VLAN:
        tags += f"VLAN {int.from_bytes(frame[at : at + 2], 'big') & 0xFFF} "
        kind, at = int.from_bytes(frame[at + 2 : at + 4], "big"), at + 4
    if kind == 0x0806:
        operation, asker, asked = struct.unpack_from(">6xH6x4s6x4s", frame, at)
        word = {1: "who has", 2: "is at"}.get(operation, f"operation {operation}")
        return f"{tags}ARP {_ip(asker)} {word} {_ip(asked)}"
    if kind == 0x0800:
        first, protocol, source, destination = struct.unpack_from(">B8xB2x4s4s", frame, at)
        return tags + _packet(frame, at + (first & 15) * 4, protocol, source, destination)
    if kind == 0x86DD:
        protocol, source, destination = struct.unpack_from(">6xBx16s16s", frame, at)
        return tags + _packet(frame, at + 40, protocol, source, destination)
    return f"{tags}{frame[6:12].hex(':')} > {frame[:6].hex(':')} type {kind:#06x}"


def _packet(frame: bytes, at: int, protocol: int, source: bytes, destination: bytes) -> str:
    name = _PROTOCOLS.get(protocol, f"protocol {protocol}")
    if name in ("TCP", "UDP", "SCTP"):
        from_port, to_port = struct.unpack_from(">HH", frame, at)
        flags = "".join(letter for bit, letter in _FLAGS if frame[at + 13] & bit) if name == "TCP" else ""
        return f"{name} {_ip(source)}:{from_port} > {_ip(destination)}:{to_port} {flags}".rstrip()
    more = f" type {frame[at]}" if name in ("ICMP", "ICMPv6") else ""
    return f"{name} {_ip(source)} > {_ip(destination)}{more}"


def _ip(address: bytes) -> str:
    shown = str(ipaddress.ip_address(address))
    return f"[{shown}]" if ":" in shown else shown
