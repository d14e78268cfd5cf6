"""Length framing of a TCP stream: `length u16 LE | body`, fed in any portions."""

from __future__ import annotations

from collections.abc import Callable

from meshd.errors import DecodeError

__all__ = ["FrameReader", "frame"]


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(2, "little") + body


class FrameReader:
    """Holds at most one frame and what was read behind it. `possible` is asked about a length before its body is waited for."""

    __slots__ = ("_buffer", "_possible")

    def __init__(self, possible: Callable[[int], bool]) -> None:
        self._buffer = bytearray()
        self._possible = possible

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole body, None if there is none yet. Raises DecodeError for a length that cannot be."""
        if len(self._buffer) < 2:
            return None
        size = int.from_bytes(self._buffer[:2], "little")
        if not self._possible(size):
            raise DecodeError(f"a frame of {size} bytes")
        if len(self._buffer) < 2 + size:
            return None
        body = bytes(self._buffer[2 : 2 + size])
        del self._buffer[: 2 + size]
        return body

    def clear(self) -> None:
        self._buffer.clear()
