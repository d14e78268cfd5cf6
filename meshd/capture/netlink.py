"""One worker thread that owns a synchronous IPRoute, and is asked from the loop or from plain code.

pyroute2 0.9 neither runs on uvloop nor inside a running loop, but it does in a thread of its own. So netlink work is written as
plain functions of an IPRoute, and this class carries them to the thread: one at a time, in order. The socket is opened at the
first request and opened anew after one that broke it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from meshd.capture.links import as_oserror

__all__ = ["Netlink"]

T = TypeVar("T")


class Netlink:
    """Works in the network namespace of whoever asks first. After `close` every request is a RuntimeError."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="meshd-netlink")
        self._ipr: IPRoute | None = None  # touched by the worker thread only

    async def run(self, fn: Callable[[IPRoute], T]) -> T:
        """Run `fn` on the worker thread. Raises what it raises, a refusal of the kernel as OSError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, fn)

    def call_sync(self, fn: Callable[[IPRoute], T]) -> T:
        """The same for code without a loop (the command line's preflight). Blocks."""
        return self._thread.submit(self._call, fn).result()

    def close(self) -> None:
        """Wait for what runs, close the socket, end the thread. May be called again."""
        try:
            self._thread.submit(self._drop_socket).result()
        except RuntimeError:  # closed before
            return
        self._thread.shutdown(wait=True)

    def _call(self, fn: Callable[[IPRoute], T]) -> T:
        if self._ipr is None:
            self._ipr = IPRoute()
        try:
            return fn(self._ipr)
        except NetlinkError as error:  # the kernel said no; the socket is as good as before
            raise as_oserror(error) from error
        except OSError:
            self._drop_socket()  # may be the socket's own failure (ENOBUFS, EBADF), and a new one costs a millisecond
            raise

    def _drop_socket(self) -> None:
        if self._ipr is not None:
            self._ipr.close()
            self._ipr = None
