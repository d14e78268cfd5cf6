"""A member of the mesh that does nothing but change its mind: many new records a second, as a busy large mesh would send them.

    python -m bench.churn KEY_FILE TARGET ADDRESS PORT RECORDS_PER_SECOND      until standard input ends

The real node, its real control links and the real driver, without a TAP: it joins through TARGET (host:port) and publishes again
and again other values of ATTACHMENTS attachments, every TICK as many as are due. Prints `joined` once a neighbour has a link with
it, and at the end a JSON object: what it published, how long that took, and the last label, by which others can be asked whether
they have it. It stays until SIGTERM: what a member that has left said of itself is hidden everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from meshd.config import NodeConfig
from meshd.crypto.identity import Identity
from meshd.crypto.meshkey import MeshKey
from meshd.daemon.driver import Driver
from meshd.forward.engine.interface import Buffer, Engine, Upcalls
from meshd.forward.engine.python import PythonEngine
from meshd.ids import Mac, host_name, short_id
from meshd.net.udp import open_udp_port
from meshd.node import Node

ATTACHMENTS = 500
TICK = 0.05
JOIN_SECONDS = 10.0
STAY_SECONDS = 30.0


class NoFrames:
    """A frame port without a device."""

    def __init__(self) -> None:
        self._event = os.eventfd(0)

    def fileno(self) -> int:
        return self._event

    def read(self) -> memoryview | None:
        return None

    def write(self, parts: Sequence[Buffer]) -> bool:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    key_file: Path
    target: str
    address: str
    port: int
    rate: float


class Member:
    """The node and what drives it. Made on the loop."""

    def __init__(self, options: Options) -> None:
        # The same member whenever it comes, with a boot counter that rises: what it said before is replaced, not joined by more.
        key = options.key_file.read_text().strip()
        identity, boot = Identity.generate(random.Random(key).randbytes), int(time.time())
        frames, port = NoFrames(), open_udp_port(4, options.address, options.port)
        config = NodeConfig(
            name=host_name(identity.host_id),
            nickname="churn",
            version="bench",
            port=options.port,
            endpoints=(options.address,),
        )

        def make_engine(upcalls: Upcalls) -> Engine:
            self._engine: Engine = PythonEngine(
                frames, [port], upcalls, origin=short_id(identity.host_id), boot=boot, clock=time.monotonic
            )
            return self._engine

        self.node = Node(
            config,
            identity,
            MeshKey.parse(key),
            boot=boot,
            targets=(options.target,),
            make_engine=make_engine,
            entropy=os.urandom,
            rng=random.Random(1),
            now=time.monotonic(),
        )
        self.driver = Driver(
            node=self.node,
            engine=self._engine,
            frames=frames,
            ports=[port],
            clock=time.monotonic,
            tap_lost=_nothing,
            persist_boot=lambda boot: self.driver.boot_raised(boot),
            remember_hosts=lambda _hosts: None,
            answered=lambda _answer: None,
        )
        self.published = 0

    def joined(self) -> bool:
        connections = self.node.view(time.monotonic()).connections
        return any(connection.state == "established" for connection in connections)

    def publish(self, count: int) -> None:
        for _ in range(count):
            number = self.published % ATTACHMENTS
            mac = Mac(bytes((2, 0xC0, 0, 0)) + number.to_bytes(2, "big"))
            self.node.attach(
                f"churn{number:08}", label=label(self.published), mac=mac, addresses=(), now=time.monotonic()
            )
            self.published += 1
        self.driver.wake()


def label(number: int) -> str:
    """What the record with this number says."""
    return f"churn-{number}"


def due(rate: float, elapsed: float, published: int) -> int:
    """How many records to publish now; a second behind is not made up for."""
    return min(int(rate), max(0, int(rate * elapsed) - published))


def _nothing() -> None:
    """There is no TAP to lose."""


async def wait_for(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(TICK)
    return True


async def work(options: Options) -> int:
    ended, left = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, left.set)
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    member = Member(options)
    await member.driver.streams.listen(options.address, options.port)
    member.driver.start()
    try:
        if not await wait_for(member.joined, JOIN_SECONDS):
            print("the member that publishes records found no way into the mesh", file=sys.stderr)
            return 1
        print("joined", flush=True)
        began = time.monotonic()
        while not ended.is_set():
            member.publish(due(options.rate, time.monotonic() - began, member.published))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), TICK)
        took = time.monotonic() - began
        print(
            json.dumps({"published": member.published, "seconds": took, "label": label(member.published - 1)}),
            flush=True,
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(left.wait(), STAY_SECONDS)
    finally:
        member.node.leave(time.monotonic())
        await member.driver.close()
    return 0


def main(arguments: list[str]) -> int:
    key_file, target, address, port, rate = arguments
    options = Options(key_file=Path(key_file), target=target, address=address, port=int(port), rate=float(rate))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
