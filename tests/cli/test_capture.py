"""capture: lines, JSON and files from what the router streams; how it ends; and what a frame is called without scapy."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import PcapNgReader, RawPcapNgReader

from meshd.cli import frames as frames_module
from meshd.cli.frames import describe, plain_summary
from meshd.cli.pcapng import file_header, packet
from meshd.control.api import CaptureRequest
from meshd.control.render import clean
from meshd.errors import UserError
from meshd.views import FrameView
from tests.cli.conftest import Meshd
from tests.control.fake import FakeHandlers, running
from tests.engine.reference import arp, tcp, udp

PEER = "7a:00:00:00:00:01(host2)"
ARP, TCP, UDP = bytes(arp()), bytes(tcp(b"data", flags="SA")), bytes(udp(b"data", 6))


def view(frame: bytes, *, inward: bool = False, peer: str = PEER, note: str = "") -> FrameView:
    return FrameView(time=1_700_000_000.25, inward=inward, peer=peer, note=note, frame=frame)


@pytest.fixture
def streaming(router: FakeHandlers) -> FakeHandlers:
    router.stream.batches = [[view(ARP, peer="", note="to all")], [view(TCP), view(UDP, inward=True)]]
    return router


def test_lines(meshd: Meshd, streaming: FakeHandlers) -> None:
    done = meshd("capture", "web", "tcp port 80")
    assert done.status == 0
    assert streaming.calls == [CaptureRequest(words=("web", "tcp port 80"))]
    lines = done.out.splitlines()
    assert [line.split()[1:5] for line in lines] == [
        ["out", "to", "all", "42B"],
        ["out", PEER, "58B", "Ether"],
        ["in", PEER, "66B", "Ether"],
    ]
    assert all(re.match(r"\d\d:\d\d:\d\d\.250000 ", line) for line in lines)
    assert "ARP who has 10.2.0.2 says 10.2.0.1" in lines[0]
    assert "TCP 10.2.0.1:4000 > 10.2.0.2:5001 SA" in lines[1]
    assert done.err.splitlines() == [
        "meshd: capturing all frames; Ctrl-C ends it",
        "meshd: the router ends",
        "meshd: 3 frames shown",
    ]
    assert streaming.stream.closed.wait(5)


def test_json(meshd: Meshd, streaming: FakeHandlers) -> None:
    shown = [json.loads(line) for line in meshd("capture", "--json").out.splitlines()]
    assert [(one["Direction"], one["Peer"], one["Note"], one["Size"]) for one in shown] == [
        ("out", "", "to all", 42),
        ("out", PEER, "", 58),
        ("in", PEER, "", 66),
    ]
    assert bytes.fromhex(shown[1]["Frame"]) == TCP
    assert shown[0]["Time"] == 1_700_000_000.25


def test_every_field(meshd: Meshd, streaming: FakeHandlers) -> None:
    assert "    ###[ ARP ]###" in meshd("capture", "-v", "--count", "1").out.splitlines()


def test_a_count_ends_it(meshd: Meshd, streaming: FakeHandlers) -> None:
    streaming.stream.endless = True
    done = meshd("capture", "--count", "2")
    assert len(done.out.splitlines()) == 2
    assert done.err.endswith("2 frames shown\n")
    assert streaming.stream.closed.wait(5)


def test_what_came_too_fast_is_told(meshd: Meshd, streaming: FakeHandlers) -> None:
    streaming.stream.lost = 7
    assert meshd("capture").err.endswith("3 frames shown, 7 not shown: they came too fast\n")


def test_a_file_that_others_read(meshd: Meshd, streaming: FakeHandlers, tmp_path: Path) -> None:
    file = tmp_path / "web.pcapng"
    file.write_bytes(b"old" * 1000)
    done = meshd("capture", "-w", str(file))
    assert (done.status, done.out) == (0, "")
    assert done.err.endswith("3 frames written\n")
    with PcapNgReader(str(file)) as reader:
        packets = list(reader)
    assert [bytes(one) for one in packets] == [ARP, TCP, UDP]
    assert [round(float(one.time), 3) for one in packets] == [1_700_000_000.25] * 3
    assert [one.comments for one in packets] == [[b"out to all"], [f"out {PEER}".encode()], [f"in  {PEER}".encode()]]
    assert [one.direction for one in packets] == [2, 2, 1]


def test_a_new_file_is_nobody_elses_to_read(meshd: Meshd, streaming: FakeHandlers, tmp_path: Path) -> None:
    meshd("capture", "-w", str(tmp_path / "new.pcapng"))
    assert (tmp_path / "new.pcapng").stat().st_mode & 0o777 == 0o600


def test_a_link_is_not_followed(meshd: Meshd, streaming: FakeHandlers, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("as it was")
    (tmp_path / "link").symlink_to(target)
    done = meshd("capture", "-w", str(tmp_path / "link"))
    assert done.status == 1
    assert "symbolic link" in done.err
    assert target.read_text() == "as it was"


def test_what_is_refused_leaves_the_file_alone(meshd: Meshd, router: FakeHandlers, tmp_path: Path) -> None:
    router.fail = UserError("the filter does not parse at 'prot' (character 5): syntax error")
    file = tmp_path / "web.pcapng"
    file.write_text("as it was")
    done = meshd("capture", "-w", str(file), "tcp prot 80")
    assert (done.status, done.err) == (1, "meshd: the filter does not parse at 'prot' (character 5): syntax error\n")
    assert file.read_text() == "as it was"


def test_what_does_not_go_together(meshd: Meshd) -> None:
    assert meshd("capture", "-w", "x", "--json").status == 2
    assert meshd("capture", "-w", "x", "-v").status == 2
    assert meshd("capture", "--count", "0").status == 2
    assert meshd("capture").status == 3  # no router runs


RUN = [sys.executable, "-c", "import sys; from meshd.cli.main import main; main()"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(folder: Path, number: signal.Signals) -> None:
    handlers = FakeHandlers()
    handlers.stream.batches, handlers.stream.endless = [[view(ARP)]], True
    with running(folder / "meshd.sock", handlers):
        command = subprocess.Popen([*RUN, "capture"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert command.stdout is not None
        assert "ARP" in command.stdout.readline()
        command.send_signal(number)
        out, err = command.communicate(timeout=20)
        assert (command.returncode, out) == (0, "")
        assert err.endswith("1 frame shown\n")
        assert handlers.stream.closed.wait(5)


def test_nobody_reads_any_more(folder: Path) -> None:
    handlers = FakeHandlers()
    handlers.stream.batches = [[view(ARP)]] * 2000
    with running(folder / "meshd.sock", handlers):
        command = subprocess.Popen([*RUN, "capture"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert command.stdout is not None
        command.stdout.readline()
        command.stdout.close()
        assert command.wait(20) == 141
        assert command.stderr is not None
        assert "Traceback" not in command.stderr.read()
        command.stderr.close()
        assert handlers.stream.closed.wait(5)


def test_into_a_pipe(folder: Path) -> None:
    handlers = FakeHandlers()
    handlers.stream.batches = [[view(ARP)]]
    with running(folder / "meshd.sock", handlers):
        done = subprocess.run([*RUN, "capture", "-w", "-"], capture_output=True, check=True, timeout=20)
    assert [bytes(one) for one in PcapNgReader(cast(str, io.BytesIO(done.stdout)))] == [ARP]


def test_a_terminal_gets_no_file(meshd: Meshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshd.cli.capture.is_terminal", lambda _stream: True)
    assert "garble" in meshd("capture", "-w", "-").err


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (ARP, "ARP 10.2.0.1 who has 10.2.0.2"),
        (TCP, "TCP 10.2.0.1:4000 > 10.2.0.2:5001 SA"),
        (UDP, "UDP [fd00::1]:4000 > [fd00::2]:5001"),
        (bytes(tcp(b"", vlan=5)), "VLAN 5 TCP 10.2.0.1:4000 > 10.2.0.2:5001 A"),
        (bytes.fromhex("ffffffffffff 020000000001 88b5 00"), "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff type 0x88b5"),
        (TCP[:30], "02:00:00:00:00:0a > 02:00:00:00:00:0b cut short"),
        (TCP[:23] + b"\x01" + TCP[24:], "ICMP 10.2.0.1 > 10.2.0.2 type 15"),
    ],
)
def test_a_line_without_scapy(frame: bytes, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "_scapy", lambda: None)
    assert describe(frame) == line
    assert describe(frame, verbose=True) == line


@given(st.binary(max_size=80), st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x81\x00", b"ab"]))
def test_any_frame_has_a_line(noise: bytes, kind: bytes) -> None:
    for frame in (noise, noise[:12].ljust(12, b"x") + kind + noise[12:]):
        assert "\n" not in plain_summary(frame)
        assert describe(frame).isprintable()


def test_a_frame_does_not_steer_the_terminal() -> None:
    assert clean("a\x1b[2Jb\n") == "a?[2Jb?"


def test_scapy_that_fails_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_frame: bytes, _verbose: bool) -> str:
        raise ValueError("a dissector's bug")

    monkeypatch.setattr(frames_module, "_scapy", lambda: broken)
    assert describe(ARP) == "ARP 10.2.0.1 who has 10.2.0.2"


@given(st.binary(min_size=14, max_size=300), st.integers(0, 2**33), st.booleans(), st.text(min_size=1, max_size=20))
def test_pcapng_is_read_as_it_was_written(frame: bytes, second: int, inward: bool, comment: str) -> None:
    file = io.BytesIO(file_header() + packet(frame, second, inward=inward, comment=comment))
    packets: list[tuple[bytes, Any]] = list(RawPcapNgReader(cast(str, file)))
    ((data, told),) = packets
    assert data == frame
    assert (told.tshigh << 32 | told.tslow) == second * 10**6
    assert told.direction == (1 if inward else 2)
    assert told.comments == [comment.encode()]
