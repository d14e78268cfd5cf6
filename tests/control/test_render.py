"""The listings, character by character. The lines of connections and peers are those of Weave's documentation, a space between
attributes excepted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshd.control.render import (
    find_attachments,
    render_connections,
    render_macs,
    render_peers,
    render_ps,
    render_status,
    render_targets,
)
from meshd.control.report import build_report
from tests.control.samples import BRIDGE_MAC, CONNECTIONS, CONTAINER_ID, OTHER_ID, PEERS, alone, node_view, router_view

STATUS = """
        Version: 0.1.0 (version check update disabled)

        Service: router
       Protocol: meshd 1..1
           Name: 4a:0f:f6:ec:1c:93(host1)
     Encryption: enabled (aes-256-gcm)
  PeerDiscovery: enabled
        Targets: 2
    Connections: 6 (1 established, 1 pending, 1 retrying, 2 failed, 1 connecting)
          Peers: 3 (with 3 established, 1 pending connections)
 TrustedSubnets: none
           Mesh: 0123456789abcdef0123456789abcdef
         Engine: python (the only one of this version)
       Offloads: tso, udp gso
         Bridge: meshd (06:11:22:33:44:55)
        Capture: meshd-tap (via tap)
            MTU: 1372
           Loop: lag p99 0.3 ms, 2 slow callbacks, up 1h, 41 MiB

Notice: 10.0.1.5 is held by host2 and host3
Notice: a host with another mesh key answers at 192.168.48.9

Paths:
PEER                      KIND    ENDPOINT            STATE       MTU   RTT     LOSS  SINCE  OUT   IN    WHY
7e:21:4a:70:2f:45(host2)  direct  192.168.48.12:6783  alive       1372  0.42ms  0%    1m     1.5K  2.9M  probes are answered
7e:ae:cd:d5:23:8d(host3)  direct  -                   no session  1372  -       25%   3.0s   0B    0B    -

MACs:
MAC                PEER                      CONTAINER  ADDRESSES                KIND        AGE   STATE
9a:00:00:00:00:01  4a:0f:f6:ec:1c:93(host1)  web        10.0.1.5/24,10.0.2.5/24  attachment  0.4s  ok
7e:00:00:00:00:02  7e:21:4a:70:2f:45(host2)  -          -                        learned     -     frozen

Guards:
CONTAINER  PORT SECURITY  DROPPED
web        yes            12 flood, 3 spoofed

Drops:
12 bad_mac1
 3 replayed

"""

STATUS_ALONE = """
        Version: 0.1.0 (version check update disabled)

        Service: router
       Protocol: meshd 1..1
           Name: 4a:0f:f6:ec:1c:93(host1)
     Encryption: enabled (aes-256-gcm)
  PeerDiscovery: enabled
        Targets: 0
    Connections: 0
          Peers: 1
 TrustedSubnets: none
           Mesh: 0123456789abcdef0123456789abcdef
         Engine: python (the only one of this version)
       Offloads: tso, udp gso
         Bridge: meshd (missing)
        Capture: meshd-tap (via tap)
            MTU: 1372
           Loop: lag p99 0.3 ms, 2 slow callbacks, up 1h, 41 MiB

"""

CONNECTION_LINES = """\
<- 192.168.48.12:33866   established encrypted   direct 7e:21:4a:70:2f:45(host2) encrypted=true mtu=1372
<- 192.168.48.13:60773   pending     encrypted   direct 7e:ae:cd:d5:23:8d(host3)
-> 192.168.48.14:6783    retrying    dial tcp4 192.168.48.14:6783: no route to host
-> 192.168.48.15:6783    failed      dial tcp4 192.168.48.15:6783: no route to host, retry: in 4s
-> 192.168.48.16:6783    connecting
-> 10.51.34.219:6783     failed      cannot connect to ourself, retry: never
"""

PEER_LINES = """\
4a:0f:f6:ec:1c:93(host1)
   <- 192.168.48.12:33866   7e:21:4a:70:2f:45(host2)              established
   <- 192.168.48.13:60773   7e:ae:cd:d5:23:8d(host3)              pending
7e:21:4a:70:2f:45(host2)
   -> 192.168.48.11:6783    4a:0f:f6:ec:1c:93(host1)              established
   <- -                     7e:ae:cd:d5:23:8d(host3)              established
