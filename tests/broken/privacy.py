"""A good privacy mechanism, and one that breaks each promise."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sltcore.errors import PrivacyError
from sltcore.interfaces import PrivacyMechanism
from sltcore.types import PrivacyCost

SMALL = {"sizes": {"queries": 6}, "over": {"budget": 1.0}, "release": [{"high": 3, "low": 2}]}


class Good(PrivacyMechanism):
    """Pure differential privacy: each query of three teachers' votes costs 1/4. Source: own, for tests."""

    per_query = 0.25

    def __init__(self, budget: float = 5.0) -> None:
        self.budget = budget
        self.queries = 0

    def train(self, fit: Any, private: Any, public: Any) -> Any:
        self.refuse(len(public))
        teachers = [fit(private[part::3]) for part in range(3)]
        said = [[nbest.text for nbest in teacher([row["audio"] for row in public])] for teacher in teachers]
        labels = [self.release(Counter(votes)) for votes in zip(*said, strict=True)]
        return fit([{**row, "text": label} for row, label in zip(public, labels, strict=True)])

    def refuse(self, queries: int) -> None:
        if (self.queries + queries) * self.per_query > self.budget:
            raise PrivacyError(f"{queries} queries exceed the budget of {self.budget}")

    def release(self, votes: Mapping[str, int]) -> str:  # type: ignore[override]
        self.queries += 1
        return max(sorted(votes), key=lambda label: votes[label])

    def epsilon(self, queries: int, delta: float) -> float:
        return queries * self.per_query * (1 - 0.01 * math.log10(delta)) if queries else 0.0

    def spent(self, delta: float) -> PrivacyCost:
        return PrivacyCost(self.epsilon(self.queries, delta), delta, "utterance", False)

    def plan(self, delta: float, *, queries: int = 1) -> PrivacyCost:  # type: ignore[override]
        return PrivacyCost(self.epsilon(queries, delta), delta, "utterance", False)


class StartsAbove(Good):
    def spent(self, delta: float) -> PrivacyCost:
        cost = super().spent(delta)
        return cost if self.queries else cost._replace(epsilon=0.0 if delta == 1e-5 else 0.1)


class GrowsWithDelta(Good):
    def epsilon(self, queries: int, delta: float) -> float:
        return super().epsilon(queries, 1e-10 / delta)


class PlansTooLittle(Good):
    def plan(self, delta: float, *, queries: int = 1) -> PrivacyCost:  # type: ignore[override]
        return super().plan(delta, queries=max(1, queries // 2))


class RefusesNothing(Good):
    def refuse(self, queries: int) -> None:
        return


class NamesNoUnit(Good):
    def spent(self, delta: float) -> PrivacyCost:
        return super().spent(delta)._replace(unit="")


class ReturnsACopy(Good):
    def train(self, fit: Any, private: Any, public: Any) -> Any:
        return copy.deepcopy(super().train(fit, private, public))


BROKEN = {
    "starts-at-zero": (StartsAbove, r"spent\(1e-09\) gives epsilon 0.1"),
    "monotone": (GrowsWithDelta, "at the larger"),
    "plan": (PlansTooLittle, "says epsilon 0.7875, the run spent 1.575"),
    "refusal": (RefusesNothing, r"with \{'budget': 1.0\}, the run went through"),
    "unit": (NamesNoUnit, "spent names the unit ''"),
    "trains": (ReturnsACopy, "train returned a Classifier that none of its 4 calls of fit made"),
}
