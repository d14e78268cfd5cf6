"""One attachment: which namespace, under which name, with which MAC and addresses; and its forms for users, disk and kernel."""

from __future__ import annotations

from dataclasses import dataclass

from meshd.capture.containers import SHORT_ID_LENGTH
from meshd.capture.guards import Guard
from meshd.capture.netns import Inode
from meshd.daemon.state import WantedAttachment
from meshd.ids import Mac, format_mac, parse_mac
from meshd.views import AttachmentView

__all__ = ["Attachment", "short_id"]


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
    return attachment_id if ":" in attachment_id else attachment_id[:SHORT_ID_LENGTH]
