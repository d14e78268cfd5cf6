"""The benchmark's own code: what it reckons, what it builds and that it leaves nothing behind. No judgement of speed here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import busy, contenders, demo, loading, measure, micro, micro_engines, targets
from bench.__main__ import Outcome, chosen, chosen_measures, write
from bench.__main__ import bench as run_bench
from bench.contender import Contender, End, cpu_seconds, rss_mib
from bench.engine_loop import main as engine_loop
from bench.measure import Plan, bisect, percentile, search
from bench.measures import MEASURES, Round, steps
from bench.meshing import full_mesh
from bench.peers import PEERS
from bench.relaying import Trio, trio
from bench.results import FIGURES, Samples, figures_table, ratios, table, titles_table
from bench.routers import Router
from bench.targets import ENGINES, TARGETS, Target, judge, targets_table
from bench.topology import BenchError, Lab, interruptible, next_line, run, wait_until
from bench.wan import WanLab, Way, check_losses

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
    """What both engines came to; kernel VXLAN has 100 everywhere."""
    made = Samples()
    for name, value in figures.items():
        for engine in ENGINES:
            made.add(engine, name, value)
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


@pytest.mark.parametrize(
    ("flood", "true_limit"), [(0.0, 50.0), (20.0, 50.0), (25.0, 50.0), (300.0, 50.0), (9.0, 500.0)]
)
def test_a_bad_guess_costs_trials_and_not_the_result(flood: float, true_limit: float) -> None:
    assert search(lambda kpps: kpps <= true_limit, flood, 192.0, 3.0) == min(true_limit // 3 * 3, 192.0)
    assert search(lambda kpps: False, flood, 192.0, 3.0) == 0.0


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.99) == 99
    assert percentile(values, 0.5) == 50
    assert percentile([7.0], 0.99) == 7
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], 0.5) == 3
    assert percentile([3.0, 1.0, 2.0], 0.34) == 2
    assert percentile(values, 0.07) == 7
    assert percentile(values[:50], 0.99) == 100
    assert percentile(values, 0.0) == 1


def verdict(found: Samples, target: Target, engine: str = "meshd-python") -> tuple[float | None, bool | None]:
    judged = judge(found, target, engine)
    return judged.value, judged.met


def test_target_is_met_by_the_ratio_of_medians() -> None:
    target = Target(figure="tcp1", title="", against="vxlan", least=(0.55, 0.15))
    assert verdict(samples(tcp1=15.0), target) == (0.15, True)
    assert verdict(samples(tcp1=15.0), target, "meshd-native") == (0.15, False)
    assert verdict(samples(tcp1=14.0), target) == (0.14, False)
    assert verdict(Samples(), target) == (None, None)
    alone = Samples()
    alone.add("meshd-python", "tcp1", 5.0)
    assert verdict(alone, target) == (None, None)
    alone.add("vxlan", "tcp1", 0.0)  # nothing came through: no ratio
    assert verdict(alone, target) == (None, None)


def test_target_may_be_an_upper_limit() -> None:
    target = Target(figure="rss_mib", title="", most=(60, 80))
    assert verdict(samples(rss_mib=80.0), target) == (80.0, True)
    assert verdict(samples(rss_mib=80.1), target) == (80.1, False)
    assert verdict(samples(rss_mib=60.5), target, "meshd-native") == (60.5, False)


def test_nothing_may_be_wanted_of_an_engine() -> None:
    target = Target(figure="relay_share", title="", least=(0.4, None))
    assert verdict(samples(relay_share=0.39), target, "meshd-native") == (0.39, False)
    assert verdict(samples(relay_share=0.39), target) == (0.39, None)
    row = next(line for line in targets_table(samples(relay_share=0.39)).splitlines() if "relay" in line)
    assert row.split()[-4:] == ["0.39", "missed", "–", "0.39"]
    assert [(one["engine"], one["met"]) for one in targets.as_json(samples(relay_share=0.4))] == [
        ("meshd-native", True)
    ]


def test_one_odd_round_moves_the_spread_and_not_the_median() -> None:
    made = Samples()
    for value in (10.0, 11.0, 1.0):
        made.add("meshd-python", "tcp1", value)
    assert made.median("meshd-python", "tcp1") == 10
    assert "10 (1–11)" in figures_table(made, ["meshd-python"])
    rounds = {"median": 10.0, "min": 1.0, "max": 11.0, "rounds": [10.0, 11.0, 1.0]}
    assert made.as_json() == {"meshd-python": {"tcp1": rounds}}


def test_ratios_are_those_of_medians_and_need_both() -> None:
    made = samples(tcp1=25.0)
    made.add("plain", "ping_p50", 9.0)
    assert ratios(made, "vxlan") == {engine: {"tcp1": 0.25} for engine in ENGINES}


def test_every_target_is_a_figure_of_a_contender_and_has_one_limit() -> None:
    for target in TARGETS:
        assert target.figure in {figure.name for figure in FIGURES}
        assert target.against in {"", "bare", *contenders.CONTENDERS}
        assert (target.least is None) != (target.most is None)
    assert all(engine in contenders.CONTENDERS for engine in ENGINES)


def test_what_was_not_measured_is_said_to_be_so() -> None:
    made = samples(tcp1=20.0)
    del made.values["meshd-native"]
    lines = {line.split("  ")[0]: line for line in targets_table(made).splitlines()}
    assert lines["TCP 1 stream / kernel VXLAN"].split()[-2:] == ["0.20", "met"]
    assert lines["TCP 1 stream / wireguard-go"].endswith("–")
    assert [found["target"] for found in targets.as_json(made)] == ["TCP 1 stream / kernel VXLAN"]


def test_columns_of_a_table_are_aligned() -> None:
    assert table([["", "one"], ["long name", "1"]]).splitlines() == ["           one", "long name    1"]
    assert table([]) == titles_table({}) == ""
    assert titles_table({"plain": "no overlay", "a": "b"}).splitlines() == ["plain  no overlay", "a      b"]


def test_contenders_are_chosen_by_name() -> None:
    assert chosen(None, peers=False) == ["plain", "vxlan", "meshd-native", "meshd-loop", "meshd-python"]
    assert chosen(None, peers=True) == list(contenders.CONTENDERS)
    assert chosen("tinc meshd-python,plain", peers=False) == ["plain", "meshd-python", "tinc"]
    with pytest.raises(BenchError, match="no contender weave; there are plain"):
        chosen("weave", peers=False)


def test_measures_are_chosen_by_name() -> None:
    assert chosen_measures(None) == list(MEASURES)
    assert chosen_measures("join,tcp") == ["tcp", "join"]
    with pytest.raises(BenchError, match="no measure speed; there are tcp, udp"):
        chosen_measures("speed")


def test_a_contender_without_its_command_or_engine_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert contenders.CONTENDERS["tinc"].missing() == "no command tincd here (make bench-peers installs it)"
    assert contenders.CONTENDERS["plain"].missing() == ""
    assert contenders.MeshdPython.missing() == ""
    monkeypatch.setattr(contenders, "native_missing", lambda: "not built")
    assert contenders.MeshdNative.missing() == contenders.MeshdLoop.missing() == "no native engine: not built"
    monkeypatch.setattr(contenders, "native_missing", lambda: "")
    assert contenders.MeshdNative.missing() == contenders.MeshdLoop.missing() == ""


def test_results_are_written_with_what_they_were_made_on(tmp_path: Path) -> None:
    file = tmp_path / "new" / "result.json"
    write(file, Outcome(samples=samples(tcp1=1.0), left_out=["tinc: no command"]), 1, Plan())
    found = json.loads(file.read_text())
    assert found["about"]["cpus"] == os.cpu_count()
    assert found["about"]["left_out"] == ["tinc: no command"]
    assert found["contenders"]["meshd-python"]["tcp1"]["median"] == 1.0
    assert found["of_vxlan"]["meshd-python"]["tcp1"] == 0.01
    assert {target["met"] for target in found["targets"]} == {False}


def test_cpu_time_and_memory_of_a_process_that_is_known() -> None:
    before = cpu_seconds([os.getpid()])
    sum(range(3_000_000))
    assert cpu_seconds([os.getpid(), os.getpid()]) >= 2 * before
    assert 5 < rss_mib([os.getpid()]) < 2000
    assert cpu_seconds([]) == 0


def test_a_process_that_has_ended_is_one_clear_line() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # nobody has waited for it yet
    for _ in range(2):
        for figure in (cpu_seconds, rss_mib):
            with pytest.raises(BenchError, match=f"^the router with process id {process.pid} has ended$"):
                figure([process.pid])
        process.wait()


class Ending(contenders.Plain):
    """Its router ends while it is measured."""

    def pids(self) -> list[int]:
        if not hasattr(self, "process"):
            self.process = subprocess.Popen(["sleep", "1000"])
        return [self.process.pid]


def test_a_router_that_ends_while_it_is_measured_is_why(monkeypatch: pytest.MonkeyPatch) -> None:
    contender = Ending(Lab())
    contender.ends = End("near", "10.0.0.1"), End("far", "10.0.0.2")

    def ping(self: Lab, space: str, *arguments: str) -> str:
        contender.process.kill()
        contender.process.wait()
        raise BenchError("no answer")

    monkeypatch.setattr(Lab, "run", ping)
    with pytest.raises(BenchError, match=r"^the router with process id \d+ has ended$"):
        measure.ping(contender, 10, 0.01)
    absent = Router(Lab(), 1)
    with pytest.raises(BenchError, match=r"^the router of host2 is not running$"):
        absent.pids()


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("", "iperf3 printed no result but ''"),
        ('{"error": "no route"}', "iperf3 -t 1: no route"),
        ('{"end": {}}', "iperf3 -t 1: no result"),
        (
            '{"end": {"sum_received": {"seconds": 0, "bytes": 0, "bits_per_second": 0}}}',
            "iperf3 -t 1: nothing was sent",
        ),
    ],
)
def test_a_transfer_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, printed: str, said: str) -> None:
    monkeypatch.setattr(Lab, "spawn", lambda self, *_: subprocess.Popen(["sleep", "1000"]))
    monkeypatch.setattr(Lab, "run", lambda self, space, *command, **_: ":5201" if command[0] == "ss" else printed)
    with pytest.raises(BenchError) as error:
        measure.transfer(Lab(), "near", End("far", "10.0.0.2"), "-t", "1")
    assert str(error.value) == said


def test_a_line_is_not_waited_for_for_ever() -> None:
    with subprocess.Popen(["sleep", "1000"], stdout=subprocess.PIPE, bufsize=0) as process:
        with pytest.raises(BenchError, match="it says nothing"):
            next_line(process, "it says nothing", 0.01)
        process.kill()
        with pytest.raises(BenchError, match="it has ended"):
            next_line(process, "it has ended")


@pytest.mark.parametrize(
    ("carried", "lost", "loss", "said"),
    [
        (9900, 100, 0.01, ""),
        (9860, 140, 0.01, ""),
        (9840, 160, 0.01, "lost 160 of 10000 frames instead of 1.0%"),
        (10000, 40, 0.01, "lost 40 of 10040"),
        (10000, 0, 0.0, ""),
        (10000, 2, 0.0, "lost 2 of 10002"),
        (0, 0, 0.01, "nothing passed"),
    ],
)
def test_another_loss_than_was_asked_for_is_said(carried: int, lost: int, loss: float, said: str) -> None:
    ways = [Way(9900, 100) if loss else Way(10, 0), Way(carried, lost)]
    if not said:
        return check_losses(ways, loss)
    with pytest.raises(BenchError, match=said):
        check_losses(ways, loss)
    return None


@pytest.mark.parametrize("kind", micro_engines.engines(), ids=lambda kind: str(kind.name))
@pytest.mark.parametrize(
    "payload", [64, 5 * micro_engines.SEGMENT_PAYLOAD, micro_engines.SEGMENTS * micro_engines.SEGMENT_PAYLOAD]
)
def test_the_packet_path_that_micro_times_carries_everything(kind: micro_engines.EngineKind, payload: int) -> None:
    outward, inward, port = micro_engines.packet_path(
        kind, micro_engines.super_frame(payload, micro_engines.SEGMENT_PAYLOAD)
    )
    for _ in range(2):
        port.keep = True
        outward()
        segments = -(-payload // micro_engines.SEGMENT_PAYLOAD)
        sent = sum(-(-len(data) // size) for data, size in port.waiting)
        # small frames of one wake-up share datagrams; nothing of a super-frame is lost
        assert sent == segments * micro_engines.SUPER_FRAMES if segments > 1 else 0 < sent < micro_engines.SUPER_FRAMES
        inward()
        assert port.waiting == []


def test_micro_times_each_step_of_each_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def once(run: Callable[[], None], count: int, before: Callable[[], None] = lambda: None) -> tuple[float, float]:
        before()
        run()
        return 1.0, 2.0

    monkeypatch.setattr(micro, "best", once)
    monkeypatch.setattr("sys.argv", ["micro"])
    assert micro.main() == 0
    shown = capsys.readouterr().out
    for step in ("seal 1388 B", "open 100 B", "flow lookup", "segment, of 44", "coalesce, of 44", "record: verify"):
        assert f"{step} " in shown
    assert "1.00 / 2.00" in shown


def test_command_that_fails_says_why() -> None:
    with pytest.raises(BenchError, match="no command no-such-command here"):
        run("no-such-command")
    with pytest.raises(BenchError, match=r"ls: .*nothing-here"):
        run("ls", "/nothing-here")
    with pytest.raises(BenchError, match=r"^sh -c .*: the last$"):
        run("sh", "-c", "echo the first >&2; echo the last >&2; exit 1")
    assert run("sh", "-c", "echo said; exit 1", check=False) == "said\n"
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


@pytest.mark.netns
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


@pytest.mark.netns
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


@pytest.mark.netns
def test_a_contender_that_does_not_start_costs_only_itself() -> None:
    left_out: list[str] = []
    with ExitStack() as labs:
        made = contenders.make([Broken, contenders.Plain], labs, lambda tag: Lab(2, tag=f"t{tag}"), left_out.append)
        assert [type(contender) for contender in made] == [contenders.Plain]
    assert left_out == ["plain: it will not"]


SHORT = Plan(seconds=1, pings=20, udp_seconds=0.3, udp_step=200.0, wan_seconds=1)


@pytest.mark.netns
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


@pytest.mark.netns
def test_what_is_measured_beside_bulk_and_with_offloads_off() -> None:
    outcome = run_bench(["plain"], ["mixed", "nic"], 1, SHORT, Spoken(), quick=True)
    assert outcome.failures == []
    assert set(outcome.samples.values["plain"]) == {"loaded_p50", "loaded_p99", "nic_tcp1", "nic_tcp4"}


@pytest.mark.netns
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


@pytest.mark.netns
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


@pytest.mark.netns
def test_records_of_an_unrelated_member_reach_the_routers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.busy.RECORDS_PER_SECOND", 50)
    with ExitStack() as labs:
        made = contenders.make([contenders.MeshdPython], labs, lambda tag: Lab(2, tag=f"t{tag}"), pytest.fail)
        contender = made[0]
        assert isinstance(contender, contenders.Meshd)
        with busy.records(contender), busy.api(contender):
            assert contender.answers()
            wait_until(lambda: contender.routers[1].records() > 20, "no records come")


@pytest.mark.netns
def test_what_cannot_be_measured_is_reported_and_costs_the_run_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.measure.udp_rate", lambda contender, plan, flood: float(run("false")))
    plan = Plan(seconds=1, pings=20, udp_seconds=0.2)
    outcome = run_bench(["plain", "tinc"], ["ping", "udp"], 1, plan, Spoken())
    assert "round 1, no overlay: UDP, 64 bytes: false: 1" in outcome.failures
    assert outcome.samples.median("plain", "ping_p50")
    assert outcome.samples.median("plain", "udp64") is None


@pytest.mark.netns
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


@pytest.mark.netns
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
