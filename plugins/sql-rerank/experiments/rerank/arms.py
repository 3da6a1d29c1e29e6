"""The arms: rerankers as a user would write them in a spec, and the orders that they give."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from items import Item

from sltcore.pipeline import build_component

Spec = Mapping[str, Any]
Tuned = Mapping[str, Any]
Order = list[int]
LINKING_HARD: Spec = {"use": "schema-linking", "rule": "hard", "notes": False}
PLAN_HARD: Spec = {"use": "query-plan", "rule": "hard", "notes": False}
PLANS = ("plan-labels", "plan-sequence")
AMONG = ("keywords", "all")
BOTH = ("linking-plan", "plan-linking", "weighted")
"""Ways to take both rerankers; which of them stands for "both" in the claims is chosen on the tune lists."""
SHUFFLES = 5


def specs(tuned: Tuned) -> dict[str, Spec]:
    """Every arm that a component makes, with the settings that were chosen on the tune lists."""
    soft_plan = {**of_plan(tuned["plan"], tuned["among"]), "rule": "soft", "weight": tuned["plan weight"]}
    hard_plan = {**PLAN_HARD, **of_plan(tuned["plan"], tuned["among"])}
    return {
        "first-executable": {"use": "first-executable"},
        "first-planned": {"use": "first-executable", "check": "plan"},
        "majority-vote": {"use": "majority-vote"},
        "majority-vote-last": {"use": "majority-vote", "empty": "last"},
        "plan-hard": hard_plan,
        "plan": soft_plan,
        "linking-hard": LINKING_HARD,
        "linking": {**LINKING_HARD, "rule": "soft", "weight": tuned["linking weight"]},
        "linking-plan": {"use": "in-turn", "rerankers": [LINKING_HARD, hard_plan]},
        "plan-linking": {"use": "in-turn", "rerankers": [hard_plan, LINKING_HARD]},
        "weighted": {
            "use": "weighted",
            "rerankers": weighted_parts(*tuned["weighted plan"]),
            "weights": tuned["weights"],
            "notes": False,
        },
        "gold-plan": {"use": "gold-plan", "rule": "hard"},
        "gold-plan-soft": {"use": "gold-plan", "rule": "soft"},
    }


def of_plan(plan: str, among: str) -> Spec:
    """A `query-plan` reranker with one of the plan models."""
    return {"use": "query-plan", "plan": {"use": plan}, "among": among, "notes": False}


def weighted_parts(plan: str, among: str) -> list[Spec]:
    """What the learned combination adds up, beside the first-pass score."""
    return [of_plan(plan, among), {"use": "schema-linking", "notes": False}]


def orders(spec: Spec, items: Sequence[Item], *, synonym: bool = False) -> list[Order]:
    """The order of each item's candidates by a reranker, stable; its public `score` and nothing else."""
    options = {key: value for key, value in spec.items() if key != "use"}
    reranker: Any = build_component("reranker", spec["use"], options)
    found = []
    for item in items:
        context = {"database": str(item.file)} | ({"sql": item.gold} if spec["use"] == "gold-plan" else {})
        found.append(order_of(reranker.score(item.asked(synonym=synonym), item.candidates, context)))
    return found


def order_of(scores: Sequence[float]) -> Order:
    """Places by score, highest first; equal ones as they came.

    >>> order_of([0.5, float("-inf"), 2.0, 0.5])
    [2, 0, 3, 1]
    """
    finite = [-math.inf if math.isnan(score) else score for score in scores]
    return sorted(range(len(finite)), key=lambda place: -finite[place])


def shuffled_plan(tuned: Tuned, items: Sequence[Item], folder: Path) -> list[list[Order]]:
    """The negative control, with the questions of `SHUFFLES` different parts of the data as donors."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in range(SHUFFLES):
        donors = Random(seed).sample(list(items), len(items) // 2)
        file = folder / f"donors-{seed}.jsonl"
        lines = (json.dumps({"question": item.question, "database": str(item.file)}) for item in donors)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        spec = {**of_plan(tuned["plan"], tuned["among"]), "rule": "soft", "weight": tuned["plan weight"]}
        found.append(orders({**spec, "use": "shuffled-plan", "donors": str(file)}, items))
    return found


def random_order(items: Sequence[Item], seeds: Iterable[int]) -> list[list[Order]]:
    """Any order, for each seed."""
    found = []
    for seed in seeds:
        random = Random(seed)
        found.append([random.sample(range(len(item.candidates)), len(item.candidates)) for item in items])
    return found
