"""The test harness itself: a skip is a failure in CI, a leftover is found and named, workers share the tests and do not meet."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.leaks import Snapshot, missing_for_namespaces
from tests.netns.lab import until

ROOT = Path(__file__).parent.parent
VARIABLE = "MESHD_HARNESS_TEST"

SKIPS = """
import pytest

def test_passes():
    pass

def test_skips():
    pytest.skip("no reason")

@pytest.mark.xfail(strict=True)
def test_fails_as_expected():
    assert False
"""


# Every test leaves a file that names its worker; the first one of each kind is not over before one of the other kind has begun.
SHARED = """
import os, time
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range(4))
def test_where(number):
    assert not [name for name in os.environ if name.startswith("PYTEST_XDIST_")]
    tests = Path("TESTS")
    (tests / f"KIND{number}-{os.getpid()}.ran").write_text(os.environ["MESHD_TEST_RUN"])
    while number == 0 and not list(tests.glob("OTHER*.ran")):
        time.sleep(0.01)
"""
SHARED_CONFTEST = """
from pathlib import Path
import tests.conftest

tests.conftest.TESTS = Path(__file__).parent
tests.conftest.missing_for_namespaces = lambda commands: ""
"""

LEAVES_A_PROCESS = """
import subprocess

def test_leaves():
    subprocess.Popen(["sleep", "1000"], start_new_session=True).returncode = 0  # else its end would be missed, with a warning
"""


# The clean-up is over only when a second interrupt has come.
INTERRUPTED = """
import os, signal
from pathlib import Path
import pytest

@pytest.fixture
def cleans_up():
    ends = os.pipe()
    os.set_blocking(ends[1], False)
    signal.set_wakeup_fd(ends[1])
    yield
    interrupts = b""
    while len(interrupts) < 2:
        interrupts += os.read(ends[0], 8)
    Path(__file__).with_name("clean").touch()

def test_waits(cleans_up):
    new = Path(__file__).with_name("new")
    new.write_text(str(os.getpid()))
    new.rename(new.with_name("began"))
    while True:
        signal.pause()
