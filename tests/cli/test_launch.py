"""launch, stop, reset and key: what is handed to the daemon's side, which is played here, and what is printed about it."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from meshd.cli import launch as launch_module
from meshd.config import LaunchOptions, Paths, Secret
from meshd.errors import UserError
from tests.cli.conftest import Meshd

KEY = "mk1-0123456789"
WARNED = "meshd: a key on the command line can be seen by others; use --key-file or MESHD_KEY\n"


@dataclass(slots=True, kw_only=True)
class Result:
    name: str = "4a:0f:f6:ec:1c:93"
    nickname: str = "host1"
    pid: int = 4242
    founded: bool = False
    key: Secret = field(default_factory=lambda: Secret(KEY))
    key_file: Path = Path("/var/lib/meshd/db/mesh.key")
    port: int = 6783
    addresses: tuple[str, ...] = ("192.0.2.1", "fd00::1")
    warnings: tuple[str, ...] = ()


class Daemon:
    """Stands for meshd.daemon: remembers what it was called with."""

    def __init__(self) -> None:
        self.launched: list[LaunchOptions] = []
        self.folders: list[Path] = []
        self.result = Result()
        self.fail: Exception | None = None
        self.found = True
        self.forced: list[bool] = []
        self.key = KEY
        self.router_status = 0
        self.undone = 0

    def launch(self, options: LaunchOptions, paths: Paths, progress: Callable[[str], None]) -> Result:
        self.launched.append(options)
        self.folders.append(paths.run)
        progress("waiting for the router to get ready …")
        if self.fail is not None:
            raise self.fail
        return self.result

    def prepare(self, options: LaunchOptions, paths: Paths) -> object:
        self.launched.append(options)
        daemon = self

        class Prepared:
            founded = daemon.result.founded
            warnings = daemon.result.warnings

            @staticmethod
            def undo() -> None:
                daemon.undone += 1

        return Prepared

    def run_router(self, options: LaunchOptions, paths: Paths) -> int:
        return self.router_status

    def stop(self, paths: Paths, progress: Callable[[str], None]) -> bool:
        self.folders.append(paths.run)
        return self.found

    def reset(self, paths: Paths, *, force: bool = False, progress: Callable[[str], None]) -> bool:
        self.forced.append(force)
        return self.found

    def set_key(self, paths: Paths, text: str) -> None:
        self.key = text

    def new_key(self, paths: Paths, *, replace: bool = False) -> None:
        self.forced.append(replace)

    def load_key(self, paths: Paths) -> object:
        if self.fail is not None:
            raise self.fail
        daemon = self

        class Key:
            @staticmethod
            def to_text() -> str:
                return daemon.key

        return Key


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    played = Daemon()
    modules: dict[str, dict[str, object]] = {
        "launch": {"launch": played.launch, "prepare": played.prepare},
        "run": {"run_router": played.run_router, "configure_logging": lambda level: None},
        "preflight": {"host_nickname": lambda: "host1"},
        "supervise": {"EXIT_REFUSED": 78},
        "lifecycle": {"reset": played.reset},
        "stopping": {"stop": played.stop},
        "keys": {"set_key": played.set_key, "new_key": played.new_key, "load_key": played.load_key},
    }
    for name, attributes in modules.items():
        module = ModuleType(f"meshd.daemon.{name}")
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return played


def test_launch_without_anything(meshd: Meshd, daemon: Daemon, folder: Path) -> None:
    outcome = meshd("launch")
    assert (outcome.status, outcome.out) == (0, "meshd runs as 4a:0f:f6:ec:1c:93(host1), pid 4242\n")
    assert outcome.err == "meshd: waiting for the router to get ready …\n"
    assert daemon.launched == [LaunchOptions()]
    assert daemon.folders == [folder]


def test_peers_come_from_both_ends_each_once(meshd: Meshd, daemon: Daemon) -> None:
    meshd("launch", "host2", "--peers", "host3,host2 host4", "--peers=host5:99,", "host2")
    assert daemon.launched[0].peers == ("host2", "host3", "host4", "host5:99")


def test_every_option_arrives(meshd: Meshd, daemon: Daemon, tmp_path: Path) -> None:
    outcome = meshd(
        *("launch", "--bridge", "br9", "--port=7000", "--host", "192.0.2.1", "--mtu", "1300", "--mesh", "lab"),
        *("--name", "::1", "--nickname", "nick", "--engine", "python", "--no-discovery", "--no-restart", "--resume"),
        *("--key-file", str(tmp_path / "k"), "--password-file", "p", "--log-level=debug", "--rekey-interval", "2"),
    )
    assert outcome.status == 0
    assert daemon.launched == [
        LaunchOptions(
            bridge="br9",
            port=7000,
            host="192.0.2.1",
            mtu=1300,
            mesh="lab",
            name="::1",
            nickname="nick",
            engine="python",
            discovery=False,
            restart=False,
            resume=True,
            key_file=tmp_path / "k",
            password_file=Path("p"),
            log_level="debug",
            rekey_interval_s=2.0,
        )
    ]


def test_the_founder_prints_the_one_command_for_the_others_without_the_key(meshd: Meshd, daemon: Daemon) -> None:
    daemon.result = Result(founded=True)
    outcome = meshd("launch")
    assert "Copy /var/lib/meshd/db/mesh.key to each other host and run there:" in outcome.out
    assert "\n    meshd launch --key-file mesh.key --peers 192.0.2.1\n" in outcome.out
    assert KEY not in outcome.out + outcome.err


def test_who_names_peers_and_gives_no_key_is_told_that_this_is_a_new_mesh(meshd: Meshd, daemon: Daemon) -> None:
    """On the second host it is a mistake, and all looks well until nobody answers."""
    assert "new mesh" not in meshd("launch", "--peers", "host1").err
    daemon.result = Result(founded=True)
    assert "new mesh" not in meshd("launch").err
    assert (
        "new mesh; to join that of the peers instead: meshd stop, then meshd key set\n" in meshd("launch", "host1").err
    )


def test_on_a_terminal_the_key_is_shown_but_in_no_command(
    meshd: Meshd, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.result = Result(founded=True)
    monkeypatch.setattr(launch_module.sys.stdout, "isatty", lambda: True)  # type: ignore[attr-defined]
    out = meshd("launch").out
    assert "\n    meshd launch --key-file - --peers 192.0.2.1\n" in out
    assert f"\n    {KEY}\n" in out
    assert all("meshd" not in line for line in out.splitlines() if KEY in line)


def test_a_dash_asks_for_the_key(meshd: Meshd, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{KEY}\n"))
    meshd("launch", "--key-file", "-")
    (options,) = daemon.launched
    assert options.key == Secret(KEY)
    assert options.key_file is None


@pytest.mark.parametrize(
    ("result", "peer"),
    [
        (Result(port=7000), "192.0.2.1:7000"),
        (Result(addresses=("fd00::1",)), "fd00::1"),
        (Result(addresses=("fd00::1",), port=7000), "[fd00::1]:7000"),
        (Result(addresses=()), "ADDRESS-OF-THIS-HOST"),
    ],
)
def test_the_command_for_the_others_names_the_port_where_it_must(result: Result, peer: str) -> None:
    command = launch_module.join_command(result, ask=False)  # type: ignore[arg-type]  # played
    assert command == f"meshd launch --key-file mesh.key --peers {peer}"


def test_launch_as_json_has_no_key(meshd: Meshd, daemon: Daemon) -> None:
    daemon.result = Result(founded=True, warnings=("FORWARD is DROP",))
    outcome = meshd("launch", "--json")
    assert json.loads(outcome.out)["Founded"] is True
    assert json.loads(outcome.out)["KeyFile"] == "/var/lib/meshd/db/mesh.key"
    assert KEY not in outcome.out
    assert "meshd: FORWARD is DROP\n" in outcome.err


def test_a_typed_key_is_taken_with_a_warning(meshd: Meshd, daemon: Daemon) -> None:
    outcome = meshd("launch", "--key", KEY)
    assert daemon.launched[0].key == Secret(KEY)
    assert outcome.err.startswith(WARNED)
    outcome = meshd("launch", "--password", "long enough for it")
    assert daemon.launched[1].password == Secret("long enough for it")
    assert "use --password-file or MESHD_PASSWORD" in outcome.err


def test_secrets_come_from_the_environment_and_are_not_inherited(
    meshd: Meshd, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHD_KEY", KEY)
    monkeypatch.setenv("MESHD_PASSWORD", "long enough for it")
    outcome = meshd("launch")
    options = daemon.launched[0]
    assert (options.key, options.password) == (Secret(KEY), Secret("long enough for it"))
    assert "command line" not in outcome.err
    assert "MESHD_KEY" not in os.environ
    assert "MESHD_PASSWORD" not in os.environ


@pytest.mark.parametrize("typed", [["--key-file", "k"], ["--password-file", "p"], ["--key", "other"]])
def test_what_is_typed_wins_over_the_environment(
    meshd: Meshd, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, typed: list[str]
) -> None:
    monkeypatch.setenv("MESHD_KEY", KEY)
    meshd("launch", *typed)
    assert daemon.launched[0].key in (None, Secret("other"))
    assert "MESHD_KEY" not in os.environ


def test_a_refused_launch_is_one_line(meshd: Meshd, daemon: Daemon) -> None:
    daemon.fail = UserError("port 6783 is in use", hint="choose another with --port")
    outcome = meshd("launch")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1] == "meshd: port 6783 is in use; choose another with --port"


@pytest.mark.parametrize(("ended", "status", "undone"), [(0, 0, 0), (75, 0, 0), (78, 1, 1)])
def test_launch_in_the_foreground_ends_with_the_router(
    meshd: Meshd, daemon: Daemon, folder: Path, ended: int, status: int, undone: int
) -> None:
    daemon.router_status = ended
    daemon.result = Result(founded=True, warnings=("FORWARD is DROP",))
    outcome = meshd("launch", "--foreground", "--nickname", "n")
    assert (outcome.status, daemon.undone, outcome.out) == (status, undone, "")
    assert outcome.err == (
        f"meshd: FORWARD is DROP\nmeshd: this host founded a mesh; its key is in {folder}/db/mesh.key\n"
    )
    assert daemon.launched == [LaunchOptions(foreground=True, nickname="n")]


def test_stop_and_reset(meshd: Meshd, daemon: Daemon) -> None:
    for arguments in (["stop"], ["reset"], ["reset", "--force"]):
        outcome = meshd(*arguments)
        assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
    assert daemon.forced == [False, True]


def test_stop_and_reset_where_nothing_is(meshd: Meshd, daemon: Daemon) -> None:
    daemon.found = False
    outcome = meshd("stop")
    assert (outcome.status, outcome.err) == (0, "meshd: no router runs here: nothing to stop\n")
    outcome = meshd("reset")
    assert (outcome.status, outcome.err) == (0, "meshd: nothing of meshd is here: nothing to remove\n")


def test_key_show_tells_a_pipe_where_the_key_is(
    meshd: Meshd, daemon: Daemon, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert meshd("key", "show").out == f"{folder}/db/mesh.key\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert meshd("key", "show").out == f"{KEY}\n"


def test_key_show_without_a_key(meshd: Meshd, daemon: Daemon) -> None:
    daemon.fail = UserError("this host has no mesh key yet", hint="`meshd launch` makes one")
    outcome = meshd("key", "show")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "meshd: this host has no mesh key yet; `meshd launch` makes one\n"


def test_key_new(meshd: Meshd, daemon: Daemon, folder: Path) -> None:
    assert meshd("key", "new").out == f"{folder}/db/mesh.key\n"
    assert meshd("key", "new", "--force").status == 0
    assert daemon.forced == [False, True]


class Input:
    def __init__(self, text: str) -> None:
        self.text = text

    def isatty(self) -> bool:
        return False

    def readline(self, size: int) -> str:
        return self.text[:size]


def test_key_set_from_every_source(
    meshd: Meshd, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert meshd("key", "set", "mk1-typed").err == WARNED
    assert daemon.key == "mk1-typed"
    (tmp_path / "k").write_text("mk1-filed\n")
    assert meshd("key", "set", "--key-file", str(tmp_path / "k")).status == 0
    assert daemon.key == "mk1-filed"
    monkeypatch.setenv("MESHD_KEY", "mk1-exported")
    assert meshd("key", "set").status == 0
    assert daemon.key == "mk1-exported"
    monkeypatch.setattr(sys, "stdin", Input("mk1-piped\n"))
    assert meshd("key", "set").status == 0
    assert daemon.key == "mk1-piped"
    monkeypatch.setenv("MESHD_KEY", "mk1-exported")
    monkeypatch.setattr(sys, "stdin", Input("mk1-dashed\n"))
    assert meshd("key", "set", "--key-file", "-").status == 0
    assert daemon.key == "mk1-dashed"


def test_key_set_refuses_two_sources_and_a_missing_file(meshd: Meshd, daemon: Daemon, tmp_path: Path) -> None:
    outcome = meshd("key", "set", "mk1-typed", "--key-file", "k")
    assert (outcome.status, outcome.err) == (2, "meshd: a key and --key-file are both given; give one of them\n")
    outcome = meshd("key", "set", "--key-file", str(tmp_path / "absent"))
    assert (outcome.status, outcome.err) == (1, f"meshd: {tmp_path}/absent: No such file or directory\n")
    assert daemon.key == KEY
