"""Which engine is taken, and what is said where there is no native one."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

import pytest

from meshd.errors import UserError
from meshd.forward.engine import choice
from meshd.forward.engine.choice import choose_engine
from meshd.forward.engine.native import _core, native_missing
from meshd.forward.engine.native.engine import NativeEngine
from meshd.forward.engine.native.threaded import ThreadedEngine
from meshd.forward.engine.python import PythonEngine
from tests.engine.conftest import ENGINES


def test_the_tests_of_this_folder_run_with_each_engine() -> None:
    assert {"python": PythonEngine, "native": NativeEngine, "threaded": ThreadedEngine} == ENGINES


def test_native_is_the_default_and_says_what_it_seals_with() -> None:
    seals = f"seals with {_core.backends()[0]}"
    assert choose_engine("auto") == choose_engine("native") == (ThreadedEngine, f"{seals}, pumps in a thread")
    assert choose_engine("auto", "loop") == (NativeEngine, f"{seals}, pumps on the loop")
    assert choose_engine("auto", descriptors=False) == (NativeEngine, f"{seals}, pumps on the loop")
    assert choose_engine("python") == (PythonEngine, "asked for")
    with pytest.raises(UserError, match="unknown engine 'warp'"):
        choose_engine("warp")


@pytest.mark.parametrize(
    ("engine", "pump", "descriptors", "said"),
    [
        ("auto", "hand", True, "unknown pump 'hand'"),
        ("python", "thread", True, "the python engine has no thread"),
        ("auto", "thread", False, "needs a TAP"),
    ],
)
def test_a_pump_that_cannot_be_had(engine: str, pump: str, descriptors: bool, said: str) -> None:
    with pytest.raises(UserError, match=said):
        choose_engine(engine, pump, descriptors=descriptors)


def test_without_it_auto_says_why_and_native_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "native_missing", lambda: "not built")
    assert choose_engine("auto") == (PythonEngine, "no native engine: not built")
    with pytest.raises(UserError, match="there is no native engine here: not built"):
        choose_engine("native")
    with pytest.raises(UserError, match="there is no native engine here: not built"):
        choose_engine("auto", "thread")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("no module"), "not built: there was no C compiler"),
        (ImportError("undefined symbol: x"), "cannot be loaded: undefined symbol: x"),
    ],
)
def test_why_it_is_missing(monkeypatch: pytest.MonkeyPatch, error: ImportError, said: str) -> None:
    real = builtins.__import__

    def broken(name: str, scope: Mapping[str, Any] | None = None, *rest: Any) -> Any:
        if name == "meshd.forward.engine.native._core" and scope and scope["__name__"] in name:
            raise error
        return real(name, scope, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    assert native_missing().startswith(said)


def test_a_machine_without_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "backends", list)
    assert "neither libipsec-mb nor OpenSSL" in native_missing()
