"""Private files: whole after any failure, never readable by others. And the options that pass through one."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from meshd.config import LaunchOptions, Secret
from meshd.daemon.files import MAX_SECRET_FILE, make_private_folder, read_secret_file, write_private
from meshd.daemon.options import options_file, read_options, write_options
from meshd.errors import UserError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_files_and_folders_are_private_under_any_umask(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    make_private_folder(folder)
    write_private(folder / "key", b"one")
    assert (mode(folder), mode(folder / "key")) == (0o700, 0o600)


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private_folder(tmp_path)
    assert mode(tmp_path) == 0o755


def test_a_replaced_file_becomes_private(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"old and longer")
    path.chmod(0o644)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_content_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "key"
    write_private(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_crash_left_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "key"
    tmp_path.joinpath(f".key.{os.getpid()}.new").write_bytes(b"half of an older and longer attempt")
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_only_so_much_of_a_secret_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"x" * (2 * MAX_SECRET_FILE))
    assert len(read_secret_file(path)) == MAX_SECRET_FILE


# ── options


def test_options_reach_the_router_without_the_secrets(tmp_path: Path) -> None:
    options = LaunchOptions(
        peers=("host2", "[fd00::1]:7000"),
        bridge="mesh1",
        port=7000,
        host="10.0.0.1",
        mtu=1300,
        nickname="host1",
        discovery=False,
        restart=False,
        key=Secret("mk1-top-secret"),
        key_file=Path("/secret/key"),
        password=Secret("hunter2hunter2"),
        log_level="debug",
        rekey_interval_s=5.0,
    )
    write_options(tmp_path, options)
    path = options_file(tmp_path)
    assert mode(path) == 0o600
    assert all(word not in path.read_text() for word in ("top-secret", "hunter2", "/secret/key"))
    read = read_options(tmp_path)
    assert (read.key, read.key_file, read.password) == (None, None, None)
    same = [name for name in LaunchOptions.__slots__ if name not in ("key", "key_file", "password", "password_file")]
    assert [getattr(read, name) for name in same] == [getattr(options, name) for name in same]


def test_defaults_survive(tmp_path: Path) -> None:
    write_options(tmp_path, LaunchOptions())
    assert read_options(tmp_path) == LaunchOptions()


def test_options_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    write_options(tmp_path, LaunchOptions())
    path = options_file(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": 1, "key": "x"}))
    assert read_options(tmp_path) == LaunchOptions()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"peers": 3}', '"text"'])
def test_options_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    options_file(tmp_path).write_text(text)
    with pytest.raises(UserError, match="cannot be read"):
        read_options(tmp_path)


def test_no_options_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="start again with `meshd launch`"):
        read_options(tmp_path)
