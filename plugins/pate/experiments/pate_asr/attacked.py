"""Membership inference on real speech: from losses of members and of roles that no model learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scores import Scores
from speech import ATTACKED_SEED, attacked
from study import Unit
from tables import LABELS

from slt_pate.attacks.likelihood_ratio import Shadows, likelihood_ratio_scores
from slt_pate.attacks.membership import Attack, evaluate_attack
from sltcore.report import Column, Table

TARGETS: tuple[tuple[str, float | None], ...] = (
    ("private", None), ("dp-sgd", float("inf")), ("dp-sgd", 8.0), ("dp-sgd", 4.0), ("transcript", float("inf")),
    ("transcript", 8.0), ("transcript", 4.0), ("slot", 4.0), ("public", None),
)  # fmt: skip
"""The public model met none of them: what its attack shows is that roles differ, and the floor of the others."""


def attacks(scores: Scores) -> Table | None:
    """Areas under the curve of two attacks."""
    study = scores.study
    shadows = [Unit("shadow", number=number).name for number in range(1, study.size.shadows + 1)]
    if not all(study.has(name) for name in shadows):
        return None
    units = [str(row.item.extra["unit"]) for row in attacked(study)]
    found = [study.result(name) for name in shadows]
    table = Shadows(
        np.array([one["losses"] for one in found]),
        np.array([[unit in one["members"] for unit in units] for one in found]),
    )
    private = study.data.examples("private")
    members = {str(row.item.extra["unit"]) for row in private}
    reference = np.array(scores.found("public", None, ATTACKED_SEED)["losses"])
    rows = []
    teacher = Unit("teacher", seed=ATTACKED_SEED).name
    if study.has(teacher):
        one = study.result(teacher)
        rows.append(_row("a teacher, which stays", one, units, set(one["members"]), table, reference))
    for arm, epsilon in TARGETS:
        name = Unit("arm", arm, ATTACKED_SEED, epsilon).name
        if study.has(name):
            budget = "" if epsilon is None else ", no noise" if np.isinf(epsilon) else f", epsilon {epsilon:g}"
            rows.append(_row(LABELS[arm] + budget, study.result(name), units, members, table, reference))
    columns = [
        Column(key="arm", label="model"), Column(key="loss", label="loss attack: area"),
        Column(key="found", label="found at 10 % false", unit="%"), Column(key="ratio", label="likelihood ratio: area"),
        Column(key="ratio_found", label="found at 10 % false", unit="%"), Column(key="members", label="members"),
        Column(key="others", label="others"),
    ]  # fmt: skip
    note = (
        f"Seed {ATTACKED_SEED}. Losses a letter; the loss attack takes the difference to the public-only model, the likelihood ratio "
        f"{len(shadows)} shadow models, each of half of all roles. Rows of one role are not independent, so intervals are too narrow; "
        "0.5 is chance."
    )
    return Table(title="Real speech: membership inference", caption=note, columns=columns, rows=rows)


def _row(
    name: str, found: dict[str, Any], units: Sequence[str], members: set[str], table: Shadows, reference: NDArray[Any]
) -> dict[str, Any]:
    own = np.array(found["losses"])
    inside = np.array([unit in members for unit in units])
    by_loss, by_ratio = reference - own, likelihood_ratio_scores(table, own)
    loss, ratio = (_evaluated(one, inside) for one in (by_loss, by_ratio))
    row: dict[str, Any] = {"arm": name, "members": int(inside.sum()), "others": int((~inside).sum())}
    row |= {"loss": _cell(loss.area), "found": _cell(loss.found_at[0.1], 100, 1)}
    return row | {"ratio": _cell(ratio.area), "ratio_found": _cell(ratio.found_at[0.1], 100, 1)}


def _evaluated(scores: NDArray[Any], inside: NDArray[np.bool_]) -> Attack:
    return evaluate_attack(scores[inside], scores[~inside])


def _cell(found: Any, factor: float = 1.0, digits: int = 3) -> dict[str, float]:
    return {key: round(factor * getattr(found, key), digits) for key in ("value", "low", "high")}
