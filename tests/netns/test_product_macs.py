"""A million source MACs from one container at real routers: tables keep to their sizes, and so does memory.

A process of its own sends as many frames as there are MACs, for some 25 s, to a container on the other host. What is asserted are
the sizes of tables and the memory that they take, not how fast anything is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.forward.engine.tables import MAX_FLOWS
from meshd.forward.fdb import MAX_LEARNED
from tests.netns.lab import Container, Host, Lab, until

ADDRESSES = ("10.32.0.1", "10.32.0.2", "10.32.0.3")
MACS = 1_000_000
RATE = 40_000  # about eight times as many as may ask what becomes of them
RSS_GROWTH_MIB = {
    "native": 24.0,  # 20 where it was measured: 32 768 flows, a full queue of 4 MiB, 2642 MACs learned of the 4096 that may be
    "python": 40.0,  # 31, with 4096 MACs learned; its flows and their index are objects
}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path, 2) as lab:
        yield lab


def rss_mib(host: Host) -> float:
    return float(host.report()["Process"]["RssMiB"])


def flood(source: Container, destination: Container, lab: Lab) -> None:
    """In parts, since one command has a limit; what each has sent is what it was to send."""
    root = str(Path(__file__).parent.parent.parent)
    part = MACS // 5
    for first in range(0, MACS, part):
        words = (
            sys.executable,
            "-m",
            "tests.netns.mac_flooder",
            "mesh0",
            destination.mac(),
            str(first),
            str(part),
            str(RATE),
        )
        sent = source.run("env", f"PYTHONPATH={root}", *words).out
        assert int(sent) > 0.9 * part


@pytest.mark.slow
@pytest.mark.both_engines
@pytest.mark.timeout(240)
def test_a_million_source_macs_fill_tables_and_no_more(lab: Lab, engine: str) -> None:
    first, second = lab.hosts
    attacker, target, bystander = (lab.container(role) for role in ("atk", "target", "by"))
    lab.launch("--engine", engine)
    for host, box, address in zip((first, second, first), (attacker, target, bystander), ADDRESSES, strict=True):
        host.attach(box, f"{address}/24")
    bystander.reach(ADDRESSES[1])
    before = {host.nickname: rss_mib(host) for host in lab.hosts}
    pid = {host.nickname: host.pid for host in lab.hosts}

    flood(attacker, target, lab)

    for host in lab.hosts:
        report = host.report()
        grown = report["Process"]["RssMiB"] - before[host.nickname]
        macs, flows = report["Router"]["MACs"], report["Engine"]["Flows"]
        print(f"{host.nickname}: RSS {before[host.nickname]} + {grown:.1f} MiB, {flows} flows, {len(macs)} MACs")
        # the attack got as far as the tables …
        assert report["Drops"]["upcall_overload"] > 10_000
        assert len(macs) > 500
        assert flows > MAX_FLOWS / 10
        # … and no further
        assert flows <= MAX_FLOWS + 100  # those of the attack are all of one direction
        assert len(macs) <= MAX_LEARNED + len(ADDRESSES)
        assert report["Gossip"]["Records"] <= MAX_LEARNED + 20
        assert grown < RSS_GROWTH_MIB[engine]
        assert host.pid == pid[host.nickname]
    until(lambda: bystander.ping(ADDRESSES[1], count=20), "others on the same host are served")
