"""What a packet socket gives is completed to what a TAP gives, and what a TAP takes is finished for a packet socket."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.packet import Packet

from meshd.forward.offload import finished_frames, with_vnet
from tests.engine.chains import DESTINATION, FOLLOWED, chained, cut_chained, lengthened
from tests.engine.pair import Pair
from tests.engine.reference import arp, capture, cut, partial, super_frame, tcp, udp, unfinished

PAYLOAD = bytes(range(251)) * 261
MTU = 1500

versions = st.sampled_from([4, 6])
makers = st.sampled_from([tcp, udp])
smooth: Any = st.builds(
    lambda make, size, version, ident: make(PAYLOAD[:size], version=version, ident=ident),
    makers,
    st.integers(0, 1300),
    versions,
    st.integers(0, 0xFFFF),
)


def seen(frame: Packet | bytes, mtu: int = MTU, limit: int = MTU) -> bytes | None:
    data = with_vnet(bytes(frame), mtu, limit)
    return None if data is None else bytes(data)


@given(smooth)
def test_a_finished_frame_stays_as_it_is(packet: Packet) -> None:
    assert seen(packet) in (capture(packet), unfinished(packet))  # the second: finished and partial are the same bytes
    assert finished_frames([capture(packet)[:10], capture(packet)[10:]], MTU) == [bytes(packet)]


@given(smooth)
def test_a_partial_checksum_is_noticed_and_finished(packet: Packet) -> None:
    data = seen(partial(packet))
    assert data is not None
    assert finished_frames([data], MTU) == [bytes(packet)]


@given(
    st.integers(1, 40),
    st.integers(1, 900),
    versions,
    st.sampled_from(["A", "PA", "FPA", "CEPA"]),
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([600, 1372, 1500]),
)
def test_a_super_frame_is_cut_at_the_limit(
    count: int, rest: int, version: int, flags: str, seq: int, limit: int
) -> None:
    size = limit - (40 if version == 4 else 60)
    packet = tcp(PAYLOAD[: size * count + rest], version, flags=flags, seq=seq)
    assert seen(partial(packet), MTU, limit) == super_frame(packet, size)
    assert finished_frames([super_frame(packet, size)], MTU) == cut(packet, size)


def test_a_segment_larger_than_the_mesh_carries_is_cut_if_it_is_sound() -> None:
    packet = tcp(PAYLOAD[:1460])
    data = seen(packet, MTU, 1372)
    assert data is not None
    assert finished_frames([data], MTU) == cut(packet, 1332)
    broken = bytearray(bytes(packet))
    broken[-1] ^= 1
    assert seen(bytes(broken), MTU, 1372) == capture(bytes(broken))  # as it is: it does not fit, and is counted


def test_a_train_of_datagrams_cannot_be_carried() -> None:
    assert seen(partial(udp(PAYLOAD[:4000]))) is None
    assert seen(udp(PAYLOAD[:1400])) is not None


def test_udp_without_a_checksum_stays_without() -> None:
    packet = udp(b"data", chksum=0)
    assert seen(packet) == capture(packet)
    assert finished_frames([capture(packet)], MTU) == [bytes(packet)]


@pytest.mark.parametrize("pad", [b"\0" * 14, b"\xff" * 15])
def test_padding_is_not_counted_in(pad: bytes) -> None:
    packet = udp(b"data")
    data = seen(partial(packet) + pad)
    assert data == capture(bytes(packet) + pad)


def test_what_is_neither_tcp_nor_udp_passes() -> None:
    assert seen(arp()) == capture(arp())
    assert finished_frames([capture(arp())], MTU) == [bytes(arp())]


def test_what_is_delivered_is_no_longer_than_the_interface_takes() -> None:
    packet = tcp(PAYLOAD[:30_000])
    for frame in finished_frames([super_frame(packet, 1400)], 1000):
        assert len(frame) <= 1014
    assert finished_frames([super_frame(packet, 1400)], 1000) == cut(packet, 960)
    assert finished_frames([unfinished(tcp(PAYLOAD[:1400]))], 1000) == cut(tcp(PAYLOAD[:1400]), 960)


@given(st.lists(st.binary(min_size=0, max_size=40), max_size=3), st.binary(min_size=10, max_size=10))
def test_any_bytes_are_survived(parts: list[bytes], vnet: bytes) -> None:
    with_vnet(b"".join(parts), MTU, MTU)
    finished_frames([vnet, *parts], MTU)


@given(st.binary(min_size=14, max_size=120), st.sampled_from([b"\x08\x00\x45", b"\x86\xdd\x60"]))
def test_frames_that_look_like_ip_are_survived(noise: bytes, kind: bytes) -> None:
    with_vnet(noise[:12] + kind + noise[12:], 60, 50)


def test_through_two_engines() -> None:
    """From one packet socket to another: what a TAP host would see, and nothing else."""
    pair = Pair()
    packet = tcp(PAYLOAD[:20_000])
    data = seen(partial(packet), MTU, 1372)
    assert data is not None
    frames = [frame for written in pair.carry(data) for frame in finished_frames([written], MTU)]
    assert frames == cut(packet, 1332)


chains = pytest.mark.parametrize("chain", FOLLOWED, ids=lambda chain: "-".join(map(str, chain)))


@chains
@pytest.mark.parametrize("make", [tcp, udp])
def test_behind_extension_headers_a_partial_checksum_is_noticed(chain: tuple[int, ...], make: Any) -> None:
    packet = make(PAYLOAD[:700], 6)
    (whole,) = cut_chained(packet, 700, chain)
    assert seen(lengthened(capture(packet), chain)[10:]) == capture(whole)
    data = seen(lengthened(unfinished(packet), chain)[10:])
    assert data is not None
    assert finished_frames([data], MTU) == [whole]
    assert Pair().carry(data) == [capture(whole)]
    padded = seen(lengthened(unfinished(packet), chain)[10:] + b"\xff" * 7)
    assert padded == capture(whole + b"\xff" * 7)


@chains
@pytest.mark.parametrize("flags", ["A", "FPA"])
@pytest.mark.parametrize("limit", [1372, MTU])
def test_behind_extension_headers_tcp_is_cut_at_the_limit(chain: tuple[int, ...], flags: str, limit: int) -> None:
    """Whoever made it: a kernel's super-frame (partial), or one that is whole and merely longer than the mesh carries."""
    size = limit - 60 - 8 * len(chain)
    for total in (size + 1, 20_000):
        packet = tcp(PAYLOAD[:total], 6, flags=flags, seq=0xFFFFFF00)
        expected = lengthened(super_frame(packet, size), chain)
        assert seen(expected[10:], MTU, limit) == expected
        (whole,) = cut_chained(packet, total, chain)
        assert seen(whole, MTU, limit) == expected
        if limit == 1372:
            assert Pair().carry(expected) == [capture(frame) for frame in cut_chained(packet, size, chain)]


