"""Where the good inputs come from: everything in hexadecimal in the vectors, and a few written down here."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["frames", "texts", "vectors"]

VECTORS = Path(__file__).parent.parent / "vectors"
_HEX = re.compile(r"(?:[0-9a-f]{2})+")


@functools.cache
def vectors(name: str, *path: str) -> tuple[bytes, ...]:
    """All byte strings of a file in tests/vectors, or of what stands under these keys in it."""
    tree = json.loads((VECTORS / f"{name}.json").read_text())
    for key in path:
        tree = tree[key]
    found = tuple(dict.fromkeys(_bytes(tree)))
    assert found, f"{name} {path} holds no bytes"
    return found


def _bytes(tree: object) -> Iterator[bytes]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _bytes(item)
    elif isinstance(tree, str) and _HEX.fullmatch(tree):
        yield bytes.fromhex(tree)


def frames() -> tuple[bytes, ...]:
    """ARP question, IPv4 TCP and UDP, IPv6 with an extension header, neighbour solicitation, VLAN, IGMP, STP."""
    mac, broadcast = "02000000000a", "ffffffffffff"
    v4, v6 = "0a0000010a000002", "fd000000000000000000000000000001"
    ports = "c00000350010000000000000"
    parts = (
        (broadcast, mac, "0806", "0001080006040001", mac, "0a000001", "000000000000", "0a000002"),
        (broadcast, mac, "0800", "4500003000014000400600005000", v4, "c0000050", "00000001", "00" * 20),
        (broadcast, mac, "0800", "450000240001000020110000", v4, ports),
        (broadcast, mac, "86dd", "6000000000180040", v6, v6, "1100010000000000", ports),
        (
            "3333ff000002",
            mac,
            "86dd",
            "6000000000203aff",
            v6,
            "ff0200000000000000000001ff000002",
            "8700000000000000",
            v6,
            "0101",
            mac,
        ),
        (broadcast, mac, "8100", "0064", "0800", "450000140001000020010000", v4),
        ("01005e000016", mac, "0800", "460000200001000001020000", "0a000001e0000016", "94040000", "16000000e1010203"),
        ("0180c2000000", mac, "0026", "424203", "00" * 35),
    )
    return tuple(bytes.fromhex("".join(part)) for part in parts)


def texts() -> tuple[bytes, ...]:
    """What users type: addresses, peers, MACs, names."""
    return tuple(
        text.encode()
        for text in (
            *("10.0.1.5/24", "ip:10.0.1.5/24", "fd00::5/64", "net:default", "10.0.0.1/31", "::ffff:1.2.3.4/96"),
            *("host2", "host2:6783", "10.0.0.2:6783", "[fd00::1]:6783", "fd00::1", "a.b.example.", "-x.example"),
            *("7a:0f:f6:ec:1c:93", "::1", "web1", "pid:4711", "netns:blue", "ethwe", "eth0.100"),
        )
    )
