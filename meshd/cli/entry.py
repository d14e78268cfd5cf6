"""The `meshd` command begins here: Ctrl-C while the verbs are being loaded, a tenth of a second, is an end and no traceback."""

from __future__ import annotations

import signal
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    # Where it is ignored, as in the background jobs of a shell, it stays so.
    by_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if by_default:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from meshd.cli.main import main as run_verb

    if by_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run_verb()
