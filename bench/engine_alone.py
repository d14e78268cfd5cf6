"""An engine without a node, as a contender: bench.engine_router on both hosts, its TAP a port of the bridge."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from bench.contender import CONTAINER_DEVICE, Contender, End
from bench.topology import Lab
from meshd.capture.tap import TX_QUEUE_FRAMES

__all__ = ["EngineAlone"]

MTU = 1372
GSO_MAX_SIZE = "59000"
TAP = "mt0"
END_SECONDS = 10.0
ROOT = Path(__file__).parent.parent


class EngineAlone(Contender):
    """`arguments` are for bench.engine_router. `finish` ends both and says what they counted."""

    name = "engine"
    title = "engine alone"
    note = "AES-256-GCM"

    def __init__(self, lab: Lab, *arguments: str) -> None:
        super().__init__(lab)
        self._arguments = arguments
        self._routers: list[tuple[subprocess.Popen[bytes], Path]] = []

    def _start(self) -> tuple[End, End]:
        for number in (0, 1):
            command = ("bench.engine_router", str(number), TAP, self.lab.address(1 - number), *self._arguments)
            said, env = self.lab.folder / f"engine{number}", os.environ | {"PYTHONPATH": str(ROOT)}
            process = self.lab.spawn(self.lab.host(number), sys.executable, "-m", *command, output=said, env=env)
            self._routers.append((process, said))
        first, second = (self._container(number) for number in (0, 1))
        return first, second

    def _container(self, number: int) -> End:
        self._appears(number, TAP)
        self.lab.ip(self.lab.host(number), "link", "set", TAP, "txqueuelen", str(TX_QUEUE_FRAMES))
        end = self._bridged(number, TAP, MTU)
        for space, device in ((self.lab.host(number), "p-c"), (end.space, CONTAINER_DEVICE)):
            self.lab.ip(space, "link", "set", device, "gso_max_size", GSO_MAX_SIZE)
        return end

    def pids(self) -> list[int]:
        return [process.pid for process, _ in self._routers]

    def finish(self) -> str:
        """What both routers print at their end: drops and counters."""
        for process, _ in self._routers:
            process.terminate()
        for process, _ in self._routers:
            with contextlib.suppress(subprocess.TimeoutExpired):  # the end of the lab kills it
                process.wait(END_SECONDS)
        return "".join(said.read_text() for _, said in self._routers)
