"""Inner IPv6 packets with extension headers are opaque: carried byte for byte, whatever stands behind the headers.

What is there may look like TCP or UDP, be it the transport header behind the chain or bytes of an option; nothing may be cut,
put together, summed up or trusted by it. Only a kernel's own words (the vnet header) say where a checksum is left to us, or that a
super-frame is: it is cut where the chain leads to the place that the kernel says, and goes on with finished checksums.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether

from meshd.forward.engine.interface import Verdict
from meshd.forward.slots import FLOOD
from tests.engine.chains import (
    CHAINS,
    DESTINATION,
    FOLLOWED,
    FRAGMENT,
    HOP_BY_HOP,
    ICMPV6,
    ROUTING,
    TCP,
    UDP,
    chained,
    cut_chained,
    lengthened,
    transport,
)
from tests.engine.pair import PEER, Pair
from tests.engine.reference import capture, complete, super_frame, tcp, udp, vnet
from tests.ones import fold

SMALL = 600  # datagram of a narrow path
BODIES: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "tcp": (TCP, lambda size: transport(bytes(tcp(bytes(range(250)) * (size // 250), 6)))),
    "udp": (UDP, lambda size: transport(bytes(udp(bytes(range(250)) * (size // 250), 6)))),
    "icmp": (ICMPV6, lambda size: bytes((128, 0, 1, 2)) + bytes(size)),
    "nothing": (59, lambda size: b"\x06" * size),
}
bodies = pytest.mark.parametrize("body", BODIES)
chains = pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: "-".join(map(str, chain)))


def made(chain: tuple[int, ...], body: str, size: int, **more: int) -> bytes:
    protocol, make = BODIES[body]
    return chained(chain, protocol, make(size), **more)


def narrow(*, measured: bool) -> Pair:
    pair = Pair(size=SMALL)
    pair.a.engine.set_path(PEER, pair.b.endpoint, SMALL, measured=measured)
    return pair


@chains
@bodies
def test_as_it_was(chain: tuple[int, ...], body: str) -> None:
    """The first one by Python, which asks; the others as hits. Nobody vouches for a checksum: the vnet header says nothing."""
    pair, frame = Pair(), made(chain, body, 1000)
    for _ in range(3):
        assert pair.carry(*[capture(frame)] * 4) == [capture(frame)] * 4
    assert pair.a.drops == pair.b.drops == {}


@pytest.mark.parametrize("offset", [0, 1, 100])
def test_fragments_of_each_place(offset: int) -> None:
    """A fragment that is not the first begins with anything: here with what could be a TCP header."""
    pair, frame = Pair(), chained((FRAGMENT,), TCP, transport(bytes(tcp(bytes(900), 6))), offset=offset)
    assert [pair.carry(capture(frame)) for _ in range(2)] == [[capture(frame)]] * 2


@chains
def test_in_the_middle_of_a_tcp_flow(chain: tuple[int, ...]) -> None:
    """What is put together around them keeps its order, and they are not put into it."""
    pair = Pair()
    parts = [tcp(bytes([number]) * 1000, 6, seq=1000 + 1000 * number) for number in range(9)]
    frames = [bytes(part) for part in parts]
    for number in (2, 5, 6):
        frames[number] = chained(chain, TCP, transport(frames[number]))
    pair.carry(capture(frames[0]))
    written = pair.carry(*[capture(frame) for frame in frames])
    assert [frame for data in written for frame in complete(data)] == frames


@chains
@bodies
@pytest.mark.parametrize("measured", [True, False])
def test_larger_than_the_path_it_goes_in_our_own_pieces(chain: tuple[int, ...], body: str, measured: bool) -> None:
    """TCP behind a chain is not cut as plain TCP is. The sender is told where RFC 4443 has it so, and of 1280 at the least."""
    pair, frame = narrow(measured=measured), made(chain, body, 1250)
    assert [pair.carry(capture(frame)) for _ in range(2)] == [[capture(frame)]] * 2
    assert max(len(datagram) for datagrams in pair.a.port.sent for datagram in datagrams) <= SMALL
    answers = [Ether(data[10:]) for data in pair.a.frames.take()]
    told = measured and len(frame) - 14 > 1280 and FRAGMENT not in chain and len(chain) <= 7
    assert len(answers) == 2 * told
    for answer in answers:
        assert answer[ICMPv6PacketTooBig].mtu == 1280
        assert answer[IPv6].dst == "fd00::1"
        assert bytes(answer[ICMPv6PacketTooBig].payload) == frame[14 : 14 + 1280 - 48]
    assert pair.a.drops == pair.b.drops == {}


@pytest.mark.parametrize("chain", [chain for chain in CHAINS if FRAGMENT not in chain], ids=str)
@pytest.mark.parametrize("body", ["tcp", "udp"])
@pytest.mark.parametrize("size", [250, 1250])
def test_a_checksum_that_the_kernel_left_to_us(chain: tuple[int, ...], body: str, size: int) -> None:
    """Its place is said by the vnet header alone; on the other side it is done, on a narrow path too."""
    frame = made(chain, body, size)
    protocol, _ = BODIES[body]
    place = {TCP: 16, UDP: 6}[protocol]
    start = len(frame) - len(BODIES[body][1](size))
    half = bytearray(frame)
    pseudo = frame[22:54] + struct.pack(">II", len(frame) - start, protocol)
    struct.pack_into(">H", half, start + place, fold(pseudo))
    captured = vnet(flags=1, start=start, offset=place) + bytes(half)
    for pair in (Pair(), narrow(measured=False)):
        assert [pair.carry(captured) for _ in range(3)] == [[capture(frame)]] * 3
        assert pair.a.drops == pair.b.drops == {}


@given(
    st.lists(st.sampled_from([HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION]), min_size=1, max_size=10).map(tuple),
    st.integers(0, 255),
    st.integers(0, 12),
    st.one_of(st.binary(max_size=200), st.integers(20, 700).map(lambda size: transport(bytes(tcp(bytes(size), 6))))),
    st.booleans(),
)
def test_any_chain_before_anything(chain: tuple[int, ...], last: int, units: int, body: bytes, small: bool) -> None:
    pair = narrow(measured=True) if small else Pair()
    frame = chained(chain, last, body, units=units)[:1386]
    got = pair.carry(capture(frame), capture(frame))
    assert got == [capture(frame)] * 2
    assert pair.a.drops == pair.b.drops == {}


followed = pytest.mark.parametrize("chain", FOLLOWED, ids=lambda chain: "-".join(map(str, chain)))
PAYLOAD = bytes(range(251)) * 240


@followed
@pytest.mark.parametrize("flags", ["A", "FPA", "CPA"])
@pytest.mark.parametrize("total", [1200, 1201, 58_000])
def test_super_frames_are_cut_behind_the_chain(chain: tuple[int, ...], flags: str, total: int) -> None:
    pair = Pair()
    packet = tcp(PAYLOAD[:total], 6, seq=0xFFFFFF00, flags=flags)
    captured = lengthened(super_frame(packet, 1200, ecn="C" in flags), chain)
    expected = [capture(frame) for frame in cut_chained(packet, 1200, chain)]
    for _ in range(2):
        assert pair.carry(captured, captured) == expected * 2
    assert pair.a.drops == pair.b.drops == {}


@followed
def test_udp_super_frames_too(chain: tuple[int, ...]) -> None:
    pair, packet = Pair(), udp(PAYLOAD[:5000], 6)
    expected = [capture(frame) for frame in cut_chained(packet, 1100, chain)]
    for _ in range(2):
        assert pair.carry(lengthened(super_frame(packet, 1100), chain)) == expected
    assert pair.a.drops == pair.b.drops == {}


@followed
def test_on_a_narrow_path_tcp_is_cut_to_it(chain: tuple[int, ...]) -> None:
    pair, packet = narrow(measured=True), tcp(PAYLOAD[:6000], 6)
    room = SMALL - 34 - 14 - 40 - 20 - 8 * len(chain)
    expected = [capture(frame) for frame in cut_chained(packet, room, chain)]
    for _ in range(2):
        assert pair.carry(lengthened(super_frame(packet, 1200), chain)) == expected
    assert pair.a.frames.take() == []
    assert max(len(datagram) for datagrams in pair.a.port.sent for datagram in datagrams) <= SMALL


def test_a_chain_that_fills_the_path_goes_in_pieces() -> None:
    """And not as thousands of segments of a byte."""
    pair, packet, chain = narrow(measured=False), tcp(PAYLOAD[:4000], 6), (DESTINATION, DESTINATION)
    captured = lengthened(super_frame(packet, 800), chain, units=25)
    expected = [capture(frame) for frame in cut_chained(packet, 800, chain, units=25)]
    for _ in range(2):
        assert pair.carry(captured) == expected
    assert sum(len(datagrams) for datagrams in pair.a.port.sent) < 50


def test_a_checksum_over_the_final_destination_stays_one() -> None:
    """With a routing header that has segments left, the sum is not over the destination that the IPv6 header has."""
    packet, chain = tcp(PAYLOAD[:3000], 6), (ROUTING,)
    captured = bytearray(lengthened(super_frame(packet, 1000), chain))
    captured[10 + 37] ^= 0x55  # of the destination: on the way
    pieces = [bytearray(frame) for frame in cut_chained(packet, 1000, chain)]
    for piece in pieces:
        piece[37] ^= 0x55
    assert Pair().carry(bytes(captured)) == [capture(bytes(piece)) for piece in pieces]


@pytest.mark.parametrize("chain", [(FRAGMENT,), (HOP_BY_HOP, FRAGMENT), (DESTINATION,) * 9, (50,)], ids=str)
def test_where_the_chain_does_not_lead_it_is_not_cut(chain: tuple[int, ...]) -> None:
    pair = Pair()
    assert pair.carry(lengthened(super_frame(tcp(PAYLOAD[:3000], 6), 1000), chain)) == []
    assert pair.a.drops == {"bad_frame": 1}


def test_where_the_chain_leads_elsewhere_than_the_kernel_says_it_is_not_cut() -> None:
    pair = Pair()
    captured = lengthened(super_frame(tcp(PAYLOAD[:3000], 6), 1000), (HOP_BY_HOP,))
    for at, value in ((6, 54), (11 + 53, 200), (10 + 20, 59), (10 + 55, 255)):  # start, length of options, kinds
        lie = bytearray(captured)
        lie[at] = value
        pair.carry(bytes(lie))
    assert pair.a.drops.keys() <= {"bad_frame"}
    assert pair.b.drops == {}


@followed
def test_floods_of_super_frames_are_cut_too(chain: tuple[int, ...]) -> None:
    pair, packet = Pair(), tcp(PAYLOAD[:3000], 6)
    pair.a.upcalls.outbound = Verdict(FLOOD)
    pair.a.upcalls.children = {pair.a.origin: [PEER]}
    pair.b.upcalls.children = {pair.a.origin: []}
    expected = [capture(frame) for frame in cut_chained(packet, 1000, chain)]
    assert pair.carry(lengthened(super_frame(packet, 1000), chain)) == expected
