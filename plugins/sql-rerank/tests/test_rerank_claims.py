"""The reranking experiment's claims on made-up outcomes, against counting, and what its tuning is allowed to see."""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

PLUGIN = Path(__file__).parents[1]
FOLDER = PLUGIN / "experiments" / "rerank"
LISTS = PLUGIN / "experiments" / "first_pass" / "lists"
REPORT = PLUGIN / "reports" / "rerank" / "report.json"
FIRST = "first pass"
EXECUTION, MATCH = "execution-strict", "exact-match-strict"


@pytest.fixture(scope="module")
def rerank() -> Iterator[SimpleNamespace]:
    """The experiment's modules, whose names others use as well."""
    names = ("arms", "claims", "items", "others", "report", "scores", "spider", "tables", "tuning")
    before = {name: sys.modules.pop(name, None) for name in names}
    path = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    try:
        import arms
        import claims
        import items
        import tuning

        yield SimpleNamespace(arms=arms, claims=claims, items=items, tuning=tuning)
    finally:
        sys.path[:] = path
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update({name: module for name, module in before.items() if module is not None})


class Outcomes:
    """Stands for `Scores`: who is right on which question of which database."""

    both = "both"

    def __init__(self, databases: list[str], right: dict[tuple[str, str], list[bool]]) -> None:
        self.databases, self.given = databases, right

    def arm(self, name: str, form: str = EXECUTION) -> Any:
        return np.array(self.given.get((name, form), self.given[name, EXECUTION]), dtype=bool)


def outcomes(databases: int, size: int, shares: dict[tuple[str, str], float], seed: int = 0) -> Outcomes:
    """Each arm right with a probability that differs from database to database."""
    draw = random.Random(seed)
    names = [f"d{number:02d}" for number in range(databases) for _ in range(size)]
    ease = {name: draw.uniform(-0.1, 0.1) for name in dict.fromkeys(names)}
    ranks = [draw.random() for _ in names]
    found = {}
    for arm, share in shares.items():
        turned = [rank if draw.random() < 0.9 else draw.random() for rank in ranks]  # arms agree on most questions
        found[arm] = [rank < share + ease[name] for rank, name in zip(turned, names, strict=True)]
    return Outcomes(names, found)


CLEAR = {
    (FIRST, EXECUTION): 0.45, ("first-executable", EXECUTION): 0.5, ("both", EXECUTION): 0.7,
    (FIRST, MATCH): 0.40, ("both", MATCH): 0.5,
}  # fmt: skip


def test_effects_wins_and_losses_are_what_counting_says(rerank: SimpleNamespace) -> None:
    from scipy.stats import binomtest

    found = outcomes(17, 30, CLEAR)
    verdicts = rerank.claims.verdicts(found)
    for verdict, versus in zip(verdicts[:2], (FIRST, "first-executable"), strict=True):
        mine, other = found.given["both", EXECUTION], found.given[versus, EXECUTION]
        won = sum(a and not b for a, b in zip(mine, other, strict=True))
        lost = sum(b and not a for a, b in zip(mine, other, strict=True))
        assert verdict.effect == pytest.approx(100 * (won - lost) / len(mine))
        assert f"{won} questions won, {lost} lost" in verdict.note
        assert f"p = {binomtest(won, won + lost).pvalue:.2g}" in verdict.note
        assert verdict.verdict == "supported"


