"""The peer table when a member shows up under ever new identities: full is counted, never an exception."""

from __future__ import annotations

import random

from meshd.crypto.meshkey import MeshKey
from meshd.drops import DropReason
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
