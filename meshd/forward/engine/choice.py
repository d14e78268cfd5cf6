"""Which engine: `native` where it was built and finds an AEAD library, else `python`; or the one that was asked for."""

from __future__ import annotations

from meshd.errors import UserError
from meshd.forward.engine.native import native_missing
from meshd.forward.engine.python import PythonEngine

__all__ = ["ENGINES", "choose_engine"]

ENGINES = ("auto", "native", "python")


def choose_engine(wanted: str) -> tuple[type[PythonEngine], str]:
    """The engine, and why this one. Raises UserError where the one that was asked for cannot be had."""
    if wanted not in ENGINES:
        raise UserError(f"unknown engine {wanted!r}", hint=f"there are: {', '.join(ENGINES)}")
    if wanted == "python":
        return PythonEngine, "asked for"
    missing = native_missing()
    if missing and wanted == "native":
        raise UserError(f"there is no native engine here: {missing}", hint="run `make setup` again, it says why")
    if missing:
        return PythonEngine, f"no native engine: {missing}"
    from meshd.forward.engine.native import _core
    from meshd.forward.engine.native.engine import NativeEngine

    return NativeEngine, f"seals with {_core.backends()[0]}"
