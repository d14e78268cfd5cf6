"""Whole meshes for the simulations: hosts with a container each, what "one mesh" means, and traffic that is counted.

mesh = Mesh(seed=1, hosts=3)          # a, b, c …; all but the first have the first as their only target
mesh.start()
mesh.wait(mesh.meshed, 1.0)           # fails, and says how things stand, if it takes longer (virtual seconds)
mesh.assert_unicast()                 # every container answers every other one
mesh.assert_floods()                  # a broadcast of each reaches every other one exactly once
mesh.assert_sane()                    # nobody dropped anything for a reason that only a bug explains
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from meshd.crypto.identity import Identity, Signer, verify_signature
from meshd.crypto.meshkey import MeshKey
from meshd.drops import DropReason
from meshd.ids import HostId, Mac, SegmentId, format_mac
from meshd.node import Node
from meshd.testing.conditions import LinkConditions
from meshd.testing.host import SimContainer, SimHost
from meshd.testing.network import SimNetwork

__all__ = ["BROADCAST", "BUGS", "GOOD", "SEGMENT", "FakeSignatures", "Mesh", "mesh_key"]

BROADCAST = Mac(b"\xff" * 6)
SEGMENT = SegmentId(0)
GOOD = LinkConditions()

# Reasons that nothing in an honest mesh explains, however bad the network is (which flips no bits).
BUGS = frozenset(
    {
        DropReason.TRUNCATED,
        DropReason.BAD_LENGTH,
        DropReason.UNKNOWN_VERSION,
        DropReason.UNKNOWN_TYPE,
        DropReason.UNKNOWN_SEGMENT,
        DropReason.BAD_TAG,
        DropReason.BAD_ENTRY,
        DropReason.BAD_CONTROL,
        DropReason.BAD_FRAME,
        DropReason.BAD_CHECKSUM,
        DropReason.SOURCE_MULTICAST,
        DropReason.LINK_LOCAL_CONTROL,
        DropReason.UPCALL_OVERLOAD,
        DropReason.TABLE_FULL,
        DropReason.TOO_BIG,
        DropReason.SEND_FAILED,
        DropReason.TAP_DOWN,
        DropReason.FLOOD_TTL,
        DropReason.BAD_RECORD,
        DropReason.BAD_SIGNATURE,
        DropReason.RECORD_QUOTA,
        DropReason.BAD_FRAGMENT,
    }
)


def mesh_key(seed: int) -> MeshKey:
    return MeshKey.generate(random.Random(f"mesh key {seed}").randbytes)


class FakeSignatures:
    """A signer and a verifier that cost next to nothing and count; anybody could forge them. Real signatures verify, too.

    For meshes above 20 hosts: with real ones a simulation would be about Ed25519.
    """

    def __init__(self) -> None:
        self.signed = self.verified = 0

    def signer(self, identity: Identity) -> Signer:
        public = identity.ed25519_public

        def sign(message: bytes) -> bytes:
            self.signed += 1
            return self._fake(public, message)

        return sign

    def verify(self, public: bytes, signature: bytes, message: bytes) -> bool:
        self.verified += 1
        return signature == self._fake(public, message) or verify_signature(public, signature, message)

    @staticmethod
    def _fake(public: bytes, message: bytes) -> bytes:
        return hashlib.blake2b(message, key=public).digest()


class Mesh:
    """`boxes`: one container of each host, in the order of the hosts."""

    def __init__(
        self,
        *,
        seed: int,
        hosts: int,
        conditions: LinkConditions = GOOD,
        discovery: bool = True,
        rekey_s: float = 120.0,
        targets: Callable[[int], Collection[str]] | None = None,
        keys: Callable[[int], MeshKey] | None = None,
        signatures: FakeSignatures | None = None,
        also: Callable[[int], Collection[str]] = lambda number: (),
    ) -> None:
        self.seed = seed
        self.net = SimNetwork(seed, default=conditions)
        self.rng = random.Random(f"mesh {seed}")
        self._signatures = signatures
        self._rekey_s = rekey_s
        self._discovery = discovery
        self._also = also
        self._payloads = itertools.count(1)
        self.hosts: list[SimHost] = []
        self.boxes: list[SimContainer] = []
        for number in range(hosts):
            chosen = targets(number) if targets is not None else [self.address(0)] if number else []
            self.add(chosen, keys(number) if keys is not None else mesh_key(seed))

    @staticmethod
    def address(number: int) -> str:
        return f"10.0.0.{number + 1}"

    def add(self, targets: Collection[str], key: MeshKey) -> SimHost:
        number = len(self.hosts)
        fakes = self._signatures
        host = SimHost(
            self.net,
            f"h{number}",
            self.address(number),
            key,
            also=self._also(number),
            targets=targets,
            discovery=self._discovery,
            rekey_s=self._rekey_s,
            signer=fakes.signer if fakes is not None else None,
            verifier=fakes.verify if fakes is not None else verify_signature,
        )
        self.hosts.append(host)
        self.boxes.append(host.attach(f"box{number}", addresses=(f"10.1.0.{number + 1}/24",)))
        return host

    # ── time

    @property
    def clock_now(self) -> float:
        return self.net.clock.now

    def start(self, hosts: Iterable[SimHost] | None = None) -> None:
        for host in self.hosts if hosts is None else hosts:
            host.start()

    def run(self, seconds: float) -> None:
        self.net.clock.run_for(seconds)

    def wait(self, condition: Callable[[], bool], timeout: float, *, every: float = 0.01) -> float:
        """Run until the condition holds; returns the virtual seconds that took, to within `every`."""
        start = self.net.clock.now
        while not condition():
            passed = self.net.clock.now - start
            assert passed < timeout, f"seed {self.seed}: not within {timeout} s\n{self.describe()}"
            self.net.clock.run_for(min(every, timeout - passed) or every)
        return self.net.clock.now - start

    # ── what holds

    @property
    def up(self) -> list[SimHost]:
        return [host for host in self.hosts if host.running]

    def ids(self, hosts: Iterable[SimHost] | None = None) -> set[HostId]:
        return {host.host_id for host in (self.up if hosts is None else hosts)}

    def agreed(self, hosts: Iterable[SimHost] | None = None) -> bool:
        """All (these) hosts hold the same records."""
        chosen = self.up if hosts is None else list(hosts)
        return len({host.node.gossip.store.root_hash() for host in chosen}) == 1

    def reachable(self, hosts: Iterable[SimHost] | None = None) -> bool:
        """Each of these takes exactly these for alive."""
        chosen = self.up if hosts is None else list(hosts)
        ids = self.ids(chosen)
        return all(host.node.reach.alive | {host.host_id} == ids for host in chosen)

    def fully_linked(self, hosts: Iterable[SimHost] | None = None) -> bool:
        """Everybody has a control link and a living path with everybody."""
        chosen = self.up if hosts is None else list(hosts)
        ids = self.ids(chosen)
        return all(
            host.node.links.linked_hosts() == ids - {host.host_id}
            and set(host.node.peers.alive()) == ids - {host.host_id}
            for host in chosen
        )

    def meshed(self, hosts: Iterable[SimHost] | None = None) -> bool:
        chosen = self.up if hosts is None else list(hosts)
        return self.fully_linked(chosen) and self.reachable(chosen) and self.agreed(chosen)

    def quiet(self) -> bool:
        """As `meshed`, for meshes of any size: one graph, one set of records, one view of who has which container."""
        return self.reachable() and self.agreed() and self.owners_right()

    def containers(self, hosts: Iterable[SimHost] | None = None) -> list[SimContainer]:
        return [box for host in (self.up if hosts is None else hosts) for box in host.containers]

    def owners_right(self, hosts: Iterable[SimHost] | None = None) -> bool:
        """Each of these hosts knows the containers of these hosts under their hosts, and no other MAC."""
        chosen = self.up if hosts is None else list(hosts)
        expected = {box.mac: box.host.host_id for box in self.containers(chosen) if box.host is not None}
        return all({view.mac: view.owner for view in host.node.directory.fdb.views()} == expected for host in chosen)

    def owner(self, host: SimHost, box: SimContainer) -> HostId | None:
        return host.node.directory.fdb.lookup(SEGMENT, box.mac)

    # ── traffic

    def payload(self) -> bytes:
        """One that no other frame has."""
        return b"%08d" % next(self._payloads)

    def ask(self, one: SimContainer, other: SimContainer, timeout: float = 1.0) -> float:
        """A frame there and one back, each delivered once; returns the seconds that took."""
        there, back = self.payload(), self.payload()
        start = self.clock_now
        one.send(other.mac, there)
        self.wait(lambda: there in other.payloads(), timeout, every=0.001)
        other.send(one.mac, back)
        self.wait(lambda: back in one.payloads(), timeout, every=0.001)
        assert other.payloads().count(there) == one.payloads().count(back) == 1
        return self.clock_now - start

    def assert_unicast(self, boxes: Collection[SimContainer] | None = None, timeout: float = 1.0) -> None:
        """All pairs at once, both ways; every frame comes exactly once and to nobody else."""
        chosen, before = list(self.containers() if boxes is None else boxes), self._received()
        sent: dict[tuple[int, int], bytes] = {}
        for i, j in itertools.permutations(range(len(chosen)), 2):
            sent[i, j] = self.payload()
            chosen[i].send(chosen[j].mac, sent[i, j])
        self._expect([(chosen[j], payload) for (_, j), payload in sent.items()], before, timeout)

    def assert_floods(self, boxes: Collection[SimContainer] | None = None, timeout: float = 1.0) -> None:
        chosen, before = list(self.containers() if boxes is None else boxes), self._received()
        expected = []
        for box in chosen:
            payload = self.payload()
            box.send(BROADCAST, payload)
            expected += [(other, payload) for other in chosen if other is not box]
        self._expect(expected, before, timeout)

    def _received(self) -> Counter[tuple[str, bytes]]:
        return Counter((box.name, payload) for box in self.containers(self.hosts) for payload in box.payloads())

    def _expect(
        self, expected: list[tuple[SimContainer, bytes]], before: Counter[tuple[str, bytes]], timeout: float
    ) -> None:
        """These payloads arrive there, once each, and nowhere else."""
        wanted = Counter((box.name, payload) for box, payload in expected)
        self.wait(lambda: not wanted - (self._received() - before), timeout)
        assert self._received() - before == wanted, f"seed {self.seed}: more frames than were sent"

    # ── drops

    def drops(self, host: SimHost) -> dict[DropReason, int]:
        return dict(Counter(dict(host.node.drops.items())) + Counter(dict(host.engine.drops.items())))

    def all_drops(self) -> dict[DropReason, int]:
        total: Counter[DropReason] = Counter()
        for host in self.hosts:
            if hasattr(host, "node"):
                total.update(self.drops(host))
        return dict(total)

    def assert_sane(self) -> None:
        found = {reason.name: count for reason, count in self.all_drops().items() if reason in BUGS}
        assert not found, f"seed {self.seed}: {found}"

    # ── when it fails

    def describe(self) -> str:
        return "\n".join(_describe(host.node, host.name, self.clock_now) for host in self.up)


def _describe(node: Node, name: str, now: float) -> str:
    view = node.view(now)
    paths = ", ".join(f"{path.nickname} {path.state}" for path in view.paths)
    links = ", ".join(f"{row.nickname or row.address} {row.state} {row.info.strip()}" for row in view.connections)
    macs = ", ".join(f"{row.mac[-5:]}@{row.nickname}" for row in view.macs)
    alive = ", ".join(format_mac(host[:6]) for host in sorted(node.reach.alive))
    return (
        f"{name} root {view.gossip.root_hash} records {view.gossip.records} epoch {view.gossip.epoch}\n"
        f"  paths {paths}\n  links {links}\n  macs {macs}\n  alive {alive}\n  drops {view.drops}"
    )
