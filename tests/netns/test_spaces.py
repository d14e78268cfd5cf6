"""What the tests' own namespaces leave behind when one cannot be made or removed: nothing of the others, nothing half made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.netns import capture_helpers, lab


def ours() -> set[str]:
    """Namespaces by name, and descriptors of any."""
    named = {
        name for name in os.listdir("/run/netns") if name.startswith((f"mdcap{os.getpid()}-", f"mdp{os.getpid()}-"))
    }
    held = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            held.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
    return named | {fd for fd, target in held if target.startswith(("net:", "/run/netns/"))}


def failing(word: str, command: Callable[..., str], *, done: bool) -> Callable[..., str]:
    """`command`, interrupted when it is given this word, before or after it has done it."""

    def run(*arguments: str) -> str:
        if word in arguments and not done:
            raise KeyboardInterrupt
        out = command(*arguments)
        if word in arguments:
            raise KeyboardInterrupt
        return out

    return run


@pytest.mark.parametrize("done", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("step", ["add", "lo"])
@pytest.mark.parametrize("module", [capture_helpers, lab], ids=["capture", "lab"])
def test_a_namespace_that_is_half_made(
    module: ModuleType, step: str, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ours()
    monkeypatch.setattr(module, "command", failing(step, module.command, done=done))
    with pytest.raises(KeyboardInterrupt):
        module.Space("half")
    assert ours() == before


def test_of_several_the_last_one_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    before, made = ours(), capture_helpers.Space

    def limited(role: str) -> capture_helpers.Space:
        if role == "third":
            raise OSError("no more")
        return made(role)

    monkeypatch.setattr(capture_helpers, "Space", limited)
    with pytest.raises(OSError, match="no more"), capture_helpers.spaces("first", "second", "third"):
        pytest.fail("made after all")
    assert ours() == before


def test_one_that_cannot_be_removed_keeps_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ours()
    with contextlib.ExitStack() as opened:
        first, second = opened.enter_context(capture_helpers.spaces("first", "second"))
        assert ours() > before | {first.name, second.name}
        monkeypatch.setattr(capture_helpers, "command", failing(second.name, capture_helpers.command, done=False))
        with pytest.raises(KeyboardInterrupt):
            opened.close()
    monkeypatch.undo()
    assert ours() == before | {second.name}
    second.remove()
    assert ours() == before
