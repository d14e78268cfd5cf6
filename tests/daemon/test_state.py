"""What a router remembers: the boot counter above all, and a database that is damaged, newer, or cannot be written."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest

from meshd.daemon import state as state_module
from meshd.daemon.state import State, StateWriter, WantedAttachment
from meshd.errors import UserError
from meshd.ids import Endpoint, HostId

WEB = WantedAttachment(
    id="c0ffee" * 10 + "beef",
    name="web",
    mac="02:00:00:00:00:01",
    addresses=("10.1.0.1/24", "fd00::1/64"),
    ifname="mesh0",
    host_end="mv0123456789",
    namespace=(4, 4026531840),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db" / "state.sqlite"


@pytest.fixture
def state(path: Path) -> Iterator[State]:
    state = State(path)
    yield state
    state.close()


def raw(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_every_start_has_a_higher_boot_counter(path: Path) -> None:
    for expected in (1, 2, 3):
        state = State(path)
        assert state.raise_boot() == expected
        state.close()


def test_the_mesh_can_raise_the_boot_counter_but_not_lower_it(state: State) -> None:
    assert state.raise_boot() == 1
    assert state.raise_boot(at_least=100) == 100
    assert state.raise_boot(at_least=7) == 101
    assert state.raise_boot(at_least=2**63) == 2**63


def test_the_boot_counter_is_on_disk_when_the_call_returns(state: State, path: Path) -> None:
    boot = state.raise_boot(41)
    reader = sqlite3.connect(path)
    assert reader.execute("SELECT value FROM meta WHERE key = 'boot'").fetchone() == (str(boot),)
    reader.close()


def test_files_are_private(state: State, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_targets_keep_their_order(state: State, path: Path) -> None:
    state.set_targets(["host9", "host1:7000", "[fd00::1]:6783", "host1:7000"])
    assert state.targets() == ("host9", "host1:7000", "[fd00::1]:6783")
    state.set_targets(())
    assert state.targets() == ()


def test_targets_are_replaced_as_a_whole_or_not_at_all(state: State) -> None:
    state.set_targets(["old"])

    def broken() -> Iterator[str]:
        yield "new"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        state.set_targets(broken())
    assert state.targets() == ("old",)


def test_hosts_are_remembered_and_what_cannot_be_read_is_left_out(
    state: State, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = (HostId(b"1" * 16), (Endpoint("192.0.2.1", 6783), Endpoint("fe80::1%eth0", 7000)))
    other = (HostId(b"2" * 16), (Endpoint("192.0.2.2", 6783),))
    state.set_hosts([one, other])
    assert state.hosts() == dict([one, other])
    state.set_hosts([other])
    raw(path, "INSERT INTO hosts VALUES ('nothex', '192.0.2.3:1'), ('" + "33" * 16 + "', 'nowhere')")
    assert state.hosts() == dict([other])
    assert caplog.text.count("left out") == 2


def test_attachments_round_trip(state: State, path: Path) -> None:
    blue = replace(WEB, id="netns:blue", name="netns:blue", addresses=())
    state.put_attachment(WEB)
    state.put_attachment(blue)
    changed = replace(WEB, addresses=("10.1.0.9/24",))
    state.put_attachment(changed)
    again = State(path)
    assert again.attachments() == [changed, blue]
    again.close()
    state.delete_attachment(WEB.id)
    state.delete_attachment("nobody")
    assert state.attachments() == [blue]


def test_the_bridges_are_remembered(state: State) -> None:
    assert list(state.bridges) == []
    state.add_bridge("mesh1")
    assert list(state.bridges) == ["mesh1"]
    state.add_bridge("br0")
    state.add_bridge("mesh1")
    assert list(state.bridges) == ["mesh1", "br0"]


@pytest.mark.parametrize(
    "wanted",
    [
        "",
        "[]",
        "{}",
        '{"id": "x"}',
        json.dumps({**asdict(WEB), "mac": "nonsense"}),
        json.dumps({**asdict(WEB), "addresses": ["no address"]}),
        json.dumps({**asdict(WEB), "addresses": 3}),
        json.dumps({**asdict(WEB), "namespace": [1]}),
    ],
)
def test_an_attachment_that_cannot_be_read_is_left_out(
    state: State, path: Path, wanted: str, caplog: pytest.LogCaptureFixture
) -> None:
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO attachments VALUES ('x', ?)", (wanted,))
    connection.commit()
    connection.close()
    state.put_attachment(WEB)
    assert state.attachments() == [WEB]
    assert "left out" in caplog.text


# ── a database that is not as it should be


def test_a_damaged_database_is_told(path: Path) -> None:
    state = State(path)
    state.close()
    assert state.warning == ""
    path.write_bytes(b"no database at all " * 100)
    state = State(path)
    state.close()
    assert state.warning == (
        f"{path} was damaged: targets and attachments are forgotten; it is now {path.name}.damaged-1"
    )


def test_a_damaged_database_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    for number in (1, 2):
        path.write_bytes(b"this is no database at all" * 100)
        state = State(path)
        assert state.raise_boot() == 1
        state.close()
        assert path.with_name(f"state.sqlite.damaged-{number}").read_bytes().startswith(b"this is no database")
    assert "is damaged" in caplog.text


def test_damage_behind_the_header_is_found_at_the_start(path: Path) -> None:
    state = State(path)
    state.set_targets(f"host{number}" for number in range(500))
    state.close()
    data = bytearray(path.read_bytes())
    data[4096 : len(data)] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    state = State(path)
    assert state.targets() == ()
    state.close()
    assert path.with_name("state.sqlite.damaged-1").exists()


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    State(path).close()
    raw(path, "DROP TABLE targets", "PRAGMA user_version=99")
    before = path.read_bytes()
    with pytest.raises(UserError, match="newer meshd"):
        State(path)
    assert path.read_bytes() == before


def test_a_database_that_cannot_be_opened_is_no_damage(path: Path) -> None:
    path.mkdir(parents=True)  # root may open what has no rights: a folder nobody can
    with pytest.raises(UserError, match="cannot use"):
        State(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["state.sqlite"]


def test_a_locked_database_is_no_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    State(path).close()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **{**options, "timeout": 0}))
    with pytest.raises(UserError, match="locked"):
        State(path)
    holder.close()
    assert [entry.name for entry in path.parent.iterdir()] == ["state.sqlite"]


# ── the writer


def test_the_writer_runs_calls_in_order_in_one_other_thread(path: Path) -> None:
    seen: list[tuple[int, str]] = []

    def look(number: int, _state: State) -> None:
        seen.append((number, threading.current_thread().name))

    async def main() -> None:
        writer = StateWriter(State(path))
        await asyncio.gather(*(writer.run(partial(look, number)) for number in range(20)))
        writer.close()

    asyncio.run(main())
    assert [number for number, _ in seen] == list(range(20))
    assert {name for _, name in seen} == {"meshd-state_0"}


class Disk:
    """What State's calls meet: `failure` while there is one; `written` in order."""

    def __init__(self, failure: Exception | None) -> None:
        self.failure = failure
        self.written: list[str] = []

    def call(self, text: str) -> Callable[[State], None]:
        def write(_state: State) -> None:
            if self.failure is not None:
                raise self.failure
            self.written.append(text)

        return write


