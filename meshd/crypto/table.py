"""The peers that one host shares keys with, and the local indices under which datagrams come in.

Carries out what `KeySlots` decides: each change becomes events for the packet engine, in the order add, switch, remove, and
timers for its expiry and renewal. A peer without keys and without a handshake is forgotten; only `Sessions` remembers its
liveness.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from meshd.crypto.aead import Suite
from meshd.crypto.events import (
    Event,
    FailReason,
    ReceiveKeyAdded,
    ReceiveKeyRemoved,
    SendKeyChanged,
    SendKeyRemoved,
    SessionLost,
    SessionReady,
)
from meshd.crypto.handshake import Established
from meshd.crypto.noise import Entropy
from meshd.crypto.session import Change, KeyPair, KeySlots, Timing, relay_key
from meshd.crypto.timers import Timers
from meshd.crypto.wire import Rejected
from meshd.drops import DropReason
from meshd.ids import Address, Endpoint, HostId

__all__ = ["MAX_INDICES", "MAX_PEERS", "Peer", "SessionTable", "SessionTimers", "Timer"]

MAX_PEERS = 4096  # with keys or a handshake
MAX_INDICES = 32768


@dataclass(slots=True, eq=False)
class Peer:
    """`sources`: by local index, where the handshake of each key came from."""

    id: HostId
    slots: KeySlots
    static: bytes
    endpoints: tuple[Address, ...] = ()
    sources: dict[int, Address] = field(default_factory=dict)

    @property
    def endpoint(self) -> Address | None:
        """Where the current key came from."""
        current = self.slots.current
        return None if current is None else self.sources[current.local_index]


class Timer(enum.Enum):
    RETRY = enum.auto()  # of an attempt: HostId or Endpoint
    EXPIRE = enum.auto()  # keys of a peer: HostId
    REKEY = enum.auto()  # of a peer: HostId
    HALF_OPEN = enum.auto()  # of a responder: local index
    COUNTS = enum.auto()  # of all peers: None


SessionTimers = Timers[tuple[Timer, HostId | Endpoint | int | None]]


class SessionTable:
    """`indices` says who owns a local index: a Peer once there are keys, before that whatever handshake has taken it."""

    def __init__(
        self,
        *,
        suite: Suite,
        timing: Timing,
        timers: SessionTimers,
        entropy: Entropy,
        rng: random.Random,
        busy: Callable[[HostId], bool],
    ) -> None:
        self._suite = suite
        self._timing = timing
        self._timers = timers
        self._entropy = entropy
        self._rng = rng
        self._busy = busy  # a handshake with this peer is under way
        self.peers: dict[HostId, Peer] = {}
        self.indices: dict[int, object] = {}
        self.events: deque[Event] = deque()  # bounded by what one call causes: the owner drains it after each call

    def has_room(self, peer: HostId) -> bool:
        return peer in self.peers or len(self.peers) < MAX_PEERS

    def peer(self, peer: HostId, static: bytes) -> Peer:
        """The peer's entry, made where there is none. Raises Rejected(TABLE_FULL)."""
        state = self.peers.get(peer)
        if state is None:
            if not self.has_room(peer):
                raise Rejected(DropReason.TABLE_FULL)
            state = self.peers[peer] = Peer(id=peer, slots=KeySlots(self._timing), static=static)
        return state

    def free_index(self) -> int:
        """A random index that is not in use, so that nobody can guess one. Raises Rejected(TABLE_FULL)."""
        if len(self.indices) >= MAX_INDICES:
            raise Rejected(DropReason.TABLE_FULL)
        while True:
            index = int.from_bytes(self._entropy(4), "little")
            if index and index not in self.indices:
                return index

    def install(self, peer: Peer, keys: Established, source: Address, now: float, *, may_send: bool) -> None:
        """The keys of a finished handshake. `may_send`: the other side is known to hold them."""
        timing = self._timing
        if keys.initiator:
            rekey_at = now + timing.rekey_s * (1 + self._rng.uniform(-timing.rekey_jitter, timing.rekey_jitter))
        else:
            rekey_at = now + timing.rekey_s * (1 + timing.rekey_jitter) + timing.takeover_s
        pair = KeyPair(
            local_index=keys.local_index,
            remote_index=keys.remote_index,
            send_key=keys.send_key,
            receive_key=keys.receive_key,
            initiator=keys.initiator,
            established_at=now,
            rekey_at=rekey_at,
            bootstrap=keys.remote_identity is not None,
        )
        peer.static = keys.remote_static
        peer.sources[pair.local_index] = source
        self.indices[pair.local_index] = peer
        first = peer.slots.current is None
        self.apply(peer, peer.slots.install(pair, may_send=may_send), first=first)

    def confirm(self, peer: Peer, index: int, now: float) -> bool:
        """True if the key became current."""
        first = peer.slots.current is None
        change = peer.slots.confirm(index, now)
        self.apply(peer, change, first=first)
        return change.send_changed

    def apply(
        self, peer: Peer, change: Change, *, first: bool = False, reason: FailReason = FailReason.EXPIRED
    ) -> None:
        """Tell the owner, and set the timers. `reason`: why there would be no current key any more."""
        events = self.events
        if change.added is not None:
            added = change.added
            events.append(
                ReceiveKeyAdded(
                    index=added.local_index,
                    peer=peer.id,
                    suite=self._suite,
                    key=added.receive_key,
                    relay_key=relay_key(added.receive_key),
                )
            )
        if change.send is not None:
            self._announce(peer, change.send, first=first)
        elif change.send_changed:
            events.append(SendKeyRemoved(peer=peer.id))
            events.append(SessionLost(peer=peer.id, reason=reason))
        for pair in change.removed:
            events.append(ReceiveKeyRemoved(index=pair.local_index))
            del self.indices[pair.local_index]
            del peer.sources[pair.local_index]
        deadline = peer.slots.deadline()
        if deadline is not None:
            self._timers.set((Timer.EXPIRE, peer.id), deadline)
        else:
            self._timers.cancel((Timer.EXPIRE, peer.id))
        self.tidy(peer)

    def _announce(self, peer: Peer, pair: KeyPair, *, first: bool) -> None:
        self._timers.set((Timer.REKEY, peer.id), pair.rekey_at)
        self.events.append(
            SendKeyChanged(
                peer=peer.id,
                suite=self._suite,
                key=pair.send_key,
                relay_key=relay_key(pair.send_key),
                remote_index=pair.remote_index,
            )
        )
        self.events.append(
            SessionReady(
                peer=peer.id,
                keypair=pair,
                endpoint=peer.sources[pair.local_index],
                remote_static=peer.static,
                first=first,
            )
        )

    def tidy(self, peer: Peer) -> None:
        """Forget a peer that has neither keys nor a handshake."""
        if not peer.slots.keys and not self._busy(peer.id) and self.peers.get(peer.id) is peer:
            del self.peers[peer.id]
            self._timers.cancel((Timer.REKEY, peer.id))
