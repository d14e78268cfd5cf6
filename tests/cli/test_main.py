"""How a verb ends: unknown and removed verbs, bad options, errors of every kind, and that each is one line."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from meshd.cli import main as main_module
from meshd.cli.group import Verbs
from meshd.control.client import ControlClient
from meshd.errors import UserError
from tests.cli.conftest import Meshd
from tests.control.fake import FakeHandlers

VERBS = main_module.cli.list_commands(click.Context(main_module.cli))
WITH_VERBS_OF_ITS_OWN = ("key",)


def test_help_lists_every_verb_and_the_exit_statuses(meshd: Meshd) -> None:
    outcome = meshd("--help")
    assert (outcome.status, outcome.err) == (0, "")
    for verb in VERBS:
        assert re.search(rf"^  {verb} ", outcome.out, re.MULTILINE)
    assert "Exit status:" in outcome.out
    assert "MESHD_DIR" in outcome.out
    assert meshd().out == meshd("help").out == outcome.out
    assert meshd("help", "status").out == meshd("status", "--help").out


@pytest.mark.parametrize("verb", [*VERBS, "key show", "key set", "key new"])
def test_every_verb_has_help_with_an_example(meshd: Meshd, verb: str) -> None:
    outcome = meshd(*verb.split(), "--help")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith(f"Usage: meshd {verb}")
    if verb not in WITH_VERBS_OF_ITS_OWN:
        assert re.search(rf"Examples?:\n.*{verb.split()[-1]}", outcome.out)


def test_the_table_of_verbs_and_their_modules_agree() -> None:
    def check(group: click.Command) -> None:
        assert isinstance(group, Verbs)
        ctx = click.Context(group)
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            assert isinstance(command, click.Command)
            assert command.name == name
            if isinstance(command, Verbs):
                check(command)

    check(main_module.cli)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["statsu"], "unknown verb 'statsu'; did you mean: meshd status"),
        (["frobnicate"], "unknown verb 'frobnicate'; meshd --help lists all verbs"),
        (["key", "shw"], "unknown verb 'shw'; did you mean: meshd key show"),
        (["key"], "Missing command; see: meshd key --help"),
        (["connect"], "no peer given; see: meshd connect --help"),
        (["attach"], "no container given; see: meshd attach --help"),
        (["detach"], "no container given; see: meshd detach --help"),
    ],
)
def test_what_cannot_be_understood_is_one_line_and_status_2(meshd: Meshd, arguments: list[str], line: str) -> None:
    outcome = meshd(*arguments)
    assert (outcome.status, outcome.out, outcome.err) == (2, "", f"meshd: {line}\n")


@pytest.mark.parametrize(
    ("arguments", "names", "where"),
    [
        (["--frob"], "--frob", "meshd"),
        (["status", "--frob"], "--frob", "meshd status"),
        (["status", "peers", "b"], "(b)", "meshd status"),
        (["report", "-f"], "-f", "meshd report"),
        (["-f"], "-f", "meshd --help"),
        (["forget"], "PEER", "meshd forget"),
        (["launch", "--port", "0"], "1<=x<=65535", "meshd launch"),
        (["launch", "--mtu", "big"], "'big'", "meshd launch"),
        (["launch", "--engine", "warp"], "'python'", "meshd launch"),
        (["completion"], "bash", "meshd completion"),
    ],
)
def test_what_click_refuses_is_one_line_too(meshd: Meshd, arguments: list[str], names: str, where: str) -> None:
    """The words are click's and differ between its versions; that they name what is wrong does not."""
    outcome = meshd(*arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert re.fullmatch(r"meshd: .*[^.]; see: meshd .*--help\n", outcome.err)
    assert names in outcome.err
    assert outcome.err.partition("; see: ")[2].startswith(where)


REMOVED = [
    "run",
    "start",
    "restart",
    *(f"{verb}-{part}" for verb in ("launch", "stop") for part in ("router", "proxy", "plugin")),
]


@pytest.mark.parametrize("verb", REMOVED)
def test_verbs_that_weave_removed_say_what_replaces_them(meshd: Meshd, verb: str) -> None:
    outcome = meshd(verb, "--any", "thing")
    assert (outcome.status, outcome.out) == (1, "")
    assert re.fullmatch(rf"meshd: 'meshd {verb}' was removed; .*meshd (attach|launch|stop).*\n", outcome.err)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no\nway", hint="do that", status=9), 9, "no way; do that"),
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device"), 1, "No space left on device; make room on its disk"),
        (OSError("strange"), 1, "strange"),
        (FileNotFoundError(2, "No such file or directory", "mesh.key"), 1, "mesh.key: No such file or directory"),
        (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied; run as root"),
        (
            NotADirectoryError(20, "Not a directory", "/x/y"),
            1,
            "/x/y: Not a directory; a file is where a folder should be: remove it, or choose another MESHD_DIR",
        ),
        (click.ClickException("click says no"), 1, "click says no"),
        (
            ZeroDivisionError("by zero"),
            70,
            "unexpected ZeroDivisionError: by zero; this is a bug, please report it; MESHD_DEBUG=1 shows the traceback",
        ),
    ],
)
def test_whatever_goes_wrong_ends_in_one_line(
    meshd: Meshd, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, line: str
) -> None:
    def fail(_client: ControlClient) -> object:
        raise error

    monkeypatch.setattr(ControlClient, "status", fail)
    outcome = meshd("status")
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err == (f"meshd: {line}\n" if line else "\n")


