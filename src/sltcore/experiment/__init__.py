"""Experiments: arms as graphs of stages, run once, kept, measured and judged.

What a run leaves in its folder:

    experiment.yaml                 the spec as it ran, every default written out
    results.json                    what became of each unit, rewritten after each one
    units/STAGE--seed-K--KEY/       one stage with one seed; no seed where nothing was drawn at random
        unit.json                   written last: a folder without one is unfinished
        bundle/                     of train and transform stages
        metrics.jsonl, tensorboard/ of train stages
        outputs.jsonl, audio/       of decode stages: one JSON object for each utterance
        stats.npz, values.json      of measure stages
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sltcore.experiment.discover import Experiment, experiments_of, find_experiment
    from sltcore.experiment.plan import Plan, make_plan
    from sltcore.experiment.run import Results, run_experiment
    from sltcore.experiment.units import Unit, UnitResult, run_unit

_PUBLIC = {
    "Experiment": "discover",
    "Plan": "plan",
    "Results": "run",
    "Unit": "units",
    "UnitResult": "units",
    "experiments_of": "discover",
    "find_experiment": "discover",
    "make_plan": "plan",
    "run_experiment": "run",
    "run_unit": "units",
}

__all__ = [
    "Experiment",
    "Plan",
    "Results",
    "Unit",
    "UnitResult",
    "experiments_of",
    "find_experiment",
    "make_plan",
    "run_experiment",
    "run_unit",
]


def __getattr__(name: str) -> Any:
    """Imported when asked for: statistics need no torch, and a list of experiments needs nothing else."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sltcore.experiment' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"sltcore.experiment.{_PUBLIC[name]}"), name)
