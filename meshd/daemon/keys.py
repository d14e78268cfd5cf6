"""The mesh key of this host: found, given, derived or made, and kept in db/mesh.key (0600). And the host's own identity.

A key that is there already is never replaced by `launch`: a host that was given the wrong one by mistake would otherwise leave its
mesh without a word. `meshd key set` does that, on purpose and while the router is stopped.

A mesh that is founded on a CPU without AES instructions uses ChaCha20-Poly1305; such a host does not join one that uses AES.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from meshd.config import LaunchOptions, Paths, Secret
from meshd.crypto.aead import Suite
from meshd.crypto.identity import Identity
from meshd.crypto.meshkey import MeshKey, check_password
from meshd.daemon.cpu import has_aes
from meshd.daemon.files import make_private_folder, read_secret_file, write_private
from meshd.daemon.supervise import lock_is_free
from meshd.errors import DecodeError, UserError

__all__ = ["SettledKey", "load_identity", "load_key", "new_key", "set_key", "settle_key"]


@dataclass(slots=True, frozen=True, kw_only=True)
class SettledKey:
    key: Secret
    written: bool  # by this call
    founded: bool  # made by this call: the mesh is new
    warnings: tuple[str, ...] = ()


def settle_key(options: LaunchOptions, paths: Paths) -> SettledKey:
    """The key that this host launches with; stored when the call returns. Raises UserError."""
    given = _given_key(options)
    stored = load_key(paths) if paths.key_file.exists() else None
    if stored is not None:
        _check_cpu(stored)
        if given is not None and given != stored:
            raise UserError(
                "this host belongs to a mesh with another key",
                hint="`meshd key set` moves it to the other mesh; without a key, `meshd launch` uses the one it has",
            )
        return SettledKey(key=Secret(stored.to_text()), written=False, founded=False)
    key = given or _generate()
    _check_cpu(key)
    write_private(paths.key_file, key.to_text().encode() + b"\n")
    return SettledKey(key=Secret(key.to_text()), written=True, founded=given is None, warnings=_password_warning(key))


def _generate() -> MeshKey:
    """A new mesh's key, for a suite that this CPU is good at."""
    return MeshKey.generate(os.urandom, Suite.AES_256_GCM if has_aes() else Suite.CHACHA20_POLY1305)


def _check_cpu(key: MeshKey) -> None:
    if key.suite is not Suite.CHACHA20_POLY1305 and not has_aes():
        raise UserError(
            "this mesh uses AES, and this CPU has no instructions for it",
            hint="a mesh that is founded on this host uses ChaCha20-Poly1305, which every host can: `meshd key new --force`",
        )


def _password_warning(key: MeshKey) -> tuple[str, ...]:
    if not key.from_password:
        return ()
    return ("a password can be guessed offline by an active attacker: use a long one, or a key (`meshd key new`)",)


def _given_key(options: LaunchOptions) -> MeshKey | None:
    sources = [options.key, options.key_file, options.password, options.password_file]
    if sum(source is not None for source in sources) > 1:
        raise UserError("more than one of --key, --key-file, --password and --password-file was given", hint="give one")
    if options.key is not None:
        return MeshKey.parse(options.key.reveal())
    if options.key_file is not None:
        return MeshKey.parse(_read(options.key_file, "key"))
    if options.password is not None:
        return _derive(options.password.reveal(), options.mesh)
    if options.password_file is not None:
        return _derive(_read(options.password_file, "password"), options.mesh)
    return None


def _derive(password: str, mesh: str) -> MeshKey:
    check_password(password)
    return MeshKey.derive(password, mesh)


def _read(path: Path, what: str) -> str:
    try:
        text = read_secret_file(path)
    except OSError as error:
        raise UserError(f"cannot read the {what} file {path}: {os.strerror(error.errno or 0).lower()}") from error
    if not text:
        raise UserError(f"the {what} file {path} is empty")
    return text


def load_key(paths: Paths) -> MeshKey:
    """The stored key. Raises UserError when there is none or it cannot be read."""
    if not paths.key_file.exists():
        raise UserError("this host has no mesh key yet", hint="`meshd launch` makes one, or `meshd key new`")
    try:
        return MeshKey.parse(_read(paths.key_file, "key"))
    except UserError as error:
        raise UserError(
            f"the key that is stored in {paths.key_file} cannot be used: {error.args[0]}",
            hint="`meshd key set` replaces it; `meshd key show` on another host of the mesh prints it",
        ) from error


def set_key(paths: Paths, text: str) -> None:
    """Move this host to the mesh with this key. Raises UserError while the router runs, or for a malformed key."""
    key = MeshKey.parse(text)
    _require_stopped(paths)
    make_private_folder(paths.db)
    write_private(paths.key_file, key.to_text().encode() + b"\n")


def new_key(paths: Paths, *, replace: bool = False) -> None:
    """Make a key for a new mesh. Raises UserError where there is one already, unless told to replace it."""
    _require_stopped(paths)
    if paths.key_file.exists() and not replace:
        raise UserError(
            "this host has a mesh key already", hint="`meshd key new --force` makes another, for a new mesh"
        )
    make_private_folder(paths.db)
    write_private(paths.key_file, _generate().to_text().encode() + b"\n")


def _require_stopped(paths: Paths) -> None:
    if not lock_is_free(paths.lock):
        raise UserError("the router is running with the present key", hint="`meshd stop` first")


def load_identity(paths: Paths) -> Identity:
    """This host's identity, made at the first start. A damaged file is an error: a new identity would be a new host."""
    path = paths.identity_file
    if not path.exists():
        identity = Identity.generate(os.urandom)
        write_private(path, identity.to_bytes())
        return identity
    try:
        return Identity.from_bytes(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error})", hint="restore it, or delete it to make this a new host"
        ) from error
