"""A small sender for floods of forged handshakes, as a process of its own: it shares no interpreter with the test that measures.

    python -m tests.netns.flooder INTERFACE MAC ADDRESS SECONDS RATE < datagrams

Reads datagrams (length u16, bytes) from its standard input, puts each behind Ethernet, IPv4 with a source invented from 198.18/15
(RFC 2544) and UDP, and sends them round and round. Prints how many it has sent.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import sys
import time

from tests.ones import checksum

BATCH = 200  # between two looks at the clock


def frame(mac: bytes, address: bytes, source: bytes, port: int, payload: bytes) -> bytes:
    """To UDP port 6783; without a UDP checksum, as IPv4 allows."""
    size = 28 + len(payload)
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size, 1, 0x4000, 64, socket.IPPROTO_UDP, 0, source, address)
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    udp = struct.pack(">HHHH", port, 6783, 8 + len(payload), 0)
    return mac + b"\x02flood" + b"\x08\x00" + head + udp + payload


def main(interface: str, mac: str, address: str, seconds: str, rate: str) -> None:
    rng, data, frames = random.Random(1), sys.stdin.buffer.read(), []
    target, to = bytes.fromhex(mac.replace(":", "")), socket.inet_aton(address)
    while data:
        size = int.from_bytes(data[:2], "little")
        payload, data = data[2 : 2 + size], data[2 + size :]
        source = bytes((198, 18 + rng.randrange(2), rng.randrange(256), rng.randrange(1, 255)))
        frames.append(frame(target, to, source, rng.randrange(1024, 65536), payload))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        sent, started = 0, time.monotonic()
        while (passed := time.monotonic() - started) < float(seconds):
            due = min(int(passed * float(rate)) - sent, BATCH)
            if due <= 0:
                time.sleep(0.0005)
                continue
            for number in range(sent, sent + due):
                with contextlib.suppress(OSError):  # a full queue of the link
                    raw.send(frames[number % len(frames)])
            sent += due
    print(sent, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
