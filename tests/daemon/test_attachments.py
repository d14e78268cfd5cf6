"""Containers in and out: the order of things, all or nothing, and what comes back after a restart of either side."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from typing import Any

import pytest

from meshd.capture.guards import Guard
from meshd.capture.netns import Inode
from meshd.capture.veth import HostEnd, Mtus, host_ifname, stable_mac
from meshd.control.limits import MAX_ADDRESSES
from meshd.daemon import attachments as module
from meshd.daemon.supersize import gso_max_size
from meshd.errors import UserError
from meshd.ids import Mac, format_mac, parse_mac
from tests.daemon.world import HOST_NAMESPACE, SEED, World, make_world, play

ONE, TWO, THREE = "10.1.0.1/24", "10.1.0.2/24", "fd00::3/64"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return make_world(monkeypatch)


@pytest.mark.parametrize(("mtu", "segments"), [(1372, 45), (576, 64), (16_000, 3), (8872, 7)])
def test_a_super_frame_seals_into_one_send(mtu: int, segments: int) -> None:
    assert gso_max_size(mtu) // (mtu - 60) == segments
    assert segments * (mtu + 48) <= 63_900


# ── attach


def test_the_mesh_knows_before_the_interface_is_there(world: World) -> None:
    web = world.container("web", 100)
    end = host_ifname(Inode(4, 100), "meshd")

    async def test() -> None:
        result = await world.plug_in("web", ONE, THREE)
        assert world.log == [("publish", "web", (ONE, THREE)), ("plug", end, (ONE, THREE))]
        mac = stable_mac(SEED, web.id)
        assert (result.addresses, result.mac, result.id) == ((ONE, THREE), format_mac(mac), web.id[:12])
        assert world.published == {web.id: (mac, (ONE, THREE))}
        (view,) = world.attachments.views()
        assert (view.id, view.label, view.name, view.mac) == (web.id, web.id[:12], "web", format_mac(mac))
        assert (view.addresses, view.ifname, view.host_ifname) == ((ONE, THREE), "mesh0", end)
        assert world.disk[web.id].namespace == (4, 100)
        assert world.plugged[end].gso_max_size == gso_max_size(1372)
        assert world.attachments.wants_docker

    play(test())


def test_attaching_twice_is_attaching_once(world: World) -> None:
    world.container("web", 100)

    async def test() -> None:
        first = await world.plug_in("web", ONE)
        seen = world.as_seen()
        again = await world.plug_in("web", ONE)
        assert (again, world.as_seen()) == (first, seen)
        more = await world.plug_in("web", TWO, ONE, TWO)
        assert more.addresses == (TWO, ONE, TWO)  # those asked for
        assert world.attachments.views()[0].addresses == (ONE, TWO)  # in the order of attaching
        assert (await world.plug_in("web")).addresses == (ONE, TWO)

    play(test())


def test_an_interface_keeps_the_name_that_it_was_given(world: World) -> None:
    """Nobody has to repeat it; also over a restart of the router."""
    world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE, ifname="eth1")
        await world.plug_in("web", TWO)
        world.attachments = world.router()
        await world.attachments.adopt(list(world.disk.values()), world.ends())
        await world.plug_in("web", THREE)
        (plug,) = world.plugged.values()
        assert (plug.ifname, plug.addresses) == ("eth1", (ONE, TWO, THREE))

    play(test())


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.ENODEV, "no such device"), UserError("has an interface mesh0 already"), RuntimeError("bug")],
)
@pytest.mark.parametrize("attached_before", [False, True])
def test_a_plug_that_fails_leaves_all_as_it_was(world: World, failure: Exception, attached_before: bool) -> None:
    world.container("web", 100)

    async def test() -> None:
        if attached_before:
            await world.plug_in("web", ONE)
        seen = world.as_seen()
        world.plug_failure = failure
        with pytest.raises((UserError, RuntimeError)) as refused:
            await world.plug_in("web", TWO)
        assert world.as_seen() == seen
        if isinstance(failure, OSError):
            assert str(refused.value) == "cannot plug in web: no such device"
        world.plug_failure = None
        await world.plug_in("web", TWO)

    play(test())


def test_what_the_mesh_refuses_is_not_plugged_in(world: World) -> None:
    world.container("web", 100)
    world.publish_failure = UserError("this host announces too much")

    async def test() -> None:
        with pytest.raises(UserError, match="too much"):
            await world.plug_in("web", ONE)
        assert world.as_seen() == ({}, {}, {}, ())

    play(test())


def test_an_address_that_another_one_holds_is_refused(world: World) -> None:
    world.container("web", 100)
    world.held[TWO] = "container db on 7a:0f:f6:ec:1c:93(host2)"

    async def test() -> None:
        with pytest.raises(UserError, match=r"10\.1\.0\.2 is held by container db on 7a:0f"):
            await world.plug_in("web", ONE, TWO)
        assert world.log == []

    play(test())


def test_the_hosts_own_network_is_refused(world: World) -> None:
    world.container("inside", HOST_NAMESPACE.number)

    async def test() -> None:
        with pytest.raises(UserError, match="uses the host's network"):
            await world.plug_in("inside", ONE)
        assert world.log == []

    play(test())


def test_containers_that_share_a_namespace_share_the_attachment(world: World) -> None:
    web = world.container("web", 100)
    world.container("sidecar", 100)

    async def test() -> None:
        first = await world.plug_in("web", ONE)
        second = await world.plug_in("sidecar", TWO)
        assert (second.mac, second.id) == (first.mac, first.id)
        assert len(world.attachments.views()) == 1
        assert world.published == {web.id: (stable_mac(SEED, web.id), (ONE, TWO))}
        assert (await world.take_out("sidecar")).addresses == (ONE, TWO)
        assert world.as_seen() == ({}, {}, {}, ())

    play(test())


def test_an_interface_that_was_there_keeps_its_mac(world: World) -> None:
    web = world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE)
        mac = world.attachments.views()[0].mac
        world.attachments = world.router()  # it has forgotten; the interface is still there, under another MAC
        (plug,) = world.plugged.values()
        world.plugged[plug.host_ifname] = type(plug)(
            host_ifname=plug.host_ifname,
            ifname="mesh0",
            bridge="meshd",
            mac=Mac(b"\x02other"),
            mtus=Mtus(1372, 1372),
            gso_max_size=0,
        )
        result = await world.plug_in("web", ONE)
        assert result.mac == format_mac(b"\x02other") != mac
        assert world.published[web.id][0] == b"\x02other"
        assert world.disk[web.id].mac == result.mac

    play(test())


def test_there_are_limits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ATTACHMENTS", 2)
    for number in range(3):
        world.container(f"box{number}", 100 + number)

    async def test() -> None:
        await world.plug_in("box0", *(f"10.1.{number}.1/24" for number in range(MAX_ADDRESSES)))
        seen = world.as_seen()
        with pytest.raises(UserError, match=f"more than {MAX_ADDRESSES} addresses"):
            await world.plug_in("box0", "10.2.0.1/24")
        assert world.as_seen() == seen
        await world.plug_in("box1")
        with pytest.raises(UserError, match="2 attachments, and that is the limit"):
            await world.plug_in("box2")
        await world.plug_in("box1", TWO)  # one that is attached takes no more room
        await world.take_out("box1")
        await world.plug_in("box2")

    play(test())


# ── detach


def test_detach_everything(world: World) -> None:
    world.container("web", 100)

    async def test() -> None:
        attached = await world.plug_in("web", ONE, TWO)
        world.log.clear()
        gone = await world.take_out("web")
        assert (gone.addresses, gone.id) == ((ONE, TWO), attached.id)
        assert [entry[0] for entry in world.log] == ["unplug", "withdraw"]
        assert world.as_seen() == ({}, {}, {}, ())
        assert not world.attachments.wants_docker
        with pytest.raises(UserError, match="web is not attached"):
            await world.take_out("web")

    play(test())


def test_detach_some_addresses(world: World) -> None:
    web = world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE, TWO, THREE)
        assert (await world.take_out("web", TWO)).addresses == (TWO,)
        assert world.log[-2:] == [("take", "mesh0", (TWO,)), ("publish", "web", (ONE, THREE))]
        assert world.disk[web.id].addresses == (ONE, THREE)
        seen = world.as_seen()
        with pytest.raises(UserError, match=r"does not have 10\.1\.0\.2/24"):
            await world.take_out("web", ONE, TWO)
        world.plug_failure = OSError(errno.ENODEV, "x")
        with pytest.raises(UserError, match="cannot take the address away: no such device"):
            await world.take_out("web", ONE)
        assert world.as_seen() == seen
        world.plug_failure = None
        await world.take_out("web", ONE, THREE)  # the last ones: the interface goes with them
        assert world.as_seen() == ({}, {}, {}, ())

    play(test())


# ── what happens by itself


def test_a_container_that_is_started_again_is_as_it_was(world: World) -> None:
    web = world.container("web", 100)

    async def test() -> None:
        first = await world.plug_in("web", ONE)
        await world.attachments.link_removed(world.end("web"))
        assert (world.published, world.attachments.views()) == ({}, ())
        await world.attachments.restore(web.id)  # still down: quietly nothing
        assert world.attachments.views() == ()
        web.runs, web.namespace = True, 200
        await world.attachments.restore(web.id)
        (view,) = world.attachments.views()
        assert (view.mac, view.addresses) == (first.mac, (ONE,))
        assert view.host_ifname == host_ifname(Inode(4, 200), "meshd")
        assert world.disk[web.id].namespace == (4, 200)
        await world.attachments.restore(web.id)  # again: no matter
        assert len(world.attachments.views()) == 1

    play(test())


@pytest.mark.parametrize(
    ("asked", "taken", "has"), [((), (), (ONE, TWO)), ((THREE,), (), (ONE, TWO, THREE)), ((), (ONE,), (TWO,))]
)
def test_who_attaches_it_before_its_start_is_seen_takes_nothing_from_it(
    world: World, asked: tuple[str, ...], taken: tuple[str, ...], has: tuple[str, ...]
) -> None:
    """`docker restart web && meshd attach web`: guarded as before, under the same MAC, with what nobody else has by now."""
    web = world.container("web", 100)

    async def test() -> None:
        first = await world.plug_in("web", ONE, TWO, ifname="eth1", port_security=True)
        await world.attachments.link_removed(world.end("web"))
        web.runs, web.namespace = True, 200
        world.held.update(dict.fromkeys(taken, "another"))
        await world.plug_in("web", *asked)
        await world.attachments.restore(web.id)
        (view,) = world.attachments.views()
        assert (view.mac, view.addresses, view.ifname, view.port_security) == (first.mac, has, "eth1", True)
        assert world.guarded[view.host_ifname].port_security

    play(test())


def test_one_that_runs_and_cannot_be_attached_again_is_told_of(world: World) -> None:
    """Its address was given away while it did not run. Nothing of it is plugged in, and it is not forgotten."""
    web = world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE)
        await world.attachments.link_removed(world.end("web"))
        await world.attachments.restore(web.id)
        assert world.notices == []  # it does not run: nothing to tell
        web.runs, web.namespace = True, 200
        world.held[ONE] = "container db on host2"
        await world.attachments.restore(web.id)
        (notice,) = world.notices
        assert notice.startswith("web runs, but is not attached again: 10.1.0.1 is held by container db on host2")
        assert (world.attachments.views(), world.plugged) == ((), {})
        del world.held[ONE]
        await world.attachments.restore(web.id)
        assert world.attachments.views()[0].addresses == (ONE,)

    play(test())


def test_the_end_of_the_old_namespace_may_be_told_late(world: World) -> None:
    web = world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE)
        old = world.end("web")
        web.runs, web.namespace = True, 200
        await world.attachments.restore(web.id)
        await world.attachments.link_removed(old)
        assert len(world.attachments.views()) == 1
        assert web.id in world.published

    play(test())


def test_the_end_of_an_interface_may_be_told_when_it_is_there_anew(world: World) -> None:
    """Detached and attached again at once: what is plugged in now stays known, and guarded."""
    world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE)
        (end,) = world.plugged
        await world.take_out("web")
        await world.plug_in("web", ONE)
        seen, guarded = world.as_seen(), dict(world.guarded)
        await world.attachments.link_removed(end)
        assert (world.as_seen(), world.guarded) == (seen, guarded)

    play(test())


@pytest.mark.parametrize("name", ["pid:4711", "netns:blue"])
def test_a_process_or_a_named_namespace_does_not_come_back(world: World, name: str) -> None:
    world.container(name, 100, id=name)

    async def test() -> None:
        await world.plug_in(name, ONE)
        assert not world.attachments.wants_docker
        await world.attachments.link_removed(world.end(name))
        assert world.as_seen() == ({}, {}, {}, ())

    play(test())


@pytest.mark.parametrize("word", ["web", "netns:blue"])
def test_a_namespace_with_the_number_of_one_that_has_just_ended_is_another_one(world: World, word: str) -> None:
    """Linux gives the lowest free number; that the former one's interface is gone may be told later."""
    before = world.container(word, 100, id="" if word == "web" else word)

    async def test() -> None:
        await world.plug_in(word, ONE, port_security=True)
        end = world.end(word)
        db = world.container("db", 100)
        await world.plug_in("db", TWO)
        await world.attachments.link_removed(end)
        assert world.published.keys() == {db.id}
        (view,) = world.attachments.views()
        assert (view.name, view.addresses, view.port_security) == ("db", (TWO,), False)
        assert world.disk.keys() == ({db.id, before.id} if word == "web" else {db.id})

    play(test())


