"""status, report, ps, version: what they print with a router and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshd import __version__
from meshd.cli.terminal import painter
from meshd.control import render
from meshd.control.client import ControlClient
from meshd.control.report import build_report
from meshd.daemon.supervise import take_lock
from meshd.errors import UserError
from tests.cli.conftest import Meshd
from tests.control.fake import FakeHandlers
from tests.control.samples import CONTAINER_ID, HOST1, router_view

NOT_RUNNING = "meshd: meshd is not running; start it with: meshd launch\n"
REPORT = build_report(router_view())


def test_status_begins_and_ends_with_a_blank_line(meshd: Meshd, router: FakeHandlers) -> None:
    outcome = meshd("status")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == render.render_status(REPORT)
    assert outcome.out.startswith("\n        Version: ")
    assert outcome.out.endswith("\n\n")


@pytest.mark.parametrize(
    ("part", "listing", "key"),
    [
        ("peers", render.render_peers, "Peers"),
        ("connections", render.render_connections, "Connections"),
        ("targets", render.render_targets, "Targets"),
        ("macs", render.render_macs, "MACs"),
    ],
)
def test_the_parts_of_status(meshd: Meshd, router: FakeHandlers, part: str, listing: object, key: str) -> None:
    assert callable(listing)
    assert meshd("status", part).out == listing(REPORT)
    assert json.loads(meshd("status", part, "--json").out) == REPORT["Router"][key]


def test_a_bad_part_of_status_is_answered_as_weave_does(meshd: Meshd) -> None:
    outcome = meshd("status", "dnss")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == (
        "Invalid 'meshd status' sub-command: dnss\nusage: meshd status [peers|connections|targets|macs]\n"
    )


@pytest.mark.parametrize(
    "verb", [["status"], ["status", "peers"], ["report"], ["ps"], ["connect", "a"], ["attach", "c"]]
)
def test_without_a_router_one_line_says_what_to_do(meshd: Meshd, verb: list[str]) -> None:
    outcome = meshd(*verb)
    assert (outcome.status, outcome.out, outcome.err) == (3, "", NOT_RUNNING)


def test_report_is_indented_json(meshd: Meshd, router: FakeHandlers) -> None:
    outcome = meshd("report")
    assert outcome.out == render.render_json(REPORT)
    assert outcome.out == meshd("report", "--json").out == meshd("status", "--json").out


def test_report_through_a_template_adds_no_newline(meshd: Meshd, router: FakeHandlers) -> None:
    assert meshd("report", "-f", "{{.Router.Name}}({{.Router.NickName}})").out == f"{HOST1}(host1)"
    assert meshd("report", "--format={{len .Router.Peers}}").out == "3"
    outcome = meshd("report", "-f", "{{.DNS.Domain}}")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "meshd: template: the report has no field DNS at .DNS.Domain\n"


def test_ps(meshd: Meshd, router: FakeHandlers) -> None:
    lines = meshd("ps").out.splitlines()
    assert lines[0].startswith("expose ")
    assert lines[1:] == ["5e2b3c4d5e6f 9a:00:00:00:00:01 10.0.1.5/24 10.0.2.5/24", "5e99aabbccdd 9a:00:00:00:00:02"]
    assert meshd("ps", "web").out == "web 9a:00:00:00:00:01 10.0.1.5/24 10.0.2.5/24\n"
    absent = meshd("ps", "absent")
    assert (absent.status, absent.out, absent.err) == (0, "", "")


def test_ps_as_json(meshd: Meshd, router: FakeHandlers) -> None:
    assert [one["Id"] for one in json.loads(meshd("ps", "web", "--json").out)] == [CONTAINER_ID]
    assert set(json.loads(meshd("ps", "--json").out)) == {"Bridge", "Attachments"}


def test_version_with_and_without_a_router(meshd: Meshd) -> None:
    assert meshd("version").out == f"meshd {__version__}\n"
    assert meshd("--version").out == f"meshd {__version__}\n"
    assert json.loads(meshd("version", "--json").out) == {"Version": __version__, "Router": None, "Pid": None}


def test_version_of_the_router(meshd: Meshd, router: FakeHandlers) -> None:
    assert meshd("version").out == f"meshd {__version__}\nrouter 0.1.0 (pid 4242)\n"


class Terminal:
    def __init__(self, *, tty: bool) -> None:
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


@pytest.mark.parametrize(
    ("tty", "environment", "coloured"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_for_terminals(tty: bool, environment: dict[str, str], coloured: bool) -> None:
    paint = painter(Terminal(tty=tty), environment)  # type: ignore[arg-type]  # only isatty is looked at
    assert (paint("bad", "dead") == "\x1b[31mdead\x1b[0m") is coloured
    assert "dead" in paint("bad", "dead")


RUN = """
import sys
from meshd.cli.main import run
status = run(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.parametrize(
    "verb", [["version"], ["status"], ["status", "macs"], ["report"], ["ps"], ["--help"]], ids=" ".join
)
def test_a_verb_that_asks_a_living_router_loads_little(folder: Path, router: FakeHandlers, verb: list[str]) -> None:
    result = subprocess.run([sys.executable, "-c", RUN, *verb], capture_output=True, text=True, check=True, timeout=50)
    loaded = set(result.stderr.split())
    assert result.stdout
    assert not {"asyncio", "aiohttp", "rich", "cryptography", "pyroute2", "uvloop", "msgpack", "sqlite3"} & loaded
    assert not {name for name in loaded if name.startswith(("meshd.daemon", "meshd.node", "meshd.cli.launch"))}


def test_a_reader_that_goes_away_is_no_error_message(folder: Path, router: FakeHandlers) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        command = [sys.executable, "-m", "meshd.cli.main", "report"]
        result = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True, check=False, timeout=50)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize(("redirect", "status", "err"), [(">&-", 0, ""), (">/dev/full", 1, "No space left on device")])
def test_output_that_nobody_can_take(folder: Path, redirect: str, status: int, err: str) -> None:
    command = f"{sys.executable} -m meshd.cli.main version {redirect}"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    result = subprocess.run(
        ["/bin/sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False, timeout=50, env=buffered
    )
    assert result.returncode == status
    assert result.stderr.count("\n") == bool(err)
    assert err in result.stderr


def test_a_terminal_that_lacks_letters_gets_something(folder: Path, router: FakeHandlers) -> None:
    router.fail = UserError("no such container: café")
    command = [sys.executable, "-m", "meshd.cli.main", "attach", "x"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50, env=environment)
    assert (result.returncode, result.stderr) == (1, "meshd: no such container: caf?\n")


def test_version_says_why_it_has_none_of_the_router(meshd: Meshd, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_client: ControlClient) -> object:
        raise UserError("meshd does not answer", hint="its log says what it is doing")

    monkeypatch.setattr(ControlClient, "version", silent)
    outcome = meshd("version")
    assert (outcome.status, outcome.out) == (0, f"meshd {__version__}\n")
    assert outcome.err == "meshd: meshd does not answer; its log says what it is doing\n"


def test_a_router_that_starts_or_dies_all_the_time_is_not_called_stopped(meshd: Meshd, folder: Path) -> None:
    """`launch` says that it runs: to say "start it with: meshd launch" meanwhile leads in a circle."""
    lock = take_lock(folder / "meshd.lock")
    assert lock is not None
    outcome = meshd("status")
    os.close(lock)
    assert outcome.status == 3
    assert outcome.err == (
        "meshd: meshd is starting, or dies again and again; ask once more in some seconds, then see its log\n"
    )
    assert "is not running" in meshd("status").err
