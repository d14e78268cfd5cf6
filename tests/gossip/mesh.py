"""Two and more real Gossip objects over a fake link that can lose, hold back and be cut; time is a number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from random import Random

from meshd.crypto.identity import Signer, Verifier
from meshd.drops import DropCounters
from meshd.gossip.gossip import Gossip
from meshd.gossip.messages import Message, decode_message, encode_message
from meshd.gossip.store import Changed, OwnLogAhead
from meshd.ids import HostId, LinkId

MESH_ID = b"m" * 16


def public_of(name: str) -> bytes:
    return hashlib.blake2s(name.encode()).digest()


def fake_signer(public: bytes) -> Signer:
    """A keyed hash under the public key: anyone could forge it, but a flipped bit or another origin does not verify."""
    return lambda message: hashlib.blake2b(message, key=public).digest()


def fake_verify(public: bytes, signature: bytes, message: bytes) -> bool:
    return hashlib.blake2b(message, key=public).digest() == signature


class CountingVerifier:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, public: bytes, signature: bytes, message: bytes) -> bool:
        self.count += 1
        return fake_verify(public, signature, message)


def make_gossip(
    name: str,
    *,
    epoch: int = 1,
    verifier: Verifier = fake_verify,
    seed: int = 0,
    now: float = 0.0,
    slice_size: int = 16,
    floor_age: float = 600.0,
    floor_tombstones: int = 256,
) -> Gossip:
    public = public_of(name)
    return Gossip(
        public=public,
        mesh_id=MESH_ID,
        epoch=epoch,
        signer=fake_signer(public),
        verifier=verifier,
        rng=Random(f"{name}{seed}"),
        drops=DropCounters(),
        now=now,
        slice_size=slice_size,
        floor_age=floor_age,
        floor_tombstones=floor_tombstones,
    )


class Mesh:
    """Hosts by name; links are pairs of names. Every message passes its codec. `loss`: share of messages that vanish."""

    def __init__(self, names: Iterable[str], *, seed: int = 1, loss: float = 0.0, **options: float) -> None:
        self.now = 0.0
        self.rng = Random(seed)
        self.loss = loss
        self.options = options
        self.hosts: dict[str, Gossip] = {}
        self.links: dict[tuple[str, str], tuple[LinkId, LinkId]] = {}
        self.facts: dict[str, dict[tuple[HostId, bytes], bytes]] = {}
        self.ahead: dict[str, list[int]] = {}
        self.messages = 0
        self._next = 1
        for name in names:
            self.start(name)

    def start(self, name: str, epoch: int = 1) -> Gossip:
        for pair in [pair for pair in self.links if name in pair]:
            self.cut(*pair)
        self.facts[name] = {}
        self.ahead[name] = []
        self.hosts[name] = make_gossip(name, epoch=epoch, now=self.now, **self.options)  # type: ignore[arg-type]
        return self.hosts[name]

    def link(self, one: str, other: str) -> None:
        ids = (LinkId(self._next), LinkId(self._next + 1))
        self._next += 2
        self.links[one, other] = ids
        self.hosts[one].link_up(ids[0], self.hosts[other].store.me, self.now, observed="192.0.2.2")
        self.hosts[other].link_up(ids[1], self.hosts[one].store.me, self.now, observed="192.0.2.1")

    def link_all(self) -> None:
        names = sorted(self.hosts)
        for index, one in enumerate(names):
            for other in names[index + 1 :]:
                self.link(one, other)

    def cut(self, one: str, other: str) -> None:
        ids = self.links.pop((one, other))
        self.hosts[one].link_down(ids[0], self.now)
        self.hosts[other].link_down(ids[1], self.now)

    def _carry(self) -> bool:
        moved = False
        for (one, other), (near, far) in list(self.links.items()):
            for source, here, target, there in ((one, near, other, far), (other, far, one, near)):
                for link, message in self.hosts[source].poll(self.now):
                    self.outgoing.setdefault((source, link), []).append(message)
                queue = self.outgoing.pop((source, here), [])
                moved = moved or bool(queue)
                for message in queue:
                    self.messages += 1
                    if self.rng.random() >= self.loss:
                        self.hosts[target].receive(there, decode_message(encode_message(message)), self.now)
        return moved

    outgoing: dict[tuple[str, LinkId], list[Message]]

    def settle(self) -> None:
        """Carry messages until nobody has anything to say, without time passing."""
        self.outgoing = {}
        busy = True
        while busy:
            busy = self._carry()
            for host in self.hosts.values():
                if host.busy:
                    host.handle_timer(self.now)
                    busy = True
        self.drain()

    def run(self, seconds: float, step: float = 0.5) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += step
            for host in self.hosts.values():
                if host.next_deadline(self.now) <= self.now:
                    host.handle_timer(self.now)
            self.settle()

    def drain(self) -> None:
        """Apply every event to `facts`: what a node that only listens to events believes."""
        for name, host in self.hosts.items():
            while (event := host.next_event()) is not None:
                if isinstance(event, OwnLogAhead):
                    self.ahead[name].append(event.epoch)
                    continue
                assert isinstance(event, Changed)
                facts = self.facts[name]
                assert facts.get((event.origin, event.key)) == event.old
                if event.new is None:
                    del facts[event.origin, event.key]
                else:
                    facts[event.origin, event.key] = event.new

    def roots(self, names: Iterable[str] | None = None) -> set[bytes]:
        return {self.hosts[name].store.root_hash() for name in names or self.hosts}

    def live(self, name: str) -> dict[tuple[HostId, bytes], bytes]:
        """What the store of `name` holds, tombstones and floors left out."""
        return {
            (origin, key): record.value
            for origin, log in self.hosts[name].store.logs.items()
            for key, record in log.records.items()
            if record.value is not None and key != b"f"
        }

    def check(self) -> None:
        """All equal; events told the whole story; sums and sizes are what the records make."""
        assert len(self.roots()) == 1
        for name, host in self.hosts.items():
            facts = {fact: value for fact, value in self.facts[name].items() if fact[1] != b"f"}
            assert facts == self.live(name)
            assert self.live(name) == self.live(next(iter(self.hosts)))
            others = [log for log in host.store.logs.values() if log.origin != host.store.me]
            assert host.store.total_size == sum(log.size for log in others)
