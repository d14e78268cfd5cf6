"""The native engine: the packet path of frames that need no decision, in C; everything else by the code of the python engine.

Design. C knows bytes, lengths, keys and where a flow points; it holds no policy, no names, no host ids. Per wake-up one call from
the loop moves a batch, with the GIL released; it ends after 1 ms or 1 MiB. Nothing is allocated per packet: frames and datagrams
are sealed and opened where they lie, with room around them for headers and tags.

C handles the *hits*. Outbound: the flow is cached and leads to a peer that has a send key and a path, direct or through a peer
with a direct one; the frame fits, or is a TCP or UDP super-frame that says the truth about itself; or the flow is cached as a
drop. Inbound: the index is known and confirmed, and every entry of the datagram is a frame whose flow is cached as local, or as a
drop. Relaying: the key has relayed before, and the datagram is for this host, or for one whose next hop is cached and reached
directly. Everything else (no flow, floods, groups, frames that wait for a session, control, fragments, handshakes, frames that are
too big, frames that lie) is handed to outbound.py, inbound.py and relaying.py, in order, as it was read. So what those learn to do
works in both engines at once.

The two share their state, or order, nonces and replay windows would fall apart:
  - flows, receive windows and the counters of send keys live in C, those of their relay layers too; Python's tables are views on
    them (`FlowTable`, `ReplayWindow`, `NativeSendKey.counter`)
  - what hangs below a peer's slot lives in Python and is copied to C when it changes (`NativeEngine._changed`)
  - frames that Python sends to a peer that C may send to go through the same aggregate (`NativeOutbound`)
  - what C counts is added to Python's counters when somebody reads them

Where all ports have descriptors the pumps run in a thread of C's own (threaded.py); what is to be handed over then waits.

While somebody mirrors frames (`Engine.set_mirror`) everything is Python's, over the same tables. A port without a descriptor (of
memory) is asked through its methods: tests and simulations drive the same C.

    _core (C)    aead, aead_ipsec, aead_openssl    sealing and opening in place
                 frame, segment, coalesce, replay  headers, cutting, putting together, windows: no Python in them
                 flows, flow_table                 tables
                 outbound, lanes, inbound, io      the packet path, in packet order
                 types, core, relay_core, module   what Python sees
                 relay                             type 8, passed on and unwrapped
                 thread, upcalls                   who pumps without the loop, and what it leaves for it
    relaying.py  what C does not know yet of relays: keys, next hops
    halves.py    the Python halves of the packet path, and what they send through C
    engine.py    NativeEngine: tables, the ways back into Python, counters
    threaded.py  ThreadedEngine: the same, pumping by itself
"""

from __future__ import annotations

__all__ = ["native_missing"]


def native_missing() -> str:
    """Why the native engine cannot be used here; empty: it can."""
    try:
        import meshd.forward.engine.native._core as core
    except ModuleNotFoundError:
        return "not built: there was no C compiler, or no Python headers, at installation"
    except ImportError as error:
        return f"cannot be loaded: {error}"
    return "" if core.backends() else "neither libipsec-mb nor OpenSSL's libcrypto is installed"
