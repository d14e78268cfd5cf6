"""A router that answers in a folder of its own, and a way to run verbs against it in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshd.cli.main import run
from tests.control.fake import FakeHandlers, running


@dataclass(frozen=True, slots=True)
class Outcome:
    status: int
    out: str
    err: str


Meshd = Callable[..., Outcome]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MESHD_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def meshd(folder: Path, capsys: pytest.CaptureFixture[str]) -> Meshd:
    """meshd("status", "peers") → what the command printed, and its exit status. No router runs unless `router` is asked for."""

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        status = run(arguments)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


@pytest.fixture
def router(folder: Path) -> Iterator[FakeHandlers]:
    handlers = FakeHandlers()
    with running(folder / "meshd.sock", handlers):
        yield handlers
