"""The `meshd` command: one file per group of verbs, each loaded only when one of its verbs is called."""

from __future__ import annotations
