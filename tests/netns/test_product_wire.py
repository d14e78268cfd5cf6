"""What passes between hosts: nothing that can be read, no loss when keys change, no answer to strangers."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator

import pytest

from meshd.crypto.cookie import COOKIE_SIZE
from tests.netns.lab import Container, Host, Lab, until
from tests.netns.traffic import Capture, Stream, tcp_arrives_whole

MARK = b"MARKED-PAYLOAD-THAT-NOBODY-MAY-READ"
NICKNAME = "nicknameofthishost"
ADDRESSES = ("10.32.77.1", "10.32.77.2")
STRANGER = "10.9.0.250"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("wire"), 2) as lab:
        yield lab


@pytest.fixture(scope="module")
def capture(lab: Lab) -> Iterator[Capture]:
    """From before the first handshake on."""
    with Capture(lab.switch) as capture:
        yield capture


@pytest.fixture(scope="module")
def containers(lab: Lab, capture: Capture) -> list[Container]:
    """Two hosts with keys that live two seconds, one container on each."""
    first, second = lab.hosts
    first.launch("--rekey-interval", "2", "--nickname", f"{NICKNAME}1")
    key = lab.key_copy(first)
    second.launch("--rekey-interval", "2", "--nickname", f"{NICKNAME}2", "--key-file", key, "--peers", first.address)
    containers = [lab.container("secretname") for _ in lab.hosts]
    for host, container, address in zip(lab.hosts, containers, ADDRESSES, strict=True):
        host.attach(container, f"{address}/24")
    containers[0].reach(ADDRESSES[1])
    return containers


def type_1_sent(capture: Capture) -> int:
    """Handshakes begun by either side over UDP: what a change of keys looks like from outside."""
    return sum(payload[:1] == b"\x11" for *_, payload in capture.packets(socket.IPPROTO_UDP))


def test_keys_change_under_traffic_without_loss(lab: Lab, capture: Capture, containers: list[Container]) -> None:
    with (
        Stream(containers[0], containers[1], ADDRESSES[1]) as there,
        Stream(containers[1], containers[0], ADDRESSES[0], interval=0.01) as back,
    ):
        begun = type_1_sent(capture)
        until(lambda: type_1_sent(capture) >= begun + 3, "three changes of keys")
        assert containers[0].ping(ADDRESSES[1], "-f", count=2000)
    assert (there.lost, back.lost) == ([], [])
    assert (there.repeated, back.repeated) == (0, 0)
    assert there.arrived == sorted(there.arrived)
    assert there.sent > 1000
    for host in lab.hosts:
        drops = host.report()["Drops"]
        assert not {"no_session", "no_path", "bad_tag", "key_expired", "replayed", "too_old"} & set(drops), drops


def test_a_connection_outlives_its_keys(lab: Lab, capture: Capture, containers: list[Container]) -> None:
    """One TCP connection, idle while the keys change, goes on with the next ones."""
    with containers[1].socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((ADDRESSES[1], 5100))
        listener.listen(1)
        with containers[0].socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(10)
            client.connect((ADDRESSES[1], 5100))
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(10)
                begun = type_1_sent(capture)
                until(lambda: type_1_sent(capture) >= begun + 2 or not client.send(b"."), "two changes of keys")
                client.sendall(b"end")
                received = b""
                while not received.endswith(b"end"):
                    received += accepted.recv(65536)


def test_nothing_can_be_read_on_the_underlay(lab: Lab, capture: Capture, containers: list[Container]) -> None:
    first, second = containers
    with (
        second.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        first.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((ADDRESSES[1], 5200))
        receiver.settimeout(10)
        for size in (1, 20, 200):  # alone, aggregated, in fragments
            sender.sendto(MARK * size, (ADDRESSES[1], 5200))
            assert receiver.recv(65536) == MARK * size
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.sendto(MARK, ("10.32.77.255", 5200))  # floods are sealed too
    tcp_arrives_whole(first, second, ADDRESSES[1], size=1_000_000)
    until(lambda: second.mac() in lab.hosts[0].meshd("status", "macs").out, "gossip has brought the MAC")

    seen = {frame for frame in capture.frames if frame[12:14] in (b"\x08\x00", b"\x86\xdd")}
    assert {17, 6} <= {frame[23] for frame in seen if frame[12:14] == b"\x08\x00"}  # both of our protocols were seen
    assert sum(len(frame) for frame in seen) > 1_000_000
    macs = [bytes.fromhex(container.mac().replace(":", "")) for container in containers]
    names = [str(host.report()["Router"]["Name"]) for host in lab.hosts]
    addresses = [socket.inet_aton(address) for address in ADDRESSES]
    secrets = [
        MARK[:8],
        NICKNAME.encode(),
        b"secretname",
        containers[0].name.encode(),
        *macs,
        *(mac.hex(":").encode() for mac in macs),
        *(bytes.fromhex(name.replace(":", "")) for name in names),
        *(name.encode() for name in names),
        *(address.encode() for address in ADDRESSES),
        *addresses,
    ]
    # The four bytes of an address turn up in random ciphertext once in 4 GB; what is looked for is in the clear, so in many frames.
    found = {secret: sum(secret in frame for frame in seen) for secret in secrets}
    assert {secret: count for secret, count in found.items() if count > (1 if len(secret) == 4 else 0)} == {}


def test_an_arp_of_the_containers_does_not_get_out(capture: Capture, containers: list[Container]) -> None:
    arp = [frame for frame in capture.frames if frame[12:14] == b"\x08\x06"]
    assert all(frame[28:30] == b"\x0a\x09" for frame in arp)  # of the underlay, 10.9/16, only


# ── strangers


@pytest.fixture
def stranger(lab: Lab, containers: list[Container]) -> Iterator[Container]:
    """Somebody on the underlay who has no key."""
    space = lab.container("stranger")
    space.ip("link", "add", "eth0", "type", "veth", "peer", "name", "pstranger", "netns", lab.switch.name)
    space.ip("addr", "add", f"{STRANGER}/24", "dev", "eth0")
    space.ip("link", "set", "eth0", "up")
    lab.switch.ip("link", "set", "pstranger", "master", "br0", "up")
    space.reach(lab.hosts[0].address)
    yield space
    lab.switch.ip("link", "del", "pstranger")  # with its namespace it would go some time later
    space.remove()


def drops(host: Host) -> dict[str, int]:
    counts: dict[str, int] = host.report()["Drops"]
    return counts


def test_datagrams_of_strangers_are_counted_and_not_answered(
    lab: Lab, containers: list[Container], stranger: Container
) -> None:
    host = lab.hosts[0]
    before, pid = drops(host), host.pid
    rng = random.Random(6783)
    junk = [rng.randbytes(rng.choice((1, 3, 4, 16, 92, 148, 204, 300, 1400))) for _ in range(300)]
    shaped = [
        bytes((0x10 | kind, 0, 0, 0)) + rng.randbytes(size - 4) for kind, size in LENGTHS.items() for _ in range(20)
    ]
    largest = [bytes((0x10 | kind, 0, 0, 0)) + bytes(65_503) for kind in range(16)]
    reserved = [bytes((0x10 | kind, *rest)) + bytes(300) for kind in range(16) for rest in ((0xFF, 0, 0), (0, 9, 9))]
    with Capture(stranger) as capture, stranger.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in (*junk, *shaped, *largest, *reserved, b"", bytes(1472)):
            sender.sendto(datagram, (host.address, 6783))
        until(lambda: sum(drops(host).values()) - sum(before.values()) >= 400, "they are counted")
        assert containers[1].ping(ADDRESSES[0], count=10)
    assert answers(capture, host) == []
    reasons = {name for name, count in drops(host).items() if count > before.get(name, 0)}
    assert {"truncated", "unknown_version", "unknown_type", "bad_mac1", "unknown_index"} <= reasons
    assert (host.pid, host.established()) == (pid, {f"{NICKNAME}2"})


LENGTHS = {1: 148, 2: 92, 4: 200, 5: 300, 6: 300, 7: 300, 9: 100, 15: 100}  # type → a plausible size


def answers(capture: Capture, host: Host) -> list[bytes]:
    """Every byte that the host sent to the stranger above UDP and TCP; ICMP too."""
    return [
        payload
        for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP)
        for source, _, destination, _, payload in capture.packets(protocol)
        if (source, destination) == (host.address, STRANGER) and payload
    ]


def test_a_copy_of_what_a_host_sent_is_dropped(
    lab: Lab, capture: Capture, containers: list[Container], stranger: Container
) -> None:
    """Replayed from elsewhere: nothing arrives twice, the session goes on. Only a type 1 may be answered, by a smaller cookie."""
    host = lab.hosts[1]
    copies = [
        payload
        for source, _, destination, _, payload in list(capture.packets(socket.IPPROTO_UDP))
        if (source, destination) == (lab.hosts[0].address, host.address)
    ][-500:]
    assert len(copies) == 500
    openings = sum(copy[0] == 0x11 for copy in copies)
    before = drops(host)
    with (
        Capture(containers[1]) as delivered,
        Capture(stranger) as heard,
        stranger.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        for datagram in copies:
            sender.sendto(datagram, (host.address, 6783))
        until(lambda: sum(drops(host).values()) - sum(before.values()) >= 400, "they are counted")
        assert containers[0].ping(ADDRESSES[1], count=10)
    assert [*delivered.packets(socket.IPPROTO_UDP), *delivered.packets(socket.IPPROTO_TCP)] == []
    cookies = answers(heard, host)
    assert {(cookie[0], len(cookie)) for cookie in cookies} <= {(0x13, COOKIE_SIZE)}
    assert len(cookies) <= openings
    assert host.established() == {f"{NICKNAME}1"}
    assert {path["Endpoint"] for path in host.report()["Paths"]} == {f"{lab.hosts[0].address}:6783"}


def test_garbage_on_the_tcp_port_ends_that_connection_alone(
    lab: Lab, containers: list[Container], stranger: Container
) -> None:
    host = lab.hosts[0]
    before, pid = drops(host), host.pid
    rng = random.Random(80)
    pieces = [
        b"GET / HTTP/1.1\r\nHost: host1\r\n\r\n",
        b"\x16\x03\x01" + rng.randbytes(300),
        bytes(70_000),
        rng.randbytes(9),
    ]
    with Capture(stranger) as capture:
        for piece in [*pieces, *(rng.randbytes(rng.randrange(1, 4000)) for _ in range(10))]:
            with stranger.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                client.settimeout(15)
                client.connect((host.address, 6783))
                try:
                    client.sendall(piece)
                    with contextlib.suppress(OSError):  # ENOTCONN, where it is closed already
                        client.shutdown(socket.SHUT_WR)
                    assert client.recv(100) == b""
                except ConnectionError:
                    pass  # closed with our bytes unread
    assert answers(capture, host) == []
    assert sum(drops(host).values()) > sum(before.values())
    assert (host.pid, host.established()) == (pid, {f"{NICKNAME}2"})
    assert containers[1].ping(ADDRESSES[0], count=5)


def test_connections_that_say_nothing_are_few_and_end(
    lab: Lab, containers: list[Container], stranger: Container
) -> None:
    """Slow senders take up a bounded number of places and lose them after the deadline; members are served all the while."""
    host = lab.hosts[0]
    clients = []
    try:
        for _ in range(100):
            client = stranger.socket(socket.AF_INET, socket.SOCK_STREAM)
            clients.append(client)
            client.settimeout(15)
            client.connect((host.address, 6783))
        assert drops(host).get("link_limit", 0) > 0
        assert "Service: router" in host.meshd("status").out
        assert containers[1].ping(ADDRESSES[0], count=5)
        assert open_files(host) < 400
        for client in clients:
            with contextlib.suppress(ConnectionError):
                assert client.recv(100) == b""  # the host ends it, without a word
    finally:
        for client in clients:
            client.close()
    until(lambda: open_files(host) < 60, "the places are free again")
    assert host.established() == {f"{NICKNAME}2"}


def open_files(host: Host) -> int:
    return len(os.listdir(f"/proc/{host.pid}/fd"))
