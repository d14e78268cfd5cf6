"""The mesh key of a host: where it comes from, when it is refused, and that nobody else can read it."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest

from meshd.config import LaunchOptions, Paths, Secret
from meshd.crypto.aead import Suite
from meshd.crypto.meshkey import MeshKey
from meshd.daemon import keys
from meshd.daemon.cpu import has_aes
from meshd.daemon.files import write_private
from meshd.daemon.keys import load_identity, load_key, new_key, set_key, settle_key
from meshd.daemon.supervise import take_lock
from meshd.errors import UserError

# The same in every process: workers that share the tests agree on names, and keys are in some.
KEY, OTHER = (MeshKey.generate(random.Random(seed).randbytes).to_text() for seed in (1, 2))
PASSWORD = "correct horse battery"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "db").mkdir()
    return Paths(run=tmp_path, state=tmp_path)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "given"
    path.write_text(text)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ── where it comes from


def test_without_a_key_a_mesh_is_founded(paths: Paths) -> None:
    settled = settle_key(LaunchOptions(), paths)
    assert settled.founded
    assert settled.written
    assert load_key(paths).to_text() == settled.key.reveal()
    assert mode(paths.key_file) == 0o600
    again = settle_key(LaunchOptions(), paths)
    assert (again.key, again.founded, again.written) == (settled.key, False, False)


def test_a_given_key_is_stored(paths: Paths) -> None:
    settled = settle_key(LaunchOptions(key=Secret(f"  {KEY.upper()}\n")), paths)
    assert (settled.key.reveal(), settled.founded, settled.written) == (KEY, False, True)
    assert paths.key_file.read_text() == f"{KEY}\n"
    assert mode(paths.key_file) == 0o600


@pytest.mark.parametrize("text", [KEY, f"{KEY}\n", f"  {KEY} \r\nanything below is not read\n"])
def test_a_key_from_a_file(paths: Paths, tmp_path: Path, text: str) -> None:
    assert settle_key(LaunchOptions(key_file=written(tmp_path, text)), paths).key.reveal() == KEY


def test_a_password_makes_the_same_key_on_every_host(paths: Paths, tmp_path: Path) -> None:
    settled = settle_key(LaunchOptions(password=Secret(PASSWORD), mesh="lab"), paths)
    assert settled.key.reveal() == MeshKey.derive(PASSWORD, "lab").to_text()
    assert "guessed offline" in settled.warnings[0]
    assert not settled.founded
    from_file = LaunchOptions(password_file=written(tmp_path, f"{PASSWORD}\n"), mesh="lab")
    again = settle_key(from_file, paths)
    assert (again.key, again.warnings) == (settled.key, ())


def test_the_same_key_again_is_no_news(paths: Paths) -> None:
    settle_key(LaunchOptions(key=Secret(KEY)), paths)
    assert not settle_key(LaunchOptions(key=Secret(KEY)), paths).written


# ── when it is refused


def test_another_key_is_refused_and_the_stored_one_stays(paths: Paths) -> None:
    settle_key(LaunchOptions(key=Secret(KEY)), paths)
    with pytest.raises(UserError, match="another key") as refused:
        settle_key(LaunchOptions(key=Secret(OTHER)), paths)
    assert KEY not in str(refused.value)
    assert OTHER not in str(refused.value)
    assert load_key(paths).to_text() == KEY


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (LaunchOptions(key=Secret(KEY), password=Secret(PASSWORD)), "more than one"),
        (LaunchOptions(key_file=Path("/x"), password_file=Path("/x")), "more than one"),
        (LaunchOptions(key=Secret("mk1-abc")), "cut short"),
        (LaunchOptions(key=Secret("")), "no mesh key"),
        (LaunchOptions(password=Secret("short")), "at least 12"),
        (LaunchOptions(password=Secret("long enough \udcff")), "not UTF-8"),
        (LaunchOptions(key_file=Path("/nonexistent/key")), "no such file"),
        (LaunchOptions(key_file=Path("/")), "is a directory"),
        (LaunchOptions(password_file=Path("/nonexistent/password")), "cannot read the password file"),
    ],
)
def test_a_key_that_is_none_is_refused(paths: Paths, options: LaunchOptions, text: str) -> None:
    with pytest.raises(UserError, match=text):
        settle_key(options, paths)
    assert list(paths.db.iterdir()) == []


@pytest.mark.parametrize("text", ["", "\n", "   \n", f"\n{KEY}\n"])
def test_an_empty_file_is_refused(paths: Paths, tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="is empty"):
        settle_key(LaunchOptions(key_file=written(tmp_path, text)), paths)


def test_a_file_that_is_no_key_is_refused_without_showing_it(paths: Paths, tmp_path: Path) -> None:
    path = written(tmp_path, "")
    path.write_bytes(b"\xff\x00hunter2" * 1000)
    with pytest.raises(UserError) as refused:
        settle_key(LaunchOptions(key_file=path), paths)
    assert "hunter2" not in str(refused.value)


def test_a_stored_key_that_is_damaged_is_not_replaced(paths: Paths) -> None:
    """And the line leads out of it: `meshd key show` on this host says no more than it."""
    for text, what in ((KEY[:-1], "cut short"), ("", "is empty")):
        paths.key_file.write_text(text)
        for options in (LaunchOptions(), LaunchOptions(key=Secret(KEY))):
            with pytest.raises(UserError, match=what) as refused:
                settle_key(options, paths)
            assert str(refused.value).startswith(f"the key that is stored in {paths.key_file} cannot be used: ")
            assert refused.value.hint.startswith("`meshd key set` replaces it; ")
        assert paths.key_file.read_text() == text


# ── `meshd key`


def test_load_without_a_key(paths: Paths) -> None:
    with pytest.raises(UserError, match="no mesh key yet"):
        load_key(paths)


def test_set_moves_to_another_mesh(paths: Paths) -> None:
    settle_key(LaunchOptions(key=Secret(KEY)), paths)
    set_key(paths, OTHER)
    assert load_key(paths).to_text() == OTHER
    assert mode(paths.key_file) == 0o600
    with pytest.raises(UserError, match="no mesh key"):
        set_key(paths, "nonsense")
    assert load_key(paths).to_text() == OTHER


def test_set_and_new_make_the_folder(tmp_path: Path) -> None:
    first, second = Paths(run=tmp_path, state=tmp_path / "a"), Paths(run=tmp_path, state=tmp_path / "b")
    set_key(first, KEY)
    new_key(second)
    for paths in (first, second):
        assert mode(paths.db) == 0o700
        load_key(paths)


def test_new_replaces_only_when_told(paths: Paths) -> None:
    new_key(paths)
    first = load_key(paths)
    with pytest.raises(UserError, match="has a mesh key already"):
        new_key(paths)
    assert load_key(paths) == first
    new_key(paths, replace=True)
    assert load_key(paths) != first


def test_nothing_changes_while_a_router_runs(paths: Paths) -> None:
    settle_key(LaunchOptions(key=Secret(KEY)), paths)
    lock = take_lock(paths.lock)
    assert lock is not None
    try:
        with pytest.raises(UserError, match="meshd stop"):
            set_key(paths, OTHER)
        with pytest.raises(UserError, match="meshd stop"):
            new_key(paths, replace=True)
        assert load_key(paths).to_text() == KEY
    finally:
        os.close(lock)
    set_key(paths, OTHER)


# ── the host's own identity


def test_an_identity_is_made_once(paths: Paths) -> None:
    first = load_identity(paths)
    assert load_identity(paths).host_id == first.host_id
    assert mode(paths.identity_file) == 0o600


@pytest.mark.parametrize("damage", ["empty", "short", "version"])
def test_a_damaged_identity_is_an_error_and_stays(paths: Paths, damage: str) -> None:
    load_identity(paths)
    data = paths.identity_file.read_bytes()
    damaged = {"empty": b"", "short": data[:-1], "version": b"\x09" + data[1:]}[damage]
    write_private(paths.identity_file, damaged)
    with pytest.raises(UserError, match="cannot be read") as refused:
        load_identity(paths)
    assert "restore it, or delete it" in refused.value.hint
    assert paths.identity_file.read_bytes() == damaged


def test_results_do_not_show_the_key(paths: Paths) -> None:
    assert KEY not in repr(settle_key(LaunchOptions(key=Secret(KEY)), paths))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu aes sse\n", True),
        ("processor : 0\nflags\t\t: fpu vaes sse\n", False),
        ("Features\t: fp asimd aes sha1\n", True),
        ("Features\t: fp asimd crc32\n", False),
        ("cpu : POWER9\n", True),
        (None, True),
    ],
)
def test_what_the_cpu_says_of_aes(tmp_path: Path, text: str | None, expected: bool) -> None:
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    assert has_aes(file) is expected


def test_without_aes_a_new_mesh_uses_chacha_and_one_with_aes_is_refused(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "has_aes", lambda: False)
    for options in (LaunchOptions(key=Secret(KEY)), LaunchOptions(password=Secret("a password of some length"))):
        with pytest.raises(UserError, match="no instructions for it"):
            settle_key(options, paths)
        assert not paths.key_file.exists()
    founded = settle_key(LaunchOptions(), paths)
    assert MeshKey.parse(founded.key.reveal()).suite is Suite.CHACHA20_POLY1305
    assert not settle_key(LaunchOptions(), paths).written
    monkeypatch.setattr(keys, "has_aes", lambda: True)
    set_key(paths, KEY)
    monkeypatch.setattr(keys, "has_aes", lambda: False)
    with pytest.raises(UserError, match="no instructions for it"):
        settle_key(LaunchOptions(), paths)


def test_a_password_file_in_another_encoding_is_refused(paths: Paths, tmp_path: Path) -> None:
    """Its letters would become one and the same replacement: another password than the one typed on another host."""
    path = tmp_path / "password"
    path.write_bytes("pässwörd pässwörd\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        settle_key(LaunchOptions(password_file=path), paths)
    path.write_text("pässwörd pässwörd\n", encoding="utf-8")
    assert settle_key(LaunchOptions(password_file=path), paths).written
