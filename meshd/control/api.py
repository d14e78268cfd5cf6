"""The control API in one place: paths, and the shape of every request and answer.

HTTP/1.1 with JSON over `$MESHD_DIR/meshd.sock` (0600: whoever may open it may command the router). One request per connection.

    GET  /ready     {"ready": true}, or 503 while the router starts
    GET  /version   {"version", "pid"}
    GET  /status    the whole report (see `report`)
    GET  /ps        {"Bridge": {"Name", "Mac"}, "Attachments": […]}, as in the report
    POST /connect   {"peers": […], "replace": bool}            → {}
    POST /forget    {"peers": […]}                             → {}
    POST /attach    {"container", "addresses": […], "ifname" or null, "port_security": bool or null}
                                                               → {"addresses", "mac", "id"}
    POST /detach    {"container", "addresses": […]}            → {"addresses", "id"}
    POST /ping      {"target"}                                 → one round trip to the router that has it (`inquiry.ping_body`)
    POST /trace     {"target"}                                 → the way of a frame to it (`inquiry.trace_body`)
    POST /capture   {"words": […]}                             → a stream, see `streaming`
    POST /stop      {}                                         → {}; the router ends after answering

An error is `{"error", "hint", "status"}` with HTTP 4xx or 5xx: the text of a `UserError` and the exit status it asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from meshd.control.inputs import Target, check_container, check_ifname, check_inquiry, parse_cidr, parse_target
from meshd.control.limits import MAX_ADDRESSES, MAX_PEERS, MAX_WORDS
from meshd.errors import UserError

__all__ = [
    "AttachRequest",
    "AttachResult",
    "CaptureRequest",
    "ConnectRequest",
    "DetachRequest",
    "DetachResult",
    "ForgetRequest",
    "InquiryRequest",
    "Target",
    "attach_result",
    "detach_result",
    "error_body",
    "parse_cidr",
    "parse_target",
    "to_json",
]


@dataclass(slots=True, frozen=True, kw_only=True)
class ConnectRequest:
    peers: tuple[str, ...]  # as typed, each one checked
    replace: bool = False

    @classmethod
    def from_json(cls, body: Mapping[str, object]) -> ConnectRequest:
        _only(body, "peers", "replace")
        replace = body.get("replace", False)
        if not isinstance(replace, bool):
            raise UserError("'replace' must be true or false")
        peers = _peers(body)
        if not peers and not replace:
            raise UserError("no peer given")
        return cls(peers=peers, replace=replace)


@dataclass(slots=True, frozen=True, kw_only=True)
class ForgetRequest:
    peers: tuple[str, ...]

    @classmethod
    def from_json(cls, body: Mapping[str, object]) -> ForgetRequest:
        _only(body, "peers")
        peers = _peers(body)
        if not peers:
            raise UserError("no peer given")
        return cls(peers=peers)


@dataclass(slots=True, frozen=True, kw_only=True)
class InquiryRequest:
    """What `ping` and `trace` are asked about."""

    target: str  # an address, a MAC, a host's or a container's name

    @classmethod
    def from_json(cls, body: Mapping[str, object]) -> InquiryRequest:
        _only(body, "target")
        return cls(target=check_inquiry(_string(body, "target")))


@dataclass(slots=True, frozen=True, kw_only=True)
class AttachRequest:
    container: str  # name, id, unique prefix of one, pid:N or netns:NAME
    addresses: tuple[str, ...] = ()  # canonical CIDRs in the order given; none: plug in at layer 2
    ifname: str | None = None  # None: as it is, at first DEFAULT_IFNAME
    port_security: bool | None = None  # None: as it is, at first without

    @classmethod
    def from_json(cls, body: Mapping[str, object]) -> AttachRequest:
        _only(body, "container", "addresses", "ifname", "port_security")
        port_security = body.get("port_security")
        if port_security is not None and not isinstance(port_security, bool):
            raise UserError("'port_security' must be true, false or null")
        return cls(
            container=_container(body),
            addresses=_addresses(body),
            ifname=None if (ifname := body.get("ifname")) is None else check_ifname(ifname),
            port_security=port_security,
        )


@dataclass(slots=True, frozen=True, kw_only=True)
class AttachResult:
    addresses: tuple[str, ...]  # CIDRs that the container now has of those asked for; with none asked for, all it has
    mac: str
    id: str


@dataclass(slots=True, frozen=True, kw_only=True)
class DetachRequest:
    container: str
    addresses: tuple[str, ...] = ()  # none: all, and the interface with them

    @classmethod
    def from_json(cls, body: Mapping[str, object]) -> DetachRequest:
        _only(body, "container", "addresses")
        return cls(container=_container(body), addresses=_addresses(body))


@dataclass(slots=True, frozen=True, kw_only=True)
class DetachResult:
    addresses: tuple[str, ...]  # CIDRs that were taken away
    id: str


@dataclass(slots=True, frozen=True, kw_only=True)
class CaptureRequest:
    words: tuple[str, ...]  # container, peer or address; and a filter. None: all frames

    @classmethod
    def from_json(cls, body: Mapping[str, object]) -> CaptureRequest:
        _only(body, "words")
        return cls(words=_strings(body, "words", MAX_WORDS))


def to_json(value: AttachResult | DetachResult) -> dict[str, object]:
    return asdict(value)


def attach_result(body: Mapping[str, object]) -> AttachResult:
    return AttachResult(
        addresses=_strings(body, "addresses", 4 * MAX_ADDRESSES),
        mac=_string(body, "mac"),
        id=_string(body, "id"),
    )


def detach_result(body: Mapping[str, object]) -> DetachResult:
    return DetachResult(
        addresses=_strings(body, "addresses", 4 * MAX_ADDRESSES),
        id=_string(body, "id"),
    )


def error_body(error: UserError) -> dict[str, object]:
    return {"error": str(error.args[0]), "hint": error.hint, "status": error.status}


def _container(body: Mapping[str, object]) -> str:
    return check_container(_string(body, "container"))


def _addresses(body: Mapping[str, object]) -> tuple[str, ...]:
    """Each address once, in the order given."""
    return tuple(dict.fromkeys(parse_cidr(text) for text in _strings(body, "addresses", MAX_ADDRESSES)))


def _peers(body: Mapping[str, object]) -> tuple[str, ...]:
    peers = _strings(body, "peers", MAX_PEERS)
    for peer in peers:
        parse_target(peer)
    return tuple(dict.fromkeys(peer.strip() for peer in peers))


def _only(body: Mapping[str, object], *known: str) -> None:
    """An unknown field is an error: a misspelt one must not silently do less than asked."""
    for name in body:
        if name not in known:
            raise UserError(f"unknown field {name!r} in the request", hint=f"known: {', '.join(known)}")


def _string(body: Mapping[str, object], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise UserError(f"{name!r} must be a string")
    return value


def _strings(body: Mapping[str, object], name: str, limit: int) -> tuple[str, ...]:
    value = body.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{name!r} must be a list of strings")
    if len(value) > limit:
        raise UserError(f"too many {name}: {len(value)}, at most {limit} in one request")
    return tuple(value)
