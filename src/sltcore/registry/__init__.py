"""Finding plugins: scan, isolate, register, look up, explain.

`Registry()` loads plugins in this process; `probe()` loads them in a child process that may hang, exit or crash without
harm, and gives rows from which `Registry.from_rows` makes a registry that has imported nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sltcore.registry.announcements import scan
    from sltcore.registry.found import Found
    from sltcore.registry.isolation import probe
    from sltcore.registry.known import KNOWN_COMPONENTS
    from sltcore.registry.registry import Entry, Registry, default_registry
    from sltcore.registry.rows import Row

_PUBLIC = {
    "KNOWN_COMPONENTS": "known",
    "Entry": "registry",
    "Found": "found",
    "Registry": "registry",
    "Row": "rows",
    "default_registry": "registry",
    "probe": "isolation",
    "scan": "announcements",
}

__all__ = ["KNOWN_COMPONENTS", "Entry", "Found", "Registry", "Row", "default_registry", "probe", "scan"]


def __getattr__(name: str) -> Any:
    """Imported when first asked for: the child process of `probe` needs less than half of this package."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sltcore.registry' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(f"sltcore.registry.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value
