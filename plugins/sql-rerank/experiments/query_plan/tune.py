"""Finds the weight and clauses of `query-plan` on candidates of held-out train databases.

    python plugins/sql-rerank/experiments/query_plan/tune.py CANDIDATES.jsonl --databases FOLDER [--out FILE.json]

CANDIDATES holds, a line for each question, question, db_id, query (gold) and candidates [{sql, score}]; FOLDER holds
NAME/NAME.sqlite. What is right is decided by strict execution accuracy; a weight is the one with the most questions right,
the smallest of equals. Never give it the questions that a claim is measured on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import spider_plans

from slt_sql_rerank.databases import Sandboxes, schema_of
from slt_sql_rerank.metrics import Execution
from slt_sql_rerank.query_plan import rules
from slt_sql_rerank.query_plan.reranker import AMONG, clause_sets
from sltcore.errors import SltError
from sltcore.pipeline import build_component
from sltcore.types import Hypothesis

WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


def judged(path: Path, databases: Path) -> list[dict[str, Any]]:
    """Each question with its hypotheses and which of them are right; those whose gold query does not run are left out."""
    found = []
    with Sandboxes() as sandboxes, path.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            file = databases / row["db_id"] / f"{row['db_id']}.sqlite"
            execution = Execution(sandboxes.of(file))  # type: ignore[arg-type]
            try:
                right = [execution.strict(one["sql"], row["query"]) for one in row["candidates"]]
            except SltError:
                continue
            hypotheses = [Hypothesis(one["sql"], one["score"]) for one in row["candidates"]]
            found.append({"question": row["question"], "database": file, "hypotheses": hypotheses, "right": right})
    return found


def tune(rows: list[dict[str, Any]], plan: str, among: str) -> dict[str, Any]:
    """Questions right by each weight of the soft rule, and by the hard rule."""
    model = build_component("decoder", plan, {})
    counts, hard = dict.fromkeys(WEIGHTS, 0), 0
    for row in rows:
        schema = schema_of(row["database"])
        (found,) = model.plans([row["question"]], [schema])
        sets = clause_sets(row["hypotheses"], schema, AMONG[among])
        scores = [hypothesis.score for hypothesis in row["hypotheses"]]
        for weight in WEIGHTS:
            counts[weight] += row["right"][best(rules.soft(scores, sets, found, AMONG[among], weight))]
        hard += row["right"][best(rules.hard(sets, found.best(1, AMONG[among])[0][0]))]
    weight = max(WEIGHTS, key=lambda value: (counts[value], -value))
    return {"plan": plan, "among": among, "weight": weight, "right": counts[weight], "hard": hard, "by weight": counts}


def best(scores: list[float]) -> int:
    """The place of the first highest score."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place))


def main() -> None:
    """All plan models and sets of clauses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("candidates", type=Path)
    parser.add_argument("--databases", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = judged(given.candidates, given.databases)
    report: dict[str, Any] = {
        "questions": len(rows),
        "first": sum(row["right"][0] for row in rows),
        "oracle": sum(any(row["right"]) for row in rows),
        "held-out databases": spider_plans.HELD_OUT,
        "arms": [tune(rows, plan, among) for plan in ("plan-labels", "plan-sequence") for among in AMONG],
    }
    print(json.dumps(report, indent=1))
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
