"""Nebula: layer 3, so the containers are `unsafe_routes` behind the two hosts."""

from __future__ import annotations

from pathlib import Path

from bench.contender import Contender, End, subnet
from bench.topology import run

__all__ = ["Nebula"]

MTU = 1300  # its default
PORT = 4242
DEVICE = "nebula1"
NETWORK = "10.77.9"
CONFIGURATION = """\
pki: {{ca: {folder}/ca.crt, cert: {folder}/{number}.crt, key: {folder}/{number}.key}}
static_host_map: {{"{far}": ["{address}:{port}"]}}
lighthouse: {{am_lighthouse: false, hosts: []}}
listen: {{host: 0.0.0.0, port: {port}}}
punchy: {{punch: false}}
cipher: aes
tun: {{dev: {device}, mtu: {mtu}, unsafe_routes: [{{route: {subnet}, via: {far}}}]}}
logging: {{level: error, format: text}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
"""


class Nebula(Contender):
    name = "nebula"
    title = "nebula (Debian)"
    note = "AES-256-GCM"
    peer = True
    commands = ("nebula", "nebula-cert")

    def _start(self) -> tuple[End, End]:
        folder = self.lab.folder
        authority = ("-out-crt", f"{folder}/ca.crt", "-out-key", f"{folder}/ca.key")
        run("nebula-cert", "ca", "-name", "bench", "-duration", "24h", *authority)
        made = []
        for number in (0, 1):
            file = self._configure(folder, number)
            self._daemon(number, "nebula", "-config", str(file))
            self._appears(number, DEVICE)
            made.append(self._routed(number, MTU))
        return made[0], made[1]

    def _configure(self, folder: Path, number: int) -> Path:
        files = ("-out-crt", f"{folder}/{number}.crt", "-out-key", f"{folder}/{number}.key")
        signer = ("-ca-crt", f"{folder}/ca.crt", "-ca-key", f"{folder}/ca.key")
        own = ("-name", f"host{number}", "-ip", f"{NETWORK}.{number + 1}/24", "-subnets", subnet(number))
        run("nebula-cert", "sign", *signer, *own, *files)
        file = folder / f"nebula{number}.yml"
        text = CONFIGURATION.format(
            folder=folder,
            number=number,
            far=f"{NETWORK}.{2 - number}",
            address=self.lab.address(1 - number),
            port=PORT,
            device=DEVICE,
            mtu=MTU,
            subnet=subnet(1 - number),
        )
        file.write_text(text)
        return file
