"""Guards as the daemon keeps them: what is refused, what is only said, what is put back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from meshd.capture.guards import Guard
from meshd.daemon import guards as module
from meshd.daemon.guards import Guards
from meshd.errors import UserError
from meshd.ids import parse_mac

WEB = Guard(host_ifname="mvweb", mac=parse_mac("02:00:00:00:00:01"), addresses=("10.0.0.1/24",))
SAFE = replace(WEB, port_security=True)


class Kernel:
    """In the place of nft."""

    def __init__(self) -> None:
        self.there: dict[str, Guard] = {}
        self.installed = True
        self.failure: OSError | None = None
        self.asked = 0
        self.gone = ""  # an interface
        self.calls: list[int] = []

    def available(self) -> bool:
        return self.installed

    def set_guards(self, bridge: str, guards: Sequence[Guard]) -> None:
        assert bridge == "meshd"
        self._fail()
        self.calls.append(len(guards))
        self.there.update((guard.host_ifname, guard) for guard in guards)

    def of_interfaces(self, guards: Sequence[Guard]) -> list[Guard]:
        return [guard for guard in guards if guard.host_ifname != self.gone]

    def remove_guard(self, bridge: str, host_ifname: str) -> None:
        self._fail()
        self.there.pop(host_ifname, None)

    def guard_counters(self, bridge: str) -> dict[str, dict[str, int]]:
        self.asked += 1
        self._fail()
        return {name: {"flood": 7} for name in self.there}

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    for name in ("available", "set_guards", "remove_guard", "guard_counters", "of_interfaces"):
        monkeypatch.setattr(module, name, getattr(kernel, name))
    return kernel


def test_put_counted_removed(kernel: Kernel) -> None:
    async def test() -> None:
        guards = Guards("meshd")
        await guards.count()
        assert kernel.asked == 0, "nobody is guarded, so nobody is asked"
        guards.put(SAFE)
        await guards.count()
        await guards.count()
        assert (kernel.asked, guards.drops("mvweb"), guards.drops("mvother")) == (1, {"flood": 7}, {})
        await guards.remove("mvweb")
        await guards.remove("mvweb")
        assert kernel.there == {}
        assert guards.problem == ""

    asyncio.run(test())


def test_what_was_flushed_comes_back(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        guards = Guards("meshd")
        await guards.put_all([WEB])
        await guards.recheck()
        assert caplog.text == ""
        kernel.there.clear()
        await guards.recheck()
        assert kernel.there == {"mvweb": WEB}
        assert "somebody removed the guards of 1 containers" in caplog.text

    asyncio.run(test())


def test_many_are_put_in_parts_and_one_that_has_gone_keeps_none_out(kernel: Kernel) -> None:
    async def test() -> None:
        many = [replace(WEB, host_ifname=f"mv{number}") for number in range(150)]
        kernel.gone = "mv70"
        await Guards("meshd").put_all(many)
        assert kernel.there.keys() == {guard.host_ifname for guard in many} - {"mv70"}
        assert kernel.calls == [64, 64, 21]

    asyncio.run(test())


def test_without_nft_all_works_but_port_security(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    kernel.installed = False

    async def test() -> None:
        guards = Guards("meshd")
        assert guards.problem.startswith("nft is not installed")
        assert guards.problem in caplog.text
        guards.check(WEB)
        guards.put(WEB)
        await guards.put_all([WEB])
        await guards.count()
        await guards.recheck()
        await guards.remove("mvweb")
        assert kernel.asked == 0
        with pytest.raises(UserError, match="--port-security needs nft"):
            guards.check(SAFE)

    asyncio.run(test())


def test_a_kernel_that_refuses(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    kernel.failure = OSError(5, "nft: Operation not supported")

    async def test() -> None:
        guards = Guards("meshd")
        guards.put(WEB)
        guards.put(WEB)
        assert guards.problem == "no guards on containers' interfaces: nft: Operation not supported"
        assert caplog.text.count("Operation not supported") == 1
        with pytest.raises(UserError, match="--port-security cannot be had here: nft: Operation not supported"):
            guards.put(SAFE)
        guards.put(WEB)
        await guards.count()
        await guards.remove("mvweb")
        kernel.failure = None
        guards.put(WEB)
        assert guards.problem == ""

    asyncio.run(test())
