"""The benchmark's own code: what it reckons, what it builds and that it leaves nothing behind. No judgement of speed here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import contenders, demo, measure, micro
from bench.__main__ import bench as run_bench
from bench.__main__ import chosen, write
from bench.measure import Plan, bisect, percentile
from bench.meshing import full_mesh
from bench.results import FIGURES, TARGETS, Samples, Target, figures_table, judge, table, targets_table
from bench.routers import Router
from bench.topology import BenchError, Lab, interruptible, run

ROOT = Path(__file__).parent.parent


class Spoken:
    """A Progress that keeps what it was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.expected = 0

    def total(self, steps: int) -> None:
        self.expected = steps

    def step(self, text: str) -> None:
        self.steps.append(text)

    def say(self, text: str) -> None: ...


def samples(**figures: float) -> Samples:
    """What meshd came to; kernel VXLAN has 100 everywhere."""
    made = Samples()
    for name, value in figures.items():
        made.add("meshd", name, value)
        made.add("vxlan", name, 100.0)
    return made


# --- what it reckons ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("true_limit", "found"), [(0.0, 0.0), (50.0, 48.0), (96.5, 96.0), (189.5, 189.0), (500.0, 192.0)]
)
def test_bisection_finds_the_highest_rate_that_passes(true_limit: float, found: float) -> None:
    tried: list[float] = []

    def passes(kpps: float) -> bool:
        tried.append(kpps)
        return kpps <= true_limit

    assert bisect(passes, 192.0, 3.0) == found
    assert len(tried) <= 7


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.99) == 99
    assert percentile(values, 0.5) == 50
    assert percentile([7.0], 0.99) == 7


def test_target_is_met_by_the_ratio_of_medians() -> None:
    target = Target(figure="tcp1", title="", against="vxlan", least=0.15)
    assert judge(samples(tcp1=15.0), target) == (0.15, True)
    assert judge(samples(tcp1=14.0), target) == (0.14, False)
    assert judge(Samples(), target) == (None, None)
    alone = Samples()
    alone.add("meshd", "tcp1", 5.0)
    assert judge(alone, target) == (None, None)
    alone.add("vxlan", "tcp1", 0.0)  # nothing came through: no ratio
    assert judge(alone, target) == (None, None)


def test_target_may_be_an_upper_limit() -> None:
    target = Target(figure="rss_mib", title="", most=80)
    assert judge(samples(rss_mib=80.0), target) == (80.0, True)
    assert judge(samples(rss_mib=80.1), target) == (80.1, False)


def test_one_odd_round_moves_the_spread_and_not_the_median() -> None:
    made = Samples()
    for value in (10.0, 11.0, 1.0):
        made.add("meshd", "tcp1", value)
    assert made.median("meshd", "tcp1") == 10
    assert "10 (1–11)" in figures_table(made, {"meshd": "meshd"})
    assert made.as_json() == {"meshd": {"tcp1": {"median": 10.0, "min": 1.0, "max": 11.0, "rounds": [10.0, 11.0, 1.0]}}}


def test_every_target_is_a_figure_of_a_contender_and_has_one_limit() -> None:
    for target in TARGETS:
        assert target.figure in {figure.name for figure in FIGURES}
        assert target.against in {"", *contenders.CONTENDERS}
        assert (target.least is None) != (target.most is None)


def test_what_was_not_measured_is_said_to_be_so() -> None:
    text = targets_table(samples(tcp1=20.0))
    assert "0.20" in next(line for line in text.splitlines() if "TCP 1 stream / kernel VXLAN" in line)
    assert "not measured" in next(line for line in text.splitlines() if "wireguard-go" in line)


def test_columns_of_a_table_are_aligned() -> None:
    assert table([["", "one"], ["long name", "1"]]).splitlines() == ["           one", "long name    1"]


def test_contenders_are_chosen_by_name() -> None:
    assert chosen(None, peers=False) == ["plain", "vxlan", "meshd"]
    assert chosen(None, peers=True) == list(contenders.CONTENDERS)
    assert chosen("meshd,plain", peers=False) == ["plain", "meshd"]
    with pytest.raises(BenchError, match="no contender weave; there are plain"):
        chosen("weave", peers=False)


def test_results_are_written_with_what_they_were_made_on(tmp_path: Path) -> None:
    file = tmp_path / "new" / "result.json"
    write(file, samples(tcp1=1.0), 1, Plan())
    found = json.loads(file.read_text())
    assert found["about"]["cpus"] == os.cpu_count()
    assert found["contenders"]["meshd"]["tcp1"]["median"] == 1.0


def test_cpu_time_and_memory_of_a_process_that_is_known() -> None:
    before = contenders.cpu_seconds([os.getpid()])
    sum(range(3_000_000))
    assert contenders.cpu_seconds([os.getpid(), os.getpid()]) >= 2 * before
    assert 5 < contenders.rss_mib([os.getpid()]) < 2000
    assert contenders.cpu_seconds([]) == 0


