"""tinc 1.0 in switch mode: an Ethernet like ours."""

from __future__ import annotations

from pathlib import Path

from bench.contender import Contender, End
from bench.topology import run

__all__ = ["Tinc"]

MTU = 1400
DEVICE = "tap0"
NAMES = ("one", "two")
RSA_BITS = "2048"


class Tinc(Contender):
    name = "tinc"
    title = "tinc (Debian)"
    note = "AES-256-CBC, SHA-256"
    peer = True
    commands = ("tincd",)

    def _start(self) -> tuple[End, End]:
        folders = [self._configure(number) for number in (0, 1)]
        for number, folder in enumerate(folders):
            other = folders[1 - number] / "hosts" / NAMES[1 - number]
            (folder / "hosts" / other.name).write_text(other.read_text())
        made = []
        for number, folder in enumerate(folders):
            self._daemon(number, "tincd", "-D", "-c", str(folder), f"--pidfile={folder / 'pid'}")
            self._appears(number, DEVICE)
            made.append(self._bridged(number, DEVICE, MTU))
        return made[0], made[1]

    def _configure(self, number: int) -> Path:
        folder = self.lab.folder / f"tinc{number}"
        (folder / "hosts").mkdir(parents=True)
        lines = [f"Name = {NAMES[number]}", "Mode = switch", "DeviceType = tap", f"Interface = {DEVICE}"]
        if number:
            lines.append(f"ConnectTo = {NAMES[0]}")
        (folder / "tinc.conf").write_text("\n".join(lines) + "\n")
        own = [f"Address = {self.lab.address(number)}", "Cipher = aes-256-cbc", "Digest = sha256", "Compression = 0"]
        (folder / "hosts" / NAMES[number]).write_text("\n".join(own) + "\n")
        run("tincd", "-c", str(folder), "-K", RSA_BITS)  # adds the public key to our hosts file
        return folder
