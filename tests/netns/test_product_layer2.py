"""Layer 2 between two real hosts: a loop beside the mesh is found and cut, and questions do not travel."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.netns.lab import Container, Host, Lab, command, until
from tests.netns.traffic import Capture

ONE, TWO = "10.32.0.1", "10.32.0.2"
ECHO, ECHO6, SOLICITATION = 8, 128, 135  # types of ICMP and ICMPv6


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, list[Container]]]:
    with Lab(tmp_path_factory.mktemp("layer2"), 2) as lab:
        boxes = [lab.container(f"c{number}") for number in (1, 2)]
        first, second = lab.hosts
        first.launch()
        second.launch("--key-file", lab.key_copy(first), "--peers", first.address)
        first.attach(boxes[0], f"{ONE}/24", "fd32::1/64")
        second.meshd("attach", "--port-security", f"{TWO}/24", "fd32::2/64", boxes[1].word)
        lab.meshed()
        boxes[0].reach(TWO)
        yield lab, boxes


def test_questions_are_answered_on_the_host_that_asks(lab: tuple[Lab, list[Container]]) -> None:
    """In IPv4 and in IPv6, with port security at the other end."""
    _, (one, two) = lab
    one.ip("neigh", "flush", "dev", "mesh0")
    with Capture(one) as left, Capture(two) as seen:
        assert one.ping(TWO)
        assert one.ping("fd32::2")
    assert kinds(left, one.mac()) == {"ARP question", "ND question", "ping", "ping6"}
    assert kinds(seen, one.mac()) == {"ping", "ping6"}


def test_one_name_on_two_hosts_is_two_macs(lab: tuple[Lab, list[Container]]) -> None:
    """`netns:web` may be there on each host."""
    where, (one, _) = lab
    second = where.hosts[1]
    second.meshd("attach", "--ifname", "mesh1", one.word)
    assert one.mac("mesh1") != one.mac()
    second.meshd("detach", one.word)


def kinds(seen: Capture, source: str) -> set[str]:
    """What a container sent, as far as it matters here: questions to everybody, and pings.

    Whether an address is taken already (from ::, RFC 4862 § 5.4.2) is for everybody to hear, and asked some time after attaching.
    """
    found = set()
    for frame in seen.frames:
        if frame[6:12].hex(":") != source:
            continue
        match frame[12:14], frame[0] & 1:
            case b"\x08\x06", 1:
                found.add("ARP question")
            case b"\x86\xdd", _ if not any(frame[22:38]):
                pass
            case b"\x08\x00", 0 if (frame[23], frame[34]) == (socket.IPPROTO_ICMP, ECHO):
                found.add("ping")
            case b"\x86\xdd", 1 if (frame[20], frame[54]) == (socket.IPPROTO_ICMPV6, SOLICITATION):
                found.add("ND question")
            case b"\x86\xdd", 0 if (frame[20], frame[54]) == (socket.IPPROTO_ICMPV6, ECHO6):
                found.add("ping6")
    return found


def notices(host: Host) -> list[str]:
    return [text for text in host.report()["Notices"] if text.startswith("a loop: ")]


def test_a_loop_beside_the_mesh_is_cut(lab: tuple[Lab, list[Container]]) -> None:
    where, (one, two) = lab
    first, second = where.hosts
    ends = [f"lp{number}{where.hosts[0].name[-4:]}" for number in (1, 2)]
    command(
        *("ip", "-n", first.name, "link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns", second.name)
    )
    for host, end in ((first, ends[0]), (second, ends[1])):
        host.ip("link", "set", end, "master", "meshd", "up")
    began = time.monotonic()
    until(lambda: notices(first) or notices(second), "the loop is found")
    print("seconds_until_a_loop_is_cut:", round(time.monotonic() - began, 2))
    blocked = [host for host in (first, second) if notices(host)]
    end = ends[0] if blocked[0] is first else ends[1]
    assert "state DOWN" in blocked[0].ip("link", "show", end)
    until(lambda: two.ping(ONE) and one.ping(TWO), "both reach each other again")
    for host in (first, second):  # what came round moved neither of them
        rows = json.loads(host.meshd("status", "macs", "--json").out)
        where_it_is = {row["Mac"]: (row["NickName"], row["State"]) for row in rows}
        assert (where_it_is[one.mac()], where_it_is[two.mac()]) == (("host1", ""), ("host2", ""))