def test_nor_is_one_restored_or_detached_in_its_place(world: World) -> None:
    web, db = world.container("web", 100), world.container("db", 200)

    async def test() -> None:
        await world.plug_in("db", TWO)
        await world.attachments.link_removed(world.end("db"))
        await world.plug_in("web", ONE)
        world.end("web")
        db.runs, db.namespace = True, 100
        await world.attachments.restore(db.id)
        assert [view.name for view in world.attachments.views()] == ["db"]
        world.end("db")
        web.runs, web.namespace = True, 100
        with pytest.raises(UserError, match="web is not attached"):
            await world.take_out("web")

    play(test())


def test_links_of_others_are_none_of_ours(world: World) -> None:
    world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE)
        seen = world.as_seen()
        await world.attachments.link_removed("mv0000000000")
        await world.attachments.links_resync(list(world.plugged))
        assert world.as_seen() == seen
        await world.attachments.links_resync([])  # a list from before it was plugged in
        assert world.as_seen() == seen
        world.end("web")
        await world.attachments.links_resync([])
        assert world.attachments.views() == ()

    play(test())


@pytest.mark.parametrize("word", ["web", "netns:blue", "pid:7"])
def test_an_interface_that_somebody_removed_is_plugged_in_again(world: World, word: str) -> None:
    """As long as it is the same namespace; else a container's own start is what counts, and others' is none."""
    box = world.container(word, 100, id="" if word == "web" else word)

    async def test() -> None:
        await world.plug_in(word, ONE, TWO, ifname="eth1", port_security=True)
        seen, guarded = world.as_seen(), dict(world.guarded)
        (end,) = world.plugged
        world.plugged.clear()
        await world.attachments.link_removed(end)
        assert (world.as_seen(), world.guarded) == (seen, guarded)
        world.plugged.clear()
        box.namespace = 200
        await world.attachments.link_removed(end)
        assert (world.plugged, world.published, world.attachments.views()) == ({}, {}, ())
        assert list(world.disk) == ([box.id] if word == "web" else [])

    play(test())


