"""Whether this CPU has instructions for AES. Without them AES is slow, and how long it takes may tell about the key."""

from __future__ import annotations

from pathlib import Path

__all__ = ["has_aes"]

_CPUINFO = Path("/proc/cpuinfo")
_FLAGS = ("flags", "features")  # x86, ARM


def has_aes(cpuinfo: Path = _CPUINFO) -> bool:
    """True where it is not said: other processors list their features differently or not at all."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return True
    for line in text.splitlines():
        name, _, flags = line.partition(":")
        if name.strip().lower() in _FLAGS:
            return "aes" in flags.split()
    return True
