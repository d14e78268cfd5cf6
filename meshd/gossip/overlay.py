"""Which hosts to hold control links with: all of them in a small mesh, a bounded and steady choice in a larger one.

Up to 12 hosts everybody links with everybody. Above, each host keeps an *active view* of about 8 random others (at least 6;
links that others opened may bring it to 12) and links with its two neighbours on the ring of ids. Random views of this degree
are connected with overwhelming probability and stay so when a third of the hosts fails (HyParView, Leitão et al. 2007); the
ring makes it certain. Views are *sticky*: whoever is linked already is kept, so that a new host moves no link of others.
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from meshd.ids import HostId

__all__ = ["ACTIVE_HIGH", "ACTIVE_LOW", "ACTIVE_VIEW", "ALL_TO_ALL", "choose_neighbours", "ring_neighbours"]

ALL_TO_ALL = 12  # hosts, this one included
ACTIVE_VIEW = 8
ACTIVE_LOW = 6
ACTIVE_HIGH = 12


def ring_neighbours(me: HostId, hosts: Collection[HostId]) -> frozenset[HostId]:
    """The next lower and the next higher id, around the end."""
    ring = sorted({*hosts, me})
    index = ring.index(me)
    return frozenset({ring[index - 1], ring[(index + 1) % len(ring)]} - {me})


def choose_neighbours(
    me: HostId, hosts: Collection[HostId], linked: Collection[HostId], rng: Random
) -> frozenset[HostId]:
    """The hosts to hold links with. `hosts`: all that are known; `linked`: those that a link is up with, in whichever
    direction, or being opened to.

    Links are added only when fewer than ACTIVE_LOW random ones are left, and then up to ACTIVE_VIEW; they are given up only above
    ACTIVE_HIGH. Between the two nothing moves.
    """
    known = set(hosts) - {me}
    if len(known) < ALL_TO_ALL:
        return frozenset(known)
    others = sorted(known)
    ring = ring_neighbours(me, others)
    kept = [host for host in sorted(linked) if host in known and host not in ring]
    if len(kept) > ACTIVE_HIGH:
        kept = rng.sample(kept, ACTIVE_HIGH)
    if len(kept) < ACTIVE_LOW:
        taken = {*kept, *ring}
        candidates = [host for host in others if host not in taken]
        kept += rng.sample(candidates, min(len(candidates), ACTIVE_VIEW - len(kept)))
    return ring | frozenset(kept)