def test_one_that_cannot_be_plugged_in_again_is_gone(world: World) -> None:
    world.container("netns:blue", 100, id="netns:blue")

    async def test() -> None:
        await world.plug_in("netns:blue", ONE)
        (end,) = world.plugged
        world.plugged.clear()
        world.plug_failure = OSError(errno.EPERM, "no")
        await world.attachments.link_removed(end)
        assert world.as_seen() == ({}, {}, {}, ())

    play(test())


def test_a_removed_container_is_forgotten(world: World) -> None:
    web = world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE)
        await world.attachments.link_removed(world.end("web"))
        await world.attachments.container_removed(web.id)
        await world.attachments.container_removed("a stranger")
        assert world.as_seen() == ({}, {}, {}, ())
        assert not world.attachments.wants_docker

    play(test())


def test_a_shared_namespace_outlives_its_container(world: World) -> None:
    """Also over a restart of the router; it is forgotten when the namespace ends."""
    web = world.container("web", 100)
    world.container("sidecar", 100)

    async def test() -> None:
        await world.plug_in("web", ONE)
        del world.containers[web.id]
        await world.attachments.container_removed(web.id)
        seen = world.as_seen()
        assert web.id in world.disk
        world.attachments = world.router()
        await world.attachments.adopt(list(world.disk.values()), world.ends())
        assert world.as_seen() == seen
        await world.attachments.reconcile()
        await world.attachments.link_removed(world.end("sidecar"))
        assert world.as_seen() == ({}, {}, {}, ())

    play(test())


