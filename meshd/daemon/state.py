"""What a router remembers: boot counter, targets, hosts seen, wanted attachments. SQLite, one small file, synchronous=FULL.

The boot counter is raised and on disk *before* the router says a word under it: it is the epoch of this host's log and the
liveness of its handshakes (docs/protocol.md), and no clock can stand in for it. A file whose content is damaged is set aside
under another name and a new one begun; peers that know a higher epoch of ours then say so (`raise_boot`). A disk that is full,
read-only or slow damages nothing: that refuses the start.

Calls block on the disk: the loop runs them in a thread, through `StateWriter`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ipaddress
import json
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meshd.daemon.files import make_private_folder
from meshd.errors import UserError
from meshd.ids import Endpoint, HostId, parse_endpoint, parse_mac

__all__ = ["State", "StateWriter", "WantedAttachment"]

_log = logging.getLogger(__name__)

RETRY_S = 10.0
MAX_UNWRITTEN = 8192  # calls that wait for a disk; of more the oldest is lost
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS targets (position INTEGER PRIMARY KEY, target TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS hosts (id TEXT PRIMARY KEY, endpoints TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS attachments (id TEXT PRIMARY KEY, wanted TEXT NOT NULL) STRICT;
"""


@dataclass(slots=True, frozen=True, kw_only=True)
class WantedAttachment:
    """What the user asked `attach` for: put back after a restart of the router or of the container."""

    id: str  # full container id, pid:N or netns:NAME
    name: str
    mac: str
    addresses: tuple[str, ...]
    ifname: str
    host_end: str
    namespace: tuple[int, int]  # device and inode of the network namespace
    port_security: bool = False


def _wanted(fields: dict[str, Any]) -> WantedAttachment:
    """Raises ValueError, TypeError or KeyError for what no router wrote: it must not keep this one from starting."""
    device, inode = fields["namespace"]
    parse_mac(str(fields["mac"]))
    for address in fields["addresses"]:
        ipaddress.ip_interface(address)
    texts = {name: str(fields[name]) for name in ("id", "name", "mac", "ifname", "host_end")}
    return WantedAttachment(
        **texts,
        addresses=tuple(fields["addresses"]),
        namespace=(int(device), int(inode)),
        port_security=fields.get("port_security") is True,
    )


