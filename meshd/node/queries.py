"""Questions to other routers about their paths: one datagram there, one back, and none where nothing came in time.

    ask(host, destination) → waits for a session, two seconds at most → query sent → report in time | nothing
                                                                                 └──► take_answers

Sans-IO. Questions of others are answered within a budget for each peer: a member may send us frames, but not keep us busy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshd.budget import BucketTable
from meshd.drops import DropCounters, DropReason
from meshd.forward.query import PathQuery, PathReport, encode_query, encode_report
from meshd.ids import HostId, ShortId

__all__ = ["MAX_QUERIES", "QUERY_TIMEOUT_S", "Answer", "Queries"]

MAX_QUERIES = 256  # of ours, under way
QUERY_TIMEOUT_S = 2.0
RESEND_S = 0.1  # while there is no session yet
ANSWER_RATE = 50.0  # a second, each peer
ANSWER_BURST = 100.0
MAX_ASKERS = 4096
_U32 = 0xFFFF_FFFF


@dataclass(slots=True, frozen=True)
class Answer:
    """What became of one question. `rtt_s`: from the moment it left until the report came; None: no report."""

    token: int
    report: PathReport | None
    rtt_s: float | None


@dataclass(slots=True)
class _Open:
    host: HostId
    destination: ShortId
    deadline: float
    try_at: float
    sent_at: float | None = None


class Queries:
    """`send`: seal a control body for a host now; False while there is no session with it, which `seek` sees to. `way_to`: the
    report about a destination, under the asker's token."""

    def __init__(
        self,
        send: Callable[[HostId, bytes], bool],
        seek: Callable[[HostId, float], None],
        way_to: Callable[[ShortId, int], PathReport],
        drops: DropCounters,
    ) -> None:
        self._send = send
        self._seek = seek
        self._way_to = way_to
        self._drops = drops
        self._next_token = 1
        self._open: dict[int, _Open] = {}
        self._answers: list[Answer] = []
        self._askers: BucketTable[HostId] = BucketTable(ANSWER_RATE, ANSWER_BURST, MAX_ASKERS)

    def ask(self, host: HostId, destination: ShortId, now: float) -> int | None:
        """The token of a new question; None when MAX_QUERIES are under way."""
        if len(self._open) >= MAX_QUERIES:
            return None
        token, self._next_token = self._next_token, self._next_token % _U32 + 1
        self._open[token] = _Open(host, destination, now + QUERY_TIMEOUT_S, now)
        return token

    def on_query(self, asker: HostId, query: PathQuery, now: float) -> None:
        """Another host asks."""
        if self._askers.take(asker, now):
            self._send(asker, encode_report(self._way_to(query.destination, query.token)))
        else:
            self._drops.add(DropReason.RATE_LIMITED)

    def on_report(self, host: HostId, report: PathReport, now: float) -> None:
        """One that answers nothing we asked this host, or comes late, is counted."""
        query = self._open.get(report.token)
        if query is None or query.host != host or query.sent_at is None:
            self._drops.add(DropReason.BAD_CONTROL)
            return
        del self._open[report.token]
        self._answers.append(Answer(report.token, report, max(0.0, now - query.sent_at)))

    def next_deadline(self) -> float | None:
        return min((_due(query) for query in self._open.values()), default=None)

    def handle_timer(self, now: float) -> None:
        for token, query in list(self._open.items()):
            if now >= query.deadline:
                del self._open[token]
                self._answers.append(Answer(token, None, None))
            elif query.sent_at is None and now >= query.try_at:
                if self._send(query.host, encode_query(PathQuery(token, query.destination))):
                    query.sent_at = now
                else:
                    query.try_at = now + RESEND_S
                    self._seek(query.host, now)

    def take_answers(self) -> list[Answer]:
        """What became of the questions since the last call."""
        answers, self._answers = self._answers, []
        return answers


def _due(query: _Open) -> float:
    return query.deadline if query.sent_at is not None else min(query.deadline, query.try_at)
