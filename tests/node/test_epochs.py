"""Raising the epoch: once at once, and never as fast as a twin answers."""

from __future__ import annotations

from meshd.node.epochs import CLONE, OFTEN_S, PERSIST_S, RAISE_EVERY_S, Epochs
from meshd.node.notices import Notices
from tests.sim.meshes import Mesh


class Host:
    def __init__(self) -> None:
        self.epoch = 3
        self.notices = Notices()
        self.epochs = Epochs(lambda: self.epoch, self.notices)

    def raised(self, epoch: int, now: float) -> bool:
        """Others are at this epoch; whether ours goes above it at once."""
        self.epochs.ahead(epoch)
        boot = self.epochs.poll(now)
        if boot is not None:
            assert boot > epoch
            self.epoch = boot
        return boot is not None


def test_a_backup_that_two_parts_of_the_mesh_are_ahead_of_is_raised_twice_without_a_word() -> None:
    host = Host()
    assert host.epochs.next_deadline() is None
    assert host.raised(5, 1.0)
    assert not host.raised(4, 1.1), "we are above it"
    assert host.raised(9, 1.2)
    assert host.epoch == 10
    assert not host.notices.recent(2.0)
    assert host.epochs.next_deadline() is None


def test_whoever_is_overtaken_a_third_time_waits_and_says_why() -> None:
    host = Host()
    assert host.raised(5, 1.0)
    assert host.raised(7, 2.0)
    assert not host.raised(9, 3.0)
    assert host.notices.recent(3.0) == (CLONE,)
    assert host.epochs.next_deadline() == 1.0 + RAISE_EVERY_S
    assert host.epochs.poll(1.0 + RAISE_EVERY_S) == 10


def test_lives_that_lie_far_apart_are_no_twin() -> None:
    host = Host()
    for number in range(10):
        assert host.raised(host.epoch, number * OFTEN_S)
    assert not host.notices.recent(10 * OFTEN_S)


def test_what_is_on_its_way_to_the_disk_is_not_asked_for_again_unless_it_gets_lost() -> None:
    host = Host()
    host.epochs.ahead(5)
    assert host.epochs.poll(1.0) == 6
    host.epochs.ahead(5)
    assert host.epochs.poll(1.1) is None
    assert host.epochs.next_deadline() == 1.0 + PERSIST_S
    assert host.epochs.poll(1.0 + PERSIST_S) == 6
    host.epoch = 6
    assert host.epochs.next_deadline() is None


def test_two_hosts_with_one_identity_cost_the_mesh_little_and_both_say_so() -> None:
    """Each finds the other's log ahead of its own. They used to raise their epochs as fast as their records travelled."""
    mesh = Mesh(seed=1, hosts=5)
    *rest, twin = mesh.hosts
    original = rest[1]
    twin.identity = original.identity
    mesh.start(rest)
    mesh.run(5.0)
    twin.start()
    mesh.run(30.0)
    assert max(original.boot, twin.boot) <= 4 * (1 + 30.0 / RAISE_EVERY_S)  # each raises twice in that time
    for host in (original, twin):
        assert host.node.view(mesh.clock_now).notices == (CLONE,)
    for host in (rest[0], *rest[2:]):
        assert not host.node.view(mesh.clock_now).notices
    twin.kill()
    mesh.run(RAISE_EVERY_S)
    mesh.wait(lambda: mesh.meshed() and mesh.owners_right(), RAISE_EVERY_S)
    mesh.assert_unicast()
