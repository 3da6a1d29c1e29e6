"""Settings from the lists of held-out train databases, and what each way of choosing them brings on a database left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import arms
import numpy as np
import torch
from items import Item, Judged

from slt_sql_rerank.combination.learning import Listed, fit_weights
from slt_sql_rerank.schema_linking.constraints import POINTS
from sltcore.pipeline import build_component

WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FIRST, LOG_PROB = "first-pass", "log_prob"
Plan = tuple[str, str]
"""A plan model and the clauses that count."""
Choose = Callable[[Sequence[int]], Any]
Apply = Callable[[Any, int], int]


class Features(NamedTuple):
    """What the rerankers know of each item's candidates: x [k f], and which candidates are possible [k]."""

    names: tuple[str, ...]
    values: list[torch.Tensor]
    possible: list[list[bool]]


def features(items: Sequence[Item], plan: Plan) -> Features:
    """Of first pass, a plan model and the links, through the component `weighted`."""
    options = {"rerankers": arms.weighted_parts(*plan), "notes": False}
    reranker: Any = build_component("reranker", "weighted", options)
    values, possible = [], []
    for item in items:
        found, able = reranker.features(item.question, item.candidates, {"database": str(item.file)})
        values.append(found)
        possible.append(able)
    return Features(reranker.feature_names, values, possible)


def tune(items: Sequence[Item], judged: Judged) -> dict[str, Any]:
    """The settings, and the share of right answers (execution, strict) of each way to choose them: `seen` on the questions
    they were chosen on, `left out` on each database with settings from the other ones."""
    right = [row[:, 0] for row in judged.right]
    by_plan = {plan: features(items, plan) for plan in product(arms.PLANS, arms.AMONG)}
    groups = [item.database for item in items]
    tuning = Tuning(by_plan, right, groups)
    everything = range(len(items))
    plan, plan_weight = tuning.best_plan(everything)
    weighted_plan, decay = tuning.best_learned()
    weights = tuning.learned(weighted_plan, everything, decay)
    tuned: dict[str, Any] = {
        "plan": plan[0],
        "among": plan[1],
        "plan weight": plan_weight,
        "linking weight": tuning.best_linking(everything),
        "weighted plan": list(weighted_plan),
        "decay": decay,
        "weights": {name: round(float(weight), 4) for name, weight in zip(by_plan[plan].names, weights, strict=True)},
    }
    hard = {name: arms.orders(arms.specs(tuned)[name], items) for name in ("linking-plan", "plan-linking")}
    tuned["items"] = len(items)
    tuned["databases"] = len(set(groups))
    tuned["accuracy"] = {
        "first pass": tuning.share(lambda place: 0),
        "oracle": float(np.mean([row.any() for row in right])),
        "plan": tuning.both(tuning.best_plan, tuning.by_plan_weight),
        "linking": tuning.both(tuning.best_linking, tuning.by_linking_weight),
        "weighted": tuning.both(
            lambda own: tuning.learned(weighted_plan, own, decay), tuning.by_weights(weighted_plan)
        ),
        **{name: {"left out": tuning.share(lambda place, own=own: own[place][0])} for name, own in hard.items()},
    }
    tuned["both"] = max(arms.BOTH, key=lambda name: tuned["accuracy"][name]["left out"])
    return tuned


class Tuning:
    """The search for settings, from features that were computed once."""

    def __init__(self, by_plan: dict[Plan, Features], right: Sequence[Any], groups: Sequence[str]) -> None:
        self.by_plan, self.right, self.groups = by_plan, right, groups
        names = next(iter(by_plan.values())).names
        self.points = torch.tensor([POINTS.get(name, 0.0) for name in names], dtype=torch.float64)
        self.first = torch.tensor([float(name == FIRST) for name in names], dtype=torch.float64)
        self.plan = torch.tensor([float(name == LOG_PROB) for name in names], dtype=torch.float64)

    def share(self, choose: Callable[[int], int], own: Sequence[int] | None = None) -> float:
        """Of the items whose chosen candidate is right."""
        places = range(len(self.right)) if own is None else own
        return float(np.mean([self.right[place][choose(place)] for place in places]))

    def chosen(self, features: Features, weights: torch.Tensor, place: int, *, bar: bool) -> int:
        """The first candidate of highest weighted sum; `bar` puts impossible ones last."""
        scores = (features.values[place] @ weights).tolist()
        if bar:
            scores = [
                score if able else float("-inf") for score, able in zip(scores, features.possible[place], strict=True)
            ]
        return arms.order_of(scores)[0]

    def by_plan_weight(self, setting: tuple[Plan, float], place: int) -> int:
        """`query-plan`, rule soft."""
        plan, weight = setting
        return self.chosen(self.by_plan[plan], self.first + weight * self.plan, place, bar=False)

    def by_linking_weight(self, weight: float, place: int) -> int:
        """`schema-linking`, rule soft."""
        features = next(iter(self.by_plan.values()))
        return self.chosen(features, self.first + weight * self.points, place, bar=True)

    def by_weights(self, plan: Plan) -> Apply:
        """`weighted`."""
        return lambda weights, place: self.chosen(self.by_plan[plan], weights, place, bar=True)

    def best_plan(self, own: Sequence[int]) -> tuple[Plan, float]:
        """Plan model and weight with most right answers; the smaller weight of equals."""
        settings = [(plan, weight) for plan in self.by_plan for weight in WEIGHTS]
        return max(settings, key=lambda one: (self.share(lambda at: self.by_plan_weight(one, at), own), -one[1]))

    def best_linking(self, own: Sequence[int]) -> float:
        """Weight with most right answers; the smaller of equals."""
        return max(WEIGHTS, key=lambda one: (self.share(lambda at: self.by_linking_weight(one, at), own), -one))

    def learned(self, plan: Plan, own: Sequence[int], decay: float) -> torch.Tensor:
        """Weights by `fit_weights`, started at the first-pass score alone."""
        features = self.by_plan[plan]
        lists = [
            Listed(features.values[at], torch.tensor(features.possible[at]), torch.from_numpy(self.right[at]))
            for at in own
        ]
        return fit_weights(lists, start=self.first, decay=decay)

    def best_learned(self) -> tuple[Plan, float]:
        """Plan model and decay whose weights are right most often on databases left out; the larger decay of equals."""
        found = {
            (plan, decay): self.left_out(
                lambda own, plan=plan, decay=decay: self.learned(plan, own, decay),  # type: ignore[misc]
                self.by_weights(plan),
            )
            for plan in self.by_plan
            for decay in DECAYS
        }
        return max(found, key=lambda one: (found[one], one[1]))

    def left_out(self, choose: Choose, apply: Apply) -> float:
        """Right answers on each database with the setting of the other ones."""
        hits: list[bool] = []
        for group in dict.fromkeys(self.groups):
            setting = choose([at for at, other in enumerate(self.groups) if other != group])
            hits += [bool(self.right[at][apply(setting, at)]) for at, other in enumerate(self.groups) if other == group]
        return float(np.mean(hits))

    def both(self, choose: Choose, apply: Apply) -> dict[str, float]:
        """Right answers on the questions that chose, and on those that did not."""
        setting = choose(range(len(self.right)))
        return {"seen": self.share(lambda at: apply(setting, at)), "left out": self.left_out(choose, apply)}
