"""Training: any pipeline whose decoder has a loss, or any objective, from a spec, safe against crashes."""

from __future__ import annotations

from typing import Any

_PUBLIC = {
    "Trained": "sltcore.train.result:Trained",
    "fit": "sltcore.train.fitting:fit",
}


def __getattr__(name: str) -> Any:
    """Imported when asked for: the command line reads a spec before torch is needed."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sltcore.train' has no attribute '{name}'")
    from importlib import import_module

    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(import_module(module), attribute)
