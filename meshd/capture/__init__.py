"""Capture: where frames enter and leave the host's network. Interfaces, bridges, namespaces, containers, the firewall.

Adapters only: this package knows the kernel and Docker, never peers, keys or the mesh. Whatever speaks netlink is a plain
function that takes pyroute2's `IPRoute` and runs on `netlink.Netlink`'s thread, because pyroute2 does not run on uvloop. Failures
are `OSError` (the kernel's answer) or `UserError` (what the user can mend).

    netlink, links, sysctl     the kernel's configuration: one worker thread, typed views of links, /proc/sys/net
    link_watcher, nfnetlink    link events, told to the loop; what nftables has counted (both by `rawnetlink`)
    tap, bridge                the router's port and the bridge it is a port of
    netns, containers, docker  from the user's word to a network namespace
    veth, addresses, announce  the container's end: pair, addresses, gratuitous ARP
    firewall, underlay, preflight   what the host around us allows
"""
