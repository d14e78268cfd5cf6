"""Which engine: `native` where it was built and finds an AEAD library, else `python`, or the one asked for; and who pumps."""

from __future__ import annotations

from meshd.errors import UserError
from meshd.forward.engine.native import native_missing
from meshd.forward.engine.python import PythonEngine

__all__ = ["ENGINES", "PUMPS", "choose_engine"]

ENGINES = ("auto", "native", "python")
PUMPS = ("auto", "loop", "thread")


def choose_engine(wanted: str, pump: str = "auto", *, descriptors: bool = True) -> tuple[type[PythonEngine], str]:
    """The engine, and why this one. `descriptors`: every port has one, so that a thread can wait for it (a TAP's; not pcap's).

    Raises UserError where what was asked for cannot be had.
    """
    if wanted not in ENGINES:
        raise UserError(f"unknown engine {wanted!r}", hint=f"there are: {', '.join(ENGINES)}")
    if pump not in PUMPS:
        raise UserError(f"unknown pump {pump!r}", hint=f"there are: {', '.join(PUMPS)}")
    if pump == "thread" and not descriptors:
        raise UserError(
            "--pump thread needs a TAP: with --capture pcap:… Python reads the frames", hint="use --pump loop"
        )
    if pump == "thread" and wanted == "python":
        raise UserError("the python engine has no thread to pump in", hint="use --engine native, or --pump loop")
    if wanted == "python":
        return PythonEngine, "asked for"
    missing = native_missing()
    if missing and (wanted == "native" or pump == "thread"):
        raise UserError(f"there is no native engine here: {missing}", hint="run `make setup` again, it says why")
    if missing:
        return PythonEngine, f"no native engine: {missing}"
    from meshd.forward.engine.native import _core
    from meshd.forward.engine.native.engine import NativeEngine
    from meshd.forward.engine.native.threaded import ThreadedEngine

    seals = f"seals with {_core.backends()[0]}"
    if pump != "loop" and descriptors:
        return ThreadedEngine, f"{seals}, pumps in a thread"
    return NativeEngine, f"{seals}, pumps on the loop"