def test_a_shared_namespace_that_its_container_has_left_keeps_nothing_of_it(world: World) -> None:
    """Started again beside a sidecar that lives: MAC and addresses go with the container, and are not in two places."""
    web = world.container("web", 100)
    world.container("sidecar", 100)
    former, now = (host_ifname(Inode(4, number), "meshd") for number in (100, 200))

    async def test() -> None:
        first = await world.plug_in("web", ONE)
        web.namespace = 200
        await world.attachments.restore(web.id)
        assert list(world.plugged) == list(world.guarded) == [now]
        await world.attachments.link_removed(former)  # as the kernel tells
        (view,) = world.attachments.views()
        assert (view.mac, view.addresses, view.host_ifname) == (first.mac, (ONE,), now)
        with pytest.raises(UserError, match="sidecar is not attached"):
            await world.take_out("sidecar")

    play(test())


def test_the_same_while_the_router_is_away(world: World) -> None:
    web = world.container("web", 100)
    world.container("sidecar", 100)

    async def test() -> None:
        await world.plug_in("web", ONE)
        web.namespace = 200
        world.attachments = world.router()
        await world.attachments.adopt(list(world.disk.values()), world.ends())
        await world.attachments.reconcile()
        assert list(world.plugged) == [host_ifname(Inode(4, 200), "meshd")]
        assert world.disk[web.id].namespace == (4, 200)

    play(test())


