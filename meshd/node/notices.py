"""What a person should know and no counter tells: one line each, logged when it is new, shown by `status` for a while."""

from __future__ import annotations

import logging
from collections import OrderedDict

__all__ = ["MAX_NOTICES", "NOTICE_AGE_S", "Notices"]

_log = logging.getLogger("meshd.node")

MAX_NOTICES = 32  # the oldest gives way
NOTICE_AGE_S = 600.0


class Notices:
    def __init__(self) -> None:
        self._texts: OrderedDict[str, float] = OrderedDict()  # text → when it was last so

    def add(self, text: str, now: float) -> None:
        if text not in self._texts:
            _log.warning("%s", text)
        self._texts[text] = now
        self._texts.move_to_end(text)
        if len(self._texts) > MAX_NOTICES:
            self._texts.popitem(last=False)

    def recent(self, now: float) -> tuple[str, ...]:
        return tuple(text for text, when in self._texts.items() if now < when + NOTICE_AGE_S)