def test_behind_extension_headers_a_wrong_checksum_stays_wrong() -> None:
    packet = tcp(PAYLOAD[:1400], 6)
    (whole,) = cut_chained(packet, 1400, FOLLOWED[0])
    broken = bytearray(whole)
    broken[-1] ^= 1
    assert seen(bytes(broken), MTU, 1372) == capture(bytes(broken))


def test_what_extension_headers_leave_no_room_for_cannot_be_carried() -> None:
    """Cut to what is left, a super-frame would become tens of thousands of segments."""
    packet, chain = tcp(PAYLOAD[:20_000], 6), (DESTINATION,) * 6
    for units, room in ((26, 144), (27, 96)):
        assert MTU - 60 - 6 * 8 * (units + 1) == room
        captured = lengthened(super_frame(packet, room), chain, units)
        assert seen(captured[10:]) == (captured if room >= 128 else None)
    assert seen(lengthened(unfinished(udp(PAYLOAD[:1460], 6)), FOLLOWED[0])[10:]) is None


@given(st.lists(st.sampled_from([0, 6, 17, 43, 44, 60]), min_size=1, max_size=10).map(tuple), st.binary(max_size=90))
def test_any_chain_is_survived(chain: tuple[int, ...], body: bytes) -> None:
    frame = chained(chain, 6, body)
    for size in range(54, len(frame)):
        with_vnet(frame[:size], 100, 60)
    with_vnet(frame, 100, 60)
