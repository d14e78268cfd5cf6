"""The test harness itself: a skip is a failure in CI, a leftover is found and named, system tests come last."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.leaks import Snapshot, missing_for_namespaces

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


def run_pytest(folder: Path, source: str, *, ci: bool) -> subprocess.CompletedProcess[str]:
    (folder / "test_invented.py").write_text(source)
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | ({"CI": "true"} if ci else {})
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:asyncio",
        "-p",
        "tests.conftest",
    ]
    return subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )


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
        left = before.leftovers(only_ours=True, grace=0)
        assert left.processes == {f"{process.pid} cat"}
        assert f"processes: {process.pid} cat" in str(left)
    finally:
        process.kill()
        process.communicate()
    assert not before.leftovers(only_ours=True)


def test_a_zombie_is_a_leftover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "this run")
    before = Snapshot.take(VARIABLE)
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and nobody has asked how
    assert before.leftovers(only_ours=True, grace=0).processes == {f"{process.pid} (zombie)"}
    process.wait()
    assert not before.leftovers(only_ours=True)


def test_what_other_runs_make_counts_only_where_this_one_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "this run")
    before = dataclasses.replace(Snapshot.take(VARIABLE), links=frozenset())
    assert "lo" in before.leftovers(only_ours=False, grace=0).links
    assert "lo" not in before.leftovers(only_ours=True, grace=0).links


def test_what_is_missing_for_namespaces_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in missing_for_namespaces(["sh"])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "exists", lambda _: True)
    assert missing_for_namespaces(["sh"]) == ""
    assert "no-such-command" in missing_for_namespaces(["sh", "no-such-command"])
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert "/dev/net/tun" in missing_for_namespaces(["sh"])
