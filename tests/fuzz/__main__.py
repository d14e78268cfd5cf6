"""`python -m tests.fuzz [inputs] [seed] [part of a target's name]`: every target, one line each; exit 1 if one breaks."""

from __future__ import annotations

import logging
import sys
import time

from tests.fuzz.run import Find, run
from tests.fuzz.targets import TARGETS


def main(arguments: list[str]) -> int:
    count = int(arguments[0]) if arguments else 1_000_000
    seed = int(arguments[1]) if len(arguments) > 1 else 0
    part = arguments[2] if len(arguments) > 2 else ""
    logging.disable(logging.CRITICAL)
    broken = 0
    for target in (name for name in TARGETS if part in name):
        started = time.monotonic()
        try:
            refused = run(target, count, seed)
        except Find as find:
            broken += 1
            print(f"BROKEN {find}\n  by {find.__cause__!r}", flush=True)
        else:
            fed = max(1, count // TARGETS[target].cost)
            print(f"{target:36} {fed:9} fed {refused:9} refused {time.monotonic() - started:7.1f} s", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