FULL = sqlite3.OperationalError("database or disk is full")


@pytest.mark.parametrize("failure", [FULL, OSError(30, "read-only")])
def test_what_cannot_be_written_is_told_and_written_later_in_order(
    path: Path, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(failure)

    async def main() -> None:
        writer = StateWriter(State(path))
        await writer.run(disk.call("put"))
        await writer.run(disk.call("comes again"), keep=False)
        assert str(failure) in writer.problem
        disk.failure = None
        await writer.run(disk.call("delete"))
        assert (disk.written, writer.problem) == (["put", "delete"], "")
        writer.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "cannot remember this" in caplog.text


def test_a_disk_that_has_room_again_is_found_without_a_further_call(path: Path) -> None:
    disk = Disk(FULL)

    async def main() -> None:
        writer = StateWriter(State(path), retry_s=0.001)
        for text in ("put", "delete"):
            await writer.run(disk.call(text))
        disk.failure = None
        assert writer._retrying is not None
        await asyncio.wait_for(writer._retrying, 20)
        assert writer.problem == ""
        assert disk.written == ["put", "delete"]
        writer.close()

    asyncio.run(main())


def test_what_waits_for_the_disk_is_tried_at_the_end_and_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "MAX_UNWRITTEN", 2)
    disk = Disk(FULL)

    async def main() -> None:
        writer = StateWriter(State(path))
        for text in ("oldest", "put", "delete"):
            await writer.run(disk.call(text))
        disk.failure = None
        writer.close()

    asyncio.run(main())
    assert disk.written == ["put", "delete"]


def test_a_database_that_turned_read_only_costs_no_traffic(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        state = State(path)
        state.set_targets(["before"])
        state._connection.execute("PRAGMA query_only=1")
        writer = StateWriter(state)
        await writer.run(lambda state: state.set_targets(["after"]))
        assert state.targets() == ("before",)
        writer.close()

    asyncio.run(main())
    assert "cannot remember this" in caplog.text
