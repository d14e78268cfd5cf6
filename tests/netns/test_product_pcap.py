"""pcap mode beside TAP mode, with real routers: what is behind an interface that is there already joins the mesh.

container ─ bridge ─ TAP ═ host1 ══ host2 ═ w0 ─ veth ─ station        or    host2 ═ br1 ─ veth ─ station
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, Popen

import pytest

from bench.contender import cpu_seconds
from tests.netns.lab import Container, Host, Lab, until
from tests.netns.traffic import Capture, groups_reach, tcp_arrives_whole

WEB, STATION = "10.1.0.1", "10.1.0.2"


def plug_in(host: Host, station: Container, *, bridge: str = "", name: str = "w0", address: str = STATION) -> None:
    """A veth into the station, as somebody else than meshd makes it: MTU 1500, every offload on."""
    host.ip("link", "add", name, "type", "veth", "peer", "name", "mesh0", "netns", station.name)
    if bridge:
        host.ip("link", "set", name, "master", bridge)
    host.ip("link", "set", name, "up")
    station.ip("addr", "add", f"{address}/24", "dev", "mesh0")
    station.ip("link", "set", "mesh0", "up")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path, 2) as lab:
        yield lab


def launch(lab: Lab, capture: str) -> tuple[Host, Host, Container]:
    """A TAP host with a container, and a host that captures."""
    first, second = lab.hosts
    first.launch()
    second.launch("--key-file", lab.key_copy(first), "--peers", first.address, "--capture", capture)
    lab.meshed()
    web = lab.container("web")
    first.attach(web, f"{WEB}/24")
    return first, second, web


HOP_BY_HOP = bytes((0, 0, 1, 4, 0, 0, 0, 0))  # padding


def test_tcp_behind_hop_by_hop_options(lab: Lab) -> None:
    """What the station's kernel leaves to its card is as large and unfinished as without them, and only the bytes tell."""
    _, second = lab.hosts
    station = lab.container("st")
    plug_in(second, station)
    _, second, web = launch(lab, "pcap:w0")
    for container, address in ((web, "fd01::1"), (station, "fd01::2")):
        container.ip("addr", "add", f"{address}/64", "dev", "mesh0", "nodad")
    web.reach("fd01::2")
    tcp_arrives_whole(station, web, "fd01::1", 5_000_000, options=HOP_BY_HOP)
    tcp_arrives_whole(web, station, "fd01::2", 5_000_000, options=HOP_BY_HOP)
    drops = second.report()["Drops"]
    assert not {"bad_frame", "too_big"} & drops.keys()


def iperf3(client: Container, server: Container, address: str, *options: str) -> float:
    """Mbit/s that arrived. The server answers one client and ends."""
    with Popen(server.inside("iperf3", "-s", "-1"), stdout=DEVNULL, stderr=DEVNULL) as serving:
        try:
            until(lambda: ":5201" in server.run("ss", "-Htln").out, "iperf3 listens")
            done = client.run("iperf3", "-c", address, "-n", "20M", "-J", *options)
            serving.wait(20)
        finally:
            serving.kill()
    return float(json.loads(done.out)["end"]["sum_received"]["bits_per_second"]) / 1e6


def test_a_captured_veth_with_every_offload_on(lab: Lab) -> None:
    _, second = lab.hosts
    station = lab.container("st")
    plug_in(second, station)
    first, second, web = launch(lab, "pcap:w0")
    assert "tx-checksumming: on" in station.run("ethtool", "-k", "mesh0").out
    web.reach(STATION)
    assert station.ping(WEB, count=5)
    assert web.ping(STATION, "-f", count=200)
    assert iperf3(station, web, WEB) > 1
    assert iperf3(station, web, WEB, "-R") > 1
    tcp_arrives_whole(station, web, WEB)
    tcp_arrives_whole(web, station, STATION)
    groups_reach(web, [station], "10.1.0.255", b"to all")
    groups_reach(station, [web], "239.1.2.3", b"to a group")
    assert "Capture: w0 (via pcap)" in second.meshd("status").out
    assert "tx-checksumming: on" in station.run("ethtool", "-k", "mesh0").out
    macs = {mac["Mac"]: mac["NickName"] for mac in first.report()["Router"]["MACs"]}
    assert macs[station.mac()] == "host2"
    assert macs[web.mac()] == "host1"
    assert "capture_echo" not in second.report()["Drops"]


