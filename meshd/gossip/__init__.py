"""Gossip: how every host comes to hold the same facts about all hosts, with no database and no wall clock.

**State.** Each host (*origin*) owns one *log*: key → (value, sequence), under a boot epoch that rises at every start. Only the
origin writes its log, and every record is signed by itself, so any host may pass it on and none can alter it (`records`).
Merging takes the higher epoch, then the higher sequence of each key (`store`, `log`); the order of arrival does not matter.

**Contiguity.** Records travel as *deltas*: all live records of one origin in (from, to]. A receiver applies a delta only if it
holds everything up to `from`, else it asks for what it lacks. So one number for each origin, its highest sequence, says exactly
what a host knows, and a lost push is always noticed. Deleted keys are tombstones until the origin raises its *floor*, a signed
record below which a key missing from the snapshot is gone; a receiver below the floor takes the snapshot. No acknowledgements
are kept.

**Spreading** (`gossip`, `antientropy`). A change is pushed at once to every neighbour except the one it came from; each link
keeps only the ranges that still have to go out, so a slow link merges what waits and never queues. Every 10 s ± 20 %, and when
a link comes up, one neighbour is asked to compare: ROOT (8 bytes; equal in the idle mesh, and the exchange ends) → DIGEST →
WANT or RECORDS. *Place left for the larger mesh:* `Gossip._neighbours_to_push` is the one spot that decides who gets a fresh
record eagerly. A push tree with lazy announcements and grafts (Plumtree, Leitão et al. 2007) replaces plain flooding there;
message numbers are append-only for it.

**Links** (`link`, `connector`, `overlay`). A control link is a TCP connection on the mesh's port: length-framed, opened by the
mesh's Noise handshakes, sealed, rekeyed in place. `connector` decides which addresses are dialled and when; `overlay` which
hosts a link is wanted with: all up to 12 hosts, above that a bounded sticky choice plus the two neighbours on the ring of ids.

**Topology** (`topology`). Links between hosts are records too. An edge counts when both ends list it; routes and every source's
flood tree are pure functions of that graph, so all hosts with equal records compute equal trees.

Everything here is sans-IO: `now`, the random generator, entropy, signer and verifier are arguments; bytes and messages come in,
bytes, messages and events go out. What a peer sends can only raise `DecodeError` inside, end in a counted drop, or close its
own link.
"""

from __future__ import annotations