def test_the_traceback_is_shown_on_request(meshd: Meshd, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_client: ControlClient) -> object:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(ControlClient, "status", fail)
    monkeypatch.setenv("MESHD_DEBUG", "1")
    outcome = meshd("status")
    assert outcome.status == 70
    assert "Traceback" in outcome.err
    assert outcome.err.endswith("MESHD_DEBUG=1 shows the traceback\n")


@pytest.mark.parametrize(
    ("shell", "mark"), [("bash", "complete -o nosort"), ("zsh", "#compdef meshd"), ("fish", "function ")]
)
def test_completion_scripts(meshd: Meshd, shell: str, mark: str) -> None:
    outcome = meshd("completion", shell)
    assert (outcome.status, outcome.err) == (0, "")
    assert mark in outcome.out
    assert "_MESHD_COMPLETE" in outcome.out


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("meshd st", ["stop", "status"]),
        ("meshd status ", ["peers", "connections", "targets", "macs"]),
        ("meshd status m", ["macs"]),
        ("meshd frobnicate ", []),  # and no word about it: that would be written across the line
        ("meshd launch-router ", []),
    ],
)
def test_completion_answers_the_shell(
    meshd: Meshd, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, answer: list[str]
) -> None:
    monkeypatch.setenv("_MESHD_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    with pytest.raises(SystemExit):
        main_module.run(words.split()[1:])
    captured = capsys.readouterr()
    assert captured.err == ""
    plain = [line.removeprefix("plain,") for line in captured.out.split()]
    assert plain == answer or (not answer and set(plain) <= set(VERBS))


@pytest.mark.parametrize("arguments", [["x" * 10_000], ["launch", "--nickname", "x", "y:" + "z" * 10_000]])
def test_what_was_typed_at_length_comes_back_in_short(meshd: Meshd, arguments: list[str]) -> None:
    assert len(meshd(*arguments).err) < 600


@pytest.mark.parametrize("verb", [verb for verb in (*VERBS, "key show", "key set", "key new") if verb != "key"])
def test_every_verb_has_json(meshd: Meshd, verb: str) -> None:
    """README says so; what completion prints is a program."""
    assert ("--json" in meshd(*verb.split(), "--help").out) == (verb != "completion")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_nobody_elses(tmp_path: Path, closed: str) -> None:
    """What is opened first would be number 0: the lock, which the supervisor's standard input then took the place of."""
    program = (
        "import os, sys\nfrom meshd.cli import main, key\n"
        "from meshd.daemon import keys\n"
        "keys.set_key = lambda paths, text: open(sys.argv[1], 'w').write("
        "repr([os.path.exists(f'/proc/self/fd/{number}') for number in range(3)] + [text]))\n"
        "sys.exit(main.run(['key', 'set']))\n"
    )
    told = tmp_path / "told"
    command = shlex.join([sys.executable, "-c", program, str(told)])
    done = subprocess.run(
        ["sh", "-c", f"{command} {closed}"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert told.read_text() == "[True, True, True, '']"


def test_a_router_of_another_version_is_no_bug(
    meshd: Meshd, router: FakeHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an update the former router goes on: it says less, or says it otherwise."""
    monkeypatch.setattr(ControlClient, "status", lambda _client: {"Ready": True})
    assert meshd("status").status == 70  # the versions are the same: it is a bug
    monkeypatch.setattr(main_module, "__version__", "0.9.9")
    outcome = meshd("status")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == (
        "meshd: this command is meshd 0.9.9 and the router 0.1.0: they do not understand each other; "
        "stop it, and launch it again\n"
    )


@pytest.mark.parametrize("ignored", [False, True])
def test_an_interrupt_while_the_verbs_are_loaded(tmp_path: Path, ignored: bool) -> None:
    """Played by a click that is interrupted itself. A shell's background job goes on."""
    (tmp_path / "click.py").write_text("import os, signal, sys\nos.kill(os.getpid(), signal.SIGINT)\nsys.exit(7)\n")
    handler = "SIG_IGN" if ignored else "default_int_handler"
    program = (
        f"import signal, sys\nsignal.signal(signal.SIGINT, signal.{handler})\nsys.path.insert(0, {str(tmp_path)!r})\n"
        "from meshd.cli.entry import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (7 if ignored else -signal.SIGINT, b"")
