"""What every part of meshd is built on: names and addresses, options and folders, errors, drop counters, views."""

from __future__ import annotations

import dataclasses
import ipaddress
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd import config, ids, views
from meshd.config import LINK_OVERHEAD, LaunchOptions, NodeConfig, Paths, Secret, interface_mtu
from meshd.drops import DropCounters, DropReason
from meshd.errors import DecodeError, LocalProtocolError, MeshdError, UserError
from meshd.ids import (
    Endpoint,
    HostId,
    Mac,
    format_mac,
    host_name,
    is_multicast,
    parse_endpoint,
    parse_mac,
    peer_label,
    short_id,
)

# ── names


@given(st.binary(min_size=6, max_size=6))
def test_macs_round_trip(data: bytes) -> None:
    assert parse_mac(format_mac(data)) == data
    assert parse_mac(f"  {format_mac(data).upper()}\n") == data


@pytest.mark.parametrize(
    ("text", "mac"),
    [
        ("7a:0f:f6:ec:1c:93", "7a0ff6ec1c93"),
        ("7a:f:f6:ec:1c:3", "7a0ff6ec1c03"),
        ("::1", "000000000001"),
        ("::a:2:3", "0000000a0203"),
        ("::1:2:3:4:5:6", "010203040506"),
    ],
)
def test_macs_as_people_write_them(text: str, mac: str) -> None:
    assert parse_mac(text).hex() == mac


@pytest.mark.parametrize(
    "text", ["", ":", "::", "7a:0f:f6:ec:1c", "7a:0f:f6:ec:1c:93:00", "7a0ff6ec1c93", "7a:0f:f6:ec:1c:9g", "::1:2:3:4:5:6:7",
             "123:0:0:0:0:0", "7a-0f-f6-ec-1c-93", "٣:0:0:0:0:0", "1::2"],
)  # fmt: skip
def test_what_is_no_mac(text: str) -> None:
    with pytest.raises(ValueError, match="not a MAC address"):
        parse_mac(text)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(1, 65535))
def test_endpoints_round_trip(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    endpoint = Endpoint(str(address), port)
    assert parse_endpoint(str(endpoint)) == endpoint


def test_endpoints_in_print() -> None:
    assert str(Endpoint("10.0.0.1", 6783)) == "10.0.0.1:6783"
    assert str(Endpoint("fd00::1", 6783)) == "[fd00::1]:6783"
    assert parse_endpoint("[FD00:0::1]:1") == Endpoint("fd00::1", 1)


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:x", "10.0.0.1:-1", "host:1", ":1",
             "[]:1", "10.0.0.1:٣", "10.0.0.1: 1", "[fd00::1:1", "10.0.0.256:1", "[fd00::1%eth0", "10.0.0.1:1_0"],
)  # fmt: skip
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_endpoint(text)


def test_ids_of_hosts() -> None:
    host = HostId(bytes(range(16)))
    assert short_id(host) == bytes(range(8))
    assert host_name(host) == bytes(range(6))
    assert peer_label("7a:0f:f6:ec:1c:93", "host2") == "7a:0f:f6:ec:1c:93(host2)"


def test_group_addresses() -> None:
    assert is_multicast(ids.BROADCAST_MAC)
    assert is_multicast(b"\x33\x33\0\0\0\1")
    assert not is_multicast(Mac(b"\x02\xff\xff\xff\xff\xff"))


# ── options and folders


def test_a_secret_never_shows_itself() -> None:
    secret = Secret("hunter2")
    options = LaunchOptions(key=secret, password=Secret("hunter2"))
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r}", "%s" % secret, repr(options), str([secret])):  # noqa: UP031
        assert "hunter2" not in shown
    assert "hunter2" not in "".join(traceback.format_exception(ValueError(secret)))
    assert secret.reveal() == "hunter2"
    assert (secret == Secret("hunter2"), secret == Secret("hunter3")) == (True, False)
    assert secret != "hunter2"
    assert len({secret, Secret("hunter2")}) == 1


def test_folders_of_the_system_and_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    system = Paths.from_environment({})
    assert (system.run, system.state) == (Path("/run/meshd"), Path("/var/lib/meshd"))
    assert Paths.from_environment({"MESHD_DIR": ""}) == system
    own = Paths.from_environment({"MESHD_DIR": "/tmp/lab/1"})
    assert {
        own.socket.parent,
        own.pid_file.parent,
        own.supervisor_pid_file.parent,
        own.log.parent,
        own.lock.parent,
    } == {Path("/tmp/lab/1")}
    assert {own.key_file.parent, own.identity_file.parent, own.database.parent} == {own.db} == {Path("/tmp/lab/1/db")}
    monkeypatch.chdir(tmp_path)
    assert Paths.from_environment({"MESHD_DIR": "lab"}).run == tmp_path / "lab"  # the router runs in another folder


def test_all_files_of_a_router_have_names_of_their_own() -> None:
    paths = Paths.from_environment({"MESHD_DIR": "/x"})
    names = [getattr(paths, name) for name, kind in vars(Paths).items() if isinstance(kind, property)]
    assert len(names) == len(set(names)) == 9


