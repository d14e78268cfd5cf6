"""Three hosts, of which two lose sight of each other: the same transfer directly and through the third.

The hosts hang on a bridge; two of its ports are made *isolated*, which keeps frames from passing between them while both still
reach all others (bridge(8)). So host 1 and host 2 lose each other in both directions and at once, control links and all, silently.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench import measure
from bench.contender import Contender, End
from bench.meshing import full_mesh
from bench.routers import Router
from bench.topology import Lab, wait_until

__all__ = ["RELAY_SECONDS", "Trio", "relayed", "trio"]

HOSTS = 3
RELAY_SECONDS = 15.0
BACK_SECONDS = 40.0


class Trio(Contender):
    """Containers on all three hosts; what is measured goes from the first to the second."""

    name = "trio"
    title = "three hosts"

    def __init__(self, lab: Lab, engine: str, *more: str) -> None:
        """`more`: of `meshd launch`."""
        super().__init__(lab)
        self.options = ("--engine", engine, *more)
        self.third: End
        self.routers = [Router(lab, number) for number in range(HOSTS)]

    def _start(self) -> tuple[End, End]:
        first = self.routers[0]
        first.launch(*self.options)
        ends = []
        for router in self.routers:
            if router is not first:
                router.join(first, *self.options)
            space, address = self.lab.space(f"c{router.number + 1}"), f"10.77.1.{router.number + 1}"
            router.attach(space, f"{address}/24")
            ends.append(End(space, address))
        full_mesh(self.lab, self.routers, [(end.space, end.address) for end in ends])
        self.third = ends[2]
        return ends[0], ends[1]

    def pids(self) -> list[int]:
        return [pid for router in self.routers for pid in router.pids()]

    def set_cut(self, cut: bool) -> None:
        """Keep hosts 1 and 2 apart, or no longer."""
        for number in (1, 2):
            command = ("bridge", "link", "set", "dev", f"p{number}", "isolated", "on" if cut else "off")
            self.lab.run(self.lab.switch(), *command)

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        self.set_cut(True)
        try:
            yield
        finally:
            self.set_cut(False)

    def direct(self) -> bool:
        """Whether both hosts send to each other's own address, as `meshd status` says."""
        first, second = self.routers[:2]
        return all(
            here.path_addresses().get(f"host{there.number + 1}", "").startswith(f"{self.lab.address(there.number)}:")
            for here, there in ((first, second), (second, first))
        )

    def await_relay(self) -> None:
        """What comes through while the two are apart can only have come that way. Raises BenchError."""
        wait_until(lambda: not self.direct() and self.answers(), "no path through host 3", RELAY_SECONDS)

    def await_direct(self) -> None:
        """Raises BenchError."""
        wait_until(lambda: self.direct() and self.answers(), "no direct path between hosts 1 and 2", BACK_SECONDS)


@contextlib.contextmanager
def trio(engine: str, tag: str = "r", *more: str) -> Iterator[Trio]:
    with Lab(HOSTS, tag=tag) as lab:
        made = Trio(lab, engine, *more)
        made.start()
        yield made


def relayed(made: Trio, plan: measure.Plan) -> dict[str, float]:
    """Direct, relayed, and the ratio; begins and ends on the direct path. Raises BenchError."""
    made.await_direct()
    direct = measure.tcp(made, plan)["mbit"]
    with made.cut():
        made.await_relay()
        through = measure.tcp(made, plan)["mbit"]
        ping = measure.ping(made, plan.pings // 2, plan.ping_interval)
    made.await_direct()
    share = through / direct if direct else 0.0
    return {"relay_tcp": through, "relay_share": share, "relay_ping": ping["p50"]}
