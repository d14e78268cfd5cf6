"""Engines: the packet path itself. `interface` says what every engine does; `python` is the readable reference.

The one exception to purity in `forward/`: an engine is given open ports and may read and write them; it opens none.
"""
