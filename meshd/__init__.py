"""meshd: joins containers on many hosts into one encrypted Ethernet, in user space.

The packages and who may import whom are drawn in docs/architecture.md; `tests/test_imports.py` holds the rule.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
