"""What a test may leave behind on the machine, and how to see it: namespaces, links, mounts, processes.

A snapshot before and one after; what is new is a leftover. Processes are recognised by a variable that they inherited, because a
router detaches itself and becomes no child of the test. What was told to end gets a moment to do so.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Leftovers", "Snapshot", "missing_for_namespaces"]

GRACE = 5.0  # seconds that a process has to be gone after it was told to
POLL = 0.02
NAMESPACES = Path("/run/netns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What is new since the snapshot; false when nothing is, and prints the names."""

    namespaces: frozenset[str]
    links: frozenset[str]
    mounts: frozenset[str]
    processes: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.namespaces or self.links or self.mounts or self.processes)

    def __str__(self) -> str:
        kinds = {
            "network namespaces": self.namespaces,
            "links": self.links,
            "mounts": self.mounts,
            "processes": self.processes,
        }
        return "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in kinds.items() if names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    variable: str
    namespaces: frozenset[str]
    links: frozenset[str]
    mounts: frozenset[str]
    processes: frozenset[str]

    @classmethod
    def take(cls, variable: str) -> Snapshot:
        """`variable`: name of the environment variable that marks the processes of this run, by what its value begins with."""
        return cls(
            variable=variable,
            namespaces=frozenset(entry.name for entry in NAMESPACES.iterdir()) if NAMESPACES.is_dir() else frozenset(),
            links=frozenset(name for _, name in socket.if_nameindex()),
            mounts=_mounts(),
            processes=_processes(f"{variable}={os.environ[variable]}".encode()),
        )

    def leftovers(self, *, of: Collection[int] | None, grace: float = GRACE) -> Leftovers:
        """What is new, after up to `grace` seconds in which it may still go away.

        `of`: others on the same machine make namespaces, links and mounts of their own; count only those that have one of these
        pids in their names. None: nobody else is here, everything counts.
        """
        deadline = time.monotonic() + grace
        while (found := self._new(of)) and time.monotonic() < deadline:
            time.sleep(POLL)
        return found

    def _new(self, of: Collection[int] | None) -> Leftovers:
        now = Snapshot.take(self.variable)

        def ours(name: str) -> bool:
            return of is None or any(int(number) in of for number in re.findall(r"\d+", name))

        return Leftovers(
            namespaces=frozenset(filter(ours, now.namespaces - self.namespaces)),
            links=frozenset(filter(ours, now.links - self.links)),
            mounts=frozenset(filter(ours, now.mounts - self.mounts)),
            processes=now.processes - self.processes,
        )


def _mounts() -> frozenset[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = {line.split(" ")[4] for line in lines}
    # `ip netns add` makes its folder a mount point once and for all; the namespaces in it are counted as such.
    return frozenset(point for point in points if not Path(point).is_relative_to(NAMESPACES))


def _processes(mark: bytes) -> frozenset[str]:
    """`pid command` of every other process whose environment has what begins with `mark`, and our zombies, which have none."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state == "Z":
                if int(parent) == os.getpid():
                    found.add(f"{entry.name} (zombie)")
            elif any(word.startswith(mark) for word in (entry / "environ").read_bytes().split(b"\0")):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found.add(f"{entry.name} {command}")
        except OSError:
            continue  # gone in the meantime, or not ours to read
    return frozenset(found)


def missing_for_namespaces(commands: Iterable[str]) -> str:
    """What keeps tests with real routers from running here, as one line; empty when nothing does."""
    if os.geteuid() != 0:
        return "it needs root (sudo make test; make unit runs what needs none)"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is missing (modprobe tun)"
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    absent = [name for name in commands if shutil.which(name, path=path) is None]
    return f"commands are missing: {', '.join(absent)} (make setup-test)" if absent else ""
