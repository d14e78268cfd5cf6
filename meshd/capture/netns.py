"""Network namespaces: which one is meant, and how to work in it without taking the router there.

`setns` moves one thread. So work in a namespace happens in a short-lived thread that enters it by an open file descriptor and
then ends; the loop's thread and netlink's never change theirs, and nothing is created under /run/netns (pyroute2's `netns=` does
that).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from meshd.capture.links import as_oserror
from meshd.errors import UserError

__all__ = [
    "Inode",
    "NamespaceRef",
    "host_namespace_inode",
    "in_namespace",
    "namespace_ref",
    "run_in_namespace",
]

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_OWN = "/proc/thread-self/ns/net"


class Inode(NamedTuple):
    """What makes a namespace *that* namespace, by whatever path it was found."""

    device: int
    number: int

    def __str__(self) -> str:
        return f"{self.device}:{self.number}"


@dataclass(slots=True, frozen=True, kw_only=True)
class NamespaceRef:
    """A network namespace as it was found: how the user named it, where it is, and which one it was then."""

    kind: Literal["docker", "pid", "netns"]
    label: str  # for people: "web", "pid:4711", "netns:blue"
    path: str
    inode: Inode
    pid: int = 0  # the process by which it was found; 0 for netns:NAME

    def open(self) -> int:
        """A file descriptor of the namespace, the caller's to close. Raises UserError if another one is there by now, or none."""
        fd = _open(self.path, self.label)
        if _inode(fd) != self.inode:  # the process ended and its pid was given away, or the container restarted
            os.close(fd)
            raise UserError(f"the network namespace of {self.label} has been replaced meanwhile; try again")
        return fd


def namespace_ref(kind: Literal["docker", "pid", "netns"], label: str, path: str, pid: int = 0) -> NamespaceRef:
    """Look at the namespace behind `path`. Raises UserError if there is none, or if it is the host's own."""
    fd = _open(path, label)
    try:
        inode = _inode(fd)
    finally:
        os.close(fd)
    if inode == host_namespace_inode():
        raise UserError(
            f"{label} uses the host's network: there is no interface of its own to attach",
            hint="run it with a network of its own (docker run --network bridge or none)",
        )
    return NamespaceRef(kind=kind, label=label, path=path, inode=inode, pid=pid)


def host_namespace_inode() -> Inode:
    """The namespace of the calling thread: the host's, as far as this router is concerned."""
    stat = os.stat(_OWN)
    return Inode(stat.st_dev, stat.st_ino)


def run_in_namespace(fd: int, fn: Callable[[IPRoute], T]) -> T:
    """Run `fn` with an IPRoute of the namespace. Blocks; raises what `fn` raises, a refusal of the kernel as OSError."""

    def with_netlink() -> T:
        with IPRoute() as ipr:
            try:
                return fn(ipr)
            except NetlinkError as error:
                raise as_oserror(error) from error

    return in_namespace(fd, with_netlink)


def in_namespace(fd: int, fn: Callable[[], T]) -> T:
    """Run `fn` in a thread that has entered the namespace (sockets and /proc/sys/net are the namespace's). Blocks."""
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            _enter(fd)
            results.append(fn())
        except BaseException as error:  # carried to the caller
            failures.append(error)

    thread = threading.Thread(target=work, name="meshd-netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _enter(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns is Python 3.12
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot enter the network namespace: {os.strerror(code)}")


def _open(path: str, label: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise UserError(f"{label} has no network namespace: it does not run (any more)") from None
    except PermissionError:
        raise UserError(f"no permission to open the network namespace of {label}; run meshd as root") from None
    try:
        is_network = fcntl.ioctl(fd, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:  # ENOTTY: not a namespace at all
        is_network = False
    if not is_network:
        os.close(fd)
        raise UserError(f"{label}: {path} is not a network namespace")
    return fd


def _inode(fd: int) -> Inode:
    stat = os.fstat(fd)
    return Inode(stat.st_dev, stat.st_ino)
