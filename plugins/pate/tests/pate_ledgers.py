"""A ledger to test with: a guard that counts, and terms that suit it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slt_pate.events import Charge, GaussianMax
from slt_pate.ledger import Ledger

VOTE = (Charge(GaussianMax(20.0)),)


class Budget:
    """A guard that counts events, and remembers them."""

    def __init__(self, most: float = 1000) -> None:
        self.most, self.charges = most, list[Charge]()

    @property
    def spent(self) -> int:
        return sum(charge.count for charge in self.charges)

    def allows(self, charges: Sequence[Charge]) -> bool:
        return self.spent + sum(charge.count for charge in charges) <= self.most

    def charge(self, charges: Sequence[Charge]) -> None:
        assert self.allows(charges)
        self.charges += charges


def opened(path: Path, guard: Budget | None = None, **others: Any) -> Ledger:
    terms: dict[str, Any] = {"epsilon": 4.0, "delta": 1e-5, "unit": "speaker", **others}
    return Ledger.open(path, guard=guard or Budget(), **terms)


def total(charges: Sequence[Charge]) -> dict[Any, int]:
    """How often each event happens."""
    counts: dict[Any, int] = {}
    for charge in charges:
        counts[charge.event] = counts.get(charge.event, 0) + charge.count
    return counts
