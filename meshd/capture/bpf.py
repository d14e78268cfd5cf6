"""Filters in the language of tcpdump (pcap-filter(7)), compiled by libpcap and run in its C.

libpcap says "syntax error" and not where. So the place is searched, by halves: the first word up to which no beginning of the
filter can be completed. Names of hosts are not looked up: libpcap would do so while the router waits, for seconds; names of ports
are (a file).
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator

from meshd.errors import UserError

__all__ = ["MAX_FILTER", "compile_filter"]

MAX_FILTER = (
    512  # characters; libpcap compiles while the router waits: such a one takes some 10 ms, twice as long a multiple
)
_SNAPLEN = 1 << 18
_NETMASK_UNKNOWN = 0xFFFFFFFF
_WORD = re.compile(r"[A-Za-z][\w.-]*(?::[0-9A-Fa-f:.]*)?|[0-9A-Fa-f:.]*::?[0-9A-Fa-f:./]+|[\w.-]+|[^\s\w]")
_NUMBERED = ("port", "portrange", "proto", "protochain")  # a name may follow: of a service or protocol, from a file
_ADDRESS = re.compile(
    r"(?:[0-9a-fA-F]{0,4}:)+[0-9a-fA-F:.]*|(?:[0-9a-fA-F]{2}[-.]){5}[0-9a-fA-F]{2}|(?:[0-9a-fA-F]{4}\.){2}[0-9a-fA-F]{4}"
)
_TOO_MANY_DOTS = re.compile(r"\d+(?:\.\d+){4,}")
_KEYWORD_LIST = (
    "host net port portrange src dst and or not ether fddi tr wlan ip ip6 arp rarp decnet tcp udp sctp icmp icmp6 igmp igrp pim "
    "ah esp vrrp carp gateway broadcast multicast less greater proto protochain mask len vlan mpls pppoed pppoes geneve vxlan "
    "inbound outbound ifindex aarp atalk iso esis isis clnp stp ipx netbeui lat moprc mopdl link ppp slip radio l1 l2 iih lsp snp "
    "csnp psnp hdlc tcpflags icmptype icmpcode icmp6type icmp6code tcp-fin tcp-syn tcp-rst tcp-push tcp-ack tcp-urg tcp-ece "
    "tcp-cwr icmp-echoreply icmp-unreach icmp-sourcequench icmp-redirect icmp-echo icmp-routeradvert icmp-routersolicit "
    "icmp-timxceed icmp-paramprob icmp-tstamp icmp-tstampreply icmp-ireq icmp-ireqreply icmp-maskreq icmp-maskreply "
    "icmp6-destinationrunreach icmp6-packettoobig icmp6-timeexceeded icmp6-parameterproblem icmp6-echo icmp6-echoreply "
    "icmp6-multicastlistenerquery icmp6-multicastlistenerreportv1 icmp6-multicastlistenerdone icmp6-routersolicit "
    "icmp6-routeradvert icmp6-neighborsolicit icmp6-neighboradvert icmp6-redirect icmp6-routerrenum icmp6-nodeinformationquery "
    "icmp6-nodeinformationresponse icmp6-ineighbordiscoverysolicit icmp6-ineighbordiscoveryadvert "
    "icmp6-multicastlistenerreportv2 "
)
_KEYWORDS = frozenset(_KEYWORD_LIST.split())
# What may make a beginning whole; the place of an error is where none of them does.
_ENDINGS = (
    "",
    " 1",
    " 1-2",
    "-2",
    " 1.1.1.1",
    " 1.1.1.0/24",
    " ::1",
    " 02:00:00:00:00:01",
    " tcp",
    " host 1.1.1.1",
    " = 0",
    "1] = 0",
    " 1 = 0",
    " 1] = 0",
    ") = 0",
    "1]) = 0",
)


def compile_filter(text: str) -> Callable[[bytes], bool]:
    """What says of an Ethernet frame whether it passes. Raises UserError that says where the filter does not parse."""
    try:
        import pcapy
    except ImportError as error:
        raise UserError(
            f"a filter needs the library pcapy-ng, which cannot be loaded ({error})",
            hint="install it beside meshd: pip install pcapy-ng",
        ) from None
    text = " ".join(text.split())
    if len(text) > MAX_FILTER:
        raise UserError(f"the filter is longer than {MAX_FILTER} characters")
    if not text.isprintable():  # surrogates and zeros, too, which cannot be handed to C
        raise UserError("the filter has characters that cannot be printed")

    def compiled(expression: str, optimise: int = 0) -> Callable[[bytes], int]:
        program = pcapy.compile(pcapy.DLT_EN10MB, _SNAPLEN, expression, optimise, _NETMASK_UNKNOWN)
        passes: Callable[[bytes], int] = program.filter
        return passes

    _refuse_names(text)
    try:
        passes = compiled(text, optimise=1)
    except pcapy.PcapError as error:
        reason = str(error).removeprefix("can't parse filter expression: ")
        raise UserError(f"the filter does not parse {_where(text, compiled)}: {reason}") from None
    return lambda frame: bool(passes(frame))


def _words(text: str) -> Iterator[re.Match[str]]:
    return _WORD.finditer(text)


def _refuse_names(text: str) -> None:
    before = ""
    for word in _words(text):
        name = word[0]
        known = not name[0].isalpha() or before in _NUMBERED or name in _KEYWORDS or _ADDRESS.fullmatch(name)
        if not known or _TOO_MANY_DOTS.fullmatch(name):
            raise UserError(
                f"the filter does not parse {_place(word)}: it is no word of the language, and names are not looked up",
                hint="write the address of a host",
            )
        before = name


def _place(word: re.Match[str]) -> str:
    return f"at {word[0]!r} (character {word.start() + 1})"


def _where(text: str, compiled: Callable[[str], object]) -> str:
    """The first word that cannot stand where it does."""
    words = list(_words(text))
    wrong = bisect.bisect_left(words, True, key=lambda word: not _may_begin(text[: word.end()], compiled))
    return _place(words[wrong]) if wrong < len(words) else "at its end: something is missing"


def _may_begin(beginning: str, compiled: Callable[[str], object]) -> bool:
    closing = ")" * max(0, beginning.count("(") - beginning.count(")"))
    return any(_compiles(f"{beginning}{ending}{closing}", compiled) for ending in _ENDINGS)


def _compiles(text: str, compiled: Callable[[str], object]) -> bool:
    try:
        compiled(text)
    except Exception:  # pcapy has one exception, and words in it
        return False
    return True
