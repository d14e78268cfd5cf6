"""One attachment: which namespace, under which name, with which MAC and addresses; and its forms for users, disk and kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from meshd.capture.containers import SHORT_ID_LENGTH
from meshd.capture.guards import Guard
from meshd.capture.netns import Inode
from meshd.control.api import DetachRequest
from meshd.daemon.state import WantedAttachment
from meshd.errors import UserError
from meshd.ids import Mac, format_mac, parse_mac
from meshd.views import AttachmentView

__all__ = ["Attachment", "merge_addresses", "of_docker", "only_called", "short_id", "split_addresses"]

MIN_ID_PREFIX = 4  # of the id of a container that is gone or does not run; its name must be whole


@dataclass(slots=True, frozen=True, kw_only=True)
class Attachment:
    namespace: Inode
    id: str  # full id of the container it was attached by
    short: str
    name: str
    ifname: str
    host_end: str
    mac: Mac
    addresses: tuple[str, ...]  # in the order of attaching
    port_security: bool = False

    @classmethod
    def remembered(cls, wanted: WantedAttachment) -> Attachment:
        return cls(
            namespace=Inode(*wanted.namespace),
            id=wanted.id,
            short=short_id(wanted.id),
            name=wanted.name,
            ifname=wanted.ifname,
            host_end=wanted.host_end,
            mac=parse_mac(wanted.mac),
            addresses=wanted.addresses,
            port_security=wanted.port_security,
        )

    def with_all_of(self, before: WantedAttachment, is_free: Callable[[str], bool]) -> Attachment:
        """A container that is plugged in again gets what it had, and of its addresses those that nobody has taken meanwhile.

        Its own start may be what calls for that, or its user, who was faster. A namespace of a former one's name is another one.
        """
        if not of_docker(before.id) and Inode(*before.namespace) != self.namespace:
            return self
        return replace(
            self,
            ifname=before.ifname,
            mac=parse_mac(before.mac),
            addresses=tuple(filter(is_free, before.addresses)),
            port_security=before.port_security,
        )

    def view(self, drops: dict[str, int]) -> AttachmentView:
        return AttachmentView(
            id=self.id,
            label=self.short,
            name=self.name,
            mac=format_mac(self.mac),
            addresses=self.addresses,
            ifname=self.ifname,
            host_ifname=self.host_end,
            port_security=self.port_security,
            drops=drops,
        )

    def wanted(self) -> WantedAttachment:
        return WantedAttachment(
            id=self.id,
            name=self.name,
            mac=format_mac(self.mac),
            addresses=self.addresses,
            ifname=self.ifname,
            host_end=self.host_end,
            namespace=(self.namespace.device, self.namespace.number),
            port_security=self.port_security,
        )

    def guard(self, mac: Mac) -> Guard:
        """`mac`: of the interface as it is."""
        return Guard(host_ifname=self.host_end, mac=mac, addresses=self.addresses, port_security=self.port_security)


def short_id(attachment_id: str) -> str:
    return attachment_id[:SHORT_ID_LENGTH] if of_docker(attachment_id) else attachment_id


def of_docker(attachment_id: str) -> bool:
    """Whether it is a container of Docker's, and not pid:N or netns:NAME."""
    return ":" not in attachment_id


class _Named(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...


_T = TypeVar("_T", bound=_Named)


def only_called(word: str, candidates: Iterable[_T]) -> _T | None:
    """The one with this name or id, or whose id of Docker's begins so; None where none or several have."""

    def called(one: _T) -> bool:
        begins = of_docker(one.id) and len(word) >= MIN_ID_PREFIX and one.id.startswith(word)
        return word in (one.name, one.id) or begins

    found = list(filter(called, candidates))
    return found[0] if len(found) == 1 else None


def split_addresses(request: DetachRequest, present: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What of these addresses is to go and what stays; with none given all goes. Raises UserError for one that is not there."""
    missing = [address for address in request.addresses if address not in present]
    if missing:
        raise UserError(f"{request.container} does not have {missing[0]}", hint="`meshd ps` lists what it has")
    gone = request.addresses or present
    return gone, tuple(address for address in present if address not in gone)


def merge_addresses(present: tuple[str, ...], more: Sequence[str]) -> tuple[str, ...]:
    return (*present, *(address for address in dict.fromkeys(more) if address not in present))