def test_a_name_that_names_nothing_any_more_is_detached_all_the_same(world: World) -> None:
    """Its namespace is still there, and listings show that name; also when another container has it by now."""
    web = world.container("web", 100)
    world.container("sidecar", 100)

    async def test() -> None:
        await world.plug_in("web", ONE, TWO)
        del world.containers[web.id]
        await world.attachments.container_removed(web.id)
        world.container("web", 200, id="f" * 64)
        seen = world.as_seen()
        with pytest.raises(UserError, match="web is gone, but what it shared its network with is not"):
            await world.take_out("web", TWO)
        assert world.as_seen() == seen
        assert (await world.take_out("web")).addresses == (ONE, TWO)
        assert world.as_seen() == ({}, {}, {}, ())
        await world.plug_in("web", ONE)

    play(test())


@pytest.mark.parametrize("word", ["netns", "netns:we", "nets"])
def test_the_beginning_of_a_namespaces_name_is_no_name(world: World, word: str) -> None:
    web = world.container("netns:web", 100, id="netns:web")

    async def test() -> None:
        await world.plug_in("netns:web", ONE)
        del world.containers[web.id]  # `ip netns del`, while a process is in there
        with pytest.raises(UserError):
            await world.take_out(word)
        await world.take_out("netns:web")
        assert world.as_seen() == ({}, {}, {}, ())

    play(test())


