"""The control API: what `meshd` verbs and scripts ask of a running router, over HTTP/1.1 on a unix socket.

`api` holds the shapes and limits, `server` the router's end, `client` the command line's; `report` turns snapshots into JSON and
`render` JSON into text. `client` and `render` import neither asyncio nor aiohttp: a verb that only asks must answer at once.
"""

from __future__ import annotations
