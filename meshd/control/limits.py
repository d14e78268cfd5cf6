"""The bounds of the control API, for both of its ends, and the exit statuses that its errors carry.

Apart from `api`, so that a verb that only asks need not build that module's classes.
"""

from __future__ import annotations

MAX_BODY = 64 * 1024  # of a request
MAX_RESPONSE = 64 * 1024 * 1024  # a report of 1000 hosts is below 4 MiB
MAX_CLIENTS = 64  # connections at one time
HEADER_TIMEOUT_S = 5.0  # from connecting to the end of the request
MAX_PEERS = 256  # in one request
MAX_ADDRESSES = 64  # in one request
MAX_NAME = 256  # a container's name, id, pid:N or netns:NAME
MAX_WORDS = 256  # of what `capture` is asked for
MAX_IFNAME = 15  # IFNAMSIZ, without the terminating zero
MAX_SOCKET_PATH = 107  # sun_path, likewise

EXIT_NOT_RUNNING = 3  # as service managers have it (LSB "program is not running")
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
