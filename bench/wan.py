"""A long path with loss, without netem: a bridge in user space that holds every frame for some time and forgets some of them.

    h1 ─ u0 ── p1 [ sw: this program ] p2 ── u0 ─ h2

    python -m bench.wan DELAY DEVICE DEVICE     DELAY in seconds, each way
        standard input: lines `LOSS SEED`, obeyed from then on;  standard output: a line of JSON in answer

The same loss with the same seed forgets the same frames, counted from there, in each direction. Both hosts' devices have
segmentation and checksum offload off, so what is held is what a wire would carry, and a lost frame is one segment's. CUBIC gets 25
Mbit/s a stream over 20 ms and 0.1 % of loss; this carries 500 and more, so it is not the bottleneck; where it is one all the same
and loses more than it was told to, `check_losses` says so.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import random
import select
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench.topology import UNDERLAY_DEVICE, BenchError, Lab, next_line

__all__ = ["Direction", "WanLab", "Way", "check_losses"]

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_IGNORE_OUTGOING = 23
SO_RCVBUFFORCE = 33
BUFFER = 16 << 20
BATCH = 64  # frames of one direction before the other has its turn
MAX_FRAME = 65536
MAX_HELD = 20_000  # frames a direction: two bandwidth-delay products of 10 Gbit/s at 10 ms would be more, and none is meant here
ONE_WAY = 0.010
ANSWER_SECONDS = 10.0
DEVICES = ("p1", "p2")
WIRE_LIKE = ("tso", "gso", "gro", "tx", "rx")
DEVIATIONS = 5.0  # that a number of lost frames may be off


@dataclass(slots=True)
class Direction:
    """Frames on their way one way, oldest first: the delay is the same for all."""

    delay: float
    loss: float = 0.0
    random: random.Random = field(default_factory=random.Random)
    held: collections.deque[tuple[float, bytes]] = field(default_factory=collections.deque)
    carried: int = 0
    lost: int = 0

    def impair(self, loss: float, seed: str) -> None:
        self.loss = loss
        self.random = random.Random(seed)
        self.carried = self.lost = 0

    def enter(self, frame: bytes, now: float) -> None:
        if (self.loss and self.random.random() < self.loss) or len(self.held) >= MAX_HELD:
            self.lost += 1
            return
        self.carried += 1
        self.held.append((now + self.delay, frame))

    def leave(self, now: float) -> bytes | None:
        """The next frame whose time has come."""
        return self.held.popleft()[1] if self.held and self.held[0][0] <= now else None

    def wait(self, now: float) -> float | None:
        """Seconds until then; None while nothing is held."""
        return max(0.0, self.held[0][0] - now) if self.held else None


class WanLab(Lab):
    """Two hosts as in Lab, 20 ms of round trip apart. `impair` sets the loss."""

    def _build(self) -> None:
        switch = self.space("sw")
        for number, port in enumerate(DEVICES):
            self.space(f"h{number + 1}")
            host = self.host(number)
            self.ip(host, "link", "add", UNDERLAY_DEVICE, "type", "veth", "peer", "name", port, "netns", switch)
            for space, device in ((host, UNDERLAY_DEVICE), (switch, port)):
                self.run(space, "ethtool", "-K", device, *(word for name in WIRE_LIKE for word in (name, "off")))
                self.ip(space, "link", "set", device, "up")
            self.ip(host, "addr", "add", f"{self.address(number)}/24", "dev", UNDERLAY_DEVICE)
        program = (sys.executable, "-m", "bench.wan", str(ONE_WAY), *DEVICES)
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
        self._relay = self.spawn(switch, *program, env=env, pipes=True)
        self.impair(0.0, 0)

    def impair(self, loss: float, seed: int) -> tuple[Way, Way]:
        """Forget this share of frames from now on, each way, as the seed says; returns what passed before. Raises BenchError."""
        stdin = self._relay.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.write(f"{loss} {seed}\n".encode())
        there, back = json.loads(next_line(self._relay, "the relay that delays (bench.wan) has ended", ANSWER_SECONDS))
        return Way(**there), Way(**back)


@dataclass(frozen=True, slots=True)
class Way:
    """Frames of one direction."""

    carried: int
    lost: int


def check_losses(ways: Iterable[Way], loss: float) -> None:
    """Raises BenchError where another share was lost than was asked for: the relay was the bottleneck, or did not listen."""
    for way in ways:
        total = way.carried + way.lost
        if not total:
            raise BenchError("nothing passed the relay that delays")
        if abs(way.lost - loss * total) > DEVIATIONS * math.sqrt(loss * total) + 1:
            raise BenchError(f"the relay that delays lost {way.lost} of {total} frames instead of {loss:.1%}")


def _open(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    sock.bind((device, 0))
    sock.setblocking(False)
    return sock


def _read(source: socket.socket, direction: Direction) -> None:
    with contextlib.suppress(BlockingIOError):
        for _ in range(BATCH):
            direction.enter(source.recv(MAX_FRAME), time.monotonic())


def _write(sink: socket.socket, direction: Direction) -> None:
    while (frame := direction.leave(time.monotonic())) is not None:
        try:
            sink.send(frame)
        except OSError:  # the far device is down or full, as a wire may be
            direction.lost += 1


def _obey(line: str, directions: tuple[Direction, Direction]) -> bool:
    """Take one line of standard input; False at its end."""
    if not line:
        return False
    loss, seed = line.split()
    print(json.dumps([{"carried": way.carried, "lost": way.lost} for way in directions]), flush=True)
    for name, way in zip("ab", directions, strict=True):
        way.impair(float(loss), f"{seed}{name}")
    return True


def main(arguments: list[str]) -> int:
    delay, devices = float(arguments[0]), arguments[1:]
    sockets = [_open(device) for device in devices]
    directions = (Direction(delay), Direction(delay))
    ways = ((sockets[0], sockets[1], directions[0]), (sockets[1], sockets[0], directions[1]))
    going = True
    while going:
        now = time.monotonic()
        waits = [wait for way in directions if (wait := way.wait(now)) is not None]
        ready, _, _ = select.select([*sockets, sys.stdin], [], [], min(waits, default=None))
        if sys.stdin in ready:
            going = _obey(sys.stdin.readline(), directions)
        for source, sink, way in ways:
            if source in ready:
                _read(source, way)
            _write(sink, way)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
