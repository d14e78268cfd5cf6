"""Hosts and containers out of network namespaces, with the real command line on them.

    container ─ veth ─ bridge ─ TAP ═ router   host 1 ─┐
                                               host 2 ─┼─ bridge `br0` in the namespace `sw`      10.9.0.N or fd09::N
                                               host 3 ─┘

Leaving the lab, also by a failure, ends every process that its namespaces hold and deletes them; with them go all links and
firewall rules. Every name carries our pid.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from meshd.capture.netns import in_namespace

__all__ = ["Container", "Done", "Host", "Lab", "Space", "command", "until"]

T = TypeVar("T")
MESHD = str(Path(sys.executable).with_name("meshd"))
TIMEOUT = 40.0  # of one command: far more than any takes, also on a busy machine
PATIENCE = 20.0  # of `until`; what is measured is asserted apart
PING_INTERVAL = 0.02  # seconds
ASIDE = ("waiting for the router to get ready", "can be seen by others")  # told while or before something is refused
_numbers = itertools.count()


def until(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """The first true answer. Polls: what is waited for happens in other processes."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    def refused(self, *words: str) -> str:
        """The one line on stderr of a command that failed as it should; every word is in it."""
        assert self.status not in (0, 70), f"ended with {self.status}: {self.err}"
        assert "Traceback" not in self.err + self.out
        lines = [line for line in self.err.splitlines() if not any(text in line for text in ASIDE)]
        assert len(lines) == 1, f"expected one line, not {lines}"
        assert lines[0].startswith("meshd: ")
        for word in words:
            assert word in lines[0]
        assert self.out == ""
        return lines[0]


def execute(
    arguments: Sequence[str], *, environment: Mapping[str, str] | None = None, given: str = "", check: bool = True
) -> Done:
    run = subprocess.run(
        arguments,
        input=given,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env=None if environment is None else dict(environment),
    )
    assert not check or run.returncode == 0, f"{' '.join(arguments)}: status {run.returncode}: {run.stderr}{run.stdout}"
    return Done(status=run.returncode, out=run.stdout, err=run.stderr)


def command(*arguments: str) -> str:
    return execute(arguments).out