7e:ae:cd:d5:23:8d(host3)
"""


def test_status() -> None:
    node = node_view(
        address_conflicts=("10.0.1.5 is held by host2 and host3",),
        notices=("a host with another mesh key answers at 192.168.48.9",),
    )
    assert render_status(build_report(router_view(node), bridge_mac=BRIDGE_MAC)) == STATUS


def test_status_of_a_router_alone_has_no_empty_tables() -> None:
    assert render_status(build_report(alone())) == STATUS_ALONE


def test_every_label_ends_in_column_16() -> None:
    block = render_status(build_report(alone())).strip("\n").splitlines()
    assert {line.index(":") for line in block if line} == {15}


def test_status_says_what_is_off() -> None:
    text = render_status(build_report(router_view(node_view(suite="plain", discovery=False))))
    assert "     Encryption: disabled (frames are authenticated, not secret)\n" in text
    assert "  PeerDiscovery: disabled\n" in text


def test_connections() -> None:
    assert render_connections(build_report(router_view())) == CONNECTION_LINES


def test_peers() -> None:
    assert render_peers(build_report(router_view())) == PEER_LINES


def test_targets_are_printed_as_given() -> None:
    assert render_targets(build_report(router_view())) == "192.168.48.12\nhost3.example.com:6800\n"


@pytest.mark.parametrize("listing", [render_peers, render_connections, render_targets])
def test_no_list_prints_nothing(listing: object) -> None:
    assert callable(listing)
    report = build_report(router_view(node_view(peers=(), connections=(), targets=())))
    assert listing(report) == ""


def test_ps_begins_with_the_hosts_own_port() -> None:
    assert render_ps(build_report(router_view(), bridge_mac=BRIDGE_MAC)) == (
        "expose 06:11:22:33:44:55\n"
        "5e2b3c4d5e6f 9a:00:00:00:00:01 10.0.1.5/24 10.0.2.5/24\n"
        "5e99aabbccdd 9a:00:00:00:00:02\n"
    )


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        (["web"], "web 9a:00:00:00:00:01 10.0.1.5/24 10.0.2.5/24\n"),
        ([CONTAINER_ID], "5e2b3c4d5e6f 9a:00:00:00:00:01 10.0.1.5/24 10.0.2.5/24\n"),
        (["5e2"], "5e2 9a:00:00:00:00:01 10.0.1.5/24 10.0.2.5/24\n"),
        (["a-long-container-name"], "a-long-conta 9a:00:00:00:00:02\n"),
        (["expose"], "expose 06:11:22:33:44:55\n"),
        (["5e99", "expose"], "5e99 9a:00:00:00:00:02\nexpose 06:11:22:33:44:55\n"),
        (["absent"], ""),
        (["5e"], ""),  # two begin so
        ([""], ""),
    ],
)
def test_ps_of_some(asked: list[str], lines: str) -> None:
    assert render_ps(build_report(router_view(), bridge_mac=BRIDGE_MAC), asked) == lines


@pytest.mark.parametrize("asked", [[], ["netns:web-frontend-2"]])
def test_a_namespaces_name_is_shown_whole(asked: list[str]) -> None:
    """Else `detach` could not take it from here, and two of them would look like one."""
    word = "netns:web-frontend-2"
    named = replace(router_view().attachments[1], id=word, label=word, name=word)
    report = build_report(router_view(attachments=(named,)), bridge_mac=BRIDGE_MAC)
    assert render_ps(report, asked).splitlines()[-1] == f"{word} 9a:00:00:00:00:02"


def test_an_exact_name_wins_over_the_beginning_of_an_id() -> None:
    first, second = router_view().attachments
    report = build_report(router_view(attachments=(first, replace(second, name="5e2b"))))
    assert [one["Id"] for one in find_attachments(report, "5e2b")] == [OTHER_ID]


def test_a_peers_words_do_not_steer_the_terminal() -> None:
    evil = "\x1b[2Jhost\n9"
    peers = (replace(PEERS[1], nickname=evil),)
    connections = (
        replace(CONNECTIONS[2], info=evil),
        replace(CONNECTIONS[0], nickname=evil, attributes={"a\x07": evil}),
    )
    report = build_report(router_view(node_view(nickname=evil, peers=peers, connections=connections, notices=(evil,))))
    for listing in (render_status, render_peers, render_connections, render_macs):
        assert "\x1b" not in listing(report)
        assert "\x07" not in listing(report)
    assert "7e:21:4a:70:2f:45(?[2Jhost?9)\n" in render_peers(report)


def test_colour_leaves_the_text_as_it_is() -> None:
    report = build_report(router_view())

    def bracket(role: str, text: str) -> str:
        return f"\x01{role}\x02{text}\x03"

    def unbracket(text: str) -> str:
        for role in ("good", "warn", "bad", "dim", "head"):
            text = text.replace(f"\x01{role}\x02", "")
        return text.replace("\x03", "")

    for listing in (render_status, render_peers, render_connections, render_macs, render_targets):
        assert unbracket(listing(report, bracket)) == listing(report)
    assert "\x01good\x02established\x03" in render_connections(report, bracket)
    assert "\x01bad\x02frozen\x03" in render_macs(report, bracket)
