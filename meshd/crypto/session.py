"""The keys that two hosts share, and which of them is used for what: WireGuard's slots, as positions in one list.

    keys, newest first      [ next …, current, previous … ]
      install(may_send)     a new key goes to the front; with may_send it is current at once
      confirm(index)        a first datagram came in under a key newer than current: that key is current
      expire(now)           keys past their age leave; a current key that may not seal any more is none

                 install(may_send=False)            confirm
      (nothing) ────────────────────────► NEXT ────────────────► CURRENT
          │          install(may_send=True)                     ▲   │ a newer key becomes current
          └─────────────────────────────────────────────────────┘   ▼
                    any of them, at 180 s or evicted ► gone ◄── PREVIOUS

All keys in the list open; only *current* seals. Who knows that the other side holds the key already (the initiator of IK, the
responder of XX) may send at once. The other side has shown the key to nobody who has proved to have it, so it waits for a first
datagram.

Why a list, where WireGuard has three slots: after crossing handshakes the two hosts seal under *different* keys, each one's
current being the other's previous. The next rekey then brings a third key, and three slots push one out that is still in use.
So up to KEYS_PER_PEER stay; never evicted are current, the newest, and the one *heard* last: what the other side seals under is
one of these.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from meshd.crypto.meshkey import hkdf
from meshd.errors import LocalProtocolError

__all__ = ["KEYS_PER_PEER", "LARGE_DATAGRAM", "Change", "KeyPair", "KeySlots", "Timing", "relay_key"]

KEYS_PER_PEER = 5
LARGE_DATAGRAM = 2048  # bytes


def relay_key(key: bytes) -> bytes:
    """The key of one hop's relay layer, from the session key of the same direction: its counters share no nonce with type 4."""
    return hkdf(key, b"meshd relay v1")


@dataclass(slots=True, frozen=True, kw_only=True)
class Timing:
    """When keys are renewed and refused, in seconds and datagrams (docs/protocol.md, "Sessions").

    `rekey_s` ± `rekey_jitter`: the initiator of a key that has sealed something makes the next one. `takeover_s` after the latest
    of these times the responder does, if it has sealed something. `reject_s`: no key opens any more; sealing stops `handoff_s`
    earlier, so that what is under way still opens (the responder's clock of a key starts half a round trip before the
    initiator's). No key is left to be zeroed at 540 s. `poll_s`: how often datagram counts are looked at.
    `rekey_datagrams`: 2^27, 2^24 where datagrams exceed 2048 bytes; at twice that a key is refused (RFC 9001 B.1).
    `retries`: waits between the tries of a handshake, each up to `retry_jitter` longer; the last one repeats until `give_up_s`.
    `half_open_s`: how long a responder of XX waits for type 7.
    """

    rekey_s: float = 120.0
    rekey_jitter: float = 0.1
    takeover_s: float = 10.0
    reject_s: float = 180.0
    handoff_s: float = 5.0
    poll_s: float = 5.0
    retries: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 5.0)
    retry_jitter: float = 0.2
    give_up_s: float = 90.0
    half_open_s: float = 10.0
    rekey_datagrams: int = 1 << 27

    @classmethod
    def for_datagrams(cls, size: int) -> Timing:
        """For datagrams of at most this size: the longer they are, the fewer may be sealed under one key."""
        return cls(rekey_datagrams=1 << 24) if size > LARGE_DATAGRAM else cls()

    @property
    def refuse_datagrams(self) -> int:
        return 2 * self.rekey_datagrams

    def scaled(self, rekey_s: float) -> Timing:
        """All ages of a key in proportion to another rekey period; the retries of a handshake stay, the network does not change."""
        factor = rekey_s / self.rekey_s
        return replace(
            self,
            rekey_s=rekey_s,
            takeover_s=self.takeover_s * factor,
            reject_s=self.reject_s * factor,
            handoff_s=self.handoff_s * factor,
            poll_s=self.poll_s * factor,
        )


@dataclass(slots=True, frozen=True, kw_only=True)
class KeyPair:
    """The two directions of one finished handshake. The repr shows no key."""

    local_index: int  # what the other side writes into datagrams for us
    remote_index: int
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    initiator: bool
    established_at: float
    rekey_at: float
    bootstrap: bool = False  # made by XX, which tells who is behind an address


@dataclass(slots=True, frozen=True, kw_only=True)
class Change:
    """What a call did to the keys. The caller carries it out in this order: add, switch the send key, remove.

    `send_changed`: `send` is the new current key, or None where there is none any more.
    """

    added: KeyPair | None = None
    send_changed: bool = False
    send: KeyPair | None = None
    removed: tuple[KeyPair, ...] = ()


_NOTHING = Change()


