"""Hosts with several addresses, of one family and of both: which of them is used, how soon another one, and what too many cost."""

from __future__ import annotations

import pytest

from meshd.forward.paths import PathKind
from meshd.gossip.values import MAX_ENDPOINTS
from meshd.testing.host import SimHost
from tests.sim.meshes import Mesh
from tests.sim.test_relays import Talk, path, way

V6 = 1500 - 48 - 48


def lost_between(mesh: Mesh, *networks: str) -> None:
    """UDP to addresses that begin so is lost."""
    mesh.net.hooks.append(lambda _, to, data: [] if to.host.startswith(networks) else [data])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("useless", [0, 6])
def test_where_ipv4_dies_ipv6_is_found_within_four_seconds_behind_addresses_that_lead_nowhere(
    seed: int, useless: int
) -> None:
    bridges = [f"172.{17 + number}.0" for number in range(useless)]
    mesh = Mesh(
        seed=seed, hosts=2, also=lambda number: [f"{net}.{number + 1}" for net in bridges] + [f"fd00::{number + 1}"]
    )
    lost_between(mesh, "172.")
    mesh.start()
    mesh.wait(mesh.meshed, 10.0)
    mesh.run(mesh.rng.uniform(2.0, 4.0))
    one, other = mesh.hosts
    assert path(one, other).endpoint == "10.0.0.2:6783"
    talk = Talk(mesh, mesh.boxes[0], mesh.boxes[1])
    talk.run(1)
    lost_between(mesh, "10.0.")
    talk.run(10)
    assert 1.0 < talk.gap() <= 4.0
    for here, there in ((one, other), (other, one)):
        shown = path(here, there)
        assert (shown.kind, shown.state, shown.mtu) == ("direct", "alive", V6)
        assert shown.endpoint == f"[{there.addresses[-1]}]:6783"
    mesh.assert_unicast()
    mesh.assert_sane()


def test_keys_are_made_over_the_last_of_many_addresses_within_seconds() -> None:
    """UDP passes over IPv6 alone; TCP does over the first address, which is tried first."""
    nets = [f"172.{17 + number}.0" for number in range(12)]
    mesh = Mesh(seed=0, hosts=2, also=lambda number: [f"{net}.{number + 1}" for net in nets] + [f"fd00::{number + 1}"])
    lost_between(mesh, "172.", "10.")
    mesh.start()
    mesh.wait(mesh.meshed, 5.0)


def test_hosts_of_one_family_each_meet_through_one_that_has_both() -> None:
    addresses = (("fd00::1",), (), ("fd00::3",))
    mesh = Mesh(
        seed=1, hosts=3, also=lambda number: addresses[number], targets=lambda number: ["10.0.0.3"][number // 2 :]
    )
    lost_between(mesh, "10.0.0.1")
    one, other = meet_through_the_third(mesh)
    mesh.run(3.0)
    mesh.assert_unicast()
    assert path(one, other).endpoint == "[fd00::3]:6783"
    assert path(one, other).mtu == V6 - 52
    assert path(other, one).endpoint == "10.0.0.3:6783"


def test_a_host_with_as_many_addresses_as_a_record_holds_is_reached_through_others() -> None:
    mesh = Mesh(
        seed=0,
        hosts=3,
        also=lambda number: [f"172.17.{net}.{number + 1}" for net in range(MAX_ENDPOINTS)],
        targets=lambda number: [Mesh.address(2)] if number < 2 else [],
    )
    meet_through_the_third(mesh)
    mesh.run(1.0)
    mesh.assert_unicast()


def meet_through_the_third(mesh: Mesh) -> tuple[SimHost, SimHost]:
    """The first two, between whom nothing passes."""
    mesh.net.topology.cut_pair("h0", "h1")
    mesh.start()
    mesh.wait(mesh.quiet, 10.0)
    one, other, _ = mesh.hosts
    mesh.wait(lambda: way(one, other) is way(other, one) is PathKind.RELAY, 5.0)
    return one, other
