"""OpenVPN between two hosts: TAP, TLS with pinned certificates, AES-256-GCM."""

from __future__ import annotations

import re
from pathlib import Path

from bench.contender import Contender, End
from bench.topology import BenchError, run

__all__ = ["OpenVpn"]

MTU = 1420
PORT = "1194"
DEVICE = "tap0"
CIPHER = "AES-256-GCM"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


class OpenVpn(Contender):
    name = "openvpn"
    title = "OpenVPN (Debian)"
    note = CIPHER
    peer = True
    commands = ("openvpn", "openssl")

    def _start(self) -> tuple[End, End]:
        prints = [self._certificate(number) for number in (0, 1)]
        made = []
        for number, role in enumerate(("tls-server", "tls-client")):
            own = self._file(number, "")
            lines = [
                *("dev " + DEVICE, "dev-type tap", "proto udp4", f"port {PORT}"),
                *(f"remote {self.lab.address(1 - number)}", role, "dh none", f"cert {own}.crt", f"key {own}.key"),
                *(f"peer-fingerprint {prints[1 - number]}", f"data-ciphers {CIPHER}", f"tun-mtu {MTU}", "mssfix 0"),
                *("disable-dco", "sndbuf 1048576", "rcvbuf 1048576", "keepalive 10 60", "verb 0"),
            ]
            file = self._file(number, ".conf")
            file.write_text("\n".join(lines) + "\n")
            self._daemon(number, "openvpn", "--config", str(file))
            self._appears(number, DEVICE)
            made.append(self._bridged(number, DEVICE, MTU))
        return made[0], made[1]

    def _file(self, number: int, end: str) -> Path:
        return self.lab.folder / f"openvpn{number}{end}"

    def _certificate(self, number: int) -> str:
        """Makes key and certificate; returns its fingerprint."""
        key, certificate = (str(self._file(number, end)) for end in (".key", ".crt"))
        run("openssl", "req", "-x509", *NEW_KEY, "-subj", f"/CN=host{number}", "-keyout", key, "-out", certificate)
        text = run("openssl", "x509", "-in", certificate, "-noout", "-fingerprint", "-sha256")
        found = re.search(r"=([0-9A-F:]{95})$", text.strip())
        if found is None:
            raise BenchError("openssl shows no fingerprint")
        return found[1]
