"""The benchmark's instruments by themselves: generator, long path, plot, reading of other programs' output. No clock is judged."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import churn
from bench.blast import BATCH, CATCH_UP, Batch, Schedule
from bench.chart import PANELS, chart, decades
from bench.failover import gap, summary
from bench.measure import BLAST, Blast
from bench.peers import PEERS
from bench.peers.fastd import _pair
from bench.profile import Profile, Share, kernel_share, shares, text
from bench.results import FIGURES, Samples
from bench.topology import BenchError
from bench.wan import MAX_HELD, Direction

# --- small datagrams --------------------------------------------------------------------------------------------------------


def test_a_schedule_asks_for_what_is_due_and_no_more_than_a_batch() -> None:
    schedule = Schedule(1000.0)
    assert schedule.due(0.0) == 0
    assert schedule.due(0.005) == 5
    schedule.sent(5)
    assert schedule.due(0.005) == 0
    assert Schedule(1e6).due(0.001) == BATCH
    assert Schedule(0.0).due(0.0) == BATCH


def test_what_is_late_by_more_than_the_limit_is_never_sent() -> None:
    schedule, total = Schedule(1000.0), 0
    for now in (0.1, 0.2, 0.2):  # the scheduler forgot us twice
        while due := schedule.due(now):
            schedule.sent(due)
            total += due
    assert total == 2 * int(1000 * CATCH_UP)


def test_batches_cross_the_loopback_and_are_counted() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
    ):
        sink.bind(("127.0.0.1", 0))
        sink.setblocking(False)
        source.connect(sink.getsockname())
        out, into = Batch(64), Batch(2048)
        assert into.receive(sink.fileno()) == 0
        assert out.send(source.fileno(), 40) == 40
        assert into.receive(sink.fileno()) == 40
        assert into.receive(sink.fileno()) == 0


def test_the_sink_counts_until_its_input_ends() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with subprocess.Popen([*BLAST, "receive", port], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sink:
        assert sink.stdout is not None
        assert sink.stdin is not None
        assert sink.stdout.readline() == b"listening\n"
        sent = json.loads(subprocess.check_output([*BLAST, "send", "127.0.0.1", port, "64", "2000", "0.2"]))
        sink.stdin.close()
        counted = json.loads(sink.stdout.read())
    assert 0 < counted["received"] == sent["sent"] <= 401


def test_the_generator_says_how_it_is_used() -> None:
    done = subprocess.run([*BLAST, "what"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "send ADDRESS PORT" in done.stderr


def test_loss_rate_and_cost_of_a_blast() -> None:
    got = Blast(sent=1000, received=990, seconds=0.5, cpu=0.0099)
    assert got.loss == pytest.approx(0.01)
    assert (got.sent_kpps, got.received_kpps) == (2.0, 1.98)
    assert got.cpu_us == pytest.approx(10.0)
    nothing = Blast(sent=0, received=0, seconds=1.0, cpu=1.0)
    assert (nothing.loss, nothing.cpu_us) == (1.0, 0.0)


# --- the long path ----------------------------------------------------------------------------------------------------------


def test_frames_leave_in_order_when_their_time_has_come() -> None:
    way = Direction(0.010)
    assert way.wait(0.0) is None
    way.enter(b"one", 1.000)
    way.enter(b"two", 1.004)
    assert way.wait(1.004) == pytest.approx(0.006)
    assert way.leave(1.009) is None
    assert (way.leave(1.0101), way.leave(1.0101)) == (b"one", None)
    assert way.leave(2.0) == b"two"
    assert (way.carried, way.lost) == (2, 0)


def test_the_same_seed_forgets_the_same_frames() -> None:
    def carried(seed: str) -> list[bytes]:
        way = Direction(0.0)
        way.impair(0.1, seed)
        for number in range(1000):
            way.enter(str(number).encode(), 0.0)
        assert way.carried + way.lost == 1000
        assert 50 < way.lost < 150
        return [frame for _, frame in way.held]

    assert carried("1a") == carried("1a") != carried("1b")


def test_what_is_held_has_a_limit() -> None:
    way = Direction(1.0)
    for _ in range(MAX_HELD + 3):
        way.enter(b"", 0.0)
    assert (len(way.held), way.lost) == (MAX_HELD, 3)


# --- records ----------------------------------------------------------------------------------------------------------------


def test_records_are_published_at_the_rate_and_a_pause_is_not_made_up_for() -> None:
    assert churn.due(1000, 0.05, 0) == 50
    assert churn.due(1000, 0.05, 50) == 0
    assert churn.due(1000, 9.0, 0) == 1000


# --- what other programs print ----------------------------------------------------------------------------------------------


def test_the_gap_is_the_longest_silence_less_the_interval() -> None:
    lines = [f"[{at:.6f}] 64 bytes from 10.77.1.2: icmp_seq=1 ttl=64 time=0.1 ms" for at in (1.0, 1.02, 3.54, 3.56)]
    assert gap("\n".join(["PING 10.77.1.2", *lines, "[9.0] no answer yet for icmp_seq=9"])) == pytest.approx(2.5)
    assert gap("\n".join(lines[:2])) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(BenchError, match="hardly any ping"):
        gap(lines[0])


def test_gaps_are_summed_up() -> None:
    rows = [line.split() for line in summary({"cut": [3.0, 1.0, 2.0]}).splitlines()]
    assert rows[1] == ["cut", "2.00", "3.00", "1.00", "3.00"]


PERF = """\
# Samples: 17K of event 'cpu-clock:pppH'
# Overhead  Shared Object            Symbol
# ........  .......................  ......
    40.70%  python3.11
    20.60%  [kernel.kallsyms]
     4.00%  [tun]
     1.00%  [unknown]
    12.09%  python3.11    [.] _PyEval_EvalFrameDefault      -      -
