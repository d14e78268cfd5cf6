"""Sockets of the underlay: UDP ports for the engine, TCP streams for the control links. Bytes and addresses, never peers."""
