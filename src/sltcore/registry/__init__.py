"""Finding plugins: scan, isolate, register, look up, explain.

`Registry()` loads plugins in this process; `probe()` loads them in a child process that may hang, exit or crash without
harm, and gives rows from which `Registry.from_rows` makes a registry that has imported nothing.
"""

from __future__ import annotations

from sltcore.registry.known import KNOWN_COMPONENTS
from sltcore.registry.probe import probe
from sltcore.registry.registry import Entry, Registry, default_registry
from sltcore.registry.rows import Row
from sltcore.registry.scan import Found, scan

__all__ = ["KNOWN_COMPONENTS", "Entry", "Found", "Registry", "Row", "default_registry", "probe", "scan"]