"""


def test_shares_are_read_from_perfs_report() -> None:
    found = shares(PERF)
    assert found[0] == Share(40.7, "python3.11")
    assert found[-1] == Share(12.09, "python3.11  [.] _PyEval_EvalFrameDefault")
    assert kernel_share(found[:4]) == pytest.approx(24.6)


def test_a_profile_says_the_kernels_share_with_and_without_perf() -> None:
    bare = Profile("sender", 2.0, 0.5, [], [])
    assert "in the kernel     25%" in text(900.0, [bare])
    assert "need perf" in text(900.0, [bare])
    full = Profile("sender", 2.0, 0.5, [Share(30.0, "[kernel.kallsyms]")], [Share(9.0, "x.so  [.] f")])
    shown = text(900.0, [full])
    assert "30%" in shown
    assert "   9.0 %  x.so  [.] f" in shown
    assert "need perf" not in shown


def test_fastds_keys_are_found() -> None:
    secret, public = "a1" * 32, "b2" * 32
    assert _pair(f"2026 --- Info: reading\nSecret: {secret}\nPublic: {public}\n") == (secret, public)
    with pytest.raises(BenchError, match="prints no keys"):
        _pair("Secret: 12\n")


def test_the_set_up_installs_every_command_that_a_peer_needs() -> None:
    script = (Path(__file__).parent.parent / "packaging" / "setup-system").read_text()
    for peer in PEERS:
        assert peer.peer
        assert peer.name
        assert peer.commands
    listed = {line.split()[1].strip('"') for line in script.splitlines() if line.strip().startswith('"')}
    provided = listed | {"supernode", "nebula-cert"}  # of n2n and of nebula
    assert {command for peer in PEERS for command in peer.commands} <= provided


# --- the plot ---------------------------------------------------------------------------------------------------------------


def plotted() -> Samples:
    made = Samples()
    for value in (800.0, 900.0, 1000.0):
        made.add("meshd-python", "tcp1", value)
    made.add("a<b", "tcp1", 12_000.0)
    made.add("a<b", "ping_p50", 0.0)
    made.add("n2n", "tcp1", 0.0)
    return made


def test_an_axis_has_round_ends_around_everything() -> None:
    assert decades(28, 400) == [20, 50, 100, 200, 500]
    assert decades(100, 100) == [100, 200]
    assert decades(0.09, 0.11) == pytest.approx([0.05, 0.1, 0.2])


def test_the_plot_is_well_formed_and_shows_medians() -> None:
    root = ElementTree.fromstring(chart(plotted(), ["a<b", "meshd-python", "tinc", "n2n"]))  # noqa: S314 — we wrote it ourselves
    words = [element.text for element in root.iter() if element.text and element.text.strip()]
    assert words.count("a<b") == 1  # only one panel has anything; a logarithmic axis has no place for the ping of 0
    assert "900" in words
    assert "12000" in words
    assert "–" in words
    assert "0" in words  # measured, and nothing came through
    assert len([element for element in root.iter() if element.tag.endswith("circle")]) == 2


def test_every_panel_is_a_figure_and_an_empty_run_is_a_plot_too() -> None:
    assert {panel.figure for panel in PANELS} <= {figure.name for figure in FIGURES}
    ElementTree.fromstring(chart(Samples(), []))  # noqa: S314
