"""Files that must be whole and private: written beside their place, flushed, then renamed over it, never world-readable."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["make_private_folder", "read_secret_file", "write_private"]

MAX_SECRET_FILE = 4096


def make_private_folder(path: Path) -> None:
    """Create the folder and its parents, itself 0700. An existing folder keeps its mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)


def write_private(path: Path, data: bytes) -> None:
    """Replace the file's content in one step, mode 0600; after a crash the old or the new content stands there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = os.fspath(path)  # a write says no name, and a name beside the place tells nobody anything
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_secret_file(path: Path) -> str:
    """The first line of a key or password file, at most MAX_SECRET_FILE bytes. Raises OSError."""
    with path.open("rb") as file:
        data = file.read(MAX_SECRET_FILE)
    return data.decode("utf-8", "surrogateescape").split("\n", 1)[0].strip()
