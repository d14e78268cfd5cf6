"""The node: composes its parts, and hands what comes in to the part that it is for.

    control links ─ gossip ─ store ──Changed──► directory ──► fdb, addresses, topology, hosts
                                                                 │            │
    engine ◄─ void_flows, void_trees ◄───────────────────────────┴── reach ◄──┤
    engine ──upcalls──► noted ──► own records, sessions                       │
    peers: sessions and paths ──alive──► own link record                overlay: whom to link with

Times are the driver's monotonic seconds. No call blocks, and no call sends: see the package's contract.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence

from meshd.config import NodeConfig
from meshd.crypto.handshake import Context
from meshd.crypto.identity import Identity, Signer, Verifier, verify_signature
from meshd.crypto.meshkey import MeshKey
from meshd.crypto.noise import Entropy
from meshd.crypto.wire import LivenessCounter
from meshd.drops import DropCounters, DropReason
from meshd.forward.engine.interface import Engine, Upcalls
from meshd.forward.query import PathQuery, PathReport
from meshd.gossip.connector import Connector
from meshd.gossip.gossip import Gossip
from meshd.ids import Endpoint, HostId, LinkId, Mac, ShortId, format_mac, peer_label, short_id
from meshd.node.changes import Changes
from meshd.node.directory import Directory
from meshd.node.epochs import Epochs
from meshd.node.layer2 import Layer2
from meshd.node.links import OTHER_KEY_HINT, LinkTable
from meshd.node.memory import HostMemory
from meshd.node.neighbours import Neighbours
from meshd.node.notices import Notices
from meshd.node.outputs import Answered, BlockPort, Output, PersistBoot
from meshd.node.own import OwnRecords
from meshd.node.peers import PeerTable
from meshd.node.queries import Queries
from meshd.node.reach import Reach
from meshd.node.routes import Routes
from meshd.node.sightings import Sightings
from meshd.node.upcalls import EngineUpcalls
from meshd.node.view import build_view
from meshd.node.ways import way_to
from meshd.views import NodeView

__all__ = ["LATE_S", "Node"]

LATE_S = 1.0  # a timer later than this: the process or the machine stood still, and keys may have expired meanwhile
DRAIN_S = 0.05  # a link whose socket was full is asked again
ALL_PARTS_S = (
    0.01  # while records wait, everything else has its turn at least so often, and not between any two slices of them
)


class Node:
    """One host of the mesh. `boot`: persisted, raised at every start. `make_engine` is given what the engine asks.

    `remembered`: what RememberHosts stored in a former life.
    `work_clock`: seconds of work, to measure handshakes by; see `crypto.gate`.
    """

    def __init__(
        self,
        config: NodeConfig,
        identity: Identity,
        mesh: MeshKey,
        *,
        boot: int,
        targets: Collection[str],
        make_engine: Callable[[Upcalls], Engine],
        entropy: Entropy,
        rng: random.Random,
        now: float,
        signer: Signer | None = None,
        work_clock: Callable[[], float] | None = None,
        verifier: Verifier = verify_signature,
        remembered: Mapping[HostId, Sequence[Endpoint]] | None = None,
    ) -> None:
        self.config = config
        self.mesh = mesh
        self.host_id = identity.host_id
        self.touched = True
        self.drops = DropCounters()
        self.notices = Notices()
        self._liveness = LivenessCounter(boot)
        self._outputs: list[Output] = []
        self._drain_at: float | None = None
        self._all_parts_at = now
        self._between_slices = False  # of records that wait: nothing else has had its turn since the last call
        self.directory = Directory(self.host_id, self.drops)
        self.reach = Reach()
        self.routes = Routes(self.directory)
        self._memory = HostMemory(self.host_id)
        self.gossip = Gossip(
            public=identity.ed25519_public,
            mesh_id=mesh.mesh_id,
            epoch=boot,
            signer=signer or identity.sign,
            verifier=verifier,
            rng=rng,
            drops=self.drops,
            now=now,
        )
        self._epochs = Epochs(lambda: self.gossip.store.own.epoch, self.notices)
        self.own = OwnRecords(config=config, identity=identity, gossip=self.gossip, directory=self.directory, rng=rng)
        self.peers = PeerTable(
            config=config,
            identity=identity,
            mesh=mesh,
            entropy=entropy,
            rng=rng,
            liveness=self._liveness,
            verifier=verifier,
            lookup=self.directory.host_of_static,
            host_of=self.directory.host_of_short,
            route=self.routes.way_around,
            events=self,
            drops=self.drops,
            work_clock=work_clock,
        )
        self.routes.peers = self.peers
        self.links = LinkTable(
            context=Context(identity, mesh, entropy, verifier),
            entropy=entropy,
            rng=rng,
            liveness=self._liveness,
            connector=Connector(me=self.host_id, rng=rng, discovery=config.discovery, default_port=config.port),
            gossip=self.gossip,
            directory=self.directory,
            drops=self.drops,
            rekey_s=config.rekey_interval_s,
        )
        self.neighbours = Neighbours(
            config=config,
            self_id=self.host_id,
            links=self.links,
            peers=self.peers,
            directory=self.directory,
            own=self.own,
            rng=rng,
            left=self.said_bye,
        )
        self._changes = Changes(
            self_id=self.host_id,
            gossip=self.gossip,
            directory=self.directory,
            reach=self.reach,
            peers=self.peers,
            neighbours=self.neighbours,
            memory=self._memory,
            notices=self.notices,
            touch=self._touch,
            own_log_ahead=self._epochs.ahead,
        )
        self.layer2 = Layer2(
            self_id=self.host_id,
            directory=self.directory,
            own=self.own,
            peers=self.peers,
            drops=self.drops,
            mesh_key=mesh.key,
            boot=boot,
            now=now,
        )
        upcalls = EngineUpcalls(
            self_id=self.host_id,
            peers=self.peers,
            fdb=self.directory.fdb,
            children=self._flood_children,
            layer2=self.layer2,
            next_hop=self.routes.next_hop,
            drops=self.drops,
        )
        self._upcalls = upcalls
        self.queries = Queries(self.peers.send, self.peers.seek, self.way_to, self.drops)
        self.engine = make_engine(upcalls)
        self._changes.bind(self.engine)
        self._sightings = Sightings(
            self_id=self.host_id,
            fdb=self.directory.fdb,
            own=self.own,
            changes=self._changes,
            notices=self.notices,
            engine=self.engine,
            now=now,
        )
        self.peers.bind(self.engine)
        own = frozenset(Endpoint(address, config.port) for address in config.own_addresses)
        self.links.connector.set_own_endpoints(own)
        self.links.connector.connect(list(targets), now)
        self.links.connector.remember(remembered or {}, now)
        self.own.publish_host(now)

    # ── names

    @property
    def name(self) -> str:
        return format_mac(self.config.name)

    @property
    def nickname(self) -> str:
        return self.config.nickname

    @property
    def label(self) -> str:
        return peer_label(self.name, self.nickname)

    # ── commands

    def targets(self) -> tuple[str, ...]:
        return self.links.connector.targets

    def connect(self, peers: Collection[str], *, replace: bool, now: float) -> None:
        """Raises UserError for what can be no peer, and changes nothing then."""
        self.links.connector.connect(list(peers), now, replace=replace)
        self.touched = True

    def forget(self, peers: Collection[str], now: float) -> None:
        """Stop dialling these; what is no target is none already."""
        self.links.connector.forget([peer for peer in peers if peer in self.targets()])
        self.touched = True

    def attach(self, attachment_id: str, *, label: str, mac: Mac, addresses: tuple[str, ...], now: float) -> None:
        """Raises UserError when this host announces too much already."""
        self._changes.void(self.own.attach(attachment_id, label, mac, addresses, now))
        self.layer2.attached(now)

    def detach(self, attachment_id: str, now: float) -> None:
        self._changes.void(self.own.detach(attachment_id, now))

    def ask(self, host: HostId, destination: ShortId, now: float) -> int | None:
        """Ask a host how it reaches another (or whether it is there, where both are the same); an `Answered` with this token
        follows. None when too many questions are under way."""
        self.touched = True
        return self.queries.ask(host, destination, now)

    def way_to(self, destination: ShortId, token: int = 0) -> PathReport:
        """How this host would answer such a question."""
        return way_to(token, destination, self.host_id, self.directory, self.peers, self.routes)

    def leave(self, now: float) -> None:
        """Say goodbye to everybody."""
        self.peers.leave()
        self.links.close_all(now)
        self.touched = True

    def boot_raised(self, boot: int, now: float) -> None:
        """The answer to PersistBoot: this boot counter is on disk."""
        self._liveness.raise_boot(boot)
        self.gossip.raise_epoch(boot, now)
        self.engine.raise_boot(boot)
        self.touched = True

    # ── what the driver reports

    def link_accepted(self, source: Endpoint, now: float) -> LinkId:
        self.touched = True
        return self.links.accepted(source, now)

    def link_connected(self, link: LinkId, now: float) -> None:
        self.touched = True
        self.links.connected(link, now)

    def link_failed(self, link: LinkId, error: str, now: float) -> None:
        self.touched = True
        self.links.failed(link, error, now)

    def receive_link(self, link: LinkId, data: bytes, now: float) -> None:
        self.touched = True
        self.links.received(link, data, now)
        self._changes.take(now)

    def link_lost(self, link: LinkId, error: str, now: float) -> None:
        self.touched = True
        self.links.lost(link, error, now)

    def link_refused(self) -> None:
        """The driver closed a connection at once, over its limits."""
        self.drops.add(DropReason.LINK_LIMIT)

    def resolved(self, target: str, addresses: tuple[str, ...], error: str, now: float) -> None:
        self.touched = True
        self.links.resolved(target, addresses, error, now)

    @property
    def acquainted(self) -> tuple[str, ...]:
        """Addresses of members; the same object as long as there is none more."""
        return self.peers.sessions.acquainted

    def receive_handshakes(self, data: bytes, size: int, source: Endpoint, lost: int, now: float) -> None:
        """Datagrams of this size from one source that came apart from the engine's; `lost`: how many more the kernel dropped."""
        for at in range(0, len(data), size):
            self._upcalls.receive_handshake(memoryview(data)[at : at + size], source, now)
        self.drops.add(DropReason.RATE_LIMITED, lost)

    # ── time

    @property
    def noted(self) -> bool:
        """The engine asked or was told something since the last `handle_timer`."""
        return bool(self._upcalls.noted)

    def next_deadline(self, now: float) -> float:
        if self.gossip.busy:
            return now
        deadlines = (
            now if self._upcalls.noted else None,
            self.peers.next_deadline(),
            self.links.next_deadline(),
            self.gossip.next_deadline(now),
            self._changes.next_deadline(),
            self._epochs.next_deadline(),
            self._memory.next_deadline(),
            self.queries.next_deadline(),
            self.layer2.next_deadline(now),
            self.own.edges.next_deadline(),
            self._sightings.next_deadline(),
            self._drain_at,
        )
        return min(when for when in deadlines if when is not None)

    def handle_timer(self, now: float) -> None:
        self.touched = True
        self._between_slices = self.gossip.busy and now < self._all_parts_at and not self._upcalls.noted
        if self._between_slices:
            self._take_records(now)
            return
        self._all_parts_at = now + ALL_PARTS_S
        noted = self._upcalls.take_noted()
        for index in noted.confirmed:
            self.peers.sessions.confirm(index, now)
        self.peers.carry_out(now)  # a probe that came under a new key is answered under it
        for peer, message, index, source, newest, heard_at in noted.controls:
            self.peers.take_control(peer, message, index, source, heard_at, newest=newest)
        for host in noted.wanted:
            self.peers.seek(host, now)
        for segment, mac in noted.sights:
            self._sightings.captured(segment, mac, now)
        self.peers.handle_timer(now)
        self.links.handle_timer(now)
        edges_due = self.own.edges.next_deadline()
        if edges_due is not None and now >= edges_due:
            self.own.publish_links(self.peers.alive(), now)
        self._take_records(now)
        self._changes.handle_timer(now)
        self.queries.handle_timer(now)
        self._outputs += map(Answered, self.queries.take_answers())
        for frame in self.layer2.handle_timer(now):
            self.engine.send_frame(frame)
        self._outputs += [BlockPort(mac) for mac in self.layer2.take_loops().values()]
        if (boot := self._epochs.poll(now)) is not None:
            self._outputs.append(PersistBoot(boot))
        if (remember := self._memory.poll(self.directory.hosts, now)) is not None:
            self._outputs.append(remember)
        self._sightings.handle_timer(now)

    def poll_transmit(self, now: float, buffered: Callable[[LinkId], int]) -> list[Output]:
        """Everything to be done now. `buffered`: bytes that wait in a link's socket, so that a slow one merges what waits.

        Nothing between two slices of records: what is passed on of them goes out together.
        """
        self.touched = False
        if self._between_slices and self.gossip.busy:
            return []
        outputs = [*self._outputs, *self.links.poll(now, buffered)]
        self._outputs.clear()
        self._drain_at = now + DRAIN_S if self.gossip.waiting else None
        return outputs

    def living(self) -> frozenset[HostId]:
        """This host and all that are alive."""
        return self.reach.alive | {self.host_id}

    # ── from the engine

    def _flood_children(self, origin: ShortId) -> Collection[HostId] | None:
        """The tree's, and for our own floods hosts whose path lives before both link records say so: nobody else reaches them."""
        children = self.directory.flood_children(origin)
        if children is None or origin != short_id(self.host_id):
            return children
        in_tree = self.directory.topology.reachable()
        return [*children, *(host for host in self.peers.alive() if short_id(host) not in in_tree)]

    # ── from the peers (PeerEvents)

    def paths_changed(self, now: float) -> None:
        reached = self.peers.reached()
        for host in self.directory.hosts:
            self.links.connector.path_alive(host, host in reached, now)
        self.own.publish_links(self.peers.alive(), now)
        self._changes.take(now)
        self._changes.reroute(now)

    def said_bye(self, host: HostId, now: float) -> None:
        self._changes.left(host, now)

    def asked(self, host: HostId, query: PathQuery, now: float) -> None:
        self.queries.on_query(host, query, now)

    def reported(self, host: HostId, report: PathReport, now: float) -> None:
        self.queries.on_report(host, report, now)

    def identified(self, host: HostId, endpoint: Endpoint, now: float) -> None:
        if not self.links.linked(host):
            text = f"{endpoint} answers on UDP, but not on TCP port {endpoint.port}: open it for control links"
            self.notices.add(text, now)

    def stranger(self, source: Endpoint, now: float) -> None:
        self.notices.add(f"{source.host} tried with another mesh key; {OTHER_KEY_HINT}", now)

    # ── from gossip

    def _take_records(self, now: float) -> None:
        self.gossip.handle_timer(now)
        self._changes.take(now)

    def _touch(self) -> None:
        self.touched = True

    # ── what is shown

    def view(self, now: float) -> NodeView:
        return build_view(self, now)
