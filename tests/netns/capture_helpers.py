"""Namespaces for the tests of `meshd.capture`: one plays the host, others play containers; all carry our pid and go at the end."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import TypeVar

from pyroute2 import IPRoute

from meshd.capture.netns import Inode, in_namespace, run_in_namespace

T = TypeVar("T")
_numbers = itertools.count()


class Space:
    """A network namespace. `run` takes a thread into it, `netlink` gives that thread an IPRoute as well."""

    def __init__(self, role: str) -> None:
        self.name = f"mdcap{os.getpid()}-{role}{next(_numbers)}"
        self.path = f"/run/netns/{self.name}"
        self.fd = -1
        try:
            command("ip", "netns", "add", self.name)
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            command("ip", "-n", self.name, "link", "set", "lo", "up")
        except BaseException:  # nobody holds it yet
            self.remove()
            raise

    @property
    def inode(self) -> Inode:
        stat = os.fstat(self.fd)
        return Inode(stat.st_dev, stat.st_ino)

    def run(self, fn: Callable[[], T]) -> T:
        return in_namespace(self.fd, fn)

    def netlink(self, fn: Callable[[IPRoute], T]) -> T:
        return run_in_namespace(self.fd, fn)

    def command(self, *arguments: str) -> str:
        return command("ip", "netns", "exec", self.name, *arguments)

    def pings(self, address: str) -> bool:
        arguments = ["ip", "netns", "exec", self.name, "ping", "-c", "1", "-W", "1", address]
        return subprocess.run(arguments, capture_output=True, check=False).returncode == 0

    def links(self) -> set[str]:
        """Names of the interfaces, as `ip` sees them."""
        lines = self.command("ip", "-o", "link").splitlines()
        return {line.split(": ")[1].partition("@")[0] for line in lines}

    def remove(self) -> None:
        """May be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if os.path.exists(self.path):
            command("ip", "netns", "del", self.name)


@contextlib.contextmanager
def spaces(*roles: str) -> Iterator[list[Space]]:
    with contextlib.ExitStack() as ending:  # one that cannot be removed, or made, keeps no other
        made = []
        for role in roles:
            made.append(Space(role))
            ending.callback(made[-1].remove)
        yield made


def command(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
    return done.stdout