def test_a_bridge_that_is_there(lab: Lab) -> None:
    """Its stations and attached containers are in the mesh; the bridge itself stays as its owner made it."""
    _, second = lab.hosts
    second.ip("link", "add", "br1", "type", "bridge")
    second.ip("link", "set", "br1", "up")
    station = lab.container("st")
    plug_in(second, station, bridge="br1")
    before = bridge_facts(second)
    first, second, web = launch(lab, "pcap:br1")
    db = lab.container("db")
    second.attach(db, "10.1.0.3/24")
    for source, address in ((web, STATION), (web, "10.1.0.3"), (db, WEB), (db, STATION), (station, "10.1.0.3")):
        source.reach(address)
        assert source.ping(address, count=20)
    tcp_arrives_whole(db, web, WEB)
    tcp_arrives_whole(web, station, STATION)
    assert bridge_facts(second) == before
    assert "Bridge: br1" in second.meshd("status").out
    second.meshd("stop")
    assert station.ping("10.1.0.3")
    second.meshd("reset")
    assert not db.has()
    assert bridge_facts(second) == before
    assert first.meshd("status").status == 0


def test_what_is_for_the_host_stays_there_when_its_mac_changes(lab: Lab) -> None:
    """As it does by itself where a bridge that nobody gave a MAC gets another port."""
    _, second = lab.hosts
    second.ip("link", "add", "br1", "type", "bridge")
    second.ip("link", "set", "br1", "up")
    second.ip("addr", "add", "10.1.0.200/24", "dev", "br1")
    station = lab.container("st")
    plug_in(second, station, bridge="br1")
    _, second, web = launch(lab, "pcap:br1")
    web.reach(STATION)
    second.ip("link", "set", "br1", "address", "02:00:00:00:00:07")
    seen = f"{second.nickname} reads on by the new MAC"
    until(lambda: not reaches(web, station, second), seen)
    web.reach(STATION)
    assert station.ping(WEB)


def reaches(web: Container, station: Container, host: Host) -> bool:
    """Whether what the station says to the host comes to the container on the other one."""
    mac = bytes.fromhex(host.mac("br1").replace(":", ""))
    with Capture(web) as capture:
        assert station.ping("10.1.0.200", count=3)
        station.reach(WEB)  # what was sent before has come
    return any(frame.startswith(mac) for frame in capture.frames)


def test_containers_on_a_bridge_of_others_follow_a_launch_with_another_mtu(lab: Lab) -> None:
    host, _ = lab.hosts
    host.ip("link", "add", "br1", "type", "bridge")
    host.ip("link", "set", "br1", "up")
    web = lab.container("web")
    for options, mtu in (([], 1372), (["--mtu", "1200"], 1200), ([], 1372)):
        host.launch("--capture", "pcap:br1", *options)
        if not web.has():
            host.attach(web, f"{WEB}/24")
        (link,) = json.loads(web.ip("-j", "link", "show", "mesh0"))
        assert link["mtu"] == mtu
        assert json.loads(host.ip("-j", "link", "show", "br1"))[0]["mtu"] == 1500
        host.meshd("stop")


def bridge_facts(host: Host) -> tuple[object, ...]:
    link = json.loads(host.ip("-j", "link", "show", "br1"))[0]
    return (
        link["address"],
        link["mtu"],
        "PROMISC" in link["flags"],
        host.run("iptables", "-S").out,
        host.run("sysctl", "net.ipv6.conf.br1.disable_ipv6").out,
    )


def test_there_is_nothing_to_plug_a_container_into(lab: Lab) -> None:
    first, _ = lab.hosts
    station, web = lab.container("st"), lab.container("web")
    plug_in(first, station)
    first.launch("--capture", "pcap:w0")
    first.meshd("attach", f"{WEB}/24", web.word, check=False).refused("no bridge", "pcap:BRIDGE")
    assert first.meshd("ps").out == "expose -\n"
    assert first.meshd("ps", "--json").status == 0


