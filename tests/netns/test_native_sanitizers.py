"""A short run of what `make sanitize` and `make fuzz-native` do at length: the native engine with the sanitizers in it.

That they find something if there is something is tried with a mistake of each kind in a copy of the tree.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
NEEDED = ("packaging", "meshd", "tests", "bench", "pyproject.toml")
SHORT = ("address", "tests/engine/test_native_io.py", "-k", "4", "--timeout=600")
THREADS = ("thread", "tests/engine/test_thread.py")
# It compiles, and what was compiled is ten times as slow: minutes on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(folder: Path, *command: str) -> tuple[bool, str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout[-20_000:] + done.stderr[-20_000:]


@pytest.mark.parametrize(
    "command",
    [("packaging/sanitize", *SHORT), ("packaging/sanitize", *THREADS), ("packaging/fuzz-native", "100000")],
    ids=["address", "thread", "fuzzing"],
)
def test_clean(command: tuple[str, ...]) -> None:
    clean, output = run(ROOT, *command)
    assert clean, output


def plant(tree: Path, right: str, wrong: str) -> None:
    sources = tree / "meshd/forward/engine/native"
    (path,) = (path for path in (*sources.glob("*.c"), *sources.glob("*.py")) if right in path.read_text())
    path.write_text(path.read_text().replace(right, wrong))


@pytest.mark.parametrize(
    ("arguments", "right", "wrong", "found"),
    [
        pytest.param(
            (*THREADS, "-k", "now_and_then"),
            """    core_hold(core);
    PyObject *result = Py_BuildValue("II", port->in_vain, port->rests);
    core_release(core);
""",
            """    PyObject *result = Py_BuildValue("II", port->in_vain, port->rests);
""",
            "ThreadSanitizer: data race",
            id="a lock that is missing in C",
        ),
        pytest.param(
            (*THREADS, "-k", "at_any_moment and peer_counters"),
            "    peer_counters = _held(NativeEngine.peer_counters)\n",
            "",
            "ThreadSanitizer: data race",
            id="a call that is made without the lock",
        ),
        pytest.param(
            SHORT,
            "malloc(RECEIVE_SIZE)",
            "malloc(RECEIVE_SIZE / 2)",
            "AddressSanitizer: heap-buffer-overflow",
            id="a buffer that is too small",
        ),
    ],
)
def test_what_is_wrong_is_found(tmp_path: Path, arguments: tuple[str, ...], right: str, wrong: str, found: str) -> None:
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    plant(tmp_path, right, wrong)
    clean, output = run(tmp_path, "packaging/sanitize", *arguments)
    assert not clean
    assert found in output
