"""How long three hosts need from the last `meshd launch` returning until they are a mesh that carries traffic.

Host 1 founds the mesh, host 2 joins, both attach a container. Host 3 joins: at the moment at which its `launch` has returned the
clock starts. Its container is attached, as a user would do it, and the clock stops when every container has answered every other
one and every router has a working connection with both others. The time of `attach` is in the figure, that of `launch` beside it.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from concurrent.futures import ThreadPoolExecutor

from bench.routers import Router
from bench.topology import BenchError, Lab, wait_until

__all__ = ["HOSTS", "full_mesh", "mesh_time"]

HOSTS = 3
LIMIT_SECONDS = 20.0


def mesh_time(engine: str = "auto") -> dict[str, float]:
    """Seconds: `launch` of the third host, and from then on until all is joined. Raises BenchError."""
    with Lab(HOSTS, tag="m", subnet="10.79.0") as lab:
        routers = [Router(lab, number) for number in range(HOSTS)]
        spaces = [lab.space(f"c{number + 1}") for number in range(HOSTS)]
        first, second, third = routers
        first.launch("--engine", engine)
        second.join(first, "--engine", engine)
        for router in (first, second):
            router.attach(spaces[router.number], f"{_address(router.number)}/24")
        began = time.monotonic()
        launched = third.join(first, "--engine", engine)
        third.attach(spaces[2], f"{_address(2)}/24")
        full_mesh(lab, routers, [(space, _address(number)) for number, space in enumerate(spaces)])
        return {"launch": launched - began, "mesh": time.monotonic() - launched}


def full_mesh(lab: Lab, routers: list[Router], containers: list[tuple[str, str]]) -> None:
    """Wait until all containers answer one another and all routers are connected. Raises BenchError."""
    deadline = time.monotonic() + LIMIT_SECONDS
    pairs = [(space, address) for (space, _), (_, address) in itertools.permutations(containers, 2)]
    with ThreadPoolExecutor(len(pairs)) as pool:
        list(pool.map(lambda pair: _answers(lab, pair, deadline), pairs))
    wait_until(
        lambda: all(router.established() >= len(routers) - 1 for router in routers),
        "the hosts are not fully meshed",
        LIMIT_SECONDS,
    )


def _answers(lab: Lab, pair: tuple[str, str], deadline: float) -> None:
    space, address = pair
    while time.monotonic() < deadline:
        with contextlib.suppress(BenchError):
            lab.run(space, "ping", "-n", "-q", "-c", "1", "-W", "1", address)
            return
    raise BenchError(f"{address} does not answer within {LIMIT_SECONDS:.0f} s")


def _address(number: int) -> str:
    return f"10.77.9.{number + 1}"
