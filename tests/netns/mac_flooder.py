"""Frames from as many source MACs as there are frames, as a process of its own: it shares no interpreter with the test.

    python -m tests.netns.mac_flooder INTERFACE DESTINATION FIRST COUNT RATE

Source MACs are 06:00 and 32 bits that count up from FIRST; the frames have EtherType 0x88B5 (IEEE 802, for experiments). RATE is in
frames a second. Prints how many were sent.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time

ETHERTYPE = b"\x88\xb5"
BATCH = 200  # between two looks at the clock


def main(interface: str, destination: str, first: str, count: str, rate: str) -> None:
    to, begin, total = bytes.fromhex(destination.replace(":", "")), int(first), int(count)
    sent, refused, started = 0, 0, time.monotonic()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        while sent < total:
            due = min(int((time.monotonic() - started) * float(rate)) - sent, BATCH, total - sent)
            if due <= 0:
                time.sleep(0.0005)  # the pace: nothing is due yet
                continue
            for number in range(begin + sent, begin + sent + due):
                source = b"\x06\x00" + number.to_bytes(4, "big")
                try:
                    raw.send(to + source + ETHERTYPE + bytes(46))
                except OSError:  # a full queue of the link
                    refused += 1
            sent += due
    print(sent - refused, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