def test_options_and_configuration_cannot_be_changed() -> None:
    for value in (LaunchOptions(), Paths.from_environment({}), NodeConfig(name=Mac(bytes(6)), nickname="", version="")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, dataclasses.fields(value)[0].name, None)


@pytest.mark.parametrize(
    ("underlay", "family", "mtu"),
    [
        (1500, 4, 1372),
        (1500, 6, 1352),
        (1420, 4, 1292),
        (9000, 4, 8872),
        (65536, 4, 16_000),
        (704, 4, 576),
        (724, 6, 576),
    ],
)
def test_the_interface_mtu(underlay: int, family: int, mtu: int) -> None:
    assert interface_mtu(underlay, family) == mtu


@pytest.mark.parametrize("family", [4, 6])
def test_an_underlay_that_is_too_small(family: int) -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        interface_mtu(config.MIN_INTERFACE_MTU + LINK_OVERHEAD[family] - 1, family)


# ── errors


def test_three_kinds_of_error() -> None:
    kinds = (DecodeError, LocalProtocolError, UserError)
    assert all(issubclass(kind, MeshdError) for kind in kinds)
    assert not any(issubclass(one, other) for one in kinds for other in kinds if one is not other)
    assert not any(issubclass(kind, OSError) for kind in kinds)
    assert issubclass(DecodeError, ValueError)


def test_a_user_error_is_one_line() -> None:
    plain = UserError("no such container")
    assert (str(plain), plain.hint, plain.status) == ("no such container", "", 1)
    hinted = UserError("meshd does not run", hint="`meshd launch` starts it", status=3)
    assert str(hinted) == "meshd does not run; `meshd launch` starts it"
    assert (hinted.args, hinted.status) == (("meshd does not run",), 3)


# ── drops

# Scrapers and the native engine know these numbers: a row may be added at the end, none may change.
NUMBERS = {
    "TRUNCATED": 1, "BAD_LENGTH": 2, "UNKNOWN_VERSION": 3, "UNKNOWN_TYPE": 4, "UNKNOWN_SEGMENT": 5, "BAD_MAC1": 6,
    "UNKNOWN_INDEX": 7, "RATE_LIMITED": 8, "BAD_TAG": 9, "REPLAYED": 10, "TOO_OLD": 11, "KEY_EXPIRED": 12,
    "BAD_HANDSHAKE": 13, "STALE_HANDSHAKE": 14, "UNKNOWN_PEER": 15, "UNEXPECTED_HANDSHAKE": 16, "REFLECTED": 17,
    "BAD_ENTRY": 18, "BAD_CONTROL": 19, "BAD_FRAME": 20, "BAD_CHECKSUM": 21, "LOCAL": 22, "SOURCE_MULTICAST": 23,
    "LINK_LOCAL_CONTROL": 24, "NOT_LOCAL": 25, "UNKNOWN_LIMITED": 26, "UPCALL_OVERLOAD": 27, "MAC_FROZEN": 28,
    "TABLE_FULL": 29, "NO_SESSION": 30, "NO_PATH": 31, "TOO_BIG": 32, "QUEUE_FULL": 33, "SEND_FAILED": 34,
    "TAP_DOWN": 35, "FLOOD_DUPLICATE": 36, "FLOOD_TTL": 37, "FLOOD_UNKNOWN_ORIGIN": 38, "KERNEL_UDP": 39,
    "KERNEL_TAP": 40, "LINK_GARBAGE": 41, "LINK_LIMIT": 42, "BAD_RECORD": 43, "BAD_SIGNATURE": 44, "RECORD_QUOTA": 45,
    "STALE_RECORD": 46, "FORWARD_LOOP": 47, "NO_MEMBERS": 48, "RELAY_NO_ROUTE": 49, "RELAY_LOOP": 50, "RELAY_TTL": 51,
}  # fmt: skip


def test_the_numbers_of_drop_reasons_never_change() -> None:
    assert {reason.name: int(reason) for reason in DropReason if reason <= max(NUMBERS.values())} == NUMBERS
    assert sorted(DropReason) == list(range(1, len(DropReason) + 1))


def test_every_reason_has_its_own_counter() -> None:
    counters = DropCounters()
    assert counters.as_dict() == {}
    for reason in DropReason:
        counters.add(reason, int(reason))
    counters.add(DropReason.BAD_TAG)
    assert counters[DropReason.BAD_TAG] == DropReason.BAD_TAG + 1
    assert dict(counters.items()) == {reason: reason + (reason is DropReason.BAD_TAG) for reason in DropReason}
    assert counters.as_dict()["replayed"] == 10
    assert counters.as_dict().keys() == {reason.name.lower() for reason in DropReason}


# ── views


@pytest.mark.parametrize("name", views.__all__)
def test_views_are_plain_copies(name: str) -> None:
    kind: Any = getattr(views, name)
    assert kind.__dataclass_params__.frozen
    assert "__dict__" not in dir(kind)
    lists = [field.name for field in dataclasses.fields(kind) if "list" in str(field.type) or "set" in str(field.type)]
    assert lists == []  # what is handed out is nobody's to change


def test_views_can_be_copied_and_compared() -> None:
    one = views.LoopView(lag_p99_ms=0.5, slow_callbacks=3)
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own
    assert dataclasses.asdict(one) == {"lag_p99_ms": 0.5, "slow_callbacks": 3}
