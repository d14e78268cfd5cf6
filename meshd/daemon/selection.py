"""Which inner frames somebody wants to see: of a container, of a peer, with an address, passing a filter, or all.

The first word is looked up as an address, a container of the mesh, or a peer; what it is not is the filter's first word. So
`web icmp` is what passes `icmp` of the container web, and `icmp` alone a filter, unless a container has that name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meshd.capture.bpf import compile_filter
from meshd.errors import UserError
from meshd.forward.ethernet import ETHERNET_SIZE, network_header
from meshd.forward.slots import FLOOD
from meshd.ids import SlotId, parse_mac
from meshd.node import Node
from meshd.node.lookup import containers_called, hosts_called

__all__ = ["Known", "Selection", "known_words", "select"]

Wanted = Callable[[SlotId, bytes], bool]  # slot that the flow points to or comes from, frame

_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD


@dataclass(slots=True, frozen=True, kw_only=True)
class Known:
    """What words of this mesh mean at the moment. A container has several names."""

    containers: Callable[[str], frozenset[bytes]]  # name, id or its beginning → MACs
    peer: Callable[[str], SlotId | None]  # name or nickname → slot


@dataclass(slots=True, frozen=True, kw_only=True)
class Selection:
    title: str  # for people: what is shown
    wanted: Sequence[Wanted]

    def takes(self, slot: SlotId, frame: bytes) -> bool:
        return all(one(slot, frame) for one in self.wanted)


def select(words: Sequence[str], known: Known) -> Selection:
    """Raises UserError for what is neither known nor a filter."""
    if not words:
        return Selection(title="all frames", wanted=())
    title, wanted = _target(words[0], known)
    rest = words if wanted is None else words[1:]
    parts = [wanted] if wanted is not None else []
    if rest:
        text = " ".join(rest)
        try:
            passes = compile_filter(text)
        except UserError as error:
            if len(words) > 1 or not words[0].replace("-", "").replace("_", "").isalnum():
                raise
            raise UserError(
                f"{words[0]!r} is no container, peer or address of this mesh, and no filter",
                hint="`meshd status macs` and `meshd status peers` list what there is; a filter is like 'tcp port 80'",
            ) from error
        parts.append(lambda _slot, frame: passes(frame))
        title = f"{title}, filter {text}" if title else f"filter {text}"
    return Selection(title=title, wanted=parts)


def known_words(node: Node) -> Known:
    """What `ping` and `trace` know, too: containers of all hosts by name, id and its beginning; hosts by name, nickname or id."""

    def containers(word: str) -> frozenset[bytes]:
        found = containers_called(word, node.directory, node.living())
        return frozenset(one.mac for one in found if one.mac is not None)

    def peer(word: str) -> SlotId | None:
        found = [one for one in hosts_called(word, node.directory, node.living()) if one.host != node.host_id]
        if len(found) > 1:
            names = ", ".join(one.text for one in found)
            raise UserError(f"{word!r} may be any of {names}", hint="give a name that only one has")
        admitted = node.peers.admit(found[0].host) if found else None
        return admitted.slot if admitted is not None else None

    return Known(containers=containers, peer=peer)


def _target(word: str, known: Known) -> tuple[str, Wanted | None]:
    if (address := _ip(word)) is not None:
        return f"address {word}", lambda _slot, frame: _has_address(frame, address)
    if macs := known.containers(word):
        return f"container {word}", _of_macs(macs)
    if (peer := known.peer(word)) is not None:
        return f"peer {word}", lambda slot, _frame: slot in (peer, FLOOD)
    if (mac := _mac(word)) is not None:  # behind the peers: their names look the same
        return f"MAC {word}", _of_macs(frozenset({mac}))
    return "", None


def _ip(word: str) -> bytes | None:
    try:
        return ipaddress.ip_address(word).packed
    except ValueError:
        return None


def _mac(word: str) -> bytes | None:
    try:
        return bytes(parse_mac(word)) if len(word) == 17 else None
    except ValueError:
        return None


def _of_macs(macs: frozenset[bytes]) -> Wanted:
    return lambda _slot, frame: frame[6:12] in macs or frame[:6] in macs


def _has_address(frame: bytes, address: bytes) -> bool:
    """Source or destination of IPv4, IPv6 or ARP; behind VLAN tags too."""
    if len(frame) < ETHERNET_SIZE:
        return False
    (kind, at), size = network_header(frame), len(address)
    places = {(_IPV4, 4): (12, 16), (_ARP, 4): (14, 24), (_IPV6, 16): (8, 24)}.get((kind, size), ())
    return any(frame[at + place : at + place + size] == address for place in places)
