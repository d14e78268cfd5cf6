"""What the node does with frames that it reads itself: answers questions in others' place, and learns who wants which groups.

`inspect` is called by the engine from within an upcall: tables are looked at, the snooper listens, nothing is sent but the answer.
What follows, own questions to containers and the record of what this host wants, is done by `handle_timer`.

    IGMP, MLD of containers    heard here; reports and leaves go on only to hosts that want everything (RFC 4541, 2.1.1), or every
                               answer to our own question would be a flood
    questions, PIM             go on as any other frame
"""

from __future__ import annotations

from collections.abc import Iterable

from meshd.drops import DropCounters, DropReason
from meshd.errors import UserError
from meshd.forward.engine.interface import Inspected
from meshd.forward.groups import MAX_MEMBERS, Wanted
from meshd.forward.inspect import LOOP_PROBE
from meshd.forward.loops import LoopWatch
from meshd.forward.membership import parse_membership
from meshd.forward.neighbours import Question, answer, parse_question
from meshd.forward.snooping import Snooper
from meshd.ids import HostId, Mac, SegmentId, SlotId
from meshd.node.directory import Directory
from meshd.node.own import OwnRecords
from meshd.node.peers import PeerTable

__all__ = ["PUBLISH_EVERY_S", "Layer2"]

PUBLISH_EVERY_S = 0.25  # joins and leaves in between are one record
REFUSED_S = 10.0  # after a record that found no room

_ON = Inspected()
_HERE = Inspected(forward=False)


class Layer2:
    """`answered`: questions that did not leave this host. `mac`: of frames of the router's own."""

    def __init__(
        self,
        *,
        self_id: HostId,
        directory: Directory,
        own: OwnRecords,
        peers: PeerTable,
        drops: DropCounters,
        mesh_key: bytes,
        boot: int,
        now: float,
    ) -> None:
        self._self = self_id
        self._directory = directory
        self._own = own
        self._peers = peers
        self._drops = drops
        self.mac = Mac(b"\x02\x6e" + self_id[:4])
        self._snooper = Snooper(self.mac, now)
        self._loops = LoopWatch(mesh_key, self_id, boot, self.mac, now)
        self._found: dict[HostId, Mac] = {}
        self._published: Wanted | None = None
        self._publish_at = now
        self.answered = 0

    # ── asked by the engine

    def inspect(self, segment: SegmentId, frame: memoryview, now: float) -> Inspected:
        if frame[12:14] == LOOP_PROBE:
            return self._probe(bytes(frame), now)
        question = parse_question(frame)
        if question is not None:
            return self._answer(segment, question)
        heard = parse_membership(frame)
        if heard is None:
            return _ON
        self._snooper.heard(heard, now)
        hungry = self._directory.groups.hungry()
        if not (heard.joined or heard.left) or len(hungry) > MAX_MEMBERS:
            return _ON
        return Inspected(forward=False, peers=self._slots(sorted(hungry)))

    def _probe(self, frame: bytes, now: float) -> Inspected:
        host = self._loops.captured(frame, now)
        if host is not None:
            self._found[host] = Mac(frame[6:12])
        return _HERE if self._loops.is_probe(frame) else _ON

    def take_loops(self) -> dict[HostId, Mac]:
        """Whose probes came back since the last time, and from which MAC."""
        found, self._found = self._found, {}
        return found

    def members(self, group: Mac) -> tuple[SlotId, ...] | None:
        """Who gets frames for this group; None: everybody, along the tree."""
        hosts = self._directory.groups.members(group)
        return None if hosts is None else self._slots(hosts)

    def _slots(self, hosts: Iterable[HostId]) -> tuple[SlotId, ...]:
        return tuple(peer.slot for host in hosts if (peer := self._peers.admit(host)) is not None)

    def _answer(self, segment: SegmentId, question: Question) -> Inspected:
        """From the record of the address's holder. What nobody has, and what the asker itself has, is flooded."""
        holder = self._directory.addresses.holder(segment, question.target)
        if holder is None or question.mac == holder.mac:
            return _ON
        if holder.host == self._self:  # the bridge has brought the question to it
            self._drops.add(DropReason.LOCAL)
            return _HERE
        if self._directory.fdb.lookup(segment, holder.mac) != holder.host:
            return _ON  # its MAC has moved: the record of that is on its way
        self.answered += 1
        return Inspected(forward=False, reply=answer(question, Mac(holder.mac)))

    # ── in time

    def attached(self, now: float) -> None:
        self._snooper.ask_soon(now)

    def wanted(self, now: float) -> Wanted:
        """What this host wants of multicast."""
        return self._snooper.wanted(now)

    def next_deadline(self, now: float) -> float:
        deadline = min(self._snooper.next_deadline(), self._loops.next_deadline())
        return min(deadline, self._publish_at) if self._to_publish(now) is not None else deadline

    def handle_timer(self, now: float) -> list[bytes]:
        """Returns the frames to write to the frame port."""
        self._snooper.set_somebody(self._own.somebody, now)
        frames = self._snooper.handle_timer(now)
        probe = self._loops.probe(now)
        if probe is not None and self._own.somebody:
            frames.append(probe)
        wanted = self._to_publish(now)
        if wanted is not None and now >= self._publish_at:
            self._publish_at = now + PUBLISH_EVERY_S
            try:
                self._own.publish_groups(wanted, now)
            except UserError:  # this host announces too much already: the others go on as they did
                self._publish_at = now + REFUSED_S
                return frames
            self._published = wanted
        return frames

    def _to_publish(self, now: float) -> Wanted | None:
        """None: nothing new, or not known yet; a host that says nothing gets everything."""
        wanted = self._snooper.wanted(now)
        return None if now < self._snooper.settled_at < float("inf") or wanted == self._published else wanted
