"""The engine on real devices: TAPs in bridges of two namespaces, UDP between them; a ping, datagrams, 50 MB byte for byte."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench.engine_alone import EngineAlone
from bench.topology import Lab, enter

MEGABYTES = 50
RECEIVE = """
import hashlib, socket, sys
with socket.create_server((sys.argv[1], 7000), family=socket.AF_INET) as server:
    print("ready", flush=True)
    stream, _ = server.accept()
    digest = hashlib.sha256()
    while data := stream.recv(1 << 20):
        digest.update(data)
    print(digest.hexdigest(), flush=True)
"""
SEND = """
import random, socket, sys
with socket.create_connection((sys.argv[1], 7000), timeout=20) as stream:
    stream.sendall(random.Random(1).randbytes(int(sys.argv[2]) << 20))
"""
UDP_ECHO = """
import socket, sys
mine = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
mine.bind((sys.argv[1], 7001))
print("ready", flush=True)
while True:
    data, source = mine.recvfrom(65535)
    mine.sendto(data, source)
"""
UDP_ASK = """
import socket, sys
mine = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
mine.settimeout(10)
for size in (0, 1, 64, 1300, 1344):
    data = bytes(number & 255 for number in range(size))
    mine.sendto(data, (sys.argv[1], 7001))
    assert mine.recv(65535) == data, size
"""


CASES = [(engine, offloads) for engine in ("native", "python") for offloads in (True, False)]


@pytest.fixture(
    scope="module", params=CASES, ids=[f"{name}, {'' if offloads else 'no '}offloads" for name, offloads in CASES]
)
def mesh(request: pytest.FixtureRequest) -> Iterator[EngineAlone]:
    engine, offloads = request.param
    with Lab(2, tag="t") as lab:
        made = EngineAlone(lab, "--engine", engine)
        made.start()
        if not offloads:
            lab.set_offloads(False)
        yield made


def inside(mesh: EngineAlone, host: int, *arguments: str) -> list[str]:
    return [*enter(mesh.ends[host].space), *arguments]


def test_ping(mesh: EngineAlone) -> None:
    for host, address in ((0, "10.77.1.2"), (1, "10.77.1.1")):
        for size in ("56", "1344"):
            command = inside(mesh, host, "ping", "-c", "3", "-i", "0.01", "-w", "3", "-s", size, address)
            subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("receiver", [0, 1])
def test_a_stream_comes_out_as_it_went_in(mesh: EngineAlone, receiver: int) -> None:
    address = f"10.77.1.{receiver + 1}"
    command = inside(mesh, receiver, sys.executable, "-c", RECEIVE, address)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "ready\n"
            send = inside(mesh, 1 - receiver, sys.executable, "-c", SEND, address, str(MEGABYTES))
            subprocess.run(send, check=True, timeout=50)
            assert server.stdout.readline().strip() == expected()
        finally:
            server.kill()


def expected() -> str:
    return hashlib.sha256(random.Random(1).randbytes(MEGABYTES << 20)).hexdigest()


def test_datagrams_of_all_sizes_come_back(mesh: EngineAlone) -> None:
    with subprocess.Popen(
        inside(mesh, 1, sys.executable, "-c", UDP_ECHO, "10.77.1.2"), stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "ready\n"
            subprocess.run(inside(mesh, 0, sys.executable, "-c", UDP_ASK, "10.77.1.2"), check=True, timeout=50)
        finally:
            server.kill()
