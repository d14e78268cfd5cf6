"""What changes, to those that it concerns: from records and paths to flows, trees, the overlay, and who is alive.

    gossip ──Changed──► directory ──► MACs' owners ──► the engine's flows
                                  ──► groups ────────► the engine's groups
                                  ──► hosts ─────────► peers, memory, neighbours
                                  ──► topology ──┐
    paths, one's own lost edges ─────────────────┴──► trees, routes, reach ──► what dead hosts have is hidden

Only what lies between two parts is here: each of them knows by itself what to do with what it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from meshd.forward.engine.interface import Engine
from meshd.gossip.gossip import Gossip
from meshd.gossip.store import Changed, NoRoom, OwnLogAhead
from meshd.ids import HostId, Mac, format_mac
from meshd.node.directory import Directory
from meshd.node.memory import HostMemory
from meshd.node.neighbours import Neighbours
from meshd.node.notices import Notices
from meshd.node.peers import PeerTable
from meshd.node.reach import Reach

__all__ = ["MAX_VOIDED_SINGLY", "REROUTE_S", "Changes"]

REROUTE_S = 0.1  # at most so often after a change far away; one's own lost edge counts at once
GOODBYE_S = 2.0  # so often it is looked whether a host that said goodbye is back
# MACs, some 2 µs each; a larger change voids all flows at once. Then whoever has many others' flows loses frames for seconds:
# verdicts are given 1000 a second for each peer.
MAX_VOIDED_SINGLY = 512
NO_ROOM = (
    "no room for a further host: its records are refused. Those of hosts that are gone stay in the mesh "
    "until all its routers were stopped at the same time"
)


class Changes:
    """`touch`: there may be something to send. `own_log_ahead`: others have records of ours of this epoch."""

    def __init__(
        self,
        *,
        self_id: HostId,
        gossip: Gossip,
        directory: Directory,
        reach: Reach,
        peers: PeerTable,
        neighbours: Neighbours,
        memory: HostMemory,
        notices: Notices,
        touch: Callable[[], None],
        own_log_ahead: Callable[[int], None],
    ) -> None:
        self._self = self_id
        self._gossip = gossip
        self._directory = directory
        self._reach = reach
        self._peers = peers
        self._neighbours = neighbours
        self._memory = memory
        self._notices = notices
        self._touch = touch
        self._own_log_ahead = own_log_ahead
        self._reroute_at: float | None = None
        self._goodbyes: dict[HostId, int] = {}  # who said it, in which epoch; as long as edges still lead there
        self._engine: Engine

    def bind(self, engine: Engine) -> None:
        self._engine = engine

    # ── time

    def next_deadline(self) -> float | None:
        deadlines = [when for when in (self._reroute_at, self._reach.next_deadline()) if when is not None]
        return min(deadlines, default=None)

    def handle_timer(self, now: float) -> None:
        if self._reroute_at is not None and now >= self._reroute_at:
            self.reroute(now)
        if self._reach.handle_timer(now):
            self._alive_changed()

    # ── records

    def take(self, now: float) -> None:
        """What gossip has merged since the last call."""
        hosts_changed = False
        owners: dict[Mac, None] = {}
        while (event := self._gossip.next_event()) is not None:
            match event:
                case OwnLogAhead(epoch=epoch):
                    self._own_log_ahead(epoch)
                case NoRoom():
                    self._notices.add(NO_ROOM, now)
                case Changed():
                    applied = self._directory.apply(event, now)
                    owners.update(dict.fromkeys(applied.owners))
                    if applied.groups:
                        self._engine.void_groups()
                    if applied.topology:
                        self._reroute_by(now + REROUTE_S)
                    if applied.host is not None and applied.host != self._self:
                        self._host_changed(applied.host, now)
                        hosts_changed = True
        self.void(owners)
        self.take_alarms(now)
        if hosts_changed:
            self._memory.changed(now)
            self._neighbours.choose(now)

    def _host_changed(self, host: HostId, now: float) -> None:
        record = self._directory.hosts.get(host)
        if record is not None:
            self._peers.host_known(host, record.x25519, record.endpoints, now)
            self._neighbours.observe(host, now)

    # ── flows

    def void(self, macs: Collection[Mac]) -> None:
        """These MACs are elsewhere now, or hidden, or back."""
        self._touch()
        if len(macs) > MAX_VOIDED_SINGLY:
            self._engine.void_flows(None)
            return
        for mac in macs:
            self._engine.void_flows(mac)

    def take_alarms(self, now: float) -> None:
        """Not who keeps it: claims that cross may still decide that."""
        while (event := self._directory.fdb.next_event()) is not None:
            if event.frozen:
                text = f"MAC {format_mac(event.mac)} moved too often and is frozen; `meshd status macs` says where it stays"
                self._notices.add(text, now)
            self.void([event.mac])

    # ── topology

    def _reroute_by(self, when: float) -> None:
        self._reroute_at = when if self._reroute_at is None else min(when, self._reroute_at)

    def reroute(self, now: float) -> None:
        self._reroute_at = None
        self._engine.void_trees()
        self._engine.void_routes()
        directory = self._directory
        reachable = {host for short in directory.topology.reachable() if (host := directory.host_of_short(short))}
        direct = self._peers.alive().keys()
        # Its own record, and those of hosts that have not heard the goodbye yet, list the edges still.
        stale = reachable - direct
        said = self._goodbyes.items()
        self._goodbyes = {host: epoch for host, epoch in said if host in stale and epoch == self._epoch(host)}
        if self._goodbyes:
            self._reroute_by(now + GOODBYE_S)  # a life that says the same as the one before it changes no edge
        reachable -= self._goodbyes.keys()
        reachable |= direct  # a path that lives both ways needs no record to say so
        if self._reach.update(reachable, len(directory.hosts), now):
            self._alive_changed()
        self._peers.rerouted(now)

    def left(self, host: HostId, now: float) -> None:
        """The host said goodbye."""
        self._goodbyes[host] = self._epoch(host)
        self._reroute_by(now + GOODBYE_S)
        if self._reach.gone(host):
            self._alive_changed()

    def _epoch(self, host: HostId) -> int:
        """Which of its lives is known here."""
        log = self._gossip.store.logs.get(host)
        return log.epoch if log is not None else 0

    def _alive_changed(self) -> None:
        """What dead hosts have attached is hidden, what is alive again is back."""
        alive = self._reach.alive
        self.void([key.mac for key in self._directory.fdb.set_reachable(alive)])
        if self._directory.groups.set_reachable(alive - {self._self}):
            self._engine.void_groups()
        self._directory.addresses.set_reachable(alive)
