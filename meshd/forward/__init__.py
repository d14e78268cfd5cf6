"""The data plane: moves batches of frames between the local bridge and sealed UDP datagrams.

It only looks up; it never decides. `decide` is the pure function behind an upcall, `engine/` runs the packets. See
docs/architecture.md, "Decide once, forward fast".
"""