class Space:
    """A network namespace."""

    def __init__(self, role: str) -> None:
        self.name = f"mdp{os.getpid()}-{next(_numbers)}{role}"
        self.path = f"/run/netns/{self.name}"
        self.fd = -1
        self._there = True
        with self._or_removed():
            command("ip", "netns", "add", self.name)
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self.ip("link", "set", "lo", "up")

    @contextlib.contextmanager
    def _or_removed(self) -> Iterator[None]:
        """What fails, or is interrupted, before anybody holds the namespace leaves none."""
        try:
            yield
        except BaseException:
            if os.path.exists(self.path):
                self.remove()
            raise

    def ip(self, *arguments: str) -> str:
        return command("ip", "-n", self.name, *arguments)

    def run(self, *arguments: str, check: bool = True) -> Done:
        return execute(self.inside(*arguments), check=check)

    def inside(self, *arguments: str) -> list[str]:
        """The words of a command that runs in here, for `subprocess`: nsenter becomes it."""
        return ["nsenter", f"--net={self.path}", *arguments]

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket stays in the namespace in which it was made, whatever thread uses it."""
        return in_namespace(self.fd, lambda: socket.socket(family, kind, protocol))

    def ping(self, address: str, *options: str, count: int = 1) -> bool:
        """True if each of `count` requests was answered; the last one within two seconds.

        By itself ping waits for its last answer only as long as for the slowest before it, or one interval, and calls it lost. So
        it goes on asking until the first `count` requests are answered.
        """
        if "-f" in options:
            done = self.run("ping", "-n", "-c", str(count), "-W", "2", *options, address, check=False)
            return done.status == 0 and " 0% packet loss" in done.out
        wanted = set(range(1, count + 1))
        asked = str(count + round(2 / PING_INTERVAL))
        words = self.inside("ping", "-n", "-i", str(PING_INTERVAL), "-c", asked, "-W", "0.1", *options, address)
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if answer := re.search(r"icmp_seq=(\d+) ttl=", line):
                    wanted.discard(int(answer[1]))
                if not wanted:
                    process.terminate()
                    break
        return not wanted

    def reach(self, address: str, seconds: float = PATIENCE) -> float:
        """Ask until the address answers; how many seconds that took."""
        started = time.monotonic()
        until(
            lambda: self.run("ping", "-n", "-c", "1", "-W", "0.2", address, check=False).status == 0, address, seconds
        )
        return time.monotonic() - started

    def mac(self, ifname: str = "mesh0") -> str:
        return str(json.loads(self.ip("-j", "link", "show", ifname))[0]["address"])

    def pids(self) -> list[int]:
        return [int(word) for word in command("ip", "netns", "pids", self.name).split()]

    def remove(self) -> None:
        if not self._there:
            return
        self._there = False
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        until(self._end_processes, f"the processes in {self.name} end")
        command("ip", "netns", "del", self.name)

    def _end_processes(self) -> bool:
        pids = self.pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids


class Container(Space):
    """A namespace that plays a container."""

    @property
    def word(self) -> str:
        return f"netns:{self.name}"

    def has(self, ifname: str = "mesh0") -> bool:
        return any(link["ifname"] == ifname for link in json.loads(self.ip("-j", "link")))


class Host(Space):
    """A host with a router of its own: its folder is MESHD_DIR."""

    def __init__(self, number: int, folder: Path, switch: Space, family: int) -> None:
        super().__init__(f"h{number}")
        self.nickname = f"host{number}"
        self.address, length = (f"10.9.0.{number}", 24) if family == 4 else (f"fd09::{number}", 64)
        self.folder = folder / self.nickname
        self.port = f"p{number}"  # our port of the switch
        with self._or_removed():
            self.ip("link", "add", "eth0", "type", "veth", "peer", "name", self.port, "netns", switch.name)
            self.ip("addr", "add", f"{self.address}/{length}", "dev", "eth0", *(["nodad"] if family == 6 else []))
            self.ip("link", "set", "eth0", "up")
            switch.ip("link", "set", self.port, "master", "br0", "up")
        self.environment = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"}
        self.environment["DOCKER_HOST"] = f"unix://{self.folder}-docker.sock"  # never this machine's own Docker

    def meshd(
        self,
        *arguments: str,
        check: bool = True,
        given: str = "",
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Done:
        words = self.inside(MESHD, *arguments)
        folder = folder or self.folder
        variables = {**self.environment, "MESHD_DIR": str(folder), **(environment or {})}
        return execute(words, environment=variables, given=given, check=check)

    def launch(self, *arguments: str) -> Done:
        return self.meshd("launch", "--nickname", self.nickname, *arguments)

    def attach(self, container: Container, *addresses: str) -> Done:
        return self.meshd("attach", *addresses, container.word)

    def report(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.meshd("report").out)
        return answer

    @property
    def key_file(self) -> Path:
        return self.folder / "db" / "mesh.key"

    @property
    def log(self) -> str:
        return (self.folder / "meshd.log").read_text()

    @property
    def pid(self) -> int:
        return int((self.folder / "meshd.pid").read_text())

    @property
    def supervisor(self) -> int:
        return int((self.folder / "supervisor.pid").read_text())

    def established(self) -> set[str]:
        """Nicknames of the hosts with an established connection."""
        return {c["NickName"] for c in self.report()["Router"]["Connections"] if c["State"] == "established"}

    def everything(self) -> dict[str, object]:
        """All that a refused command must leave as it was: links, addresses, rules, processes, files."""
        links = json.loads(self.ip("-j", "addr"))
        facts = ("ifname", "address", "mtu", "master")
        return {
            # without the carrier, which the kernel sets and clears some time after the last port of a bridge went
            "links": [
                {
                    **{fact: link.get(fact) for fact in facts},
                    "flags": sorted({*link["flags"]} - {"NO-CARRIER", "LOWER_UP"}),
                }
                for link in links
            ],
            "addresses": [[entry["local"] for entry in link["addr_info"]] for link in links],
            "rules": [
                self.run("iptables", "-S").out,
                self.run("ip6tables", "-S").out,
                self.run("nft", "-s", "list", "ruleset").out,
            ],
            "processes": sorted(self.pids()),
            "files": _files(self.folder),
            "namespaces": [name for name in sorted(os.listdir("/run/netns")) if f"mdp{os.getpid()}-" in name],
        }


def _files(folder: Path) -> list[tuple[str, int, bytes]]:
    """Names, rights and contents, but for what grows or is a socket."""
    grown = {"meshd.log", "state.sqlite", "state.sqlite-journal"}
    return [
        (
            str(path.relative_to(folder)),
            path.stat().st_mode,
            path.read_bytes() if path.is_file() and path.name not in grown else b"",
        )
        for path in sorted(folder.rglob("*"))
        if path.name != "state.sqlite-journal"
    ]


class Lab:
    """A switch, hosts at it, containers; all of it ends with the `with` block."""

    def __init__(self, folder: Path, hosts: int, *, family: int = 4) -> None:
        self._ending = contextlib.ExitStack()
        self._folder = folder
        self.hosts: list[Host] = []
        try:
            self.switch = self._keep(Space("sw"))
            self.switch.ip("link", "add", "br0", "type", "bridge")
            self.switch.ip("link", "set", "br0", "up")
            for number in range(1, hosts + 1):
                self.hosts.append(self._keep(Host(number, folder, self.switch, family)))
        except BaseException:
            self._ending.close()
            raise

    def _keep(self, space: _SpaceT) -> _SpaceT:
        self._ending.callback(space.remove)
        return space

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._show_logs()
        self._ending.close()

    def _show_logs(self) -> None:
        """What the routers said, for whoever reads the failure."""
        for host in self.hosts:
            with contextlib.suppress(OSError):
                print(f"── log of {host.nickname}\n{host.log[-4000:]}")

    def container(self, role: str = "c") -> Container:
        return self._keep(Container(role))

    def key_copy(self, host: Host) -> str:
        """The mesh's key as its owner would carry it to another host."""
        copy = self._folder / "mesh.key"
        copy.write_bytes(host.key_file.read_bytes())
        copy.chmod(0o600)
        return str(copy)

    def launch(self, *arguments: str) -> None:
        """The first host founds the mesh; the others get its key and its address, nothing else."""
        first, *others = self.hosts
        first.launch(*arguments)
        for host in others:
            host.launch("--key-file", self.key_copy(first), "--peers", first.address, *arguments)

    def meshed(self) -> None:
        """Wait for the full mesh: every host has a connection with every other one."""
        for host in self.hosts:
            others = {other.nickname for other in self.hosts} - {host.nickname}
            until(functools.partial(_all_established, host, others), f"{host.nickname} is connected with {others}")


_SpaceT = TypeVar("_SpaceT", bound=Space)


def _all_established(host: Host, others: set[str]) -> bool:
    return host.established() == others
