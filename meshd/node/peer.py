"""One other host as the data plane sees it: what is known of it, and what its slot in the engine has."""

from __future__ import annotations

from dataclasses import dataclass, field

from meshd.forward.path import PathMonitor
from meshd.forward.paths import PathKind, PeerPaths
from meshd.forward.pmtu import PathSizes, Pmtu
from meshd.ids import Address, Endpoint, HostId, Relayed, ShortId, SlotId, short_id
from meshd.node.hops import Avoided, Turns

__all__ = ["Peer"]


@dataclass(slots=True)
class Peer:
    """`via`: the neighbour through which it is reached while its path is a relay's; `avoided`: those that led nowhere."""

    host: HostId
    slot: SlotId
    paths: PeerPaths = field(default_factory=PeerPaths)
    pmtu: Pmtu = field(default_factory=Pmtu)
    static: bytes = b""
    endpoints: tuple[Endpoint, ...] = ()  # of its record
    observed: Endpoint | None = None  # where its control link came from, with its port
    keep: bool = False  # a neighbour: a session and a live path are kept
    path: Address | None = None  # what the slot has
    via: HostId | None = None
    avoided: Avoided = field(default_factory=Avoided)
    turns: Turns = field(default_factory=Turns)  # of handshakes and answers, while no next hop is known to lead there
    sizes: PathSizes | None = None  # what the slot has
    session_since: float | None = None
    asleep_until: float = 0.0  # after a handshake was given up
    failure: str = ""  # why there is no session, for status
    told: tuple[bool, int, bool, HostId | None] = (False, 0, False, None)  # see `news`
    frames_seen: int = 0  # at the last look for idle sessions
    idle_looks: int = 0

    @property
    def short(self) -> ShortId:
        return short_id(self.host)

    @property
    def relayed(self) -> Relayed:
        return Relayed(self.short)

    @property
    def monitor(self) -> PathMonitor:
        """Of the path in use, or of the direct one."""
        return self.paths.in_use

    @property
    def direct(self) -> bool:
        """There is a living direct path, and it is in use: an edge of the mesh."""
        return self.paths.kind is PathKind.DIRECT and self.paths.direct_lives

    def news(self) -> bool:
        """Whether anything that others are told of, or use, is other than at the last call."""
        now = self.direct, self.paths.direct.cost if self.direct else 0, self.paths.lives, self.via
        if now == self.told:
            return False
        self.told = now
        return True

    def candidates(self) -> tuple[Endpoint, ...]:
        first = (self.observed,) if self.observed is not None else ()
        return tuple(dict.fromkeys(first + self.endpoints))
