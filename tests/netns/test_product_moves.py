"""A host whose own address changes under it, with real routers: from IPv4 to IPv6, while the mesh goes on.

Until the move that host has no IPv6 address at all and the others have both families; afterwards it has nothing else.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.netns.lab import Host, Lab, until
from tests.netns.traffic import tcp_arrives_whole

ADDRESSES = ("10.32.0.1", "10.32.0.2", "10.32.0.3", "10.32.0.4")
FAILOVER = 3.0  # until a path is dead; then candidates are asked at once
SLACK = 7.0  # commands take their time on a busy machine
LINKS_SECONDS = 60.0  # a control link that hears nothing dies after some 20 s, and both ends dial anew


def underlay6(host: Host) -> str:
    return f"fd09::{host.nickname.removeprefix('host')}"


def give_ipv6(host: Host) -> None:
    host.ip("addr", "add", f"{underlay6(host)}/64", "dev", "eth0", "nodad")


def paths(host: Host) -> dict[str, tuple[str, str, str]]:
    return {row["NickName"]: (row["Kind"], row["State"], row["Endpoint"]) for row in host.report()["Paths"]}


def links(host: Host) -> dict[str, str]:
    """Where the established control links lead, by nickname."""
    rows = host.report()["Router"]["Connections"]
    return {row["NickName"]: row["Address"] for row in rows if row["State"] == "established"}


def leads_to_ipv6(one: Host, other: Host) -> bool:
    return paths(one).get(other.nickname) == ("direct", "alive", f"[{underlay6(other)}]:6783")


def linked_over_ipv6(one: Host, other: Host) -> bool:
    return links(one).get(other.nickname, "").startswith(f"[{underlay6(other)}]:")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_host_that_moves_from_ipv4_to_ipv6_keeps_its_peers(tmp_path: Path) -> None:
    with Lab(tmp_path, 4) as lab:
        first, mover, third, late = lab.hosts
        for host in (first, third, late):
            give_ipv6(host)
        boxes = [lab.container(f"c{number}") for number in range(4)]
        first.launch()
        for host in (mover, third):
            host.launch("--key-file", lab.key_copy(first), "--peers", first.address)
        for host, box, address in zip(lab.hosts[:3], boxes, ADDRESSES, strict=False):
            host.attach(box, f"{address}/24")
        for box in (boxes[0], boxes[2]):
            box.reach(ADDRESSES[1])
        before = {host.nickname: (host.pid, paths(host)) for host in (first, mover, third)}
        assert before["host1"][1]["host2"] == ("direct", "alive", f"{mover.address}:6783")

        mover.ip("addr", "del", f"{mover.address}/24", "dev", "eth0")
        give_ipv6(mover)

        assert boxes[0].reach(ADDRESSES[1]) <= FAILOVER + SLACK
        assert boxes[2].reach(ADDRESSES[1]) <= FAILOVER + SLACK
        for other in (first, third):
            for one, two in ((other, mover), (mover, other)):
                until(partial(leads_to_ipv6, one, two), f"{one.nickname}'s direct path to {two.nickname} is IPv6")
        tcp_arrives_whole(boxes[0], boxes[1], ADDRESSES[1])
        tcp_arrives_whole(boxes[1], boxes[2], ADDRESSES[2])
        for other in (first, third):
            for one, two in ((other, mover), (mover, other)):
                what = f"{one.nickname}'s control link with {two.nickname} is over IPv6"
                until(partial(linked_over_ipv6, one, two), what, LINKS_SECONDS)
        assert boxes[1].ping(ADDRESSES[0], count=20)
        # Nobody started again, and who stayed has not moved.
        assert {host.nickname: host.pid for host in (first, mover, third)} == {
            nickname: pid for nickname, (pid, _) in before.items()
        }
        assert paths(first)["host3"] == before["host1"][1]["host3"]

        # Who comes later and has never heard of the old address finds it, too.
        late.launch("--key-file", lab.key_copy(first), "--peers", first.address)
        late.attach(boxes[3], f"{ADDRESSES[3]}/24")
        boxes[3].reach(ADDRESSES[1])
        until(partial(leads_to_ipv6, late, mover), "a newcomer's direct path to the host that moved")
        assert boxes[3].ping(ADDRESSES[1], count=20)
