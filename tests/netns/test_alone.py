"""A run that is alone on its machine answers for all that is new there; that others answer for themselves is in test_harness.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.test_harness import run_pytest

LEAVES_A_NAMESPACE = """
import subprocess

def test_leaves():
    subprocess.run(["ip", "netns", "add", "NAME"], check=True)
"""


@pytest.mark.parametrize("outermost", [True, False])
def test_a_namespace_of_whatever_name_fails_a_run_that_is_alone(tmp_path: Path, outermost: bool) -> None:
    name = f"harness-{os.getpid()}"
    try:
        source = LEAVES_A_NAMESPACE.replace("NAME", name)
        result = run_pytest(tmp_path, source, "-n", "2", ci=True, outermost=outermost)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    assert "1 passed" in result.stdout
    assert result.returncode == outermost, result.stdout  # whatever else is on this machine: it is said, too
    left = [
        line for line in result.stdout.splitlines() if line.startswith("left behind by this run: ") and name in line
    ]
    assert bool(left) == outermost