@pytest.mark.parametrize("told", [True, False], ids=["an event", "found later"])
def test_a_renamed_container_is_known_by_its_new_name(world: World, told: bool) -> None:
    web = world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE)
        web.name = "web-old"
        if told:
            await world.attachments.container_renamed(web.id, "web-old")
        else:
            await world.attachments.reconcile()
        published = ("publish", "web-old", (ONE,))
        assert world.log[-1] == published
        assert (world.disk[web.id].name, world.attachments.views()[0].name) == ("web-old", "web-old")
        await world.attachments.container_renamed(web.id, "web-old")
        await world.attachments.container_renamed("of somebody else", "web")
        assert world.log.count(published) == 1

    play(test())


def test_a_name_that_the_mesh_does_not_take_leaves_the_former_one(world: World) -> None:
    web = world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE)
        seen = world.as_seen()
        world.publish_failure = UserError("this host announces too much")
        await world.attachments.container_renamed(web.id, "longer")
        assert world.as_seen() == seen

    play(test())


# ── another bridge


def test_what_is_on_a_former_bridge_moves_to_the_present_one(world: World) -> None:
    """`launch` with another --bridge or --capture. Docker's containers follow once it answers, the others at once."""
    web, blue = world.container("web", 100), world.container("netns:blue", 200, id="netns:blue")

    async def test() -> None:
        macs = [(await world.plug_in(box.id, address)).mac for box, address in ((web, ONE), (blue, TWO))]
        world.attachments = world.router(bridge="other")
        await world.attachments.adopt(list(world.disk.values()), {})
        assert list(world.plugged) == [host_ifname(Inode(4, 100), "meshd"), host_ifname(Inode(4, 200), "other")]
        await world.attachments.reconcile()
        assert set(world.plugged) == {host_ifname(Inode(4, number), "other") for number in (100, 200)}
        assert {view.id: (view.mac, view.addresses) for view in world.attachments.views()} == {
            web.id: (macs[0], (ONE,)),
            blue.id: (macs[1], (TWO,)),
        }

    play(test())


# ── the router's start


def test_what_has_a_former_routers_mtu_gets_this_ones(world: World) -> None:
    """Docker's containers once it answers; and the others, which fit, are not touched."""
    web, blue = world.container("web", 100), world.container("netns:blue", 200, id="netns:blue")
    world.container("fits", 300)

    async def test() -> None:
        for box, address in ((web, ONE), (blue, TWO)):
            await world.plug_in(box.id, address)
        misfits = list(world.plugged)
        await world.plug_in("fits", THREE)
        fits = list(world.plugged)[-1]
        seen = world.as_seen()
        world.attachments = world.router(mtu=1200)
        ends = {**world.ends(), fits: HostEnd(world.plugged[fits].mac, Mtus(1200, 1200))}
        await world.attachments.adopt(list(world.disk.values()), ends)
        assert [plug.mtus.container for plug in world.plugged.values()] == [1372, 1200, 1372]
        await world.attachments.reconcile()
        await world.attachments.reconcile()
        assert [plug.mtus.container for plug in world.plugged.values()] == [1200, 1200, 1372]
        assert [entry[1] for entry in world.log if entry[0] == "plug"][3:] == misfits[::-1]
        assert (world.as_seen()[0], world.as_seen()[3]) == (seen[0], seen[3])

    play(test())


def test_an_mtu_is_that_of_both_ends(world: World) -> None:
    """On a bridge of others the hosts' ends have its MTU, whatever the containers' have."""
    blue = world.container("netns:blue", 200, id="netns:blue")

    async def test() -> None:
        world.attachments = world.router(host_mtu=1500)
        await world.plug_in(blue.id, THREE)
        plugs: list[tuple[int, int]] = []
        for mtu, host_mtu in ((1372, 1500), (1200, 1500), (1200, 1400), (1200, 1400)):
            world.attachments = world.router(mtu=mtu, host_mtu=host_mtu)
            await world.attachments.adopt(list(world.disk.values()), world.ends())
            plugs += [plug.mtus for plug in world.plugged.values()]
        assert plugs == [(1500, 1372), (1500, 1200), (1400, 1200), (1400, 1200)]
        assert len([entry for entry in world.log if entry[0] == "plug"]) == 3

    play(test())


