"""The four cost classes of a path, from its round trip and its loss, with hysteresis.

Link state carries a class, not figures, so that routes are recomputed when a path has really changed: 0 the same rack, 1 the
same city or region, 2 a continent, 3 the rest, or a path that loses much. A path gets worse only when a figure is well above
the bound of its class and better only when all are well below it, so one that sits on a bound keeps the class it has.
"""

from __future__ import annotations

__all__ = ["COST_CLASSES", "LOSS_BOUNDS", "RTT_BOUNDS", "WORST_COST", "next_cost"]

COST_CLASSES = 4
WORST_COST = 3
RTT_BOUNDS = (0.005, 0.030, 0.120)  # seconds; below the first is class 0
LOSS_BOUNDS = (0.02, 0.05, 0.15)
_MARGIN = 1.25  # above a bound times this is worse, below a bound divided by it is better


def next_cost(current: int | None, rtt: float, loss: float) -> int:
    """The class after `current` (None: there was none, so no hysteresis), 0 to 3."""
    if current is None:
        return _cost(rtt, loss, 1.0)
    return max(_cost(rtt, loss, _MARGIN), min(current, _cost(rtt, loss, 1 / _MARGIN)))


def _cost(rtt: float, loss: float, scale: float) -> int:
    by_rtt = sum(rtt >= bound * scale for bound in RTT_BOUNDS)
    by_loss = sum(loss >= bound * scale for bound in LOSS_BOUNDS)
    return max(by_rtt, by_loss)
