"""A good metric, and one that breaks each promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sltcore.interfaces import Metric, Value
from sltcore.types import Port

SMALL: dict[str, object] = {}


class Good(Metric):
    """The share of texts that equal their reference. Source: own, for tests."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []
        self.item_ids: list[str] = []
        self.item_groups: list[str] = []

    @property
    def consumes(self) -> Port:
        return Port("Text")

    @property
    def directions(self) -> Mapping[str, str]:
        return {"equal": "higher"}

    @property
    def ids(self) -> Sequence[str]:
        return self.item_ids

    @property
    def groups(self) -> Sequence[str]:
        return self.item_groups

    def update(
        self,
        outputs: Sequence[Any],
        references: Sequence[Any],
        ids: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        ids = [str(len(self.item_ids) + i) for i in range(len(outputs))] if ids is None else ids
        self.item_ids += ids
        self.item_groups += ids if groups is None else groups
        self.rows += [self.row(a, b, len(outputs)) for a, b in zip(outputs, references, strict=True)]

    def row(self, output: str, reference: str, together: int) -> list[float]:
        return [float(output == reference), 1.0]

    def per_item(self) -> np.ndarray:
        return np.array(self.rows, dtype=np.float64).reshape(len(self.rows), -1)

    def reduce(self, stats: np.ndarray) -> Mapping[str, Value]:
        return {"equal": Value(100 * float(stats[:, 0].sum() / stats[:, 1].sum()), "%")}

    def reset(self) -> None:
        self.rows, self.item_ids, self.item_groups = [], [], []


class AddsTotal(Good):
    def per_item(self) -> np.ndarray:
        rows = super().per_item()
        return np.concatenate([rows, rows.sum(axis=0, keepdims=True)])


class CountsUpdate(Good):
    def row(self, output: str, reference: str, together: int) -> list[float]:
        return [*super().row(output, reference, together), float(together)]


class WeighsPlaces(Good):
    def reduce(self, stats: np.ndarray) -> Mapping[str, Value]:
        places = np.arange(1, len(stats) + 1)
        return {"equal": Value(100 * float((places * stats[:, 0]).sum() / places.sum()), "%")}


class PrefersLower(Good):
    @property
    def directions(self) -> Mapping[str, str]:
        return {"equal": "lower"}


class HasNoUnit(Good):
    def reduce(self, stats: np.ndarray) -> Mapping[str, Value]:
        return {name: value._replace(unit="") for name, value in super().reduce(stats).items()}


class KeepsRows(Good):
    def reset(self) -> None:
        self.item_ids, self.item_groups = [], []


BROKEN = {
    "per-item": (AddsTotal, "5 items gave 6 rows"),
    "additive": (CountsUpdate, r"row 0 is \[0.0, 1.0, 5.0\], then \[0.0, 1.0, 2.0\]"),
    "order": (WeighsPlaces, "equal is 13.3333333, and 26.6666667 with the rows in reverse order"),
    "perfect": (PrefersLower, r"equal \(lower is better\) is 100 where outputs equal their references, but 20"),
    "units": (HasNoUnit, "equal has the unit ''"),
    "reset": (KeepsRows, r"statistics of shape \(5, 2\) became \(10, 2\)"),
}
