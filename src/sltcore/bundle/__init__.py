"""Bundles: a folder with spec, weights, provenance and model card that verifies itself on loading."""

from __future__ import annotations

from typing import Any

_PUBLIC = {
    "describe_bundle": "sltcore.bundle.bundle:describe_bundle",
    "load": "sltcore.bundle.open:load",
    "load_bundle": "sltcore.bundle.bundle:load_bundle",
    "save": "sltcore.bundle.bundle:save_bundle",
    "save_bundle": "sltcore.bundle.bundle:save_bundle",
}


def __getattr__(name: str) -> Any:
    """Imported when asked for: `slt show` reads a bundle without torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sltcore.bundle' has no attribute '{name}'")
    from importlib import import_module

    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(import_module(module), attribute)