class State:
    """The open database. Not shared between threads at the same time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.warning = ""  # for the user: what was found damaged
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        make_private_folder(self._path.parent)
        try:
            return self._connect()
        except sqlite3.OperationalError as error:
            raise UserError(f"cannot use {self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            aside = self._set_aside()
            _log.warning("%s is damaged (%s): moved to %s, starting with none of it", self._path, error, aside.name)
            self.warning = f"{self._path} was damaged: targets and attachments are forgotten; it is now {aside.name}"
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=5.0)
        try:
            self._path.chmod(0o600)
            connection.execute("PRAGMA synchronous=FULL")
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if version > _SCHEMA_VERSION:
                raise UserError(
                    f"{self._path} was written by a newer meshd", hint="install that version, or `meshd reset`"
                )
            damage = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            if damage != "ok":
                raise sqlite3.DatabaseError(damage)
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self) -> Path:
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.damaged-{number}")).exists():
            number += 1
        self._path.rename(aside)
        return aside

    def close(self) -> None:
        self._connection.close()

    def _meta(self, key: str, default: str = "") -> str:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else default

    def set_meta(self, key: str, value: str) -> None:
        self._connection.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
        )

    @property
    def bridges(self) -> tuple[str, ...]:
        """The bridges that this router made or used, so that `reset` removes what it left on each; none before the first launch."""
        return tuple(self._meta("bridge").split())

    def add_bridge(self, name: str) -> None:
        self.set_meta("bridge", " ".join(dict.fromkeys((*self.bridges, name))))

    def raise_boot(self, at_least: int = 0) -> int:
        """The next boot counter: one higher than any before, and at least this. On disk when the call returns.

        Raises sqlite3.Error where it cannot be written.
        """
        boot = max(int(self._meta("boot", "0")) + 1, at_least)
        self.set_meta("boot", str(boot))
        return boot

    def targets(self) -> tuple[str, ...]:
        return tuple(str(row[0]) for row in self._connection.execute("SELECT target FROM targets ORDER BY position"))

    def set_targets(self, targets: Iterable[str]) -> None:
        with self._connection:
            self._connection.execute("BEGIN")
            self._connection.execute("DELETE FROM targets")
            self._connection.executemany(
                "INSERT OR IGNORE INTO targets (target) VALUES (?)", [(target,) for target in targets]
            )

    def hosts(self) -> dict[HostId, tuple[Endpoint, ...]]:
        """Where hosts of the mesh were last seen."""
        hosts = {}
        for host, endpoints in self._connection.execute("SELECT id, endpoints FROM hosts"):
            try:
                hosts[HostId(bytes.fromhex(host))] = tuple(parse_endpoint(text) for text in endpoints.split())
            except ValueError as error:
                _log.warning("a stored host cannot be read and is left out: %s", error)
        return hosts

    def set_hosts(self, hosts: Iterable[tuple[HostId, Iterable[Endpoint]]]) -> None:
        with self._connection:
            self._connection.execute("BEGIN")
            self._connection.execute("DELETE FROM hosts")
            rows = [(host.hex(), " ".join(str(endpoint) for endpoint in endpoints)) for host, endpoints in hosts]
            self._connection.executemany("INSERT INTO hosts VALUES (?, ?)", rows)

    def attachments(self) -> list[WantedAttachment]:
        wanted = []
        for (text,) in self._connection.execute("SELECT wanted FROM attachments ORDER BY rowid"):
            try:
                fields: dict[str, Any] = json.loads(text)
                wanted.append(_wanted(fields))
            except (ValueError, TypeError, KeyError) as error:
                _log.warning("a stored attachment cannot be read and is left out: %s", error)
        return wanted

    def put_attachment(self, wanted: WantedAttachment) -> None:
        self._connection.execute(
            "INSERT INTO attachments VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET wanted = excluded.wanted",
            (wanted.id, json.dumps(asdict(wanted))),
        )

    def delete_attachment(self, attachment_id: str) -> None:
        self._connection.execute("DELETE FROM attachments WHERE id = ?", (attachment_id,))


class StateWriter:
    """Runs State's calls one after the other in one thread, so that the loop never waits for the disk.

    A disk that is full or read-only costs what is remembered, never the traffic: what could not be written is kept, in order, and
    tried again before whatever comes next, every RETRY_S, and at the end. `problem` says so while there is such, "" while not.
    """

    def __init__(self, state: State, retry_s: float = RETRY_S) -> None:
        self._state = state
        self._retry_s = retry_s
        self._executor = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="meshd-state")
        self._unwritten: deque[Callable[[State], None]] = deque(maxlen=MAX_UNWRITTEN)  # of the thread alone
        self._retrying: asyncio.Task[None] | None = None
        self.problem = ""

    async def run(self, call: Callable[[State], None], *, keep: bool = True) -> None:
        """`keep`: try again what could not be written; not what comes again by itself, or is too late later on."""
        await self._in_thread(lambda: self._write(call, keep=keep))
        if self.problem and self._retrying is None:
            self._retrying = asyncio.get_running_loop().create_task(self._retry())

    async def _retry(self) -> None:
        while self.problem:
            await asyncio.sleep(self._retry_s)
            await self._in_thread(self._write_kept)
        self._retrying = None

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _write(self, call: Callable[[State], None], *, keep: bool) -> None:
        self._write_kept()
        if self._unwritten and keep:  # not before what it may build on
            self._unwritten.append(call)
            return
        try:
            call(self._state)
        except (sqlite3.Error, OSError) as error:
            _log.error("cannot remember this across a restart: %s", error)
            if keep:
                self._unwritten.append(call)
                self.problem = f"cannot remember across a restart what was attached, detached or connected: {error}"

    def _write_kept(self) -> None:
        try:
            while self._unwritten:
                self._unwritten[0](self._state)
                self._unwritten.popleft()
        except (sqlite3.Error, OSError):
            return  # it was told when it came
        if self.problem:
            _log.info("what could not be remembered is on disk now")
        self.problem = ""

    def close(self) -> None:
        if self._retrying is not None:
            self._retrying.cancel()
        self._executor.submit(self._write_kept)
        self._executor.shutdown(wait=True)
        self._state.close()