def test_what_cannot_have_this_routers_mtu_stays_attached_and_is_told_of(world: World) -> None:
    blue = world.container("netns:blue", 200, id="netns:blue")

    async def test() -> None:
        await world.plug_in(blue.id, THREE)
        seen = world.as_seen()
        world.attachments = world.router(mtu=1200)
        world.plug_failure = UserError("IPv6 needs more")
        await world.attachments.adopt(list(world.disk.values()), world.ends())
        assert world.notices == ["netns:blue keeps the MTU of a former launch: IPv6 needs more"]
        assert world.as_seen() == seen

    play(test())


def test_what_is_still_plugged_in_is_taken_over_without_asking_anybody(world: World) -> None:
    world.container("web", 100)
    world.container("pid:7", 200, id="pid:7")

    async def test() -> None:
        await world.plug_in("web", ONE)
        await world.plug_in("pid:7", TWO)
        seen = world.as_seen()
        world.attachments = world.router()
        world.published.clear()
        world.engine_failure = UserError("Docker does not answer")
        world.asked = 0
        await world.attachments.adopt(list(world.disk.values()), world.ends())
        assert world.as_seen() == seen
        assert world.asked == 0

    play(test())


@pytest.mark.parametrize("order", [1, -1])
def test_one_that_does_not_run_is_not_taken_over_in_anothers_place(world: World, order: int) -> None:
    """Its namespace has ended, and another container's has the number that it had."""
    world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE, port_security=True)
        await world.attachments.link_removed(world.end("web"))
        db = world.container("db", 100)
        await world.plug_in("db", TWO)
        seen, guarded = world.as_seen(), dict(world.guarded)
        world.attachments = world.router()
        world.published.clear()
        world.guarded.clear()
        await world.attachments.adopt(list(world.disk.values())[::order], world.ends())
        assert (world.as_seen(), world.guarded) == (seen, guarded)
        assert world.published.keys() == {db.id}

    play(test())


def test_the_start_does_not_wait_for_docker(world: World) -> None:
    web, gone = world.container("web", 100), world.container("gone", 101)
    away = world.container("away", 102)

    async def test() -> None:
        first = await world.plug_in("web", ONE)
        await world.plug_in("gone", TWO)
        await world.plug_in("away", THREE)
        for box in (web, gone, away):
            world.end(box.name)
        world.attachments = world.router()
        world.published.clear()
        web.runs, web.namespace = True, 300
        del world.containers[gone.id]
        world.asked = 0
        await world.attachments.adopt(list(world.disk.values()), {})
        assert (world.asked, world.attachments.views()) == (0, ())
        assert world.attachments.wants_docker
        world.engine_failure = UserError("Docker does not answer")
        with pytest.raises(UserError):
            await world.attachments.reconcile()
        assert set(world.disk) == {web.id, gone.id, away.id}  # no answer is no "no"
        world.engine_failure = None
        await world.attachments.reconcile()
        (view,) = world.attachments.views()
        assert (view.name, view.mac, view.addresses) == ("web", first.mac, (ONE,))
        assert set(world.disk) == {web.id, away.id}  # what was removed meanwhile is forgotten

    play(test())


def test_another_process_under_the_same_number_is_left_alone(world: World) -> None:
    process = world.container("pid:7", 100, id="pid:7")
    blue = world.container("netns:blue", 101, id="netns:blue")

    async def test() -> None:
        await world.plug_in("pid:7", ONE)
        await world.plug_in("netns:blue", TWO)
        wanted = list(world.disk.values())
        for box in (process, blue):
            world.end(box.name)
            box.runs = True
            box.namespace += 100
        world.attachments = world.router()
        world.published.clear()
        await world.attachments.adopt(wanted, {})
        assert [view.name for view in world.attachments.views()] == ["netns:blue"]  # a name is given on purpose
        assert set(world.disk) == {"netns:blue"}

    play(test())


def test_what_the_mesh_does_not_take_at_the_start_does_not_end_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE)
        world.attachments = world.router()
        world.publish_failure = UserError("too much")
        await world.attachments.adopt(list(world.disk.values()), world.ends())
        assert world.attachments.views() == ()
        assert "stays plugged in" in caplog.text
        assert set(world.disk) != set()

    play(test())


