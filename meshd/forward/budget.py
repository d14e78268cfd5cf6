"""Token buckets live in `meshd.budget`; the packet path names them from here."""

from __future__ import annotations

from meshd.budget import BucketTable, TokenBucket

__all__ = ["BucketTable", "TokenBucket"]
