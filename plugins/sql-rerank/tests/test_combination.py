"""Rerankers together: in turn, and as a sum whose weights are learned."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slt_sql_rerank.clauses import CLAUSES
from slt_sql_rerank.combination.in_turn import InTurn
from slt_sql_rerank.combination.learning import Listed, fit_weights, spread
from slt_sql_rerank.combination.weighted import FIRST, Weighted
from slt_sql_rerank.config_linking import WeightedConfig
from sltcore.errors import DataError, PluginError, SpecError
from sltcore.interfaces import Reranker
from sltcore.pipeline.build import build_component
from sltcore.types import ContextKey, Hypothesis, NBest

Scores = Sequence[float]


class Told(Reranker):
    """Scores that are told, by candidate."""

    def __init__(self, scores: Mapping[str, float]) -> None:
        self.scores = scores

    def context_keys(self) -> tuple[ContextKey, ...]:
        return (ContextKey("told", "text", "of the test"),)

    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[float]:
        return [self.scores[one.text] for one in hypotheses]


class Featured(Told):
    """The same with two features."""

    feature_names = ("up", "down")

    def features(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[list[float]]:
        return [[self.scores[one.text], -self.scores[one.text]] for one in hypotheses]


def nbest(scores: Sequence[float]) -> NBest:
    return NBest(Hypothesis(f"q{k}", score) for k, score in enumerate(scores))


def told(*scores: float, kind: type[Told] = Told) -> Told:
    return kind({f"q{k}": score for k, score in enumerate(scores)})


SCORE = st.sampled_from([0.0, -1.0, 1.0, -math.inf, math.nan])


@given(st.lists(st.tuples(SCORE, SCORE), min_size=1, max_size=7))
def test_in_turn_is_lexicographic_with_the_impossible_last(rows: list[tuple[float, float]]) -> None:
    clean = [[-math.inf if math.isnan(value) else value for value in row] for row in rows]
    before = nbest([0.0] * len(rows))
    part = InTurn([told(*column) for column in zip(*rows, strict=True)])
    after = part.rerank("?", before, {})
    expected = sorted(range(len(rows)), key=lambda k: (-math.inf in clean[k], [-value for value in clean[k]]))
    possible = [k for k in expected if -math.inf not in clean[k]]
    assert [one.text for one in after][: len(possible)] == [f"q{k}" for k in possible]
    assert sorted(one.text for one in after) == sorted(one.text for one in before)
    last = [one.text for one in after][len(possible) :]
    assert last == sorted(last, key=lambda text: int(text[1:]))  # as they came


def test_the_order_of_rerankers_matters_in_turn_only() -> None:
    first, second = told(0, 1, 1), told(5, 0, 1)
    assert [one.text for one in InTurn([first, second]).rerank("?", nbest([0, 0, 0]), {})] == ["q2", "q1", "q0"]
    assert [one.text for one in InTurn([second, first]).rerank("?", nbest([0, 0, 0]), {})] == ["q0", "q2", "q1"]
    sums = [
        Weighted(parts, notes=False).score("?", nbest([0, 0, 0]), {}) for parts in ([first, second], [second, first])
    ]
    assert sums[0] == sums[1]


def test_weighted_is_the_sum_of_features_times_weights() -> None:
    part = Weighted([told(1, 2, -math.inf), told(3, 5, 0, kind=Featured)], {FIRST: 2.0, "reranker 1": 0.5, "down": 1.0})
    assert part.feature_names == (FIRST, "reranker 1", "up", "down")
    scores = part.score("?", nbest([-1.0, -2.0, 0.0]), {})
    assert scores == [2 * -1 + 0.5 * 1 - 3, 2 * -2 + 0.5 * 2 - 5, -math.inf]
    shares = part.rerank("?", nbest([-1.0, -2.0, 0.0]), {})[0].extra["weighted"]
    assert shares == {"score": scores[0], "shares": {FIRST: -2.0, "reranker 1": 0.5, "down": -3.0}}
    with pytest.raises(PluginError, match=r"weights names 'upp', which is no feature; features: .*Did you mean 'up'\?"):
        Weighted([told(1, kind=Featured)], {"upp": 1.0})
    assert part.score("?", [], {}) == []


def lists_of(true: torch.Tensor, count: int, seed: int = 0) -> list[Listed]:
    """Lists whose correct candidate is drawn by softmax of x w."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        x = torch.tensor(rng.normal(size=(6, len(true))))
        chosen = rng.choice(6, p=torch.softmax(x @ true, 0).numpy())
        found.append(Listed(x, torch.ones(6, dtype=torch.bool), torch.arange(6) == chosen))
    return found


