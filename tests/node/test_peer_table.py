"""The peer table when a member shows up under ever new identities: full is counted, never an exception."""

from __future__ import annotations

import random

import pytest

from meshd.crypto.meshkey import MeshKey
from meshd.drops import DropReason
from meshd.forward.control import Bye, ByeReason, Probe
from meshd.forward.slots import MAX_PEERS
from meshd.ids import Endpoint, HostId, SlotId
from meshd.testing.host import SimHost
from meshd.testing.network import SimNetwork

KEY = MeshKey.generate(random.Random(7).randbytes)
ELSEWHERE = Endpoint("10.0.9.9", 6783)


def host_with_a_full_table() -> SimHost:
    host = SimHost(SimNetwork(seed=1), "a", "10.0.0.1", KEY)
    host.start()
    for number in range(MAX_PEERS):
        host.node.peers.slots.slot(HostId(number.to_bytes(16, "big")))
    return host


def test_a_full_table_admits_nobody_new_and_says_so() -> None:
    host = host_with_a_full_table()
    stranger = HostId(b"\xff" * 16)
    host.node.peers.host_known(stranger, bytes(32), (ELSEWHERE,), host.now)
    host.node.peers.observed(stranger, ELSEWHERE, host.now)
    host.node.peers.keep({stranger}, host.now)
    assert stranger not in host.node.peers.peers
    assert host.node.drops[DropReason.TABLE_FULL] == 3


def test_a_known_host_is_served_by_a_full_table() -> None:
    host = host_with_a_full_table()
    known = HostId((5).to_bytes(16, "big"))
    host.node.peers.host_known(known, bytes(32), (ELSEWHERE,), host.now)
    assert host.node.peers.peers[known].endpoints == (ELSEWHERE,)
    assert host.node.peers.peers[known].slot == SlotId(256 + 5)
    assert host.node.drops[DropReason.TABLE_FULL] == 0


def test_a_full_table_does_not_keep_real_hosts_from_being_heard() -> None:
    """The next host still joins by gossip; only data with it is refused, and counted."""
    host = host_with_a_full_table()
    late = SimHost(host.net, "b", "10.0.0.2", KEY, targets=["10.0.0.1"])
    late.start()
    host.net.clock.run_for(5)
    assert late.host_id in host.node.directory.hosts
    assert host.node.drops[DropReason.TABLE_FULL] > 0
    assert not host.node.peers.alive()


def test_a_probe_behind_a_goodbye_asks_for_nothing() -> None:
    """Both came in one wake-up: without keys nothing can be answered, and a deadline that nobody meets would never let us sleep."""
    net = SimNetwork(seed=1)
    one, two = SimHost(net, "a", "10.0.0.1", KEY), SimHost(net, "b", "10.0.0.2", KEY, targets=["10.0.0.1"])
    one.start()
    two.start()
    net.clock.run_for(5)
    peers = one.node.peers
    peer = peers.peers[two.host_id]
    assert peer.paths.lives
    keypair = peers.sessions.keypair(two.host_id)
    assert keypair is not None
    index = keypair.local_index
    peers.take_control(peer, Bye(ByeReason.STOPPING), index, Endpoint("10.0.0.2", 6783), one.now, newest=True)
    peers.take_control(peer, Probe(1 << 20, 0, 0), index, ELSEWHERE, one.now, newest=True)
    deadline = peers.next_deadline()
    assert deadline is not None
    assert deadline >= one.now
    peers.handle_timer(one.now)
    assert one.node.next_deadline(one.now) > one.now


def test_who_answers_on_udp_alone_is_told_of_until_a_link_is_up() -> None:
    net = SimNetwork(seed=1)
    one, two = SimHost(net, "a", "10.0.0.1", KEY), SimHost(net, "b", "10.0.0.2", KEY, targets=["10.0.0.1"])
    one.start()
    two.start()
    net.clock.run_for(5)
    where = Endpoint("10.0.0.2", 6783)
    assert one.node.links.linked(two.host_id)
    one.node.identified(two.host_id, where, one.now)  # the keys of a session that XX began are renewed
    assert one.node.notices.recent(one.now) == ()
    one.node.identified(HostId(b"\x77" * 16), where, one.now)
    (notice,) = one.node.notices.recent(one.now)
    assert "answers on UDP, but not on TCP" in notice


def test_only_who_asked_in_vain_says_that_a_tcp_port_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other end never tried: it would send its user to the wrong host."""
    net = SimNetwork(seed=1)
    one, two = SimHost(net, "a", "10.0.0.1", KEY), SimHost(net, "b", "10.0.0.2", KEY, targets=["10.0.0.1"])
    with monkeypatch.context() as closed:
        closed.setattr(net, "listen", lambda local, accept: None)
        one.start()
    two.start()
    net.clock.run_for(1)
    assert two.node.peers.sessions.keypair(one.host_id) is not None
    assert one.node.peers.sessions.keypair(two.host_id) is not None
    assert one.node.notices.recent(one.now) == ()
    (notice,) = two.node.notices.recent(two.now)
    assert notice.startswith("10.0.0.1:6783 answers on UDP, but not on TCP")


def test_hosts_that_are_only_known_cost_no_wake_up_anything() -> None:
    host = SimHost(SimNetwork(seed=1), "a", "10.0.0.1", KEY)
    host.start()
    peers = host.node.peers
    known = [HostId(number.to_bytes(16, "big")) for number in range(500)]
    for one in known:
        peers.host_known(one, bytes(range(32)), (ELSEWHERE,), host.now)
    assert peers.tended == 0
    peers.keep(known[:3], host.now)
    assert peers.tended == 3
    peers.seek(known[7], host.now)  # a frame wants it
    assert peers.tended == 4
    peers.keep(known[:1], host.now)
    host.net.clock.run_for(120)  # nobody answers: the handshakes with those that nobody wants are given up
    assert peers.tended == 1
    peers.keep((), host.now)
    host.net.clock.run_for(120)
    assert peers.tended == 0
