"""Who looks at inner frames: what they select, that they hold nothing up, and that nobody's looking costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from meshd.daemon.mirrors import MAX_MIRRORS, MAX_QUEUED, MAX_QUEUED_BYTES, Mirrors
from meshd.daemon.selection import Known, Selection, select
from meshd.drops import DropReason
from meshd.errors import UserError
from meshd.forward.engine.interface import Engine, Mirror
from meshd.forward.slots import FIRST_PEER, FLOOD, GROUP, LOCAL, drop_slot
from meshd.ids import SlotId, parse_mac
from tests.engine.reference import A_MAC, B_MAC, arp, tcp, udp

PEER, OTHER = FIRST_PEER, SlotId(FIRST_PEER + 1)
ARP, TCP, UDP = bytes(arp()), bytes(tcp(b"data", vlan=5)), bytes(udp(b"data", 6))
KNOWN = Known(
    containers=lambda word: frozenset({bytes(parse_mac(A_MAC))}) if word in ("web", "icmp") else frozenset(),
    peer=lambda word: PEER if word == "host2" else None,
)


def takes(*words: str) -> list[str]:
    selection = select(words, KNOWN)
    frames = {"arp": ARP, "tcp": TCP, "udp": UDP}
    return [name for name, frame in frames.items() if selection.takes(PEER, frame)]


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        ((), ["arp", "tcp", "udp"]),
        (("web",), ["arp", "tcp", "udp"]),
        (("web", "udp"), ["udp"]),
        (("10.2.0.1",), ["arp", "tcp"]),
        (("10.2.0.2", "not arp"), ["tcp"]),
        (("10.2.0.3",), []),
        (("fd00::2",), ["udp"]),
        ((B_MAC,), ["tcp", "udp"]),
        (("02:00:00:00:00:99",), []),
        (("arp or udp",), ["arp", "udp"]),
        (("arp", "or", "udp"), ["arp", "udp"]),
        (("icmp",), ["arp", "tcp", "udp"]),  # a container has that name
    ],
)
def test_what_is_selected(words: tuple[str, ...], taken: list[str]) -> None:
    assert takes(*words) == taken


def test_a_peer() -> None:
    selection = select(("host2",), KNOWN)
    assert [selection.takes(slot, ARP) for slot in (PEER, OTHER, FLOOD, GROUP)] == [True, False, True, False]
    assert selection.title == "peer host2"
    assert select(("web", "tcp", "port", "80"), KNOWN).title == "container web, filter tcp port 80"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("wbe",), "'wbe' is no container, peer or address of this mesh, and no filter"),
        (("tcp prot 80",), "at 'prot'"),
        (("web", "prot 80"), "at 'prot'"),
    ],
)
def test_what_is_nothing(words: tuple[str, ...], text: str) -> None:
    with pytest.raises(UserError, match=text.replace("(", r"\(")):
        select(words, KNOWN)


def test_runts_have_no_address() -> None:
    selection = select(("10.2.0.1",), KNOWN)
    for size in range(len(TCP)):
        selection.takes(PEER, TCP[:size])


# ── the mirrors


class Looking:
    """An engine that only knows whether it is looked at."""

    def __init__(self) -> None:
        self.mirror: Mirror | None = None

    def set_mirror(self, mirror: Mirror | None) -> None:
        self.mirror = mirror

    def looked_at(self) -> bool:
        return self.mirror is not None

    def show(self, inward: bool, slot: SlotId, frame: bytes) -> None:
        assert self.mirror is not None
        self.mirror(inward, slot, frame)


ALL = Selection(title="all frames", wanted=())


def run(test: Callable[[Mirrors, Looking], Any]) -> None:
    async def main() -> None:
        engine = Looking()
        await test(Mirrors(cast(Engine, engine), lambda slot: f"host{slot}"), engine)

    asyncio.run(main())


def test_the_engine_is_looked_at_only_while_somebody_does() -> None:
    async def test(mirrors: Mirrors, engine: Looking) -> None:
        assert not engine.looked_at()
        first, second = mirrors.open(ALL), mirrors.open(ALL)
        assert engine.looked_at()
        first.close()
        first.close()
        assert engine.looked_at()
        second.close()
        assert not engine.looked_at()

    run(test)


def test_what_is_told_of_a_frame() -> None:
    async def test(mirrors: Mirrors, engine: Looking) -> None:
        mirror = mirrors.open(ALL)
        engine.show(False, PEER, ARP)
        engine.show(True, PEER, TCP)
        engine.show(False, FLOOD, ARP)
        engine.show(False, GROUP, ARP)
        engine.show(False, LOCAL, ARP)  # the mesh does not carry it
        engine.show(False, drop_slot(DropReason.MAC_FROZEN), ARP)
        shown = await mirror.frames(0.01)
        assert shown is not None
        assert [(one.inward, one.peer, one.note, one.frame) for one in shown] == [
            (False, "host256", "", ARP),
            (True, "host256", "", TCP),
            (False, "", "to all", ARP),
            (False, "", "to the group", ARP),
            (False, "", "dropped: mac_frozen", ARP),
        ]
        assert await mirror.frames(0.0) == []

    run(test)


def test_who_does_not_keep_up_loses_frames_and_is_told() -> None:
    async def test(mirrors: Mirrors, engine: Looking) -> None:
        mirror, other = mirrors.open(ALL), mirrors.open(select(("10.9.9.9",), KNOWN))
        for _ in range(MAX_QUEUED + 3):
            engine.show(False, PEER, ARP)
        assert (mirror.lost, other.lost) == (3, 0)
        assert len(await mirror.frames(0) or []) == MAX_QUEUED
        big = ARP + bytes(60_000)
        for _ in range(100):
            engine.show(False, PEER, big)
        shown = await mirror.frames(0) or []
        assert len(shown) == MAX_QUEUED_BYTES // len(big)
        assert mirror.lost == 3 + 100 - len(shown)

    run(test)


def test_a_waiting_reader_is_woken() -> None:
    async def test(mirrors: Mirrors, engine: Looking) -> None:
        mirror = mirrors.open(ALL)
        waiting = asyncio.ensure_future(mirror.frames(60))
        await asyncio.sleep(0)
        engine.show(True, PEER, ARP)
        assert [one.frame for one in await waiting or []] == [ARP]
        waiting = asyncio.ensure_future(mirror.frames(60))
        await asyncio.sleep(0)
        mirrors.close()
        assert await waiting is None
        assert not engine.looked_at()

    run(test)


def test_what_was_seen_before_the_end_is_still_shown() -> None:
    async def test(mirrors: Mirrors, engine: Looking) -> None:
        mirror = mirrors.open(ALL)
        engine.show(True, PEER, ARP)
        mirrors.close()
        assert len(await mirror.frames(0) or []) == 1
        assert await mirror.frames(0) is None

    run(test)


def test_too_many_look() -> None:
    async def test(mirrors: Mirrors, engine: Looking) -> None:
        for _ in range(MAX_MIRRORS):
            mirrors.open(ALL)
        with pytest.raises(UserError, match="8 captures run"):
            mirrors.open(ALL)

    run(test)
