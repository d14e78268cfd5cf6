"""Secrets on their way in: from the environment, or from an argument that is then blanked in this process's own argument area.

Every user of a machine can read every process's command line (/proc/PID/cmdline is the memory between arg_start and arg_end of
that process). What was typed cannot be unseen, so the user is warned; from here on it is not there to be read any more.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, MutableMapping
from pathlib import Path

import click

from meshd.cli.terminal import is_terminal
from meshd.config import Secret

__all__ = ["ASK", "read_secret", "take_from_environment", "wipe_argv"]

MAX_SECRET_INPUT = 4096
ASK = Path("-")  # in place of a file, see `read_secret`

# proc(5): fields 48 and 49 of /proc/PID/stat; what follows the command's name in parentheses begins with field 3.
_ARG_START = 48 - 3
_ARG_END = 49 - 3


def take_from_environment(name: str, environment: MutableMapping[str, str] = os.environ) -> Secret | None:
    """The secret, removed from the environment so that no child inherits it. An empty value is none."""
    value = environment.pop(name, "")
    return Secret(value) if value else None


def read_secret(what: str) -> Secret:
    """What `-` in place of a file means: asked for on a terminal without showing it, else the first line of standard input."""
    if is_terminal(sys.stdin):
        return Secret(str(click.prompt(what, hide_input=True, err=True)))
    return Secret(sys.stdin.readline(MAX_SECRET_INPUT).strip())


def wipe_argv(secrets: Iterable[Secret]) -> bool:
    """Blank every argument that is or ends in one of the secrets (`--key S`, `--key=S`). False where the area was not found."""
    values = [value for secret in secrets if (value := os.fsencode(secret.reveal()))]
    for arguments in (sys.argv, sys.orig_argv):
        arguments[:] = [os.fsdecode(_blank(os.fsencode(argument), values)) for argument in arguments]
    try:
        start, end = _argument_area()
        before = Path("/proc/self/cmdline").read_bytes()
    except (OSError, ValueError, IndexError):
        return False
    # Written only where it is surely the argument area: the kernel must show the same bytes there.
    if not 0 < end - start == len(before) or ctypes.string_at(start, end - start) != before:
        return False
    after = b"\0".join(_blank(argument, values) for argument in before.split(b"\0"))
    ctypes.memmove(start, after, len(after))
    return True


def _argument_area() -> tuple[int, int]:
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[_ARG_START]), int(fields[_ARG_END])


def _blank(argument: bytes, secrets: Iterable[bytes]) -> bytes:
    for secret in secrets:
        if argument == secret or argument.endswith(b"=" + secret):
            argument = argument[: len(argument) - len(secret)] + b"*" * len(secret)
    return argument