def test_learning_finds_the_weights_that_made_the_lists() -> None:
    true = torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64)
    found = fit_weights(lists_of(true, 4000), start=torch.zeros(3, dtype=torch.float64), decay=0.0)
    assert (found - true).abs().max() < 0.15


def test_its_gradient_is_zero_where_it_ends_and_decay_pulls_to_the_start() -> None:
    lists, start = (
        lists_of(torch.tensor([1.0, 0.5], dtype=torch.float64), 60),
        torch.tensor([0.3, 0.3], dtype=torch.float64),
    )
    near, far = (fit_weights(lists, start=start, decay=decay) for decay in (100.0, 0.01))
    assert (near - start).norm() < 0.05 < (far - start).norm()
    weights = far.clone().requires_grad_()
    total = torch.tensor(0.0, dtype=torch.float64)
    for one in lists:
        p = torch.softmax(one.features @ weights, 0)
        total = total - torch.log(p[one.correct].sum())
    loss = total / len(lists) + 0.01 * ((weights - start) * spread(lists)).square().sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    assert gradient.abs().max() < 1e-4


def test_lists_that_say_nothing_are_passed_over() -> None:
    x = torch.randn(3, 2, dtype=torch.float64)
    every, none = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    with pytest.raises(DataError, match="none of 2 lists has both a correct and a wrong candidate"):
        fit_weights([Listed(x, every, every), Listed(x, every, none)], start=torch.zeros(2, dtype=torch.float64))
    impossible = torch.tensor([True, True, False])
    some = Listed(x, impossible, torch.tensor([True, False, False]))
    only = Listed(x[:2], every[:2], torch.tensor([True, False]))
    start = torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(fit_weights([some], start=start), fit_weights([only], start=start))


def test_they_are_built_from_specs_with_the_context_of_all() -> None:
    names = [{"use": "likelihood"}, {"use": "likelihood", "per": "token"}]
    for kind in ("in-turn", "weighted"):
        part = build_component("reranker", kind, {"rerankers": names})
        assert len(part.rerankers) == 2
        with pytest.raises(SpecError, match="rerankers is empty; expected at least one"):
            build_component("reranker", kind, {"rerankers": []})
    assert [key.name for key in InTurn([told(1), told(2)]).context_keys()] == ["told"]
    with pytest.raises(PluginError, match="rerankers is empty; expected at least one"):
        InTurn([])


PLAN: Any = WeightedConfig().rerankers[0]


def test_the_weights_at_hand_are_those_of_the_experiment() -> None:
    """The defaults are what `experiments/rerank` learned, with the plan that it chose."""
    file = Path(__file__).parents[1] / "experiments" / "rerank" / "tuned.json"
    tuned = json.loads(file.read_text(encoding="utf-8"))
    found: Any = build_component("reranker", "weighted", {})
    weights = dict(zip(found.feature_names, found.weights.tolist(), strict=True))
    assert weights == pytest.approx(tuned["weights"])
    config: Any = PLAN.config
    assert [config.plan.use, config.among] == tuned["weighted plan"]
    assert found.rerankers[0].among == CLAUSES
