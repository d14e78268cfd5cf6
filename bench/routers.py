"""The real product on one host of a lab: `meshd` as a user types it, with MESHD_DIR in the lab's folder."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from bench.topology import BenchError, Lab, enter, run
from meshd.config import Paths
from meshd.control.client import ControlClient
from meshd.errors import UserError

__all__ = ["Router"]

LIVING_STATES = ("idle", "alive", "suspect")
MESHD = str(Path(sys.executable).with_name("meshd"))


class Router:
    """One router. `launch` first; the end of the lab stops it."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.lab = lab
        self.number = number
        self.folder = lab.folder / f"host{number + 1}"
        self.paths = Paths(run=self.folder, state=self.folder)
        self._client = ControlClient(self.paths.socket)

    def meshd(self, *arguments: str) -> str:
        """Run a verb on this host; returns what it printed. Raises BenchError with the verb's own words."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("MESHD_")}
        # A Docker daemon of the machine is not looked at: it would be a part of the measurement.
        env |= {"MESHD_DIR": str(self.folder), "DOCKER_HOST": "unix:///nonexistent", "NO_COLOR": "1"}
        return run(*enter(self.lab.host(self.number)), MESHD, *arguments, env=env)

    def launch(self, *arguments: str) -> float:
        """Returns when `meshd launch` has returned, with the moment (monotonic) at which it did."""
        self.lab.at_exit(self.stop)
        self.meshd("launch", "--nickname", f"host{self.number + 1}", *arguments)
        return time.monotonic()

    def join(self, first: Router, *arguments: str) -> float:
        """Join the mesh that `first` founded."""
        key = ("--key-file", str(first.paths.key_file))
        return self.launch(*key, "--peers", first.lab.address(first.number), *arguments)

    def log(self, lines: int) -> str:
        """The end of the router's log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.paths.log.read_text().splitlines()[-lines:])
        return ""

    def stop(self) -> None:
        with contextlib.suppress(BenchError):
            self.meshd("stop")

    def attach(self, space: str, *addresses: str) -> None:
        self.meshd("attach", *addresses, f"netns:{space}")

    def pids(self) -> list[int]:
        """Raises BenchError."""
        try:
            return [int(self.paths.pid_file.read_text())]
        except (OSError, ValueError):
            raise BenchError(f"the router of host{self.number + 1} is not running") from None

    # what `meshd status --json` says

    def status(self) -> dict[str, Any]:
        try:
            return self._client.status()
        except UserError as error:
            raise BenchError(str(error)) from None

    def established(self) -> int:
        """How many hosts this one has a working connection with."""
        connections = self.status()["Router"]["Connections"]
        return sum(1 for connection in connections if connection["State"] == "established")

    def engine(self) -> str:
        return str(self.status()["Engine"]["Name"])

    def engine_reason(self) -> str:
        return str(self.status()["Engine"]["Reason"])

    def path_addresses(self) -> dict[str, str]:
        """The address through which data reaches each other host, by its nickname; only paths that live."""
        return {str(path["NickName"]): str(path["Endpoint"]) for path in self.status()["Paths"] if _lives(path)}

    def records(self) -> int:
        return int(self.status()["Gossip"]["Records"])

    def loop(self) -> tuple[float, int]:
        """(99th percentile of the loop's lag in ms, callbacks so far that took over 2 ms)."""
        loop = self.status()["Loop"]
        return float(loop["LagP99Ms"]), int(loop["SlowCallbacks"])


def _lives(path: dict[str, Any]) -> bool:
    return str(path["State"]) in LIVING_STATES
