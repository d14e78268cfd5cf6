"""Other projects' user-space overlays, as Debian packages them, each set up as its manual says for two hosts.

Keys and configuration are made in the lab's folder and go with it; every process lives in the lab's namespaces. MTUs are such
that a full packet of a container fits one packet of the underlay: none pays for fragments.
"""

from __future__ import annotations

from bench.contender import Contender
from bench.peers.fastd import Fastd
from bench.peers.n2n import N2n
from bench.peers.nebula import Nebula
from bench.peers.openvpn import OpenVpn
from bench.peers.tinc import Tinc
from bench.peers.wireguard import WireGuardGo

__all__ = ["PEERS"]

PEERS: tuple[type[Contender], ...] = (WireGuardGo, Tinc, Fastd, N2n, Nebula, OpenVpn)
