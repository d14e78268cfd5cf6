"""A short run of what `make sanitize` and `make fuzz-native` do at length: the native engine with the sanitizers in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.timeout(900)  # it compiles, and what was compiled is ten times as slow: minutes on a busy machine
@pytest.mark.parametrize(
    "command",
    [
        ("packaging/sanitize", "tests/engine/test_native_io.py", "-k", "4", "--timeout=600"),
        ("packaging/fuzz-native", "100000"),
    ],
    ids=["tests", "fuzzing"],
)
def test_clean(command: tuple[str, ...]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
