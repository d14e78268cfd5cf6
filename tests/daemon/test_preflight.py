"""What `launch` refuses before it changes anything."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from meshd.config import LaunchOptions, Paths
from meshd.daemon import preflight
from meshd.daemon.preflight import MAX_BRIDGE_NAME, check_launch, host_nickname, tap_name
from meshd.daemon.supervise import take_lock
from meshd.errors import UserError


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(run=tmp_path, state=tmp_path)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A machine on which everything works; what it was asked for."""
    asked: list[tuple[str, str]] = []

    class Netlink:
        def call_sync(self, fn: Any) -> Any:
            return fn(None)

        def close(self) -> None:
            asked.append(("closed", ""))

    def check(_ipr: object, bridge: str, tap: str) -> list[str]:
        asked.append((bridge, tap))
        return ["no UDP offload"]

    monkeypatch.setattr(preflight, "check_rights", lambda **_tun: None)
    monkeypatch.setattr(preflight, "check_machine", check)
    monkeypatch.setattr(preflight, "Netlink", Netlink)
    return asked


def test_with_pcap_the_interface_is_looked_at(
    paths: Paths, machine: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(_ipr: object, interface: str) -> list[str]:
        machine.append((interface, ""))
        return []

    monkeypatch.setattr(preflight, "check_pcap_machine", check)
    assert check_launch(LaunchOptions(capture="pcap:br0"), paths) == ()
    assert machine == [("br0", ""), ("closed", "")]


def test_what_works_passes_with_its_warnings(paths: Paths, machine: list[tuple[str, str]]) -> None:
    options = LaunchOptions(
        bridge="a" * MAX_BRIDGE_NAME,
        port=65535,
        mtu=576,
        host="fd00::1",
        name="::1",
        nickname="höst-1",
        rekey_interval_s=1,
    )
    assert check_launch(options, paths) == ("no UDP offload",)
    assert machine == [("a" * 11, f"{'a' * 11}-tap"), ("closed", "")]
    assert len(tap_name(options.bridge)) == 15
    assert list(paths.run.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bridge": "twelve-chars"}, "longer than 11"),
        ({"port": 0}, "not between 1 and 65535"),
        ({"capture": "xdp:eth0"}, "neither tap nor pcap:IFACE"),
        ({"capture": "tap:eth0"}, "neither tap nor pcap:IFACE"),
        ({"capture": "pcap:"}, "names no interface"),
        ({"capture": "pcap:br0", "bridge": "br1"}, "with pcap none is made"),
        ({"port": 65536}, "not between 1 and 65535"),
        ({"mtu": 575}, "not between 576 and 16000"),
        ({"mtu": 16001}, "not between 576 and 16000"),
        ({"host": "host1"}, "is not an IP address"),
        ({"host": ""}, "is not an IP address"),
        ({"name": "7a:0f"}, "is not of the form"),
        ({"nickname": "two words"}, "a nickname has"),
        ({"nickname": "host(1)"}, "a nickname has"),
        ({"nickname": ""}, "a nickname has"),
        ({"nickname": "x" * 65}, "a nickname has"),
        ({"nickname": "ü" * 33}, "a nickname has"),
        ({"nickname": "bell\x07"}, "a nickname has"),
        ({"nickname": "\udcff"}, "a nickname has"),
        ({"mesh": "\udcff"}, "cannot be printed"),
        ({"nickname": "right-to-left\u202e"}, "a nickname has"),
        ({"engine": "warp"}, "unknown engine"),
        ({"resume": True, "peers": ("host2",)}, "--resume"),
        ({"rekey_interval_s": 0.5}, "between 1 and 120"),
        ({"rekey_interval_s": 121}, "between 1 and 120"),
        ({"rekey_interval_s": float("nan")}, "between 1 and 120"),
    ],
)
def test_what_cannot_work_is_refused(paths: Paths, options: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        check_launch(LaunchOptions(**options), paths)


def test_rights_come_first(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise UserError("needs root")

    monkeypatch.setattr(preflight, "check_rights", refuse)
    with pytest.raises(UserError, match="needs root"):
        check_launch(LaunchOptions(port=0), paths)


def test_netlink_is_closed_after_a_refusal(
    paths: Paths, machine: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> list[str]:
        raise UserError("an interface meshd-tap exists already")

    monkeypatch.setattr(preflight, "check_machine", refuse)
    with pytest.raises(UserError, match="exists already"):
        check_launch(LaunchOptions(), paths)
    assert machine == [("closed", "")]


def test_where_a_router_runs_the_machine_is_not_asked(paths: Paths, machine: list[tuple[str, str]]) -> None:
    lock = take_lock(paths.lock)
    assert lock is not None
    assert check_launch(LaunchOptions(), paths) == ()  # its own TAP would be in the way
    assert machine == []
    os.close(lock)


@pytest.mark.parametrize("name", ["(none)", "", "a b", "\udcff"])
def test_a_host_name_that_cannot_be_a_nickname(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "host1.example")
    assert host_nickname() == "host1"
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    with pytest.raises(UserError, match=r"the host name .* cannot be a nickname; give one"):
        host_nickname()
