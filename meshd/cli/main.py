"""`meshd`: the table of verbs, and how every one of them ends: one line for what went wrong, and an exit status that says so."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from meshd import __version__
from meshd.cli.group import EXIT_USAGE, Section, Verb, Verbs
from meshd.cli.terminal import warn
from meshd.errors import UserError

__all__ = ["main", "run"]

EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

_MAX_WORD = 300  # of an error's line
_REMEDIES = {
    errno.EACCES: "run as root",
    errno.EPERM: "run as root",
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room, or have the quota raised",
    errno.EROFS: "mount it read-write, or choose another MESHD_DIR",
    errno.ENOTDIR: "a file is where a folder should be: remove it, or choose another MESHD_DIR",
    errno.EEXIST: "it is in the way: remove it, or choose another MESHD_DIR",
}

_SECTIONS = (
    Section(
        "Router",
        (
            Verb("launch", "launch", "start the router of this host"),
            Verb("connect", "peers", "add peers to a running router"),
            Verb("forget", "peers", "stop dialling peers"),
            Verb("stop", "stop", "end the router; containers keep what they have"),
            Verb("reset", "reset", "remove all traces of the router from this host"),
            Verb("key", "key", "show, set or make the mesh's key"),
        ),
    ),
    Section(
        "Containers",
        (
            Verb("attach", "attach", "plug a running container into the mesh"),
            Verb("detach", "attach", "take addresses or the interface from a container"),
            Verb("ps", "ask", "list attached containers, their MACs and addresses"),
        ),
    ),
    Section(
        "Information",
        (
            Verb("status", "ask", "topology, paths, MAC table: what is going on"),
            Verb("ping", "inquire", "ask the router that has a peer or address whether it is there"),
            Verb("trace", "inquire", "the way of a frame, leg by leg, and why it goes there"),
            Verb("capture", "capture", "frames that pass, live or into a file"),
            Verb("report", "ask", "the same and more as JSON, or through a template"),
            Verb("version", "ask", "versions of this command and of the router"),
            Verb("completion", "completion", "a completion script for your shell"),
        ),
    ),
)

_ATTACHED = "start the container with docker run, then: meshd attach [CIDR…] CONTAINER"
_ONE_ROUTER = "one process does it all: meshd launch"
_ONE_STOP = "one process does it all: meshd stop"
_REMOVED = {
    "run": _ATTACHED,
    "start": "use docker start, then: meshd attach [CIDR…] CONTAINER",
    "restart": "use docker restart, then: meshd attach [CIDR…] CONTAINER",
    "launch-router": _ONE_ROUTER,
    "launch-proxy": _ONE_ROUTER,
    "launch-plugin": _ONE_ROUTER,
    "stop-router": _ONE_STOP,
    "stop-proxy": _ONE_STOP,
    "stop-plugin": _ONE_STOP,
}

_HELP = """Joins containers on many hosts into one encrypted Ethernet.

\b
  meshd launch --peers host2,host3     start the router, on each host
  meshd attach CONTAINER               plug a running container in
  meshd status                         see what is going on

`meshd VERB --help` explains a verb, with examples.
"""

_EPILOG = """\b
Environment:
  MESHD_DIR       folder of everything of one router (default: /run/meshd and
                  /var/lib/meshd), so that many run on one machine
  MESHD_KEY       the mesh's key, for launch and key set
  MESHD_PASSWORD  a password in place of a key, for launch
  DOCKER_HOST     where Docker listens, for launch
  NO_COLOR        no colours, also on a terminal
  MESHD_DEBUG     1: show the traceback of an unexpected error

\b
Exit status:
  0    done
  1    cannot be done; the line on stderr says why and what to do
  2    unknown verb, option or argument
  3    the router is not running
  70   an error in meshd itself
  130  interrupted
  141  nobody reads the output
"""


class _Root(Verbs):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return _broken_pipe()


cli = _Root(
    name="meshd",
    sections=_SECTIONS,
    removed=_REMOVED,
    help=_HELP,
    epilog=_EPILOG,
    subcommand_metavar="VERB [ARGUMENTS]…",
    context_settings={"max_content_width": 100},
    params=[],
)
click.version_option(__version__, prog_name="meshd", message="%(prog)s %(version)s")(cli)


def main() -> NoReturn:
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one verb; the exit status. Never raises."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="replace"
            )  # a nickname must not end a listing on a terminal that lacks its letters
    words = list(arguments) or ["--help"]
    if words[0] == "help":
        words = [*words[1:], "--help"]
    try:
        status = cli.main(args=words, prog_name="meshd", standalone_mode=False)
        print(end="", flush=True)
    except UserError as error:
        warn(_one_line(str(error)))
        return error.status
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else _path_of(words)
        warn(f"{_one_line(error.format_message()).rstrip('.')}; see: {path} --help")
        return EXIT_USAGE
    except click.ClickException as error:
        warn(_one_line(error.format_message()))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _broken_pipe()
    except OSError as error:
        _discard_output()
        return _failed(_system_error(error), error, 1)
    except Exception as error:
        if (other := _router_of_another_version()) is not None:
            what = f"this command is meshd {__version__} and the router {other}: they do not understand each other"
            return _failed(f"{what}; stop it, and launch it again", error, 1)
        what = f"unexpected {type(error).__name__}: {error}"
        hint = "this is a bug, please report it; MESHD_DEBUG=1 shows the traceback"
        return _failed(f"{what}; {hint}", error, EXIT_BUG)
    return status if isinstance(status, int) else 0


def _open_what_is_closed() -> None:
    """Started with closed descriptors, the next files would get their numbers: a child's standard input, made in the place of the
    lock, would take the lock away from the router. In this order each gets its own number back.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _failed(text: str, error: BaseException, status: int) -> int:
    if os.environ.get("MESHD_DEBUG"):
        import traceback

        traceback.print_exception(error)
    warn(_one_line(text))
    return status


def _broken_pipe() -> int:
    """Whoever read our output has gone."""
    _discard_output()
    return EXIT_BROKEN_PIPE


def _discard_output() -> None:
    """Python would complain once more when it flushes at exit what could not be written: give it a place to flush to."""
    with contextlib.suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _path_of(words: Sequence[str]) -> str:
    """Of the verb that was called; click does not say where an option lacks its argument."""
    return f"meshd {words[0]}" if words[0] in cli.list_commands(click.Context(cli)) else "meshd"


def _router_of_another_version() -> str | None:
    """Its version, where one runs that is not ours: after an update the former one goes on until it is stopped."""
    from meshd.cli.common import router

    try:
        version = router().version().get("version")
    except (UserError, OSError):
        return None
    return version if isinstance(version, str) and version != __version__ else None


def _system_error(error: OSError) -> str:
    what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    hint = _REMEDIES.get(error.errno or 0)
    return f"{what}; {hint}" if hint else what


def _one_line(text: str) -> str:
    """What a user typed comes back in it, and may have any length."""
    return " ".join(word if len(word) <= _MAX_WORD else f"{word[:_MAX_WORD]}…" for word in text.split())


if __name__ == "__main__":
    main()
