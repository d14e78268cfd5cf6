"""The TAP: a device that comes and goes with its descriptor, and carries frames behind a vnet_hdr."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.capture.announce import gratuitous_arp, send_frames
from meshd.capture.links import find_link
from meshd.capture.tap import TX_QUEUE_FRAMES, VNET_HEADER_SIZE, TapDevice, open_tap, prepare_tap, tap_tx_dropped
from meshd.errors import UserError
from meshd.ids import Mac
from tests.netns.capture_helpers import Space

FRAME = bytes.fromhex("ffffffffffff 020000000001 88b5") + b"marked payload".ljust(46, b".")
NO_OFFLOAD = bytes(VNET_HEADER_SIZE)


@pytest.fixture
def tap(host: Space) -> Iterator[TapDevice]:
    device = host.run(lambda: open_tap("tap0"))
    host.netlink(lambda ipr: prepare_tap(ipr, "tap0", 1372))
    yield device
    device.close()


def test_device_lives_as_long_as_its_descriptor(host: Space) -> None:
    device = host.run(lambda: open_tap("tap0"))
    link = host.netlink(lambda ipr: find_link(ipr, "tap0"))
    assert link is not None
    assert (link.kind, link.tun_type) == ("tun", 2)
    assert {"csum", "tso"} <= set(device.offloads)
    assert device.read() is None  # non-blocking
    device.close()
    device.close()
    assert host.links() == {"lo"}


def test_prepared_device_is_up_and_has_no_ipv6_of_the_host(host: Space, tap: TapDevice) -> None:
    link = host.netlink(lambda ipr: find_link(ipr, "tap0"))
    assert link is not None
    assert (link.up, link.mtu) == (True, 1372)
    assert f"qlen {TX_QUEUE_FRAMES}" in host.command("ip", "link", "show", "tap0")
    assert host.run(lambda: Path("/proc/sys/net/ipv6/conf/tap0/disable_ipv6").read_text()) == "1\n"


def test_read_brings_header_and_frame(host: Space, tap: TapDevice) -> None:
    host.run(lambda: send_frames("tap0", [FRAME]))
    view = tap.read()
    assert view is not None
    assert bytes(view) == NO_OFFLOAD + FRAME


def test_read_brings_a_checksum_to_be_filled_in(host: Space, tap: TapDevice) -> None:
    host.command("ip", "addr", "add", "10.1.0.1/24", "dev", "tap0")
    host.command("ip", "neigh", "add", "10.1.0.2", "lladdr", "02:00:00:00:00:02", "dev", "tap0")

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(b"x" * 100, ("10.1.0.2", 9))

    host.run(send)
    view = tap.read()
    assert view is not None
    assert view[0] == 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM
    assert len(view) == VNET_HEADER_SIZE + 14 + 20 + 8 + 100


def test_written_frame_arrives(host: Space, tap: TapDevice) -> None:
    def listen() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
        raw.bind(("tap0", 0x88B5))
        return raw

    with host.run(listen) as raw:
        raw.settimeout(5)
        assert tap.write([NO_OFFLOAD, FRAME[:20], memoryview(FRAME)[20:]])
        assert raw.recv(2000) == FRAME


def test_runt_is_an_error_and_a_device_that_is_down_is_not(host: Space, tap: TapDevice) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        tap.write([NO_OFFLOAD, FRAME[:8]])
    host.command("ip", "link", "set", "tap0", "down")
    assert not tap.write([NO_OFFLOAD, FRAME])
    host.command("ip", "link", "set", "tap0", "up")
    assert tap.write([NO_OFFLOAD, FRAME])


def test_deleted_device_says_so(host: Space, tap: TapDevice) -> None:
    host.command("ip", "link", "del", "tap0")
    with pytest.raises(OSError, match=os.strerror(errno.EBADFD)):
        tap.read()


def test_frames_that_nobody_reads_are_counted(host: Space, tap: TapDevice) -> None:
    frame = gratuitous_arp(Mac(b"\x02\0\0\0\0\1"), ipaddress.IPv4Address("10.0.0.1"))
    host.run(lambda: send_frames("tap0", [frame] * (TX_QUEUE_FRAMES // 2 + 100)))  # each is sent twice
    dropped = host.run(lambda: tap_tx_dropped("tap0"))
    assert 0 < dropped <= 300


@pytest.mark.parametrize("taken", ["tap", "bridge"])
def test_name_that_is_taken_is_refused_by_name(host: Space, taken: str) -> None:
    if taken == "tap":
        host.command("ip", "tuntap", "add", "dev", "busy0", "mode", "tap")
    else:
        host.command("ip", "link", "add", "busy0", "type", "bridge")
    with pytest.raises(UserError, match="busy0 exists already"):
        host.run(lambda: open_tap("busy0"))
    assert host.links() == {"lo", "busy0"}


def test_name_in_use_by_another_router_is_refused(host: Space, tap: TapDevice) -> None:
    with pytest.raises(UserError, match="tap0 exists already"):
        host.run(lambda: open_tap("tap0"))