def test_the_interval_is_that_of_drawing_whole_databases(rerank: SimpleNamespace) -> None:
    """Against a bootstrap written out, widened as Student's t is wider than the normal for so few."""
    from scipy.stats import norm, t

    found = outcomes(17, 30, CLEAR)
    found.given[FIRST, EXECUTION] = [place % 30 < 12 for place in range(510)]
    found.given["both", EXECUTION] = [place % 30 < 12 + place // 30 for place in range(510)]  # databases differ
    verdict = rerank.claims.verdicts(found)[0]
    gains: dict[str, list[int]] = {}
    for name, a, b in zip(found.databases, found.given["both", EXECUTION], found.given[FIRST, EXECUTION], strict=True):
        gains.setdefault(name, []).append(int(a) - int(b))
    draw = random.Random(1)
    drawn = []
    for _ in range(4000):
        picked = [gains[name] for name in draw.choices(list(gains), k=len(gains))]
        drawn.append(100 * sum(map(sum, picked)) / sum(map(len, picked)))
    wider = t.ppf(0.975, 16) / norm.ppf(0.975) * math.sqrt(17 / 16)
    low, high = (verdict.effect + wider * (float(np.quantile(drawn, q)) - verdict.effect) for q in (0.025, 0.975))
    assert verdict.low == pytest.approx(low, abs=0.06 * (high - low))
    assert verdict.high == pytest.approx(high, abs=0.06 * (high - low))


def test_the_third_claim_compares_gains_over_the_first_pass(rerank: SimpleNamespace) -> None:
    found = outcomes(17, 30, CLEAR)
    verdict = rerank.claims.verdicts(found)[2]

    def gain(form: str) -> float:
        mine, other = found.given["both", form], found.given[FIRST, form]
        return 100 * (sum(mine) - sum(other)) / len(mine)

    assert verdict.effect == pytest.approx(gain(EXECUTION) - gain(MATCH))
    assert "McNemar" not in verdict.note
    turned = outcomes(17, 30, {**CLEAR, ("both", EXECUTION): 0.55, ("both", MATCH): 0.75})
    assert rerank.claims.verdicts(turned)[2].verdict == "not supported"


def test_p_values_are_corrected_by_holm(rerank: SimpleNamespace) -> None:
    verdicts = rerank.claims.verdicts(outcomes(17, 30, {**CLEAR, ("both", EXECUTION): 0.58}, seed=3))
    p = [verdict.p for verdict in verdicts]
    ordered = sorted(range(3), key=lambda place: p[place])
    least = 0.0
    for rank, place in enumerate(ordered):
        least = max(least, min(1.0, (3 - rank) * p[place]))
        assert verdicts[place].p_adjusted == pytest.approx(least)


def test_a_gain_of_few_questions_that_mcnemar_cannot_tell_is_undecided(rerank: SimpleNamespace) -> None:
    """Five databases of 17 with one question won each: the interval over databases says yes, the questions do not."""
    databases = [f"d{number:02d}" for number in range(17) for _ in range(10)]
    first = [place % 10 < 5 for place in range(170)]
    won = {10 * number + 9 for number in range(5)}
    both = [right or place in won for place, right in enumerate(first)]
    found = Outcomes(
        databases,
        {
            (FIRST, EXECUTION): first, ("first-executable", EXECUTION): first, ("both", EXECUTION): both,
            (FIRST, MATCH): first, ("both", MATCH): first,
        },
    )  # fmt: skip
    verdict = rerank.claims.verdicts(found)[0]
    assert verdict.low > 0
    assert verdict.verdict == "undecided"
    assert "5 questions won, 0 lost, p = 0.062. Not below 0.05." in verdict.note


def test_a_loss_is_never_supported(rerank: SimpleNamespace) -> None:
    swapped = {**CLEAR, (FIRST, EXECUTION): 0.7, ("first-executable", EXECUTION): 0.7, ("both", EXECUTION): 0.45}
    assert [one.verdict for one in rerank.claims.verdicts(outcomes(17, 30, swapped))[:2]] == ["not supported"] * 2


@pytest.mark.parametrize(("share", "decided"), [(0.2, False), (0.4, True), (0.95, False)])
def test_a_first_pass_that_is_too_weak_or_too_strong_decides_nothing(
    rerank: SimpleNamespace, share: float, decided: bool
) -> None:
    shares = {**CLEAR, (FIRST, EXECUTION): share, ("first-executable", EXECUTION): share}
    found = rerank.claims.verdicts(outcomes(17, 30, shares))
    assert all(("nothing is decided" in one.note) != decided for one in found)
    assert decided == any(one.verdict != "undecided" for one in found)


def test_a_setting_never_meets_the_database_that_it_was_chosen_on(rerank: SimpleNamespace) -> None:
    groups = ["a", "b", "a", "c", "b", "c", "c"]
    right = [np.array([place % 2 == 0, True]) for place in range(7)]
    features = rerank.tuning.Features(
        ("first-pass", "log_prob"), [torch.zeros(2, 2, dtype=torch.float64)] * 7, [[True] * 2] * 7
    )
    tuning = rerank.tuning.Tuning({("plan", "all"): features}, right, groups)
    applied = []

    def apply(own: frozenset[int], place: int) -> int:
        assert groups[place] not in {groups[at] for at in own}
        assert len(own) == 7 - groups.count(groups[place])
        applied.append(place)
        return 0

    assert tuning.left_out(frozenset, apply) == pytest.approx(4 / 7)
    assert sorted(applied) == list(range(7))


def test_scores_without_order_keep_the_list(rerank: SimpleNamespace) -> None:
    assert rerank.arms.order_of([math.nan, 1.0, -math.inf, 1.0]) == [1, 3, 0, 2]


@pytest.mark.skipif(not (LISTS / "dev.jsonl.gz").is_file(), reason="needs the committed lists")
@pytest.mark.parametrize("split", ["dev", "tune"])
def test_committed_lists_hold_ten_candidates_at_most_in_order_and_no_gold(split: str) -> None:
    with gzip.open(LISTS / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len({row["id"] for row in rows}) == len(rows) > 800
    for row in rows:
        assert set(row) == {"id", "db_id", "question", "candidates"}
        assert 1 <= len(row["candidates"]) <= 10
        assert all(a["score"] >= b["score"] for a, b in pairwise(row["candidates"])), row["id"]
        assert len({one["sql"] for one in row["candidates"]}) == len(row["candidates"])


@pytest.mark.skipif(not REPORT.is_file(), reason="needs the committed report")
def test_tuned_settings_and_report_agree_and_lists_share_no_database() -> None:
    tuned = json.loads((FOLDER / "tuned.json").read_text(encoding="utf-8"))
    databases = {}
    for split in ("dev", "tune"):
        with gzip.open(LISTS / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
            databases[split] = {json.loads(line)["db_id"] for line in file}
    assert not databases["dev"] & databases["tune"]
    assert len(databases["tune"]) == tuned["databases"]
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    (table,) = [table for table in report["tables"] if table["title"] == "By database (execution, strict)"]
    assert {row["database"] for row in table["rows"]} == databases["dev"]
    (arms,) = [table for table in report["tables"] if table["title"] == "All arms"]
    rows = {row["arm"].removesuffix(' = "both"'): row for row in arms["rows"]}
    total = sum(row["n"] for row in table["rows"])
    for verdict, versus in zip(report["verdicts"], ("first pass", "first that runs"), strict=False):
        (chosen,) = [row for row in arms["rows"] if row["arm"].endswith(' = "both"')]
        assert verdict["effect"] == pytest.approx(
            chosen["execution-strict"] - rows[versus]["execution-strict"], abs=0.11
        )
        assert verdict["effect"] * total / 100 == pytest.approx(round(verdict["effect"] * total / 100), abs=1e-6)


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.skipif(
    not (Path(os.environ.get("SLT_DATA", "")) / "spider" / "dev.jsonl").is_file(), reason="needs SLT_DATA, with spider/"
)
def test_the_committed_report_is_what_the_committed_lists_give(tmp_path: Path) -> None:
    """From the lists and settings at hand, with nothing kept from before: minutes."""
    command = [sys.executable, str(FOLDER / "run.py"), "--out", str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=1800)
    made = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    kept = json.loads(REPORT.read_text(encoding="utf-8"))
    for part in ("verdicts", "tables", "facts", "charts"):
        assert made[part] == kept[part]
