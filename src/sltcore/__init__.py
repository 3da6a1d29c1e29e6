"""sltcore: speech and language research techniques as plugins.

import sltcore
pipeline = sltcore.load("asr.yaml")
print(pipeline("call.wav", phrases=["Amazon Queen"]).text)
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load": "sltcore.bundle",
    "Pipeline": "sltcore.pipeline",
    "Component": "sltcore.plugin",
    "hookimpl": "sltcore.plugin",
    "SltError": "sltcore.errors",
    "Hypothesis": "sltcore.types",
    "NBest": "sltcore.types",
    "save": "sltcore.bundle",
}

__all__ = ["Component", "Hypothesis", "NBest", "Pipeline", "SltError", "__version__", "hookimpl", "load", "save"]


def __getattr__(name: str) -> Any:
    """Public names are imported when first asked for (PEP 562), so that `import sltcore` stays light."""
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'sltcore' has no attribute '{name}'; public names: {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