@pytest.mark.parametrize("word", ["web", "web-0000"])
def test_a_container_that_does_not_run_is_detached_for_its_next_start(world: World, word: str) -> None:
    web = world.container("web", 100)

    async def test() -> None:
        attached = await world.plug_in("web", ONE, TWO)
        await world.attachments.link_removed(world.end("web"))
        assert (await world.take_out(word, TWO)).addresses == (TWO,)
        assert world.disk[web.id].addresses == (ONE,)
        gone = await world.take_out(word)
        assert (gone.addresses, gone.id) == ((ONE,), attached.id)
        assert world.disk == {}
        with pytest.raises(UserError, match="container"):
            await world.take_out(word)
        web.runs = True
        await world.attachments.restore(web.id)
        assert world.attachments.views() == ()

    play(test())


def test_a_part_of_a_name_detaches_nothing_that_does_not_run(world: World) -> None:
    web = world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE)
        await world.attachments.link_removed(world.end("web"))
        with pytest.raises(UserError):
            await world.take_out("we")
        assert world.disk[web.id].addresses == (ONE,)

    play(test())


def test_detach_wins_over_a_restore_that_waits(world: World) -> None:
    web = world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE)
        out, back = await asyncio.gather(world.take_out("web"), world.attachments.restore(web.id))
        results: tuple[Any, Any] = (out.addresses, back)
        assert results == ((ONE,), None)
        assert world.as_seen() == ({}, {}, {}, ())

    play(test())


# ── guards


def test_every_attachment_is_guarded_and_its_addresses_follow(world: World) -> None:
    world.container("web", 100)

    async def test() -> None:
        result = await world.plug_in("web", ONE)
        ((end, guard),) = world.guarded.items()
        assert guard == Guard(host_ifname=end, mac=parse_mac(result.mac), addresses=(ONE,))
        await world.plug_in("web", TWO, port_security=True)
        assert world.guarded[end] == replace(guard, addresses=(ONE, TWO), port_security=True)
        await world.plug_in("web")  # as it was
        await world.take_out("web", ONE)
        assert world.guarded[end] == replace(guard, addresses=(TWO,), port_security=True)
        (view,) = world.attachments.views()
        assert (view.port_security, view.drops) == (True, {"flood": 3})
        await world.plug_in("web", port_security=False)
        assert not world.guarded[end].port_security
        await world.take_out("web")
        assert world.guarded == {}

    play(test())


def test_a_guard_goes_with_its_interface_and_comes_back_with_it(world: World) -> None:
    web = world.container("web", 100)

    async def test() -> None:
        await world.plug_in("web", ONE, port_security=True)
        before = dict(world.guarded)
        await world.attachments.link_removed(world.end("web"))
        assert world.guarded == {}
        web.runs = True
        await world.attachments.restore(web.id)
        assert world.guarded == before
        world.guarded.clear()  # a flush, while no router runs
        world.attachments = world.router()
        await world.attachments.adopt(list(world.disk.values()), world.ends())
        assert world.guarded == before

    play(test())


def test_no_port_security_without_an_address_or_without_nft(world: World) -> None:
    world.container("web", 100)

    async def test() -> None:
        before = world.as_seen()
        with pytest.raises(UserError, match="web has no address, and with --port-security only its own may pass"):
            await world.plug_in("web", port_security=True)
        world.no_nft = True
        with pytest.raises(UserError, match="needs nft"):
            await world.plug_in("web", ONE, port_security=True)
        assert world.as_seen() == before
        await world.plug_in("web", ONE)

    play(test())


def test_a_plug_that_fails_leaves_the_guard_as_it_was(world: World) -> None:
    world.container("web", 100)

    async def test() -> None:
        world.plug_failure = OSError(5, "no")
        with pytest.raises(UserError):
            await world.plug_in("web", ONE)
        assert world.guarded == {}
        world.plug_failure = None
        await world.plug_in("web", ONE)
        before = dict(world.guarded)
        world.plug_failure = OSError(5, "no")
        with pytest.raises(UserError):
            await world.plug_in("web", TWO, port_security=True)
        assert world.guarded == before

    play(test())
