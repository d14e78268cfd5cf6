"""The benchmark's own code: what it reckons. What it builds is in netns/test_bench_labs.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import contenders, measure, micro, micro_engines, targets
from bench.__main__ import Outcome, chosen, chosen_measures, write
from bench.contender import End, cpu_seconds, rss_mib
from bench.measure import Plan, bisect, percentile, search
from bench.measures import MEASURES
from bench.results import FIGURES, Samples, figures_table, ratios, table, titles_table
from bench.routers import Router
from bench.targets import ENGINES, TARGETS, Target, judge, targets_table
from bench.topology import BenchError, Lab, interruptible, next_line, run
from bench.wan import Way, check_losses


def samples(**figures: float) -> Samples:
    """What both engines came to; kernel VXLAN has 100 everywhere."""
    made = Samples()
    for name, value in figures.items():
        for engine in ENGINES:
            made.add(engine, name, value)
        made.add("vxlan", name, 100.0)
    return made


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
