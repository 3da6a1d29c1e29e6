"""Calibration finds the known answer, and the shipped plan models are as good as their report says."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slt_sql_rerank.clauses import CLAUSES, KEYWORDS
from slt_sql_rerank.databases import schema_of
from slt_sql_rerank.query_plan.calibration import calibrate, platt, reliability
from slt_sql_rerank.query_plan.features import QuestionEncoder
from slt_sql_rerank.query_plan.heads import LabelHead, SequenceHead
from slt_sql_rerank.query_plan.model import QueryPlan, wanted
from sltcore.errors import DataError
from sltcore.pipeline import build_component

DATA = os.environ.get("SLT_DATA")
REPORT = Path(__file__).parents[1] / "experiments" / "query_plan" / "report.json"


def test_platt_finds_the_scale_and_shift_that_made_the_labels() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40_000, generator=draw)
    truths = torch.rand(40_000, generator=draw) < torch.sigmoid(0.5 * logits - 1)
    assert platt(logits, truths) == pytest.approx((0.5, -1.0), abs=0.05)


def test_platt_is_where_the_gradient_vanishes() -> None:
    logits, truths = torch.tensor([-2.0, -1.0, 0.5, 2.0]), torch.tensor([False, True, False, True])
    a, b = platt(logits, truths, ridge=0.5)
    errors = torch.sigmoid(a * logits.double() + b) - truths.double()
    assert float((errors * logits).sum()) + 0.5 * (a - 1) == pytest.approx(0, abs=1e-8)
    assert float(errors.sum()) + 0.5 * b == pytest.approx(0, abs=1e-8)


def test_platt_stays_near_what_it_was_where_a_clause_never_occurs() -> None:
    a, b = platt(torch.full((50,), -6.0), torch.zeros(50, dtype=torch.bool))
    assert 0.5 < a < 3
    assert abs(b) < 1


def test_reliability_is_the_written_sum() -> None:
    probabilities = np.array([0.05, 0.05, 0.95, 0.95, 0.5])
    truths = np.array([False, True, True, True, False])
    found = reliability(probabilities, truths, bins=10)
    assert found.bins == ((0.05, 0.5, 2), (0.5, 0.0, 1), (0.95, 1.0, 2))
    assert found.error == pytest.approx(0.4 * 0.45 + 0.2 * 0.5 + 0.4 * 0.05)
    assert reliability(np.array([1.0]), np.array([True])).error == 0
    with pytest.raises(DataError, match="no predictions to measure"):
        reliability(np.array([]), np.array([], dtype=bool))


@pytest.mark.parametrize("kind", ["labels", "sequence"])
def test_calibrating_lowers_the_loss_of_what_was_fitted(kind: str) -> None:
    torch.manual_seed(0)
    head: Any = LabelHead(8) if kind == "labels" else SequenceHead(8, 8)
    model = QueryPlan(QuestionEncoder(256, 8), head)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(2 * torch.randn_like(parameter))
    questions = [f"how many {word} of {number}" for word in ("ships", "cats", "songs") for number in range(9)]
    sets = [wanted("select agg count" if place % 3 else "select where") for place in range(len(questions))]
    truths = torch.tensor([[name in names for name in CLAUSES] for names in sets])

    def nats() -> float:
        plans = model.plans(questions, [None] * len(questions))
        return -math.fsum(plan.log_prob(names) for plan, names in zip(plans, sets, strict=True))

    before = nats()
    calibrate(model, questions, [None] * len(questions), truths)
    assert nats() < 0.9 * before


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="needs SLT_DATA")
@pytest.mark.parametrize("name", ["labels", "sequence"])
@pytest.mark.parametrize("column", ["question", "question_synonym"])
def test_the_shipped_models_are_as_good_on_dev_as_reported(name: str, column: str) -> None:
    folder = Path(str(DATA)) / "spider"
    rows = [json.loads(line) for line in (folder / "dev.jsonl").open(encoding="utf-8")]
    model = build_component("decoder", f"sltcore-sql-rerank/plan-{name}", {})
    schemas = [schema_of(f"{folder / 'tables.json'}#{row['db_id']}") for row in rows]
    plans = model.plans([row[column] for row in rows], schemas)
    kept = frozenset(KEYWORDS)
    pairs = [(plan.best(1, KEYWORDS)[0][0], wanted(row["query"]) & kept) for plan, row in zip(plans, rows, strict=True)]
    f1 = 2 * sum(len(a & b) for a, b in pairs) / sum(len(a) + len(b) for a, b in pairs)
    exact = sum(a == b for a, b in pairs) / len(pairs)
    told = json.loads(REPORT.read_text())[name]["quality"]["dev" if column == "question" else "dev, Spider-Syn"]
    assert (f1, exact) == pytest.approx((told["keywords.f1"], told["keywords.exact"]), abs=0.01)
    always = frozenset({"where", "join"})  # the commonest clauses of the training queries
    baseline = sum(2 * len(always & b) for _, b in pairs) / sum(len(always) + len(b) for _, b in pairs)
    assert f1 > baseline + 0.2
