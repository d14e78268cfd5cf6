"""/proc/sys/net of the calling thread's network namespace: the kernel resolves it per thread, so it follows `setns`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SYSCTL_NET", "disable_ipv6", "read_sysctl", "write_sysctl"]

SYSCTL_NET = Path("/proc/sys/net")


def write_sysctl(value: int, *path: str) -> bool:
    """Write one value under /proc/sys/net; False where this kernel has no such file. Raises OSError (read-only /proc, no right)."""
    try:
        SYSCTL_NET.joinpath(*path).write_text(f"{value}\n")
    except FileNotFoundError:
        return False
    return True


def read_sysctl(*path: str) -> int | None:
    try:
        return int(SYSCTL_NET.joinpath(*path).read_text())
    except (FileNotFoundError, ValueError):
        return None


def disable_ipv6(ifname: str) -> None:
    """No IPv6 of the *host* on this interface: a container's router advertisement must not configure the host (CVE-2020-11091).

    accept_ra goes first, since it holds even if somebody switches IPv6 on again.
    """
    write_sysctl(0, "ipv6", "conf", ifname, "accept_ra")
    write_sysctl(1, "ipv6", "conf", ifname, "disable_ipv6")
