"""POST /capture: lines as they come, a beat while nothing comes, and an end whoever ends it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from meshd.control import streaming
from meshd.control.client import ControlClient
from meshd.control.limits import EXIT_NOT_RUNNING, MAX_WORDS
from meshd.control.streaming import SLICE_BYTES, SLICE_FRAMES, slices
from meshd.errors import UserError
from meshd.views import FrameView
from tests.control.fake import FakeHandlers, running

ONE = FrameView(time=1.5, inward=True, peer="7a:00:00:00:00:01(host2)", note="", frame=b"frame")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meshd.sock"


def test_the_lines(path: Path) -> None:
    handlers = FakeHandlers()
    handlers.stream.batches, handlers.stream.lost = [[ONE]], 2
    with running(path, handlers):
        lines = list(ControlClient(path).capture(("web",)))
    assert lines == [
        {"title": "all frames"},
        {
            "time": 1.5,
            "direction": "in",
            "peer": "7a:00:00:00:00:01(host2)",
            "note": "",
            "lost": 2,
            "frame": "ZnJhbWU=",
        },
        {"end": "the router ends"},
    ]


def test_much_at_once_is_written_in_slices(path: Path) -> None:
    frames = [replace(ONE, time=float(n), frame=bytes(1 + n * 61 % 9000)) for n in range(1000)]
    frames[500] = replace(frames[500], frame=bytes(SLICE_BYTES + 1))
    parts = list(slices(frames))
    assert [one for part in parts for one in part] == frames
    for part in parts:
        assert len(part) <= SLICE_FRAMES
        assert sum(len(one.frame) for one in part) <= SLICE_BYTES or len(part) == 1
    assert len(parts) < 100
    handlers = FakeHandlers()
    handlers.stream.batches = [frames]
    with running(path, handlers):
        lines = list(ControlClient(path).capture(()))
    assert [line["time"] for line in lines[1:-1]] == [one.time for one in frames]


def test_a_beat_while_nothing_comes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT_S", 0.0)
    handlers = FakeHandlers()
    handlers.stream.endless = True
    with running(path, handlers):
        stream = ControlClient(path).capture(())
        assert [next(stream) for _ in range(3)] == [{"title": "all frames"}, {"lost": 0}, {"lost": 0}]
        assert not handlers.stream.closed.is_set()
        stream.close()
        assert handlers.stream.closed.wait(5)  # noticed, though nothing is written to the client that has gone


def test_a_router_that_hangs(path: Path) -> None:
    handlers = FakeHandlers()
    handlers.stream.endless = True
    with running(path, handlers):
        stream = ControlClient(path, timeout=0.05).capture(())
        next(stream)
        with pytest.raises(UserError, match="does not answer any more"):
            next(stream)


def test_a_router_that_dies(path: Path) -> None:
    handlers = FakeHandlers()
    handlers.stream.endless = True
    with running(path, handlers):
        stream = ControlClient(path).capture(())
        next(stream)
    with pytest.raises(UserError, match="closed the connection") as ended:
        list(stream)
    assert ended.value.status == EXIT_NOT_RUNNING


def test_what_is_no_request(path: Path) -> None:
    with running(path, FakeHandlers()), pytest.raises(UserError, match="too many words"):
        next(ControlClient(path).capture(("a",) * (MAX_WORDS + 1)))
