"""The answer of POST /capture: inner frames as they pass, one JSON object a line, until the client or the router ends.

{"title"}                                                         first: what is shown
{"time", "direction": "in"|"out", "peer", "note", "frame", "lost"}   a frame in base64; `lost`: frames not shown so far
{"lost"}                                                          every HEARTBEAT_S at least: the router lives
{"end"}                                                           last, if the router ends first

What a reader's queue holds (4 MiB) is written in slices, between which the loop moves packets.
"""

from __future__ import annotations

import asyncio
import binascii
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from aiohttp import web

from meshd.views import FrameView

__all__ = ["HEARTBEAT_S", "LOOK_S", "SLICE_BYTES", "SLICE_FRAMES", "FrameStream", "slices", "stream_frames"]

HEARTBEAT_S = 1.0  # a client that waits for bytes notices an interrupt that came just before, and a router that hangs
SLICE_BYTES = 128 * 1024  # of frames made into lines in one go: below a millisecond
SLICE_FRAMES = 128
LOOK_S = 0.25  # aiohttp does not tell a handler that its client has gone: it has to look


class FrameStream(Protocol):
    title: str
    lost: int

    async def frames(self, seconds: float) -> list[FrameView] | None:
        """What has come; waits at most so long for it. None: the router ends."""
        ...

    def close(self) -> None: ...


async def stream_frames(request: web.Request, stream: FrameStream) -> web.StreamResponse:
    """Closes the stream in any case."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    try:
        await response.prepare(request)
        await response.write(_line({"title": stream.title}))
        clock = asyncio.get_running_loop().time
        told = clock()
        while request.transport is not None and not request.transport.is_closing():
            frames = await stream.frames(LOOK_S)
            if frames is None:
                await response.write(_line({"end": "the router ends"}))
                break
            if frames:
                for part in slices(frames):
                    await response.write(b"".join(_frames(part, stream.lost)))
                    await asyncio.sleep(0)
                told = clock()
            elif clock() - told >= HEARTBEAT_S:
                await response.write(_line({"lost": stream.lost}))
                told = clock()
        await response.write_eof()
    except (ConnectionError, asyncio.CancelledError):  # the client has gone, or the server will not wait for it
        pass
    finally:
        stream.close()
    return response


def slices(frames: Sequence[FrameView]) -> Iterator[Sequence[FrameView]]:
    """All of them in order, SLICE_FRAMES and SLICE_BYTES at a time; a frame that is larger comes alone."""
    first = size = 0
    for at, one in enumerate(frames):
        if at > first and (at - first == SLICE_FRAMES or size + len(one.frame) > SLICE_BYTES):
            yield frames[first:at]
            first, size = at, 0
        size += len(one.frame)
    yield frames[first:]


def _frames(frames: Iterable[FrameView], lost: int) -> Iterable[bytes]:
    for one in frames:
        yield _line(
            {
                "time": one.time,
                "direction": "in" if one.inward else "out",
                "peer": one.peer,
                "note": one.note,
                "lost": lost,
                "frame": binascii.b2a_base64(one.frame, newline=False).decode(),
            }
        )


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value).encode() + b"\n"
