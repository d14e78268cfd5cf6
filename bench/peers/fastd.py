"""fastd in TAP mode, with the cipher that its authors recommend for speed."""

from __future__ import annotations

import re

from bench.contender import Contender, End
from bench.topology import BenchError, run

__all__ = ["Fastd"]

MTU = 1406
PORT = 10000
DEVICE = "tap0"
METHOD = "salsa2012+umac"


class Fastd(Contender):
    name = "fastd"
    title = "fastd (Debian)"
    note = "Salsa20/12, UMAC"
    peer = True
    commands = ("fastd",)

    def _start(self) -> tuple[End, End]:
        keys = [_pair(run("fastd", "--generate-key")) for _ in range(2)]
        made = []
        for number in (0, 1):
            file = self.lab.folder / f"fastd{number}.conf"
            file.touch(mode=0o600)
            file.write_text(
                f'mode tap;\ninterface "{DEVICE}";\nmtu {MTU};\nmethod "{METHOD}";\nlog level error;\n'
                f'bind {self.lab.address(number)}:{PORT};\nsecret "{keys[number][0]}";\n'
                f'peer "other" {{ key "{keys[1 - number][1]}"; remote {self.lab.address(1 - number)}:{PORT}; }}\n'
            )
            self._daemon(number, "fastd", "-c", str(file))
            self._appears(number, DEVICE)
            made.append(self._bridged(number, DEVICE, MTU))
        return made[0], made[1]


def _pair(text: str) -> tuple[str, str]:
    """(secret, public) out of what `fastd --generate-key` prints."""
    found = re.findall(r"^(?:Secret|Public): ([0-9a-f]{64})$", text, re.MULTILINE)
    if len(found) != 2:
        raise BenchError("fastd --generate-key prints no keys")
    return found[0], found[1]
