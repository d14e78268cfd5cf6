"""One engine with one peer on an event loop, all keys and verdicts fixed: the packet path without a node.

python -m bench.engine_router HOST TAP REMOTE [--engine NAME] [--profile FILE]      HOST is 0 or 1; run it in the host's namespace
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import signal
import time

import uvloop

from bench.one_peer import OnePeer
from meshd.capture.tap import open_tap
from meshd.crypto.aead import Suite
from meshd.forward.engine.choice import ENGINES, choose_engine
from meshd.forward.slots import FIRST_PEER
from meshd.ids import Endpoint, ShortId
from meshd.net.udp import open_udp_port

PORT = 6783
KEYS = (b"\x01" * 32, b"\x02" * 32)  # by sender
MAX_DATAGRAM = 1472


async def serve(host: int, tap: str, remote: str, engine_name: str) -> None:
    frames, port = open_tap(tap), open_udp_port(4, "0.0.0.0", PORT)
    origin = ShortId(bytes([host + 1]) * 8)
    engine_type, _ = choose_engine(engine_name, "loop")
    engine = engine_type(frames, [port], OnePeer(origin), origin=origin, boot=1, clock=time.monotonic)
    engine.set_path(FIRST_PEER, Endpoint(remote, PORT), MAX_DATAGRAM)
    engine.add_receive_key(1, FIRST_PEER, Suite.AES_256_GCM, KEYS[1 - host])
    engine.set_send_key(FIRST_PEER, Suite.AES_256_GCM, KEYS[host], 1)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def pump_frames() -> None:
        engine.pump_frames(
            time.monotonic()
        )  # what is left over wakes the loop again by itself: epoll is level-triggered

    def pump_datagrams() -> None:
        engine.pump_datagrams(port, time.monotonic())

    loop.add_reader(frames.fileno(), pump_frames)
    loop.add_reader(port.fileno(), pump_datagrams)
    await stop.wait()
    loop.remove_reader(frames.fileno())
    loop.remove_reader(port.fileno())
    frames.close()
    port.close()
    print(f"host {host + 1}: drops {engine.drops.as_dict()}, {engine.peer_counters()[FIRST_PEER]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host", type=int, choices=(0, 1))
    parser.add_argument("tap")
    parser.add_argument("remote")
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument("--profile")
    options = parser.parse_args()
    profile = cProfile.Profile() if options.profile else None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if profile is not None:
            profile.enable()
        runner.run(serve(options.host, options.tap, options.remote, options.engine))
        if profile is not None:
            profile.disable()
            profile.dump_stats(f"{options.profile}.{options.host}")


if __name__ == "__main__":
    main()
