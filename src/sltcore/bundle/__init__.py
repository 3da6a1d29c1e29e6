"""Bundles: a folder with spec, weights, provenance and model card that verifies itself on loading."""

from __future__ import annotations

from typing import Any

_PUBLIC = {
    "save": "save_bundle",
    "load_bundle": "load_bundle",
    "save_bundle": "save_bundle",
    "describe_bundle": "describe_bundle",
}


def __getattr__(name: str) -> Any:
    """Imported when asked for: `slt show` reads a bundle without torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sltcore.bundle' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module("sltcore.bundle.bundle"), _PUBLIC[name])
