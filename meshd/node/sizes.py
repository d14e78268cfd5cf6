"""Path MTU probing carried out: what `Pmtu` wants sent is sent, and what the device refused is told to it.

Apart from the peer table because it is the same for every path, whatever leads there: a path is its `Pmtu` and a way to send.
"""

from __future__ import annotations

from collections.abc import Callable

from meshd.drops import DropReason
from meshd.forward.engine.interface import Engine
from meshd.forward.pmtu import Pmtu
from meshd.ids import SlotId

__all__ = ["tend_size"]


def tend_size(
    pmtu: Pmtu, srtt: float | None, engine: Engine, slot: SlotId, send: Callable[[bytes], bool], now: float
) -> None:
    """Send the probes that are due. `send` sends one control entry on this path."""
    for body in pmtu.poll(now, srtt=srtt, sent=lambda: engine.sent(slot).bytes_out):
        before = engine.drops[DropReason.TOO_BIG]
        if not send(body) and engine.drops[DropReason.TOO_BIG] > before:  # EMSGSIZE: larger than the device takes
            pmtu.on_refused(body)