@pytest.mark.parametrize("payload", [64, 5 * micro.SEGMENT_PAYLOAD, micro.SEGMENTS * micro.SEGMENT_PAYLOAD])
def test_the_packet_path_that_micro_times_carries_everything(payload: int) -> None:
    outward, inward, port = micro.packet_path(micro.super_frame(payload, micro.SEGMENT_PAYLOAD))
    for _ in range(2):
        port.keep = True
        outward()
        segments = -(-payload // micro.SEGMENT_PAYLOAD)
        sent = sum(-(-len(data) // size) for data, size in port.waiting)
        # small frames of one wake-up share datagrams; nothing of a super-frame is lost
        assert sent == segments * micro.SUPER_FRAMES if segments > 1 else 0 < sent < micro.SUPER_FRAMES
        inward()
        assert port.waiting == []


def test_command_that_fails_says_why() -> None:
    with pytest.raises(BenchError, match="no command no-such-command here"):
        run("no-such-command")
    with pytest.raises(BenchError, match=r"ls: .*nothing-here"):
        run("ls", "/nothing-here")
    with pytest.raises(BenchError, match="no end after 0 s: sleep 9"):
        run("sleep", "9", timeout=0.01)


def test_sigterm_ends_the_program_as_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


# --- what it builds (root) ------------------------------------------------------------------------------------------------


def namespaces(prefix: str) -> list[str]:
    return [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.startswith(prefix)]


@pytest.mark.netns
@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_reach_one_another_and_go_with_everything_in_them(hosts: int) -> None:
    with Lab(hosts, subnet="10.78.9", tag="t") as lab:
        prefix, folder = lab.prefix, lab.folder
        lab.run(lab.host(0), "ping", "-n", "-q", "-c", "1", "-W", "2", lab.address(hosts - 1))
        sleeper = lab.spawn(lab.host(1), "sleep", "1000")
        assert sleeper.poll() is None
    assert sleeper.poll() is not None
    assert namespaces(prefix) == []
    assert not folder.exists()


@pytest.mark.netns
def test_failure_and_interruption_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    lab = Lab(2, tag="t")
    lab.at_exit(lambda: order.append(f"{len(namespaces(lab.prefix))} spaces still there"))
    with pytest.raises(KeyboardInterrupt), interruptible(), lab:
        os.kill(os.getpid(), signal.SIGINT)
    assert order == ["2 spaces still there"]
    assert namespaces(lab.prefix) == []
    monkeypatch.setattr(Lab, "join", lambda self, device: run("false"))
    broken = Lab(2, tag="t")
    with pytest.raises(BenchError, match="false"), broken:
        pass
    assert namespaces(broken.prefix) == []
    assert not broken.folder.exists()


@pytest.mark.netns
def test_contenders_join_their_containers_and_are_measured() -> None:
    plan = Plan(seconds=1, pings=20, udp_seconds=1, udp_step=100.0)
    with Lab(2, tag="t") as lab:
        for contender, mtu in zip(contenders.make(["plain", "vxlan"], lab), (1500, 1450), strict=True):
            assert contender.mtu() == mtu
            assert contender.pids() == []
            got = measure.ping(contender, plan)
            assert 0 < got["p50"] <= got["p99"]
            assert measure.tcp(contender, plan)["mbit"] > 0
            lab.set_offloads(False, *contender.devices)
            assert "generic-segmentation-offload: off" in lab.run(lab.host(0), "ethtool", "-k", contender.devices[0])


@pytest.mark.netns
def test_the_product_is_launched_attached_and_measured(tmp_path: Path) -> None:
    plan = Plan(seconds=1, pings=20, udp_seconds=1, udp_step=200.0)
    spoken = Spoken()
    outcome = run_bench(["meshd"], 1, plan, spoken)
    found = outcome.samples
    assert outcome.failures == []
    assert spoken.expected == len(spoken.steps) == 7
    assert outcome.titles == {"meshd": "meshd, MTU 1372"}
    measured = {figure.name for figure in FIGURES if found.of("meshd", figure.name)}
    assert measured == {figure.name for figure in FIGURES}
    assert 10 < (found.median("meshd", "rss_mib") or 0) < 500


@pytest.mark.netns
def test_what_cannot_be_measured_is_reported_and_costs_the_run_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.measure.udp_rate", lambda contender, plan: float(run("false")))
    outcome = run_bench(["plain"], 1, Plan(seconds=1, pings=20), Spoken())
    assert outcome.failures == ["round 1, no overlay: UDP, 64 bytes: false: 1"]
    assert outcome.samples.median("plain", "tcp1")
    assert outcome.samples.median("plain", "udp64") is None


@pytest.mark.netns
def test_a_mesh_that_does_not_come_about_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.meshing.LIMIT_SECONDS", 0.2)
    with Lab(2, tag="t") as lab:
        spaces = [(lab.space("a1"), "10.77.9.1"), (lab.space("a2"), "10.77.9.2")]
        with pytest.raises(BenchError, match=r"10\.77\.9\.\d does not answer"):
            full_mesh(lab, [Router(lab, 0)], spaces)
        with pytest.raises(BenchError, match="meshd is not running"):
            Router(lab, 0).established()


@pytest.mark.netns
def test_demo_runs_without_a_terminal_and_says_how_it_went() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.demo"], capture_output=True, text=True, check=False, cwd=ROOT, timeout=55
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "\033" not in done.stdout
    assert "6 directions answer ping" in done.stdout
    assert "Mbit/s from host3 to host1" in done.stdout
    assert demo.HOSTS == 3
