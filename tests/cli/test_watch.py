"""status --watch: again and again, in place on a terminal, and an end that leaves the terminal as it was."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meshd.cli import watch as module
from meshd.cli.watch import fit, watch
from meshd.errors import UserError
from tests.cli.conftest import Meshd
from tests.control.fake import FakeHandlers, running

RUN = [sys.executable, "-c", "from meshd.cli.main import main; main()"]


def test_blocks_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    watch(lambda: f"block {len(naps)}\n", 0.5, sleep)
    assert capsys.readouterr().out == "block 0\nblock 1\nblock 2\n"
    assert naps == [0.5] * 3


@pytest.mark.parametrize("end", [KeyboardInterrupt(), UserError("meshd is not running")])
def test_in_place_on_a_terminal(
    end: BaseException, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[str | BaseException] = ["one\ntwo\n", "three\n", end]

    def produce() -> str:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(module, "is_terminal", lambda _stream: True)
    monkeypatch.setattr(os, "get_terminal_size", lambda _descriptor: os.terminal_size((80, 24)))
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 1)
    with contextlib.suppress(UserError):
        watch(produce, 1, lambda _seconds: None)
    assert answers == []
    out = capsys.readouterr().out
    assert out.startswith("\x1b[?7l\x1b[?25l\x1b[2J\x1b[Hone\x1b[K\ntwo\x1b[K\x1b[J\x1b[Hthree\x1b[K\x1b[J")
    assert out.endswith("\x1b[?7h\x1b[?25h\n")


def test_a_small_screen() -> None:
    text = "".join(f"line {number}\n" for number in range(10))
    assert fit(text, 10).count("\n") == 9
    assert [line.removesuffix("\x1b[K") for line in fit(text, 3).split("\n")] == ["line 0", "line 1", "… 8 more lines"]
    assert fit(text, 1) == "… 10 more lines\x1b[K"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--watch", "connections"], "meshd status connections --watch"),
        (["--watch", "often"], "no number of seconds"),
        (["--watch", "0"], "not between 0.1"),
        (["--watch", "nan"], "not between 0.1"),
    ],
)
def test_what_is_no_interval(meshd: Meshd, arguments: list[str], words: str) -> None:
    done = meshd("status", *arguments)
    assert done.status == 2
    assert words in done.err


def test_no_router(meshd: Meshd) -> None:
    assert meshd("status", "--watch").status == 3


def test_a_real_terminal(folder: Path) -> None:
    """Ctrl-C ends it with status 0."""
    ours, theirs = pty.openpty()
    with running(folder / "meshd.sock", FakeHandlers()):
        words = [*RUN, "status", "connections", "--watch", "0.1"]
        command = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
        os.close(theirs)
        seen = b""
        while seen.count(b"192.168.48.12:33866") < 3:
            assert select.select([ours], [], [], 20)[0]
            seen += os.read(ours, 65536)
        command.send_signal(signal.SIGINT)
        while not seen.endswith(b"\x1b[?25h\r\n"):
            assert select.select([ours], [], [], 20)[0]
            seen += os.read(ours, 65536)
        assert command.wait(20) == 0
        assert command.stderr is not None
        assert command.stderr.read() == b""
        command.stderr.close()
    os.close(ours)
