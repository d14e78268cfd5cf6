"""Two real control links and the TCP connection between them, which a test may cut, read along and change."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random

from meshd.crypto.aead import Suite
from meshd.crypto.handshake import Context
from meshd.crypto.identity import Identity
from meshd.crypto.meshkey import MeshKey
from meshd.crypto.wire import Liveness
from meshd.drops import DropCounters, DropReason
from meshd.gossip.link import ControlLink
from meshd.gossip.linktypes import LinkConfig, LinkEvent, LinkFailed, LinkReady, MessageReceived
from meshd.gossip.messages import Message


def entropy_of(seed: object) -> Callable[[int], bytes]:
    rng = Random(str(seed))
    return rng.randbytes


MESH = MeshKey(suite=Suite.AES_256_GCM, mesh_id=b"m" * 16, key=b"k" * 32, from_password=False)
OTHER_MESH = MeshKey(suite=Suite.AES_256_GCM, mesh_id=b"o" * 16, key=b"x" * 32, from_password=False)


class Host:
    """An identity, what it knows of others, and its link configuration."""

    def __init__(self, name: str, *, mesh: MeshKey = MESH, rekey_time: float = 120.0) -> None:
        self.identity = Identity.generate(entropy_of(name))
        self.known: dict[bytes, bytes] = {}
        self.newest: dict[bytes, Liveness] = {}
        self.drops = DropCounters()
        attempts = itertools.count(1)
        indices = itertools.count(1)
        self.config = LinkConfig(
            context=Context(self.identity, mesh, entropy_of(name + " entropy")),
            lookup=self.known.get,
            liveness=lambda: Liveness(1, next(attempts)),
            authorize=self._authorize,
            index=lambda: next(indices),
            rng=Random(name),
            drops=self.drops,
            rekey_time=rekey_time,
        )

    def _authorize(self, static: bytes, liveness: Liveness) -> DropReason | None:
        if liveness <= self.newest.get(static, Liveness(0, 0)):
            return DropReason.STALE_HANDSHAKE
        self.newest[static] = liveness
        return None

    @property
    def static(self) -> bytes:
        return self.identity.x25519_public

    def knows(self, other: Host) -> None:
        self.known[other.static] = other.identity.ed25519_public

    def dial(self, now: float = 0.0, *, to: Host | None = None) -> ControlLink:
        return ControlLink(
            self.config, address="192.0.2.2:6783", dial=True, now=now, remote_static=None if to is None else to.static
        )

    def accept(self, now: float = 0.0) -> ControlLink:
        return ControlLink(self.config, address="192.0.2.1:40000", dial=False, now=now)


class Pair:
    """A dialler and an acceptor. `chunk`: how many bytes a read brings, 0 for all. The wire is kept in `wire`."""

    def __init__(self, dialler: ControlLink, acceptor: ControlLink, *, chunk: int = 0) -> None:
        self.dialler = dialler
        self.acceptor = acceptor
        self.chunk = chunk
        self.wire: list[tuple[str, bytes]] = []
        self.events: dict[str, list[LinkEvent]] = {"dialler": [], "acceptor": []}

    def carry(self, now: float) -> bool:
        moved = False
        for name, source, target in (
            ("dialler", self.dialler, self.acceptor),
            ("acceptor", self.acceptor, self.dialler),
        ):
            data = source.data_to_send()
            if data:
                moved = True
                self.wire.append((name, data))
            for start in range(0, len(data), self.chunk or len(data) or 1):
                target.receive(data[start : start + self.chunk] if self.chunk else data, now)
        for name, link in (("dialler", self.dialler), ("acceptor", self.acceptor)):
            while (event := link.next_event()) is not None:
                self.events[name].append(event)
        return moved

    def settle(self, now: float = 0.0) -> None:
        while self.carry(now):
            pass

    def ready(self, name: str) -> LinkReady:
        (event,) = [event for event in self.events[name] if isinstance(event, LinkReady)]
        return event

    def failed(self, name: str) -> LinkFailed:
        (event,) = [event for event in self.events[name] if isinstance(event, LinkFailed)]
        return event

    def received(self, name: str) -> list[Message]:
        return [event.message for event in self.events[name] if isinstance(event, MessageReceived)]