"""


def start_pytest(folder: Path, source: str, *options: str, ci: bool, outermost: bool = False) -> subprocess.Popen[str]:
    """In a session of its own. `outermost`: as if no test had started it."""
    (folder / "test_invented.py").write_text(source)
    unset = {"CI", "PYTEST_ADDOPTS", *(["MESHD_TEST_RUN"] if outermost else [])}
    environment = {name: value for name, value in os.environ.items() if name not in unset} | ({"CI": "1"} if ci else {})
    plugins = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "tests.conftest")
    places = ("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), str(folder))
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", *plugins, *options, *places],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    )


def run_pytest(
    folder: Path, source: str, *options: str, ci: bool, outermost: bool = False
) -> subprocess.CompletedProcess[str]:
    with start_pytest(folder, source, *options, ci=ci, outermost=outermost) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_a_skip_fails_in_ci_and_an_expected_failure_does_not(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, SKIPS, ci=True)
    assert result.returncode == 1
    assert "1 failed, 1 passed, 1 xfailed" in result.stdout
    assert "test_skips was skipped, and CI is set" in result.stdout
    assert "no reason" in result.stdout


def test_a_skip_is_a_skip_elsewhere(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, SKIPS, ci=False)
    assert result.returncode == 0
    assert "1 passed, 1 skipped, 1 xfailed" in result.stdout


def test_a_skipped_file_fails_in_ci(tmp_path: Path) -> None:
    source = "import pytest\npytest.importorskip('no_such_library')\n"
    assert run_pytest(tmp_path, source, ci=True).returncode != 0
    assert run_pytest(tmp_path, source, ci=False).returncode == 5  # nothing was collected


def test_files_that_need_the_system_are_beside_the_others_and_each_is_on_one_worker(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(SHARED_CONFTEST)
    for name, kind, other in (("netns/test_a", "a", "c"), ("docker/test_b", "b", ""), ("crypto/test_c", "c", "a")):
        file = tmp_path / f"{name}.py"
        file.parent.mkdir()
        file.write_text(SHARED.replace("TESTS", str(tmp_path)).replace("KIND", kind).replace("OTHER", other))
    result = run_pytest(tmp_path, "", "-n", "2", "--dist", "load", ci=False)  # however they are shared
    assert result.returncode == 0, result.stdout
    assert "12 passed" in result.stdout
    ran = [(file.name[0], file.stem.partition("-")[2], file.read_text()) for file in tmp_path.glob("*.ran")]
    assert len(ran) == 12
    ((netns, mark),) = {(pid, run) for kind, pid, run in ran if kind == "a"}
    ((docker, _),) = {(pid, run) for kind, pid, run in ran if kind == "b"}
    ((crypto, other_mark),) = {(pid, run) for kind, pid, run in ran if kind == "c"}
    assert netns != crypto
    assert docker in (netns, crypto)
    assert mark != other_mark
    inherited = os.environ["MESHD_TEST_RUN"]
    assert mark.startswith(inherited)
    assert other_mark.startswith(inherited)


def test_what_needs_the_system_and_is_elsewhere_is_refused(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.docker\ndef test_somewhere():\n    pass\n"
    result = run_pytest(tmp_path, source, ci=False)
    assert result.returncode == 4
    assert "test_somewhere needs the system: its place is tests/netns or tests/docker" in result.stderr


def test_a_process_left_behind_by_whatever_test_fails_the_run(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, LEAVES_A_PROCESS, ci=False)
    found = re.search(r"left behind by this run: processes: (\d+) sleep 1000\n", result.stdout)
    assert found, result.stdout
    os.kill(int(found[1]), signal.SIGKILL)
    assert "1 passed" in result.stdout
    assert result.returncode == 1


@pytest.mark.parametrize("whom", ["all, as a terminal does", "the starting process"])
def test_a_worker_that_is_interrupted_cleans_up_whatever_else_interrupts_it(tmp_path: Path, whom: str) -> None:
    with start_pytest(tmp_path, INTERRUPTED, "-n", "2", ci=False) as process:
        began = tmp_path / "began"
        until(lambda: began.exists() or process.poll() is not None, "the test waits", 60.0)
        assert process.poll() is None, process.communicate()
        (os.killpg if whom.startswith("all") else os.kill)(process.pid, signal.SIGINT)
        while process.poll() is None and not (tmp_path / "clean").exists():  # two that come at once are one
            time.sleep(0.05)
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(began.read_text()), signal.SIGINT)
        out, _ = process.communicate()
    assert (tmp_path / "clean").exists()
    assert process.returncode == 2
    assert "KeyboardInterrupt" in out
    assert "left behind" not in out


def test_a_process_left_behind_is_found_however_far_it_detached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "this run")
    before = Snapshot.take(VARIABLE)
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # Popen returns when exec has begun; what comes back through it proves that cat runs, with its environment in place.
        process.stdin.write(b"ready\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        left = before.leftovers(of=[os.getpid()], grace=0)
        assert left.processes == {f"{process.pid} cat"}
        assert f"processes: {process.pid} cat" in str(left)
    finally:
        process.kill()
        process.communicate()
    assert not before.leftovers(of=[os.getpid()])


def test_a_zombie_is_a_leftover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "this run")
    before = Snapshot.take(VARIABLE)
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and nobody has asked how
    assert before.leftovers(of=[os.getpid()], grace=0).processes == {f"{process.pid} (zombie)"}
    process.wait()
    assert not before.leftovers(of=[os.getpid()])


def test_what_other_runs_make_counts_only_where_this_one_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "this run")
    before = dataclasses.replace(Snapshot.take(VARIABLE), links=frozenset())
    assert "lo" in before.leftovers(of=None, grace=0).links
    assert "lo" not in before.leftovers(of=[os.getpid()], grace=0).links


def test_what_counts_of_others_is_what_has_a_pid_of_this_run_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "this run")
    before = dataclasses.replace(Snapshot.take(VARIABLE), namespaces=frozenset())
    now = dataclasses.replace(before, namespaces=frozenset({"mdp12-0h1", "mdp123-0h1", "x-12"}))
    monkeypatch.setattr(Snapshot, "take", lambda _: now)
    assert before.leftovers(of={12, 4}, grace=0).namespaces == {"mdp12-0h1", "x-12"}
    assert before.leftovers(of=(), grace=0).namespaces == frozenset()
    assert len(before.leftovers(of=None, grace=0).namespaces) == 3


def test_what_is_missing_for_namespaces_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in missing_for_namespaces(["sh"])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "exists", lambda _: True)
    assert missing_for_namespaces(["sh"]) == ""
    assert "no-such-command" in missing_for_namespaces(["sh", "no-such-command"])
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert "/dev/net/tun" in missing_for_namespaces(["sh"])
