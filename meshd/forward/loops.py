"""Loops beside the mesh: a probe of our own that is written to the bridge twice a second, and must never come back.

    own probe captured             two ports of this bridge are joined outside of it
    probe of another member        its bridge and ours are joined outside of the mesh: the mesh and that way are a loop

A probe never enters the mesh, so either sight is proof. Of two hosts the one with the higher id blocks its port; the other one does
too where it still sees probes GIVE_WAY later. Deduplication and ttl bound what a loop costs the mesh meanwhile, the guards what it
costs the bridges.

    destination 03:6d:65:73:68:64 | source | 88b6 | host id 16 | boot 8 | sequence 4 | tag 8

The tag is BLAKE2s over all before it, keyed from the mesh key: a container cannot make one, and since it covers the source MAC, one
that repeats a probe shows only its own port to the bridge.
"""

from __future__ import annotations

import hmac
import struct
from hashlib import blake2s

from meshd.forward.ethernet import ETHERNET_SIZE
from meshd.forward.inspect import LOOP_PROBE
from meshd.ids import HostId, Mac

__all__ = ["GIVE_WAY", "PROBE_EVERY", "PROBE_GROUP", "LoopWatch"]

PROBE_EVERY = 0.5  # a loop is to be found within 2 s: three probes more may be lost in its own storm
GIVE_WAY = 5.0
PROBE_GROUP = Mac(bytes.fromhex("036d65736864"))

_BODY = struct.Struct("<16sQI")
_TAG = 8
_SIZE = ETHERNET_SIZE + _BODY.size + _TAG
_RECENT = 16  # own probes that may be on their way


class LoopWatch:
    """Makes probes and judges those that are captured."""

    def __init__(self, mesh_key: bytes, self_id: HostId, boot: int, mac: Mac, now: float) -> None:
        self._key = blake2s(b"meshd loop probe v1", key=mesh_key).digest()
        self._self = self_id
        self._boot = boot
        self._mac = mac
        self._sequence = 0
        self._next = now + PROBE_EVERY
        self._since: dict[HostId, tuple[float, float]] = {}  # hosts seen: first and last time

    def next_deadline(self) -> float:
        return self._next

    def probe(self, now: float) -> bytes | None:
        """The probe to write, when one is due."""
        if now < self._next:
            return None
        self._next = now + PROBE_EVERY
        self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
        frame = PROBE_GROUP + self._mac + LOOP_PROBE + _BODY.pack(self._self, self._boot, self._sequence)
        return frame + self._tag(frame)

    def is_probe(self, frame: bytes) -> bool:
        """A member's, whoever's; it must not enter the mesh."""
        tag = frame[_SIZE - _TAG : _SIZE]
        if len(frame) < _SIZE or frame[:6] != PROBE_GROUP:
            return False
        return hmac.compare_digest(tag, self._tag(frame[: _SIZE - _TAG]))

    def captured(self, frame: bytes, now: float) -> HostId | None:
        """Whose probe has come to our bridge from outside, if its port is to be blocked."""
        if not self.is_probe(frame):
            return None
        host, boot, sequence = _BODY.unpack_from(frame, ETHERNET_SIZE)
        if host == self._self:
            fresh = boot == self._boot and (self._sequence - sequence) & 0xFFFF_FFFF < _RECENT
            return HostId(host) if fresh else None
        return HostId(host) if host < self._self or self._persists(HostId(host), now) else None

    def _persists(self, host: HostId, now: float) -> bool:
        """A host that should give way to us has not."""
        self._since = {other: seen for other, seen in self._since.items() if now - seen[1] < GIVE_WAY}
        first, _ = self._since.get(host, (now, now))
        self._since[host] = (first, now)
        return now - first >= GIVE_WAY

    def _tag(self, data: bytes) -> bytes:
        return blake2s(data, key=self._key, digest_size=_TAG).digest()
