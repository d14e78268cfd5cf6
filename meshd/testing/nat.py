"""A NAT of the simulated network, for UDP: hosts inside are seen from outside at one address and at ports of the NAT's choice.

Port restricted (RFC 4787: address and port dependent filtering): in comes only what answers, to the port that it answers. One
mapping for each inside endpoint, whatever it sends to. `rebind` forgets the mappings, as a NAT does that was restarted, or
whose timer ran out: the next datagram from inside gets another port.

    nat = Nat("192.0.2.7", ["10.0.0.1"])
    net.nats.append(nat)

TCP is not translated.
"""

from __future__ import annotations

from collections.abc import Collection

from meshd.ids import Endpoint

__all__ = ["FIRST_PORT", "Nat"]

FIRST_PORT = 40_000


class Nat:
    def __init__(self, address: str, inside: Collection[str]) -> None:
        self.address = address
        self.inside = frozenset(inside)
        self._next_port = FIRST_PORT
        self._outside: dict[Endpoint, Endpoint] = {}  # inside → outside
        self._asked: set[tuple[Endpoint, Endpoint]] = set()  # outside, whom something was sent to

    def rebind(self) -> None:
        self._outside.clear()
        self._asked.clear()

    def outside(self, inside: Endpoint) -> Endpoint | None:
        """Where this endpoint is seen now."""
        return self._outside.get(inside)

    def translate(self, source: Endpoint, destination: Endpoint) -> tuple[Endpoint, Endpoint] | None:
        """The ends as they are behind the NAT; None: it does not pass."""
        if source.host in self.inside:
            if destination.host in self.inside:
                return source, destination
            outside = self._outside.get(source)
            if outside is None:
                outside = self._outside[source] = Endpoint(self.address, self._next_port)
                self._next_port += 1
            self._asked.add((outside, destination))
            return outside, destination
        if destination.host in self.inside:
            return None
        if destination.host != self.address:
            return source, destination
        for inside, outside in self._outside.items():
            if outside == destination and (outside, source) in self._asked:
                return source, inside
        return None
