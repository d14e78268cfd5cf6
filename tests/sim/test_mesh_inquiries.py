"""`trace` in a whole mesh: what happens to frames for a container, as the router of the asking host knows it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from meshd.daemon.inquiries import Inquiries
from meshd.ids import Mac, format_mac
from meshd.testing.host import SimHost
from meshd.views import TraceView
from tests.sim.meshes import Mesh


def meshed(hosts: int) -> Mesh:
    mesh = Mesh(seed=1, hosts=hosts)
    mesh.start()
    mesh.wait(mesh.meshed, 3.0)
    mesh.run(3.0)
    return mesh


def trace(mesh: Mesh, asker: SimHost, word: str) -> TraceView:
    """The simulation turns whenever the question waits."""

    async def story() -> TraceView:
        inquiries = Inquiries(asker.node, asker.wake, lambda: asker.now)
        asked = asyncio.ensure_future(inquiries.trace(word))
        while not asked.done():
            await asyncio.sleep(0)
            mesh.run(0.05)
            while asker.answers:
                inquiries.answered(asker.answers.pop())
        return asked.result()

    return asyncio.run(story())


def test_a_container_that_nobody_here_talks_to() -> None:
    mesh = meshed(2)
    one, two = mesh.hosts
    found = trace(mesh, one, format_mac(mesh.boxes[1].mac))
    assert found.flow == "no frame for it has been captured lately"
    assert (found.nickname, found.mac) == (two.name, format_mac(mesh.boxes[1].mac))
    assert [(leg.nickname, leg.next_nickname, leg.way) for leg in found.legs] == [(one.name, two.name, "direct")]
    assert found.rtt_ms is not None
    assert 0 < found.rtt_ms < 100
    assert trace(mesh, one, two.name).flow == ""  # a router: no frames are for it


def test_the_flows_to_a_container_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is asked for those of its MAC alone, not for a view of each that there is."""
    mesh = meshed(3)
    one = mesh.hosts[0]
    target, other = mesh.boxes[1], mesh.boxes[2]
    more = one.attach("more")
    mesh.run(1.0)
    for sender, receiver, frames in (
        (mesh.boxes[0], target, 3),
        (more, target, 2),
        (more, other, 7),
        (target, more, 4),
    ):
        for _ in range(frames):
            sender.send(receiver.mac, b"words")
            mesh.run(0.1)
    asked: list[Mac | None] = []
    flows = one.engine.flows

    def listed(mac: Mac | None = None) -> object:
        asked.append(mac)
        return flows(mac)

    monkeypatch.setattr(one.engine, "flows", listed)
    senders = ", ".join(sorted(format_mac(box.mac) for box in (mesh.boxes[0], more)))
    assert trace(mesh, one, format_mac(target.mac)).flow.startswith(f"5 frames from {senders}, the last one ")
    assert asked == [target.mac]


def test_each_leg_of_a_relayed_path_also_by_hosts_that_have_no_session_with_its_end() -> None:
    """h0 – h1 – h2 – h3, and each one keeps a path to its neighbours alone."""
    mesh = Mesh(seed=1, hosts=4, discovery=False, targets=lambda number: [Mesh.address(number - 1)] if number else [])
    for one, other in itertools.combinations(range(4), 2):
        if other - one > 1:
            mesh.net.topology.cut_pair(f"h{one}", f"h{other}")
    mesh.start()
    mesh.wait(mesh.quiet, 10.0)
    mesh.ask(mesh.boxes[0], mesh.boxes[3], timeout=5.0)
    mesh.run(3.0)
    found = trace(mesh, mesh.hosts[0], "h3")
    assert found.rtt_ms is not None
    legs = [(leg.nickname, leg.next_nickname, leg.way, leg.mtu) for leg in found.legs]
    assert legs == [
        ("h0", "h1", "relayed", 1500 - 28 - 52 - 48),
        ("h1", "h2", "relayed", 1500 - 28 - 52 - 48),
        ("h2", "h3", "direct", 1500 - 28 - 48),
    ]
    assert [leg.rtt_ms is None for leg in found.legs] == [False, True, False]
