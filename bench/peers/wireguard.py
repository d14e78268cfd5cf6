"""wireguard-go: WireGuard in user space. Layer 3, so routed."""

from __future__ import annotations

import os
from pathlib import Path

from bench.contender import Contender, End, subnet
from bench.topology import run, wait_until

__all__ = ["WireGuardGo"]

MTU = 1420  # wg-quick's
PORT = 51820
NO_WARNING = {"WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD": "1"}


class WireGuardGo(Contender):
    name = "wireguard-go"
    title = "wireguard-go (Debian)"
    note = "ChaCha20-Poly1305"
    peer = True
    commands = ("wireguard-go", "wg")

    def _start(self) -> tuple[End, End]:
        # Its control socket lies in /run/wireguard under the interface's name, for all namespaces: so our pid is in the name.
        names = [f"mdw{os.getpid()}{number}" for number in "ab"]
        private, public = zip(*(self._key(name) for name in names), strict=True)
        made = []
        for number, name in enumerate(names):
            host = self.lab.host(number)
            self._daemon(number, "wireguard-go", "-f", name, env=os.environ | NO_WARNING)
            socket = Path(f"/run/wireguard/{name}.sock")
            wait_until(socket.exists, "wireguard-go does not start")
            peer = ("peer", public[1 - number], "endpoint", f"{self.lab.address(1 - number)}:{PORT}")
            own = ("private-key", str(private[number]), "listen-port", str(PORT))
            self.lab.run(host, "wg", "set", name, *own, *peer, "allowed-ips", subnet(1 - number))
            self.lab.ip(host, "link", "set", name, "mtu", str(MTU), "up")
            self.lab.ip(host, "route", "add", subnet(1 - number), "dev", name)
            made.append(self._routed(number, MTU))
        return made[0], made[1]

    def _key(self, name: str) -> tuple[Path, str]:
        file = self.lab.folder / f"{name}.key"
        file.touch(mode=0o600)
        file.write_text(run("wg", "genkey"))
        # `wg pubkey` reads standard input, so that no key appears on a command line.
        return file, run("sh", "-c", 'wg pubkey < "$1"', "sh", str(file)).strip()
