"""Questions about paths: sent once there is a session, answered, given up; and those of others within their budget."""

from __future__ import annotations

import pytest

from meshd.drops import DropCounters, DropReason
from meshd.forward.query import PathQuery, PathReport, Way, decode_query, decode_report
from meshd.ids import HostId, ShortId
from meshd.node.queries import ANSWER_BURST, MAX_QUERIES, QUERY_TIMEOUT_S, Answer, Queries

HOST = HostId(b"h" * 16)
OTHER = HostId(b"o" * 16)
GOAL = ShortId(b"g" * 8)


class Bench:
    def __init__(self) -> None:
        self.sessions: set[HostId] = set()
        self.sent: list[tuple[HostId, bytes]] = []
        self.drops = DropCounters()
        self.sought: list[HostId] = []
        self.queries = Queries(self._send, lambda host, _now: self.sought.append(host), self._way_to, self.drops)

    def _send(self, host: HostId, body: bytes) -> bool:
        if host in self.sessions:
            self.sent.append((host, body))
        return host in self.sessions

    @staticmethod
    def _way_to(destination: ShortId, token: int) -> PathReport:
        return PathReport(token, Way.SELF, destination, 0, 0, 0)

    def answers(self) -> list[Answer]:
        return self.queries.take_answers()

    def ask(self, now: float) -> int:
        token = self.queries.ask(HOST, GOAL, now)
        assert token is not None
        return token


def report(token: int) -> PathReport:
    return PathReport(token, Way.DIRECT, GOAL, 400, 1472, 0)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_question_is_answered(bench: Bench) -> None:
    bench.sessions.add(HOST)
    token = bench.ask(10.0)
    assert bench.queries.next_deadline() == 10.0
    bench.queries.handle_timer(10.0)
    assert [(host, decode_query(body)) for host, body in bench.sent] == [(HOST, (token, GOAL))]
    bench.queries.on_report(HOST, report(token), 10.25)
    assert bench.answers() == [Answer(token, report(token), 0.25)]
    assert bench.answers() == []
    assert bench.queries.next_deadline() is None


def test_it_waits_for_a_session_and_the_wait_is_no_round_trip(bench: Bench) -> None:
    token = bench.ask(0.0)
    bench.queries.handle_timer(0.0)
    assert bench.sought == [HOST]
    bench.sessions.add(HOST)
    due = bench.queries.next_deadline()
    assert due is not None
    bench.queries.handle_timer(due)
    assert bench.sought == [HOST]
    bench.queries.on_report(HOST, report(token), due + 0.5)
    (answer,) = bench.answers()
    assert answer.rtt_s == pytest.approx(0.5)


def test_silence_ends_it(bench: Bench) -> None:
    bench.sessions.add(HOST)
    token = bench.ask(0.0)
    bench.queries.handle_timer(0.0)
    assert bench.queries.next_deadline() == QUERY_TIMEOUT_S
    bench.queries.handle_timer(QUERY_TIMEOUT_S)
    assert bench.answers() == [Answer(token, None, None)]
    bench.queries.on_report(HOST, report(token), QUERY_TIMEOUT_S + 0.1)  # too late
    assert bench.answers() == []
    assert bench.drops[DropReason.BAD_CONTROL] == 1


def test_a_report_of_somebody_else_or_before_the_question_left_answers_nothing(bench: Bench) -> None:
    token = bench.ask(0.0)
    bench.queries.on_report(HOST, report(token), 0.0)
    bench.sessions.add(HOST)
    bench.queries.handle_timer(0.0)
    bench.queries.on_report(OTHER, report(token), 0.1)
    assert bench.answers() == []
    assert bench.drops[DropReason.BAD_CONTROL] == 2


def test_questions_are_bounded(bench: Bench) -> None:
    for _ in range(MAX_QUERIES):
        bench.ask(0.0)
    assert bench.queries.ask(HOST, GOAL, 0.0) is None
    bench.queries.handle_timer(QUERY_TIMEOUT_S)
    assert bench.queries.ask(HOST, GOAL, QUERY_TIMEOUT_S) is not None


def test_others_are_answered_within_a_budget_of_their_own(bench: Bench) -> None:
    bench.sessions |= {HOST, OTHER}
    for token in range(1, 501):
        bench.queries.on_query(HOST, PathQuery(token, GOAL), 0.0)
    assert len(bench.sent) == ANSWER_BURST
    assert decode_report(bench.sent[0][1]) == PathReport(1, Way.SELF, GOAL, 0, 0, 0)
    assert bench.drops[DropReason.RATE_LIMITED] == 500 - ANSWER_BURST
    bench.queries.on_query(OTHER, PathQuery(7, GOAL), 0.0)
    assert bench.sent[-1][0] == OTHER
