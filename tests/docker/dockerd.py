"""A Docker daemon of a host's own: in its network namespace, with its own folders and socket, containers from one static busybox.

`nsenter` and not `ip netns exec`, which would hide the cgroups. Its containers live in namespaces of their own, so ending the
host's processes would not end them: they are killed first, then the daemon, then what it left mounted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from meshd.capture.netns import in_namespace
from tests.netns.lab import Done, Host, Space, execute, until

__all__ = ["DockerContainer", "Dockerd"]

IMAGE = "busybox:test"


class DockerContainer(Space):
    """A running container of a daemon; its network namespace is found through its process."""

    def __init__(self, dockerd: Dockerd, word: str) -> None:
        self.dockerd = dockerd
        self.id = dockerd.docker("inspect", "-f", "{{.Id}}", word).out.strip()
        self.name = dockerd.docker("inspect", "-f", "{{.Name}}", word).out.strip().removeprefix("/")
        self.fd = -1

    @property
    def path(self) -> str:  # type: ignore[override]  # another one after every start
        return f"/proc/{self.pid}/ns/net"

    @property
    def pid(self) -> int:
        return int(self.dockerd.docker("inspect", "-f", "{{.State.Pid}}", self.id).out)

    def ip(self, *arguments: str) -> str:
        return self.run("ip", *arguments).out

    def link(self, ifname: str = "mesh0") -> dict[str, Any]:
        for link in json.loads(self.ip("-j", "addr")):
            if link["ifname"] == ifname:
                found: dict[str, Any] = link
                return found
        return {}

    def mac(self, ifname: str = "mesh0") -> str:
        """ "" while there is no such interface."""
        return str(self.link(ifname).get("address", ""))

    def addresses(self) -> set[str]:
        return {f"{a['local']}/{a['prefixlen']}" for a in self.link().get("addr_info", ()) if a["scope"] == "global"}

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return in_namespace(descriptor, lambda: socket.socket(family, kind, protocol))
        finally:
            os.close(descriptor)


class Dockerd:
    def __init__(self, host: Host) -> None:
        self._host = host
        # Short, for the paths of its sockets; with our pid, as everything that a test makes.
        self._folder = Path(tempfile.mkdtemp(prefix=f"mdp{os.getpid()}-"))
        self.address = f"unix://{self._folder}/docker.sock"
        self._log = (self._folder / "dockerd.log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
            self._make_image()
        except BaseException:
            self._end()
            raise
        self._host.environment["DOCKER_HOST"] = self.address
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def start(self) -> None:
        folder = self._folder
        self._process = subprocess.Popen(
            [
                *self._host.inside("dockerd"),
                *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
                *("--pidfile", str(folder / "pid"), "--host", self.address, "--storage-driver", "vfs"),
                *("--iptables=true", "--bip", "172.31.0.1/24"),
            ],
            stdout=self._log,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
        )
        until(self._answers, "dockerd answers", 40)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "dockerd.log").read_text()[-2000:]
        return self.docker("version", check=False).status == 0

    def stop(self) -> None:
        """End the daemon alone. Its containers go too: it was not told to let them live."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _make_image(self) -> None:
        root = self._folder / "root"
        (root / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "bin" / "busybox")
        for applet in ("sh", "sleep", "ping", "cat"):
            (root / "bin" / applet).symlink_to("busybox")
        archive = self._folder / "image.tar"
        execute(["tar", "-C", str(root), "-cf", str(archive), "."])
        self.docker("import", str(archive), IMAGE)

    def docker(self, *arguments: str, check: bool = True) -> Done:
        return execute(["docker", "--host", self.address, *arguments], check=check)

    def run(self, name: str, *options: str) -> DockerContainer:
        """A container that does nothing."""
        self.docker("run", "-d", "--name", name, *options, IMAGE, "/bin/sleep", "1000000")
        return DockerContainer(self, name)

    def remove(self, *names: str) -> None:
        self.docker("rm", "-f", *names)

    def _end(self) -> None:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            if ids := self.docker("ps", "-aq").out.split():
                self.docker("rm", "-f", *ids)
        self.stop()
        for pid in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self._left(), "everything of this dockerd has ended")
        self._log.close()
        for point in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            path = point.split()[1]
            if path.startswith(f"{self._folder}/"):
                subprocess.run(["umount", "-l", path], check=False, capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _left(self) -> list[int]:
        """Processes that name our folder: containerd, shims. It is made by us and carries our pid."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if str(self._folder).encode() in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found
