"""Keys, handshakes, sessions: what makes a datagram ours.

    aead        the three suites; `seal` and `open` of a key
    identity    who a host is: Ed25519 signs, X25519 shakes hands; the binding of both
    meshkey     what every member of a mesh holds, and what is derived from it
    noise       Noise rev 34, patterns IKpsk2 and XXpsk3
    wire        datagrams 1, 2, 5, 6, 7: layout, sizes, mac1
    cookie      datagram 3, mac2
    gate        limits before anything costly; `incoming` asks it
    liveness    which types 1 are new, and the challenge for those that are not
    handshake   one handshake, message by message; for datagrams and for control links
    session     which of the keys shared with a peer is used for what
    replay      which counters of a key have been seen
    sessions    all of it for one host's datagrams: `Sessions`, with `incoming`, `outgoing`, `table`, `timers` and `events`

Life of a key, as one host sees it (`session` says why there may be several NEXT and PREVIOUS):

                 IK responder, XX initiator         first datagram under it
      (nothing) ────────────────────────────► NEXT ──────────────────────────► CURRENT ── newer key current ──► PREVIOUS
          │      IK initiator, XX responder                                   ▲   │                                │
          └───────────────────────────────────────────────────────────────────┘   └── 175 s: seals no more         │
                                  every key: 180 s after its handshake, or pushed out by newer ones ──► gone ◄─────┘

NEXT and PREVIOUS open, CURRENT opens and seals. A key becomes CURRENT at one end only after the other end holds it, so at each
moment what either end seals can be opened by the other. The packet engine carries the keys out (`Engine.add_receive_key`,
`set_send_key`, `drop_receive_key`): drain `Sessions.next_event` before `poll_transmit`, and whenever a send key changes, send a
datagram at once; that is what tells the other end.

The package is pure: bytes, `now`, entropy and rng come in as arguments; nothing here knows sockets, clocks or files. Bytes from
outside cost a counted `Rejected` and never another exception.
"""

from __future__ import annotations
