"""What frames are captured on, as far as it needs no rights: what is counted, and when the kernel is asked."""

from __future__ import annotations

from typing import cast

import pytest

from meshd.capture.tap import TapDevice
from meshd.daemon import capturing as module
from meshd.daemon.capturing import TapCapturing
from meshd.ids import Mac


class Tap:
    def close(self) -> None: ...


def test_the_kernel_is_asked_only_when_told_to_and_forgets_with_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` shows the counts from the event loop, and with thousands of interfaces the answer takes milliseconds."""
    kernel = 7
    monkeypatch.setattr(module, "tap_tx_dropped", lambda name: kernel)
    capturing = TapCapturing("meshd", Mac(b"\x02\0\0\0\0\1"), 1372)
    assert capturing.drops() == {}
    for seen, total in ((7, 7), (9, 9)):
        kernel = seen
        capturing.count()
        assert capturing.drops() == {"kernel_tap": total}
    capturing.port = cast(TapDevice, Tap())
    capturing.close()  # somebody deleted it
    capturing.close()
    kernel = 2
    capturing.count()
    assert capturing.drops() == {"kernel_tap": 11}
