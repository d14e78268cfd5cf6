"""Tags and MACs are compared in constant time, everywhere: no `==` has a digest on either side (CWE-208)."""

from __future__ import annotations

import ast
from pathlib import Path

import meshd

DIGESTS = {"digest", "hexdigest", "mac1", "mac2", "tag"}


def plain_compares(source: str) -> list[int]:
    """Lines where something called like a digest stands beside == or !=."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
        for side in (node.left, *node.comparators)
        if isinstance(side, ast.Call)
        and getattr(side.func, "attr", getattr(side.func, "id", "")).lstrip("_") in DIGESTS
    ]


def test_it_is_seen() -> None:
    assert plain_compares(
        "if given == self._tag(data): ...\nhmac.compare_digest(given, h.digest())\nx != h.digest()"
    ) == [1, 3]


def test_no_digest_is_compared_byte_by_byte() -> None:
    files = sorted(Path(meshd.__file__).parent.rglob("*.py"))
    assert len(files) > 100
    assert {str(path): lines for path in files if (lines := plain_compares(path.read_text()))} == {}
