"""What the benchmark builds, and that it leaves nothing behind. No judgement of speed here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import busy, contenders, demo, loading, measure
from bench.__main__ import bench as run_bench
from bench.contender import Contender, End
from bench.engine_loop import main as engine_loop
from bench.measure import Plan
from bench.measures import Round, steps
from bench.meshing import full_mesh
from bench.peers import PEERS
from bench.relaying import Trio, trio
from bench.results import FIGURES, Samples
from bench.routers import Router
from bench.topology import BenchError, Lab, interruptible, run, wait_until
from bench.wan import WanLab

ROOT = Path(__file__).parent.parent.parent


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


def namespaces(prefix: str) -> list[str]:
    return [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.startswith(prefix)]


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


def test_failure_and_interruption_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    lab = Lab(2, tag="t")
    lab.at_exit(lambda: order.append(f"{len(namespaces(lab.prefix))} spaces still there"))
    with pytest.raises(KeyboardInterrupt), interruptible(), lab:
        os.kill(os.getpid(), signal.SIGINT)
    assert order == ["2 spaces still there"]
    assert namespaces(lab.prefix) == []
    _interrupted_right_after_a_namespace_was_made()
    monkeypatch.setattr(Lab, "join", lambda self, device: run("false"))
    broken = Lab(2, tag="t")
    with pytest.raises(BenchError, match="false"), broken:
        pass
    assert namespaces(broken.prefix) == []
    assert not broken.folder.exists()


def _interrupted_right_after_a_namespace_was_made() -> None:
    def interrupted(*arguments: str) -> str:
        answer = run(*arguments)
        if "netns" in arguments:
            raise KeyboardInterrupt
        return answer

    lab = Lab(2, tag="t")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.topology.run", interrupted)
        with pytest.raises(KeyboardInterrupt), lab:
            pass
    assert namespaces(lab.prefix) == []
    assert not lab.folder.exists()


def test_contenders_join_their_containers_and_are_measured() -> None:
    left_out: list[str] = []
    with ExitStack() as labs:
        kinds = [contenders.CONTENDERS[name] for name in ("plain", "vxlan")]
        made = contenders.make(kinds, labs, lambda tag: Lab(2, tag=f"t{tag}"), left_out.append)
        for contender, mtu in zip(made, (1500, 1450), strict=True):
            assert contender.mtu() == mtu
            assert contender.pids() == []
            got = measure.ping(contender, 20, 0.002)
            assert 0 < got["p50"] <= got["p99"]
            assert measure.tcp(contender, Plan(seconds=1))["mbit"] > 0
            blast = measure.blast(contender, 1.0, 0.3)
            assert 0 < blast.received <= blast.sent <= 301
            contender.lab.set_offloads(False, *contender.devices)
            shown = contender.lab.run(contender.lab.host(0), "ethtool", "-k", contender.devices[0])
            assert "generic-segmentation-offload: off" in shown
    assert left_out == []


@pytest.mark.parametrize("kind", PEERS, ids=lambda kind: str(kind.name))
def test_every_peer_joins_two_containers_or_says_what_is_missing(kind: type[Contender]) -> None:
    if missing := kind.missing():
        assert missing in {f"no command {command} here (make bench-peers installs it)" for command in kind.commands}
        return
    with Lab(2, tag="t") as lab:
        contender = kind(lab)
        contender.start()
        assert len(contender.pids()) == 2
        assert 1280 <= contender.mtu() <= 1500
        prefix = lab.prefix
    assert namespaces(prefix) == []


class Broken(contenders.Plain):
    def _start(self) -> tuple[End, End]:
        raise BenchError("it will not")


def test_a_contender_that_does_not_start_costs_only_itself() -> None:
    left_out: list[str] = []
    with ExitStack() as labs:
        made = contenders.make([Broken, contenders.Plain], labs, lambda tag: Lab(2, tag=f"t{tag}"), left_out.append)
        assert [type(contender) for contender in made] == [contenders.Plain]
    assert left_out == ["plain: it will not"]


SHORT = Plan(seconds=1, pings=20, udp_seconds=0.3, udp_step=200.0, wan_seconds=1)


def test_the_product_is_launched_attached_and_measured() -> None:
    spoken = Spoken()
    outcome = run_bench(["meshd-python"], ["tcp", "udp", "ping", "join"], 1, SHORT, spoken)
    found = outcome.samples
    assert outcome.failures == []
    assert spoken.expected == len(spoken.steps) == 5
    assert outcome.titles == {"meshd-python": "meshd, python engine, MTU 1372, AES-256-GCM"}
    measured = {figure.name for figure in FIGURES if found.of("meshd-python", figure.name)}
    assert {"tcp1", "tcp4", "flood64", "ping_p99", "cpu_per_gb", "lag_p99", "mesh_s"} <= measured
    assert 10 < (found.median("meshd-python", "rss_mib") or 0) < 500


def test_what_is_measured_beside_bulk_and_with_offloads_off() -> None:
    outcome = run_bench(["plain"], ["mixed", "nic"], 1, SHORT, Spoken(), quick=True)
    assert outcome.failures == []
    assert set(outcome.samples.values["plain"]) == {"loaded_p50", "loaded_p99", "nic_tcp1", "nic_tcp4"}


def test_transfers_over_a_long_path_lose_what_they_are_told_to() -> None:
    found = Samples()
    with WanLab(2, tag="t") as lab:
        bare = contenders.Bare(lab)
        bare.start()
        one = Round(number=1, plan=SHORT, measures=["wan"], samples=found, contenders=[], far=[bare])
        for step in steps(one):
            step.run()  # which checks how much was lost
    assert (found.median("bare", "wan_1") or 0) > 0
    assert (found.median("bare", "wan_01") or 0) > 0


def test_beside_what_is_sent_under_load_floods_and_containers_come_and_go() -> None:
    with trio("auto", "t", "--rekey-interval", loading.REKEY_SECONDS) as made:
        far = made.ends[1]

        def broadcasts() -> int:
            return int(made.lab.run(far.space, "nstat", "-asz", "IpExtInBcastPkts").split()[-2])

        def guests() -> int:
            return sum("10.77.1.77" in router.meshd("ps") for router in made.routers)

        before = broadcasts()
        with loading.floods(made), loading.changes(made):
            wait_until(lambda: bool(guests()), "a container has come")
            wait_until(lambda: not guests(), "and gone")
            wait_until(lambda: broadcasts() > before + 10, "floods arrive")
            got = measure.blast(made, 1.0, 0.5)
        assert 0 < got.received <= got.sent


def test_records_of_an_unrelated_member_reach_the_routers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.busy.RECORDS_PER_SECOND", 50)
    with ExitStack() as labs:
        made = contenders.make([contenders.MeshdPython], labs, lambda tag: Lab(2, tag=f"t{tag}"), pytest.fail)
        contender = made[0]
        assert isinstance(contender, contenders.Meshd)
        with busy.records(contender), busy.api(contender):
            assert contender.answers()
            wait_until(lambda: contender.routers[1].records() > 20, "no records come")


def test_what_cannot_be_measured_is_reported_and_costs_the_run_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.measure.udp_rate", lambda contender, plan, flood: float(run("false")))
    plan = Plan(seconds=1, pings=20, udp_seconds=0.2)
    outcome = run_bench(["plain", "tinc"], ["ping", "udp"], 1, plan, Spoken())
    assert "round 1, no overlay: UDP, 64 bytes: false: 1" in outcome.failures
    assert outcome.samples.median("plain", "ping_p50")
    assert outcome.samples.median("plain", "udp64") is None


def test_a_long_path_delays_and_forgets_what_it_is_told_to() -> None:
    with WanLab(2, tag="t") as lab:
        bare = contenders.Bare(lab)
        bare.start()
        assert measure.ping(bare, 5, 0.01)["p50"] >= 20_000
        before = lab.impair(1.0, 1)
        assert all(way.carried >= 5 and not way.lost for way in before)
        assert not bare.answers()
        cut = lab.impair(0.0, 1)
        assert [way.carried for way in cut] == [0, 0]
        assert cut[0].lost > 0
        assert bare.answers()
        assert all(way.carried and not way.lost for way in lab.impair(0.0, 1))


def test_two_of_three_hosts_are_kept_apart_and_joined_again() -> None:
    with Lab(3, tag="t", subnet="10.78.9") as lab:
        made = Trio(lab, "python")
        made.ends = (End(lab.host(0), lab.address(0)), End(lab.host(1), lab.address(1)))
        third = ("ping", "-n", "-q", "-c", "1", "-W", "1", lab.address(2))
        assert made.answers()
        with made.cut():
            assert not made.answers()
            lab.run(lab.host(0), *third)
            lab.run(lab.host(1), *third)
        assert made.answers()


def test_a_mesh_that_does_not_come_about_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.meshing.LIMIT_SECONDS", 0.2)
    with Lab(2, tag="t") as lab:
        spaces = [(lab.space("a1"), "10.77.9.1"), (lab.space("a2"), "10.77.9.2")]
        with pytest.raises(BenchError, match=r"10\.77\.9\.\d does not answer"):
            full_mesh(lab, [Router(lab, 0)], spaces)
        with pytest.raises(BenchError, match="meshd is not running"):
            Router(lab, 0).established()


def test_an_engine_without_a_node_is_measured_beside_vxlan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    profile = tmp_path / "profile"
    monkeypatch.setattr("sys.argv", ["engine_loop", "--rounds", "1", "--seconds", "1", "--profile", str(profile)])
    assert engine_loop() == 0
    shown = capsys.readouterr().out
    assert "TCP 1 stream / kernel VXLAN: 0." in shown
    assert "host 1: drops {" in shown
    assert [Path(f"{profile}.{number}").exists() for number in (0, 1)] == [True, True]


def test_demo_runs_without_a_terminal_and_says_how_it_went() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.demo"], capture_output=True, text=True, check=False, cwd=ROOT, timeout=55
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "\033" not in done.stdout
    assert "6 directions answer ping" in done.stdout
    assert "Mbit/s from host3 to host1" in done.stdout
    assert demo.HOSTS == 3
