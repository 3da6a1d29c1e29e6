"""Many machines: a pipeline mapped over a dataset, and the units of an experiment, on Ray.

Nothing heavy is imported here; `ray` is imported by the functions that need it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sltcore.cluster.dataset import Advance, Mapped, run_dataset
    from sltcore.cluster.parts import read_results
    from sltcore.cluster.units import run_units

_PUBLIC = {
    "Advance": "dataset",
    "Mapped": "dataset",
    "read_results": "parts",
    "run_dataset": "dataset",
    "run_units": "units",
}

__all__ = ["Advance", "Mapped", "read_results", "run_dataset", "run_units"]


def __getattr__(name: str) -> Any:
    """Imported when asked for."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sltcore.cluster' has no attribute '{name}'; public names: {', '.join(__all__)}")
    return getattr(import_module(f"sltcore.cluster.{_PUBLIC[name]}"), name)
