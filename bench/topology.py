"""Hosts out of network namespaces on this machine, and containers behind them; everything goes when the context ends.

    two hosts      h1 ─ u0 ── veth, MTU 1500 ── u0 ─ h2
    three or more  h1 ─ u0 ─┐
                   h2 ─ u0 ─┼─ bridge in the namespace sw
                   h3 ─ u0 ─┘

    container      namespace c1: mesh0 ── veth ── port of a bridge in h1

Every namespace is named with our pid, so that several labs run side by side. The end of the context ends whatever runs inside
the namespaces and deletes them, and with them every device, whether the body returned, raised or was interrupted; SIGTERM and
SIGHUP count as an interruption. While it cleans up, a second Ctrl-C waits.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Self

__all__ = [
    "COMMAND_SECONDS",
    "READY_SECONDS",
    "UNDERLAY_DEVICE",
    "BenchError",
    "Lab",
    "interruptible",
    "meanwhile",
    "next_line",
    "run",
    "wait_until",
]

UNDERLAY_DEVICE = "u0"
NETNS = Path("/run/netns")
COMMAND_SECONDS = 60.0
READY_SECONDS = 15.0
END_SECONDS = 2.0
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The switch set of `ethtool -K`: a plain NIC without segmentation; checksums stay offloaded, as every NIC can.
OFFLOADS = ("tso", "gso", "gro")


class BenchError(Exception):
    """Something could not be set up or measured; the text is for the user."""


def run(
    *arguments: str, timeout: float = COMMAND_SECONDS, env: dict[str, str] | None = None, check: bool = True
) -> str:
    """Run a command to its end and return what it printed. Raises BenchError, with the last line of what it said was wrong;
    `check` off: not for its status."""
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=timeout, env=env)
    except FileNotFoundError:
        raise BenchError(f"no command {arguments[0]} here: `make setup-test` brings it") from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"no end after {timeout:.0f} s: {' '.join(arguments)}") from None
    if check and done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or str(done.returncode)).splitlines()[-1]
        raise BenchError(f"{' '.join(arguments)}: {said}")
    return done.stdout


def wait_until(holds: Callable[[], bool], text: str, seconds: float = READY_SECONDS) -> None:
    """Raises BenchError with this text after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise BenchError(f"{text} within {seconds:g} s")
        time.sleep(0.02)


@contextlib.contextmanager
def meanwhile(name: str, work: Callable[[threading.Event], None]) -> Iterator[None]:
    """`work` goes on in a thread until the event that it is given is set: at the end of the `with` block. Raises its BenchError."""
    ended = threading.Event()
    failed: list[BenchError] = []

    def run_it() -> None:
        try:
            work(ended)
        except BenchError as error:
            failed.append(error)

    thread = threading.Thread(target=run_it, name=name)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if failed:
        raise failed[0]


