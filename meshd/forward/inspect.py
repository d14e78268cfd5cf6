"""Which captured frames the node reads itself: the cheap look at each frame to a group address, and at no other.

    ARP                     a question that records may answer
    ICMPv6 at first place   neighbour solicitation, likewise
    IGMP, MLD               who has joined what (MLD's messages begin with a hop-by-hop option)
    PIM                     a multicast router is here
    LOOP_PROBE              a router's own look for loops

Frames with a VLAN tag are none of these: records and memberships are those of the untagged network.
"""

from __future__ import annotations

from meshd.forward.neighbours import ARP, ICMPV6, IPV4, IPV6

__all__ = ["IGMP", "LOOP_PROBE", "PIM", "is_inspected", "is_ip"]

IGMP, PIM = 2, 103
LOOP_PROBE = b"\x88\xb6"  # IEEE 802 local experimental 2
_HOP_BY_HOP = 0
_IPV4_PROTOCOL, _IPV6_NEXT_HEADER = 23, 20  # offsets in an untagged frame


def is_ip(frame: bytes | memoryview) -> bool:
    """Untagged IPv4 or IPv6."""
    return frame[12:14] in (IPV4, IPV6)


def is_inspected(frame: bytes | memoryview) -> bool:
    """Whether `Upcalls.inspect` is asked about this frame. It is 14 bytes or longer. Never raises."""
    if not frame[0] & 1:
        return False
    kind = frame[12:14]
    if kind == IPV6:
        return len(frame) > _IPV6_NEXT_HEADER and frame[_IPV6_NEXT_HEADER] in (_HOP_BY_HOP, ICMPV6, PIM)
    if kind == IPV4:
        return len(frame) > _IPV4_PROTOCOL and frame[_IPV4_PROTOCOL] in (IGMP, PIM)
    return kind in (ARP, LOOP_PROBE)
