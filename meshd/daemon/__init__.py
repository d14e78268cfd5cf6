"""The running router: the only place where the data plane, the node and the operating system meet.

    meshd launch ── launch ──spawns── supervise ──spawns, again after any death── run ── Router

`launch` checks, settles the mesh key and waits for the answer; `supervise` is a few lines of standard library that outlive every
crash; `run` is the router's process: it opens what needs opening, wires Node, Engine, streams and control socket together
(`router`) and undoes it on the way out. `attachments` carries containers in and out (`plugging` does it to the kernel), `state` is
what survives, `stopping` and `lifecycle` end it.
"""
