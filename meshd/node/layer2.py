"""What the node does with frames that it reads itself: answers ARP and ND in the place of distant containers.

Called by the engine from within `inspect`: tables are looked at, nothing is sent but the answer.
"""

from __future__ import annotations

from meshd.drops import DropCounters, DropReason
from meshd.forward.engine.interface import Inspected
from meshd.forward.neighbours import Question, answer, parse_question
from meshd.ids import HostId, Mac, SegmentId
from meshd.node.directory import Directory

__all__ = ["Layer2"]

_ON = Inspected()
_HERE = Inspected(forward=False)


class Layer2:
    """`answered`: questions that did not leave this host."""

    def __init__(self, *, self_id: HostId, directory: Directory, drops: DropCounters) -> None:
        self._self = self_id
        self._directory = directory
        self._drops = drops
        self.answered = 0

    def inspect(self, segment: SegmentId, frame: memoryview, now: float) -> Inspected:
        question = parse_question(frame)
        return _ON if question is None else self._answer(segment, question)

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
