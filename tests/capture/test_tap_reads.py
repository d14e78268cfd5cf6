"""What a TAP's descriptor may answer to a read, without a TAP."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from meshd.capture.tap import TapDevice


def device(sock: socket.socket) -> TapDevice:
    sock.setblocking(False)
    return TapDevice(os.dup(sock.fileno()), "none", ())


def test_a_frame_that_the_kernel_could_not_describe_is_an_empty_one() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:  # a read of it is EINVAL
        listening.bind("")
        listening.listen()
        with contextlib.closing(device(listening)) as tap:
            assert (got := tap.read()) is not None
            assert bytes(got) == b""


def test_nothing_is_none_and_a_lost_device_an_error() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far, contextlib.closing(device(near)) as tap:
        assert tap.read() is None
        far.send(b"frame")
        assert (got := tap.read()) is not None
        assert bytes(got) == b"frame"
    with pytest.raises(OSError, match="file descriptor"):
        tap.read()
