"""Old specs to new ones: pure functions dict -> dict, one for each step of the spec's version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

CURRENT = 1

MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Version to the function that makes the next version of it. Version 1 is the first that was published."""


def migrate(
    data: dict[str, Any], migrations: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = MIGRATIONS
) -> dict[str, Any]:
    """`data` brought to the newest version, step by step; a spec of the newest version comes back unchanged."""
    while (version := data["slt"]) in migrations:
        data = {**migrations[version](data), "slt": version + 1}
    return data
