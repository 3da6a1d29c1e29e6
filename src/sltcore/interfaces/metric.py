"""Metric: a measurement whose interval can be computed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from sltcore.interfaces.part import Part
from sltcore.types import Port

if TYPE_CHECKING:
    import numpy as np


class Value(NamedTuple):
    """One measured number and its unit ("%", "dB", "1" for a ratio)."""

    value: float
    unit: str


class Metric(Part):
    """Collects sufficient statistics of each item, and reduces them to values.

    The bootstrap resamples items, or clusters of items, and calls `reduce`, so ratios, F1 and error rates get honest
    intervals.
    """

    promises: ClassVar[Mapping[str, str]] = {
        "per-item": "per_item has one row for each item that was given, in order, all finite",
        "additive": "updating in two parts gives the statistics of updating at once",
        "order": "reduce does not depend on the order of items",
        "perfect": "outputs that equal their references give the best value",
        "units": "every value has a unit and a direction",
        "reset": "reset forgets everything",
    }

    @property
    def produces(self) -> Port:
        """Numbers."""
        return Port("Scores")

    @property
    @abstractmethod
    def directions(self) -> Mapping[str, str]:
        """For each value's name "lower" or "higher": which is better."""

    @abstractmethod
    def update(
        self,
        outputs: Sequence[Any],
        references: Sequence[Any],
        ids: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Add items. **Raises** `ShapeError` when outputs, references, ids or groups differ in number."""

    @abstractmethod
    def per_item(self) -> np.ndarray:
        """Sufficient statistics [n s] float64, one row for each item."""

    @abstractmethod
    def reduce(self, stats: np.ndarray) -> Mapping[str, Value]:
        """Values of any selection of rows [m s]; NaN where the selection says nothing."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all items."""

    @property
    @abstractmethod
    def ids(self) -> Sequence[str]:
        """The id of each row."""

    @property
    @abstractmethod
    def groups(self) -> Sequence[str]:
        """The cluster of each row, its id where none was given."""
