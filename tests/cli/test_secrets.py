"""A secret that was typed is not on the command line any more once the verb runs; one from the environment is not inherited."""

from __future__ import annotations

import subprocess
import sys

import pytest

from meshd.cli.secrets import take_from_environment, wipe_argv
from meshd.config import Secret

SECRET = "mk1-hunter2hunter2"

# Prints what the kernel shows of this process, and what Python still holds of its arguments, after the wipe.
PROBE = """
import sys
from pathlib import Path
from meshd.cli.secrets import wipe_argv
from meshd.config import Secret
secrets = [Secret(text) for text in sys.stdin.read().split("\\n") if text]
print(wipe_argv(secrets))
print(Path("/proc/self/cmdline").read_bytes().split(b"\\0")[3:])
print(sys.argv[1:], sys.orig_argv[3:])
"""


def probe(arguments: list[str], *secrets: str) -> tuple[str, str]:
    result = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], input="\n".join(secrets), capture_output=True, text=True, check=True
    )
    done, shown, held = result.stdout.splitlines()
    assert done == "True"
    return shown, held


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["launch", "--key", SECRET, "host2"], ["launch", "--key", "*" * 18, "host2"]),
        (["launch", f"--key={SECRET}"], ["launch", "--key=" + "*" * 18]),
        (["key", "set", SECRET], ["key", "set", "*" * 18]),
        ([SECRET, SECRET], ["*" * 18, "*" * 18]),
        ([f"x{SECRET}", SECRET + "x"], [f"x{SECRET}", SECRET + "x"]),  # another argument, not the secret
    ],
)
def test_the_kernel_shows_the_secret_no_more(arguments: list[str], left: list[str]) -> None:
    shown, held = probe(arguments, SECRET)
    assert shown == repr([*(argument.encode() for argument in left), b""])
    assert held == f"{left} {left}"


def test_a_short_secret_does_not_eat_the_letters_of_others() -> None:
    shown, _ = probe(["launch", "--password", "a", "--nickname=a", "alpha"], "a")
    assert shown == repr([b"launch", b"--password", b"*", b"--nickname=*", b"alpha", b""])


def test_letters_of_several_bytes_are_blanked_whole() -> None:
    shown, _ = probe(["--password", "schlüssel"], "schlüssel")
    assert shown == repr([b"--password", b"*" * 10, b""])


def test_no_secret_changes_nothing() -> None:
    shown, _ = probe(["launch", "host2"], "", "other")
    assert shown == repr([b"launch", b"host2", b""])


def test_where_the_kernel_shows_something_else_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshd.cli.secrets._argument_area", lambda: (1, 2))
    monkeypatch.setattr(sys, "argv", ["meshd", "--key", SECRET])
    assert wipe_argv([Secret(SECRET)]) is False
    assert sys.argv == ["meshd", "--key", "*" * 18]


def test_a_secret_of_the_environment_is_taken_out_of_it() -> None:
    environment = {"MESHD_KEY": SECRET, "EMPTY": "", "PATH": "/bin"}
    assert take_from_environment("MESHD_KEY", environment) == Secret(SECRET)
    assert take_from_environment("MESHD_KEY", environment) is None
    assert take_from_environment("EMPTY", environment) is None
    assert environment == {"PATH": "/bin"}
