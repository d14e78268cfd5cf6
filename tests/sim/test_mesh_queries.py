"""Questions about paths in a whole mesh: answered, unanswered, and within a budget."""

from __future__ import annotations

from meshd.drops import DropReason
from meshd.forward.query import PathReport, Way
from meshd.ids import short_id
from meshd.node.queries import ANSWER_BURST, QUERY_TIMEOUT_S
from meshd.testing.host import SimHost
from tests.sim.meshes import Mesh


def meshed(hosts: int = 3) -> Mesh:
    mesh = Mesh(seed=1, hosts=hosts)
    mesh.start()
    mesh.wait(mesh.meshed, 3.0)
    mesh.run(3.0)
    return mesh


def ask(mesh: Mesh, asker: SimHost, host: SimHost, goal: SimHost) -> int:
    token = asker.node.ask(host.host_id, short_id(goal.host_id), asker.now)
    assert token is not None
    asker.wake()
    return token


def test_a_host_says_that_it_is_there_and_how_it_reaches_another() -> None:
    mesh = meshed()
    one, two, three = mesh.hosts
    tokens = [ask(mesh, one, two, two), ask(mesh, one, two, three)]
    mesh.run(0.5)
    there, way = one.answers
    assert [there.token, way.token] == tokens
    assert there.report == PathReport(tokens[0], Way.SELF, short_id(two.host_id), 0, 0, 0)
    assert there.rtt_s is not None
    assert 0 < there.rtt_s < 0.1
    assert way.report is not None
    assert (way.report.way, way.report.hop) == (Way.DIRECT, short_id(three.host_id))
    assert way.report.rtt_us is not None
    assert 500 < way.report.max_datagram <= 1472


def test_a_host_that_nobody_knows_is_reached_no_way() -> None:
    mesh = meshed(2)
    one, two = mesh.hosts
    stranger = SimHost(mesh.net, "stranger", "10.9.9.9", one.key)
    ask(mesh, one, two, stranger)
    mesh.run(0.5)
    (answer,) = one.answers
    assert answer.report is not None
    assert answer.report.way is Way.NONE


def test_a_host_that_is_gone_answers_nothing_and_the_question_ends() -> None:
    mesh = meshed(2)
    one, two = mesh.hosts
    two.kill()
    ask(mesh, one, two, two)
    mesh.run(QUERY_TIMEOUT_S + 0.1)
    (answer,) = one.answers
    assert (answer.report, answer.rtt_s) == (None, None)


def test_a_curious_member_keeps_nobody_busy() -> None:
    mesh = meshed(2)
    one, two = mesh.hosts
    for _ in range(200):
        ask(mesh, one, two, two)
    mesh.run(QUERY_TIMEOUT_S + 0.1)
    answered = [answer for answer in one.answers if answer.report is not None]
    assert ANSWER_BURST <= len(answered) < 150
    assert two.node.drops[DropReason.RATE_LIMITED] == 200 - len(answered)