class KeySlots:
    """The keys shared with one peer."""

    __slots__ = ("_current", "_heard", "_keys", "_sealed", "_timing")

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._keys: list[KeyPair] = []  # newest first
        self._current: KeyPair | None = None
        self._heard: list[KeyPair] = []  # those that a datagram came in under, the last one at the end
        self._sealed: set[int] = set()  # local indices of keys that were current once

    @property
    def current(self) -> KeyPair | None:
        """Seals, and opens."""
        return self._current

    @property
    def next(self) -> KeyPair | None:
        """The newest key, while it opens only."""
        return self._keys[0] if self._keys and self._keys[0] is not self._current else None

    @property
    def previous(self) -> tuple[KeyPair, ...]:
        """Older than current: they open what is late, and what a peer seals that has not switched yet."""
        return tuple(self._keys[self._keys.index(self._current) + 1 :]) if self._current is not None else ()

    @property
    def keys(self) -> tuple[KeyPair, ...]:
        """All that open, newest first."""
        return tuple(self._keys)

    def install(self, pair: KeyPair, *, may_send: bool) -> Change:
        """Add a fresh key. `may_send`: the other side is known to have it."""
        if any(pair.local_index == other.local_index for other in self._keys):
            raise LocalProtocolError("two keys under one index")
        self._keys.insert(0, pair)
        if may_send:
            self._make_current(pair)
        return Change(added=pair, send_changed=may_send, send=pair if may_send else None, removed=tuple(self._evict()))

    def confirm(self, local_index: int, now: float) -> Change:
        """The first authentic datagram under this key has come in. Unknown indices are none of ours any more: no change.

        A key that was current once never is again: its counter would start anew, and a nonce be used twice.
        """
        position = self._position(local_index)
        if position is None:
            return _NOTHING
        pair = self._keys[position]
        self._heard = [*(other for other in self._heard if other is not pair), pair]
        if self._current is not None and position >= self._keys.index(self._current):
            return _NOTHING
        if local_index in self._sealed or now >= self._seal_until(pair):
            return _NOTHING
        self._make_current(pair)
        return Change(send_changed=True, send=pair)

    def expire(self, now: float) -> Change:
        """Keys past `reject_s` leave; a current key that is `handoff_s` from it is not sealed under any more."""
        removed = [pair for pair in self._keys if now >= pair.established_at + self._timing.reject_s]
        self._remove(removed)
        stopped = self._current is not None and now >= self._seal_until(self._current)
        if stopped:
            self._current = None
        return Change(send_changed=stopped, removed=tuple(removed))

    def refuse(self) -> Change:
        """The current key has sealed all that it may. It still opens: the other direction counts for itself."""
        stopped, self._current = self._current is not None, None
        return Change(send_changed=stopped)

    def clear(self) -> Change:
        """Forget everything."""
        removed, stopped = tuple(self._keys), self._current is not None
        self._remove(list(removed))
        self._current = None
        return Change(send_changed=stopped, removed=removed)

    def deadline(self) -> float | None:
        """When `expire` has something to do."""
        times = [pair.established_at + self._timing.reject_s for pair in self._keys]
        if self._current is not None:
            times.append(self._seal_until(self._current))
        return min(times, default=None)

    def rekey_due(self, now: float, sealed: int) -> bool:
        """Should this side make a new key, given how many datagrams it has sealed under the current one?"""
        pair = self._current
        if pair is None or sealed == 0:
            return False
        return now >= pair.rekey_at or sealed >= self._timing.rekey_datagrams

    def overtaken(self, local_index: int) -> bool:
        """The other side seals under a newer key than this one by now. It never goes back, so what comes under this one is late."""
        position = self._position(local_index)  # None: it is no key any more, and so older than all that are left
        return any(pair in self._heard for pair in self._keys[:position])

    def _make_current(self, pair: KeyPair) -> None:
        self._current = pair
        self._sealed.add(pair.local_index)

    def _seal_until(self, pair: KeyPair) -> float:
        return pair.established_at + self._timing.reject_s - self._timing.handoff_s

    def _position(self, local_index: int) -> int | None:
        return next((at for at, pair in enumerate(self._keys) if pair.local_index == local_index), None)

    def _evict(self) -> list[KeyPair]:
        removed: list[KeyPair] = []
        if len(self._keys) > KEYS_PER_PEER:
            kept = (self._keys[0], self._current, *self._heard[-1:])
            removed = [next(pair for pair in reversed(self._keys) if pair not in kept)]
            self._remove(removed)
        return removed

    def _remove(self, pairs: list[KeyPair]) -> None:
        self._keys = [pair for pair in self._keys if pair not in pairs]
        self._sealed.difference_update(pair.local_index for pair in pairs)
        self._heard = [pair for pair in self._heard if pair not in pairs]
