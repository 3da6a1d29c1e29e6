"""Chips that differ a little from a described one: how much of a gain is owed to one chip's very arithmetic."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal, get_args

from slt_nna.chip import TABLE_FUNCTIONS, Chip, TableFunction, Tables
from sltcore.errors import PluginError, did_you_mean

Perturbation = Literal["rounding", "table-up", "table-down", "tables"]
PERTURBATIONS: tuple[Perturbation, ...] = get_args(Perturbation)
TABLE_ERROR = 0.1  # of an entry; the failure case "over-fits one chip revision" of the dossier is tried with this much
OTHER_ROUNDING = {"half_up": "truncate", "half_even": "half_up", "half_away": "half_even", "truncate": "half_up"}


def perturbed(chip: Chip, kind: Perturbation, *, seed: int = 0) -> Chip:
    """A chip with another rounding rule, or with tables that are wrong; words, scales and ranges stay.

    - `rounding`: the next rule of half_up -> truncate -> half_up, half_away -> half_even -> half_up, so that results
      differ by at most one unit in the last place at each rounding;
    - `table-up`, `table-down`: every entry of every table times 1.1 or 0.9 (clipped to the word);
    - `tables`: each table times a factor drawn from [0.9, 1.1] with `seed`.

    The name of the new chip says what was done. **Raises** `PluginError` for another kind, and for a float chip, which
    has neither rounding nor tables.
    """
    if kind not in PERTURBATIONS:
        raise PluginError(
            f"chip '{chip.name}' cannot be perturbed by {kind!r}; kinds: {', '.join(PERTURBATIONS)}."
            f"{did_you_mean(str(kind), PERTURBATIONS)}"
        )
    if chip.is_ideal:
        raise PluginError(
            f"chip '{chip.name}' is float: it has no rounding and no tables to perturb; choose an integer chip"
        )
    if kind == "rounding":
        return _changed(chip, f"{chip.name}.rounding", rounding=OTHER_ROUNDING[chip.rounding])
    if kind == "tables":
        drawn = random.Random(seed)
        gains = {name: drawn.uniform(1 - TABLE_ERROR, 1 + TABLE_ERROR) for name in TABLE_FUNCTIONS}
        return _changed(chip, f"{chip.name}.tables{seed}", tables=_scaled(chip.tables, gains))
    gain = 1 + TABLE_ERROR if kind == "table-up" else 1 - TABLE_ERROR
    return _changed(chip, f"{chip.name}.{kind}", tables=_scaled(chip.tables, dict.fromkeys(TABLE_FUNCTIONS, gain)))


def _scaled(tables: Tables, gains: Mapping[TableFunction, float]) -> Tables:
    found = {name: getattr(tables, name) for name in TABLE_FUNCTIONS}
    return Tables(
        **{name: table and table.model_copy(update={"gain": table.gain * gains[name]}) for name, table in found.items()}
    )


def _changed(chip: Chip, name: str, **fields: object) -> Chip:
    return chip.model_copy(update={"name": name, **fields})