def next_line(process: subprocess.Popen[bytes], text: str, seconds: float = COMMAND_SECONDS) -> str:
    """The next line of a process that was spawned with pipes. Raises BenchError with this text where none comes."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    if not (line := process.stdout.readline() if ready else b""):
        raise BenchError(text)
    return line.decode()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program as Ctrl-C does: through every `finally`. SIGINT too where a shell had it ignored."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in INTERRUPTIONS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Lab:
    """The namespaces. `host(i)` and `container(name)` return their names; hosts count from 0 here and from 1 in names."""

    def __init__(self, hosts: int = 2, *, subnet: str = "10.78.0", tag: str = "") -> None:
        self.prefix = f"mdb{os.getpid()}{tag}-"
        self.hosts = hosts
        self.subnet = subnet
        self.folder = Path()
        self._spaces: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._leave = contextlib.ExitStack()

    # the context

    def __enter__(self) -> Self:
        if os.geteuid():
            raise BenchError("network namespaces need root: use make, or sudo")
        try:
            with _held_back():
                self.folder = Path(tempfile.mkdtemp(prefix=self.prefix))
            self._build()
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._clean()

    def at_exit(self, function: Callable[[], object]) -> None:
        """Call it before anything is deleted; the last one first."""
        self._leave.callback(function)

    def _clean(self) -> None:
        with _held_back():
            try:
                self._leave.close()
            finally:
                self._end_processes()
                for space in reversed(self._spaces):
                    subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
                self._spaces.clear()
                if self.folder != Path():
                    shutil.rmtree(self.folder, ignore_errors=True)

    def _end_processes(self) -> None:
        """Whatever lives in our namespaces was started from here: ask, wait, kill."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + END_SECONDS
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            while self.pids() and time.monotonic() < deadline:
                for process in self._processes:
                    process.poll()
                time.sleep(0.01)
        for process in self._processes:
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()

    def pids(self) -> list[int]:
        """Processes in any of the namespaces."""
        found: list[int] = []
        for space in self._spaces:
            done = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False)
            found += [int(pid) for pid in done.stdout.split()]
        return found

    # hosts

    def _build(self) -> None:
        switch = self.space("sw") if self.hosts > 2 else None
        if switch is not None:
            self.bridge(switch, "br0")
        for number in range(self.hosts):
            self.space(f"h{number + 1}")
        if switch is None:
            self.join(UNDERLAY_DEVICE)
        for number in range(self.hosts):
            host = self.host(number)
            if switch is not None:
                peer = ("peer", "name", f"p{number + 1}", "netns", switch)
                self.ip(host, "link", "add", UNDERLAY_DEVICE, "type", "veth", *peer)
                self.ip(switch, "link", "set", f"p{number + 1}", "master", "br0", "up")
            self.ip(host, "addr", "add", f"{self.address(number)}/24", "dev", UNDERLAY_DEVICE)
            self.ip(host, "link", "set", UNDERLAY_DEVICE, "up")

    def host(self, number: int) -> str:
        return f"{self.prefix}h{number + 1}"

    def switch(self) -> str:
        """The namespace in the middle of three or more hosts; its ports are p1, p2 …"""
        return f"{self.prefix}sw"

    def address(self, number: int) -> str:
        """The host's address on the underlay."""
        return f"{self.subnet}.{number + 1}"

    def join(self, device: str) -> None:
        """One more veth between the two hosts, both ends of this name, down."""
        peer = ("peer", "name", device, "netns", self.host(1))
        self.ip(self.host(0), "link", "add", device, "type", "veth", *peer)

    def set_offloads(self, on: bool, *devices: str) -> None:
        """Segmentation offloads of the devices that join the hosts."""
        switches = [word for name in OFFLOADS for word in (name, "on" if on else "off")]
        for number in range(self.hosts):
            for device in devices or (UNDERLAY_DEVICE,):
                self.run(self.host(number), "ethtool", "-K", device, *switches)

    # building blocks

    def space(self, role: str) -> str:
        """A new namespace; returns its name."""
        name = self.prefix + role
        self._spaces.append(name)  # first: an interruption must not come between the two
        run("ip", "netns", "add", name)
        self.ip(name, "link", "set", "lo", "up")
        # Whether bridges meet iptables differs between machines (br_netfilter): off for all, and no IPv6 chatter.
        self.sysctl(name, "net.bridge.bridge-nf-call-iptables=0", "net.ipv6.conf.default.disable_ipv6=1")
        return name

    def bridge(self, space: str, name: str) -> None:
        self.ip(space, "link", "add", name, "type", "bridge", "forward_delay", "0")
        self.ip(space, "link", "set", name, "up")

    def container(self, number: int, role: str, bridge: str, address: str, mtu: int) -> str:
        """A namespace behind a bridge of a host, with `mesh0` that has this address; returns its name."""
        host, space, port = self.host(number), self.space(f"{role}{number + 1}"), f"p-{role}"
        peer = ("peer", "name", "mesh0", "mtu", str(mtu), "netns", space)
        self.ip(host, "link", "add", port, "mtu", str(mtu), "type", "veth", *peer)
        self.ip(host, "link", "set", port, "master", bridge, "up")
        self.ip(space, "addr", "add", address, "dev", "mesh0")
        self.ip(space, "link", "set", "mesh0", "up")
        return space

    # commands inside

    def ip(self, space: str, *arguments: str) -> None:
        run("ip", "-n", space, *arguments)

    def sysctl(self, space: str, *settings: str) -> None:
        """Those that this kernel has."""
        run(*enter(space), "sysctl", "-e", "-q", "-w", *settings)

    def run(self, space: str, *arguments: str, timeout: float = COMMAND_SECONDS, check: bool = True) -> str:
        return run(*enter(space), *arguments, timeout=timeout, check=check)

    def spawn(
        self,
        space: str,
        *arguments: str,
        env: dict[str, str] | None = None,
        pipes: bool = False,
        output: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command, with pipes to and from it or what it prints in a file; the end of the context ends it."""
        with open(output or os.devnull, "wb") as file:
            process = subprocess.Popen(
                [*enter(space), *arguments],
                bufsize=0,  # what was read is not kept where `next_line` cannot see it
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else file,
                stderr=subprocess.DEVNULL,
                env=env,
                start_new_session=True,  # the terminal's Ctrl-C is for us
            )
        self._processes.append(process)
        return process


def enter(space: str) -> tuple[str, ...]:
    """Unlike `ip netns exec` it leaves /sys alone, so that what runs inside still sees the machine's cgroups."""
    return ("nsenter", f"--net={NETNS / space}")


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Interruptions wait until the block is over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = set(INTERRUPTIONS)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