def test_an_interface_goes_down_and_away_and_comes_back(lab: Lab) -> None:
    _, second = lab.hosts
    station = lab.container("st")
    plug_in(second, station)
    _, second, web = launch(lab, "pcap:w0")
    web.reach(STATION)
    second.ip("link", "set", "w0", "down")
    assert not web.ping(STATION)
    second.ip("link", "set", "w0", "up")
    web.reach(STATION)
    second.ip("link", "del", "w0")
    until(lambda: "gone" in second.meshd("status").out, "status says that the interface is gone")
    used = cpu_seconds([second.pid])
    assert not web.ping(STATION)
    assert cpu_seconds([second.pid]) - used < 0.5
    plug_in(second, station)
    web.reach(STATION)
    assert station.ping(WEB, count=5)
    assert "gone" not in second.meshd("status").out


@pytest.mark.parametrize(
    ("capture", "words"),
    [
        ("pcap:nope0", ["no interface nope0"]),
        ("pcap:lo", ["loopback"]),
        ("pcap:idle0", ["idle0 is down", "ip link set idle0 up"]),
        ("pcap:eth0", ["eth0 is this host's default route"]),
        ("pcap:t0", ["no Ethernet"]),
        ("pcap:", ["names no interface"]),
        ("pcap:way/too", ["no interface name"]),
        ("xdp:eth0", ["neither tap nor pcap:IFACE"]),
    ],
)
def test_an_interface_that_will_not_do(lab: Lab, capture: str, words: list[str]) -> None:
    first, _ = lab.hosts
    first.ip("link", "add", "idle0", "type", "veth", "peer", "name", "idle1")
    first.ip("tuntap", "add", "t0", "mode", "tun")
    first.ip("link", "set", "t0", "up")
    first.ip("route", "add", "default", "via", "10.9.0.2")
    before = first.everything()
    first.meshd("launch", "--capture", capture, check=False).refused(*words)
    assert first.everything() == before


def test_our_own_tap_and_a_bridge_of_that_name_are_refused(lab: Lab) -> None:
    first, second = lab.hosts
    first.launch()
    other = first.folder.with_name("other")
    done = first.meshd("launch", "--port", "7000", "--capture", "pcap:meshd-tap", check=False, folder=other)
    done.refused("meshd's own TAP")
    second.ip("link", "add", "w0", "type", "veth", "peer", "name", "w1")
    second.ip("link", "set", "w0", "up")
    done = second.meshd("launch", "--capture", "pcap:w0", "--bridge", "br7", check=False)
    done.refused("--bridge", "pcap:BRIDGE")


def test_what_is_sent_back_is_not_taken_for_a_host_here(lab: Lab) -> None:
    """Whatever we send out comes back in: the MACs stay where they are, and nothing goes round."""
    _, second = lab.hosts
    second.ip("link", "add", "w0", "type", "veth", "peer", "name", "w1")
    for name in ("w0", "w1"):
        second.ip("link", "set", name, "up")
    second.run("nft", "add table netdev loop")
    second.run("nft", "add chain netdev loop back { type filter hook ingress device w1 priority 0; }")
    second.run("nft", "add rule netdev loop back fwd to w1")
    first, second, web = launch(lab, "pcap:w0")
    db = lab.container("db")
    first.attach(db, "10.1.0.3/24")
    for _ in range(20):
        web.run("ping", "-n", "-b", "-c", "1", "-W", "0.02", "10.1.0.255", check=False)
    assert web.ping("10.1.0.3", count=50)
    drops = second.report()["Drops"]
    assert drops["capture_echo"] >= 20
    assert "mac_frozen" not in drops
    for host in (first, second):
        macs = {mac["Mac"]: (mac["NickName"], mac["State"]) for mac in host.report()["Router"]["MACs"]}
        assert macs[web.mac()] == ("host1", "")
