"""The underlay's state: what each link does to packets, and who can reach whom at all.

A link is an ordered pair of hosts, so both directions may differ. `set_link` and `cut` name one direction, `set_pair` both. A
partition is a list of groups of hosts: packets pass only within a group; hosts that no group names form one more. Cuts and
partitions are apart from the conditions: healing brings back the link as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["LOOPBACK", "REORDER_HOLD", "LinkConditions", "Topology"]

REORDER_HOLD = 0.005  # seconds that a datagram stays behind those sent after it


@dataclass(slots=True, frozen=True, kw_only=True)
class LinkConditions:
    """One direction. Probabilities are 0.0 to 1.0, per datagram; TCP knows loss only, as delay. Times in seconds."""

    delay: float = 0.001
    jitter: float = 0.0  # up to so much more, each datagram by itself: this reorders
    reorder: float = 0.0  # probability of being held back for REORDER_HOLD
    loss: float = 0.0
    duplicate: float = 0.0
    flip: float = 0.0  # probability that one bit arrives flipped (as if the checksum had missed it)
    mtu: int = 1500  # IP packet; what is larger vanishes, as in a path whose ICMP is filtered


LOOPBACK = LinkConditions(delay=0.000_02, mtu=65_536)


class Topology:
    """Conditions, cuts and the partition, by host name."""

    def __init__(self, default: LinkConditions) -> None:
        self.default = default
        self._links: dict[tuple[str, str], LinkConditions] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._group: dict[str, int] = {}

    def set_link(self, source: str, destination: str, conditions: LinkConditions) -> None:
        self._links[source, destination] = conditions

    def set_pair(self, one: str, other: str, conditions: LinkConditions) -> None:
        self.set_link(one, other, conditions)
        self.set_link(other, one, conditions)

    def conditions(self, source: str, destination: str) -> LinkConditions:
        return LOOPBACK if source == destination else self._links.get((source, destination), self.default)

    def cut(self, source: str, destination: str) -> None:
        """Nothing passes in this direction; what is on its way still arrives."""
        self._cuts.add((source, destination))

    def cut_pair(self, one: str, other: str) -> None:
        self.cut(one, other)
        self.cut(other, one)

    def isolate(self, host: str, others: Iterable[str]) -> None:
        """The host loses the network without noticing: as if its cable were pulled."""
        for other in others:
            if other != host:
                self.cut_pair(host, other)

    def partition(self, *groups: Iterable[str]) -> None:
        """Replace the partition; without groups there is none."""
        self._group = {host: number for number, group in enumerate(groups, 1) for host in group}

    def mend(self, one: str, other: str) -> None:
        """End the cuts between these two."""
        self._cuts -= {(one, other), (other, one)}

    def heal(self) -> None:
        """End all cuts and the partition; the conditions stay."""
        self._cuts.clear()
        self._group.clear()

    def passes(self, source: str, destination: str) -> bool:
        """Whether anything sent now in this direction can arrive."""
        if source == destination:
            return True
        same = self._group.get(source, 0) == self._group.get(destination, 0)
        return same and (source, destination) not in self._cuts
