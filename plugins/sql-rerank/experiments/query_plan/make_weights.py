"""Trains, calibrates, measures and writes the plan models that the package carries.

    SLT_DATA=FOLDER python plugins/sql-rerank/experiments/query_plan/make_weights.py --work runs/plans

FOLDER holds spider/ as the descriptor of the data set says. About ten minutes on one core. Calibration is measured with
one half of the 16 held-out train databases fitted and the other half scored; what is written is fitted on all 16. Dev is
only measured.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import spider_plans
import torch
from safetensors.torch import save_file

from slt_sql_rerank.clauses import CLAUSES, KEYWORDS
from slt_sql_rerank.databases import schema_of
from slt_sql_rerank.query_plan.calibration import calibrate, reliability
from slt_sql_rerank.query_plan.model import QueryPlan, wanted

HERE = Path(__file__).parent
WEIGHTS = HERE.parents[1] / "src/slt_sql_rerank/query_plan/weights"
Rows = Sequence[dict[str, Any]]


def train(name: str, work: Path) -> QueryPlan:
    """A model trained by its spec."""
    from sltcore.bundle import load
    from sltcore.train import fit

    found = load(fit(HERE / f"{name}.yaml", out=work / name).bundle).parts["decoder"]
    assert isinstance(found, QueryPlan)
    return found


def gold(rows: Rows) -> torch.Tensor:
    """Clauses of the gold queries [n c] bool."""
    sets = [wanted(row["sql"]) for row in rows]
    return torch.tensor([[name in names for name in CLAUSES] for names in sets])


def inputs(rows: Rows, column: str = "question") -> tuple[list[str], list[Any]]:
    """Questions and schemas."""
    return [row[column] for row in rows], [schema_of(row["database"]) for row in rows]


def quality(model: QueryPlan, rows: Rows, column: str = "question") -> dict[str, float]:
    """Micro F1 and share of exactly right sets, of keywords and of all clauses, and nats of the gold set, for each question."""
    truth = [wanted(row["sql"]) for row in rows]
    plans = model.plans(*inputs(rows, column))
    found: dict[str, float] = {"questions": len(rows)}
    for label, among in (("keywords", KEYWORDS), ("all", CLAUSES)):
        kept = frozenset(among)
        pairs = [(plan.best(1, among)[0][0], names & kept) for plan, names in zip(plans, truth, strict=True)]
        both, either = sum(len(a & b) for a, b in pairs), sum(len(a) + len(b) for a, b in pairs)
        found[f"{label}.f1"] = 2 * both / either
        found[f"{label}.exact"] = sum(a == b for a, b in pairs) / len(pairs)
        found[f"{label}.nats"] = -float(
            np.mean([plan.log_prob(names, among) for plan, names in zip(plans, truth, strict=True)])
        )
    return {key: round(value, 4) for key, value in found.items()}


def calibration(model: QueryPlan, rows: Rows) -> dict[str, Any]:
    """Reliability over all clauses of all questions."""
    marginals = [plan.marginals() for plan in model.plans(*inputs(rows))]
    values = np.array([[entry[name] for name in CLAUSES] for entry in marginals])
    found = reliability(values.ravel().clip(0, 1), gold(rows).numpy().ravel())
    return {"ece": round(found.error, 5), "bins": [[round(a, 4), round(b, 4), n] for a, b, n in found.bins]}


def calibrated(model: QueryPlan, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Calibrates; reports the error before and after on databases that were not fitted."""
    rows = found["held-out"]
    names = sorted({row["db_id"] for row in rows})
    fitted = [row for row in rows if names.index(row["db_id"]) % 2 == 0]
    scored = [row for row in rows if names.index(row["db_id"]) % 2 == 1]
    report = {"held-out half, before": calibration(model, scored), "dev, before": calibration(model, found["dev"])}
    calibrate(model, *inputs(fitted), gold(fitted))
    report["held-out half, after"] = calibration(model, scored)
    calibrate(model, *inputs(rows), gold(rows))
    report["dev, after"] = calibration(model, found["dev"])
    return report


def main() -> None:
    """Both models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs, which go on where they stopped")
    work = parser.parse_args().work
    found = spider_plans.questions(Path(os.environ["SLT_DATA"]) / "spider")
    sets = (work / "sets").resolve()
    if not sets.is_dir():
        spider_plans.write_sets(found, sets)
    os.environ["PLANS"] = str(sets)
    report: dict[str, Any] = {"held-out databases": sorted({row["db_id"] for row in found["held-out"]})}
    WEIGHTS.mkdir(exist_ok=True)
    for name in ("labels", "sequence"):
        model = train(name, work)
        entry: dict[str, Any] = {"calibration": calibrated(model, found)}
        entry["quality"] = {
            "held-out": quality(model, found["held-out"]),
            "dev": quality(model, found["dev"]),
            "dev, Spider-Syn": quality(model, found["dev"], "question_synonym"),
        }
        half = {key: value.half().contiguous() for key, value in model.state_dict().items()}
        save_file(half, WEIGHTS / f"{name}-spider.safetensors")
        report[name] = entry
    (HERE / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name in ("labels", "sequence"):
        print(name, json.dumps(report[name]["quality"], indent=1))
        print({key: value["ece"] for key, value in report[name]["calibration"].items()})


if __name__ == "__main__":
    main()
