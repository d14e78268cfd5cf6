"""What the machine lacks, said in one line; and the device node that is missing or forbidden."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from meshd.capture import firewall, sysctl, tap
from meshd.capture.preflight import check_rights, kernel_warning
from meshd.errors import UserError


def status(folder: Path, capabilities: str) -> Path:
    path = folder / "status"
    path.write_text(f"Name:\tmeshd\nCapPrm:\t000001ffffffffff\nCapEff:\t{capabilities}\n")
    return path


def test_rights(tmp_path: Path) -> None:
    tun = tmp_path / "tun"
    tun.touch()
    check_rights(status(tmp_path, "000001ffffffffff"), tun)
    check_rights(status(tmp_path, "0000000000001000"), tun)  # CAP_NET_ADMIN alone
    with pytest.raises(UserError, match="needs root"):
        check_rights(status(tmp_path, "000001ffffffefff"), tun)
    with pytest.raises(UserError, match="modprobe tun"):
        check_rights(status(tmp_path, "000001ffffffffff"), tmp_path / "none")


@pytest.mark.parametrize(
    ("release", "old"),
    [("3.10.0-1160.el7", True), ("4.17.0", True), ("4.19.0-26-amd64", True), ("5.0.0", False), ("6.18.1", False)],
)
def test_old_kernels_are_warned_of(release: str, old: bool) -> None:
    assert bool(kernel_warning(release)) == old


def test_unreadable_release_is_no_warning() -> None:
    assert kernel_warning("strange") is None


def test_tap_device_node_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tap, "_DEVICE", str(tmp_path / "tun"))
    with pytest.raises(UserError, match=r"is missing.*modprobe tun"):
        tap.open_tap("tap0")


@pytest.mark.parametrize(
    ("code", "text"), [(errno.ENODEV, "is missing"), (errno.EACCES, "as root"), (errno.EPERM, "as root")]
)
def test_tap_device_node_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, code: int, text: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=text):
        tap.open_tap("tap0")


@pytest.mark.parametrize(
    ("missing", "left"), [(0, ("csum", "tso", "uso")), (1, ("csum", "tso")), (2, ("csum",)), (3, ())]
)
def test_offloads_fall_back_one_by_one(monkeypatch: pytest.MonkeyPatch, missing: int, left: tuple[str, ...]) -> None:
    refused = list(tap._OFFLOADS.values())[:missing]

    def ioctl(fd: int, request: int, bits: int) -> int:
        if bits in refused:
            raise OSError(errno.EINVAL, "unknown bits")
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert tap._set_offloads(-1) == left


def test_tap_without_the_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node = tmp_path / "tun"
    node.touch()
    monkeypatch.setattr(tap, "_DEVICE", str(node))

    def ioctl(*_: object) -> int:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    open_before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UserError, match="CAP_NET_ADMIN"):
        tap.open_tap("tap0")
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_sysctl_that_this_kernel_has_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysctl, "SYSCTL_NET", tmp_path)
    assert not sysctl.write_sysctl(1, "ipv6", "conf", "x", "disable_ipv6")
    assert sysctl.read_sysctl("bridge", "bridge-nf-call-iptables") is None
    sysctl.disable_ipv6("x")  # a kernel without IPv6
    (tmp_path / "value").write_text("odd\n")
    assert sysctl.read_sysctl("value") is None
    assert sysctl.write_sysctl(3, "value")
    assert sysctl.read_sysctl("value") == 3


def test_firewall_command_that_fails_or_hangs_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 4, "", "Another app is holding the xtables lock\nmore")

    monkeypatch.setattr(subprocess, "run", locked)
    with pytest.raises(OSError, match=r"-S FORWARD: Another app is holding the xtables lock$"):
        firewall._run("iptables", "-S", "FORWARD", may_fail=True)

    def hang(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(command, 10)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(OSError, match="iptables does not end"):
        firewall._run("iptables", "-S", "FORWARD")
