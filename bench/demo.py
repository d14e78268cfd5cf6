"""Three hosts on one machine: `make demo`, or as root `python -m bench.demo`.

Real routers and containers in network namespaces, with the commands that a user would type. Ends with a summary, cleans up
whatever happens, and exits 0 only if every container reached every other one. Takes some twenty seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
import time
from collections.abc import Iterator

from bench.contender import End
from bench.measure import transfer
from bench.meshing import full_mesh
from bench.results import table
from bench.routers import Router
from bench.topology import BenchError, Lab, interruptible

HOSTS = 3
PINGS = 5
IPERF_SECONDS = 2
LOG_LINES = 15
PAIRS = ((0, 1), (1, 2), (2, 0))
_number = itertools.count(1)


class Demo:
    """The steps in order; each one says what it does before it does it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.routers = [Router(lab, number) for number in range(HOSTS)]
        self.spaces: list[str] = []
        self.joined = 0.0

    def run(self) -> list[str]:
        """All of it; returns what the summary says."""
        title(f"{HOSTS} hosts: network namespaces, joined by a switch")
        for number in range(HOSTS):
            print(f"  host{number + 1} has {self.lab.address(number)}")
        launched = self.launch()
        self.attach()
        full_mesh(self.lab, self.routers, [(space, _address(number)) for number, space in enumerate(self.spaces)])
        self.joined = time.monotonic() - launched
        self.status()
        slowest = self.pings()
        speeds = self.throughput()
        return [
            f"{HOSTS} hosts became one mesh, all containers reachable, {self.joined:.1f} s after the last launch returned",
            f"{HOSTS * (HOSTS - 1)} directions answer ping, the slowest in {slowest:.2f} ms",
            f"TCP, one stream, encrypted: {', '.join(f'{speed:.0f}' for speed in speeds)} Mbit/s",
            "both ends of each transfer, all routers and whatever else runs here share this machine's CPUs",
        ]

    def launch(self) -> float:
        title("a router on each; the first one founds the mesh and makes its key")
        first = self.routers[0]
        told("host1", "meshd launch")
        first.launch()
        print("  the key is in a file of host1; copied to the others it lets them in (nothing else does)")
        launched = 0.0
        for router in self.routers[1:]:
            told(f"host{router.number + 1}", f"meshd launch --key-file key --peers {self.lab.address(0)}")
            launched = router.join(first)
        return launched

    def attach(self) -> None:
        title(
            "a container on each, plugged into the mesh; a Docker container would have its own name in place of netns:…"
        )
        for router in self.routers:
            name = f"web{router.number + 1}"
            self.spaces.append(self.lab.space(name))
            told(f"host{router.number + 1}", f"meshd attach {_address(router.number)}/24 netns:{name}")
            router.attach(self.spaces[-1], f"{_address(router.number)}/24")

    def status(self) -> None:
        title("what host3 knows: it was told of host1 only")
        told("host3", "meshd status")
        longer = re.compile(re.escape(self.lab.prefix) + r"(\S+ *)")  # our pid is in the namespaces' names
        text = longer.sub(lambda found: found[1].ljust(len(found[0])), self.routers[2].meshd("status").rstrip())
        print("\n".join(f"  {line}".rstrip() for line in text.splitlines()))

    def pings(self) -> float:
        title(f"ping from every container to every other one, average of {PINGS} in ms")
        rows = [["from \\ to", *(f"web{number + 1}" for number in range(HOSTS))]]
        times: list[float] = []
        for source in range(HOSTS):
            cells = []
            for destination in range(HOSTS):
                if source == destination:
                    cells.append("·")
                    continue
                times.append(self._ping(source, destination))
                cells.append(f"{times[-1]:.2f}")
            rows.append([f"web{source + 1}", *cells])
        print("\n".join(f"  {line}" for line in table(rows).splitlines()))
        return max(times)

    def _ping(self, source: int, destination: int) -> float:
        command = ("ping", "-n", "-q", "-i", "0.05", "-c", str(PINGS), _address(destination))
        text = self.lab.run(self.spaces[source], *command)
        found = re.search(r"= [\d.]+/([\d.]+)/", text)
        if f"{PINGS} received" not in text or found is None:
            raise BenchError(f"web{source + 1} to web{destination + 1}: pings were lost\n{text}")
        return float(found.group(1))

    def throughput(self) -> list[float]:
        title(f"throughput, {IPERF_SECONDS} s each")
        speeds = []
        for source, destination in PAIRS:
            told(f"web{source + 1}", f"iperf3 -c {_address(destination)} -t {IPERF_SECONDS}")
            speeds.append(self._speed(source, destination))
            print(f"  {speeds[-1]:.0f} Mbit/s from host{source + 1} to host{destination + 1}")
        return speeds

    def _speed(self, source: int, destination: int) -> float:
        far = End(self.spaces[destination], _address(destination))
        speed = transfer(self.lab, self.spaces[source], far, "-t", str(IPERF_SECONDS))["bits_per_second"] / 1e6
        if speed <= 0:
            raise BenchError(f"nothing came from web{source + 1} to web{destination + 1}")
        return speed


def _address(number: int) -> str:
    return f"10.2.0.{number + 1}"


def title(text: str) -> None:
    shown = f"{next(_number)}. {text}"
    print(f"\n\033[1m{shown}\033[0m" if sys.stdout.isatty() else f"\n{shown}", flush=True)


def told(where: str, command: str) -> None:
    print(f"  {where}$ {command}", flush=True)


@contextlib.contextmanager
def explaining(demo: Demo) -> Iterator[None]:
    """What the routers wrote, before their logs go."""
    try:
        yield
    except BenchError:
        for router in demo.routers:
            if log := router.log(LOG_LINES):
                print(f"\nhost{router.number + 1}'s log ends with\n{log}", file=sys.stderr)
        raise


def main() -> int:
    began = time.monotonic()
    try:
        with interruptible(), Lab(HOSTS, subnet="10.80.0", tag="d") as lab:
            demo = Demo(lab)
            with explaining(demo):
                summary = demo.run()
    except (BenchError, OSError) as error:
        print(f"\ndemo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything that it made is gone", file=sys.stderr)
        return 130
    title("done; routers, containers and hosts are gone again")
    print("\n".join(f"  {line}" for line in (*summary, f"all of it took {time.monotonic() - began:.0f} s")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
