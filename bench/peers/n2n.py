"""n2n as Debian has it (version 1): two edges that find one another through a supernode.

An edge takes frames for its own MAC only, so the containers are routed over its TAP.
"""

from __future__ import annotations

import os
import secrets

from bench.contender import Contender, End, subnet

__all__ = ["N2n"]

MTU = 1400  # its default
PORT = 7654
DEVICE = "n2n0"
NETWORK = "10.77.9"


class N2n(Contender):
    name = "n2n"
    title = "n2n 1 (Debian)"
    note = "Twofish"
    peer = True
    commands = ("edge", "supernode")

    def _start(self) -> tuple[End, End]:
        self.lab.spawn(self.lab.host(0), "supernode", "-l", str(PORT))
        made = []
        key = {"N2N_KEY": secrets.token_hex(16)}
        for number in (0, 1):
            host, own = self.lab.host(number), f"{NETWORK}.{number + 1}"
            rest = ("-l", f"{self.lab.address(0)}:{PORT}", "-p", str(PORT + 1), "-M", str(MTU), "-r")
            self._daemon(number, "edge", "-d", DEVICE, "-a", own, "-c", "bench", *rest, env=os.environ | key)
            self._appears(number, DEVICE)
            self.lab.ip(host, "link", "set", DEVICE, "mtu", str(MTU), "up")
            made.append(self._routed(number, MTU))
        for number in (0, 1):
            far = f"{NETWORK}.{2 - number}"
            self.lab.ip(self.lab.host(number), "route", "add", subnet(1 - number), "via", far, "dev", DEVICE)
        return made[0], made[1]
