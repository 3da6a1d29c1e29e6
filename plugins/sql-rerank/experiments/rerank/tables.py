"""Tables and charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from claims import difference
from items import FORMS
from scores import FIRST, ORACLE, Right, Scores, stats

from slt_sql_rerank.metrics.hardness import LEVELS
from slt_sql_rerank.metrics.reranking import recovered_gap
from sltcore.experiment.statistics import mcnemar
from sltcore.report import Chart, Column, Point, Series, Table

LABELS: Mapping[str, str] = {
    FIRST: "first pass",
    "first-planned": "first that the database prepares",
    "first-executable": "first that runs",
    "majority-vote": "majority vote over results",
    "majority-vote-last": "majority vote, empty results last",
    "plan-hard": "plan alone, hard",
    "plan": "plan alone, soft",
    "linking-hard": "links alone, hard",
    "linking": "links alone, soft",
    "linking-plan": "links, then plan (hard)",
    "plan-linking": "plan, then links (hard)",
    "weighted": "learned combination",
    "shuffled-plan": "plan of another question (control)",
    "random": "any order (control)",
    "gold-plan": "gold plan, hard (bound)",
    "gold-plan-soft": "gold plan, soft (bound)",
    ORACLE: "best of the list (bound)",
}
DRAWN = ("shuffled-plan", "random")
PERCENT = 100.0


def label(scores: Scores, arm: str) -> str:
    """An arm in a table."""
    return LABELS[arm] + (' = "both"' if arm == scores.both else "")


def main_table(scores: Scores) -> Table:
    """Every arm by every metric."""
    columns = [
        Column(key="arm", label="arm"),
        Column(key="gain", label="execution, strict, against first pass", unit="percentage points", better="higher"),
        *(Column(key=form, label=name, unit="%", better="higher") for form, name in _form_names()),
        Column(key="recovered", label="of the gap to the best", unit="%", better="higher"),
        Column(key="won", label="won"),
        Column(key="lost", label="lost", better="lower"),
        Column(key="p", label="McNemar p"),
        Column(key="runs", label="first candidate compiles", unit="%", better="higher"),
    ]
    caption = (
        "Of the test questions; the claims are about strict execution accuracy. Gains with 95 % intervals over databases; won "
        "and lost are questions against the first pass. Controls: means over five draws, McNemar of the first."
    )
    rows = [_row(scores, arm) for arm in LABELS]
    return Table(title="All arms", caption=caption, columns=columns, rows=rows)


def _form_names() -> Iterator[tuple[str, str]]:
    names = (
        "execution, strict",
        "execution, official-compatible",
        "exact match, strict",
        "exact match, official-compatible",
    )
    yield from zip(FORMS, names, strict=True)


def _row(scores: Scores, arm: str) -> dict[str, Any]:
    rights = {form: _rights(scores, arm, form) for form in FORMS}
    strict, first = rights[FORMS[0]], scores.arm(FIRST)
    row: dict[str, Any] = {"arm": label(scores, arm)}
    row |= {form: _percent(np.mean(value)) for form, value in rights.items()}
    if arm == FIRST:
        return row | {"runs": _percent(scores.runs(scores.orders(arm)).mean())}
    estimate = difference(scores, stats(*strict), stats(first))
    low, high = estimate.interval()
    row["gain"] = {"value": round(estimate.value, 2), "low": round(low, 2), "high": round(high, 2)}
    gap = recovered_gap(float(first.mean()), float(np.mean(strict)), float(scores.arm(ORACLE).mean()))
    row["recovered"] = _percent(gap)
    test = mcnemar(strict[0], first)
    row |= {"won": test.only_a, "lost": test.only_b, "p": float(f"{test.p:.2g}")}
    if arm != ORACLE:
        row["runs"] = _percent(np.mean([scores.runs(orders) for orders in _orders(scores, arm)]))
    return row


def _orders(scores: Scores, arm: str) -> list[Any]:
    return scores.drawn(arm) if arm in DRAWN else [scores.orders(arm)]


def _rights(scores: Scores, arm: str, form: str) -> list[Right]:
    if arm == ORACLE:
        return [scores.arm(arm, form)]
    return [scores.right(orders, form) for orders in _orders(scores, arm)]


def _percent(value: Any) -> float:
    return round(PERCENT * float(value), 1)


def oracle_table(scores: Scores) -> Table:
    """The best of the first n."""
    columns = [Column(key="n", label="n")] + [
        Column(key=form, label=name, unit="%", better="higher") for form, name in _form_names()
    ]
    rows: list[dict[str, Any]] = [
        {"n": n} | {form: _percent(scores.oracle_at(n, form).mean()) for form in FORMS} for n in (1, 2, 3, 5, 10)
    ]
    sizes = [len(item.candidates) for item in scores.items]
    caption = (
        f"Lists hold different queries only (spellings of one merged): {np.mean(sizes):.1f} on average, "
        f"{min(sizes)} to {max(sizes)}."
    )
    return Table(title="A right candidate among the first n", caption=caption, columns=columns, rows=rows)


def hardness_table(scores: Scores) -> Table:
    """Strict execution accuracy by hardness of the gold query."""
    levels = np.array(scores.judged.levels)
    columns = [Column(key="arm", label="arm")] + [
        Column(key=level, label=f"{level} ({int((levels == level).sum())})", unit="%", better="higher")
        for level in LEVELS
    ]
    rows = []
    for arm in (FIRST, "first-executable", "majority-vote", "plan", "linking", *_both(scores), "gold-plan", ORACLE):
        right = scores.arm(arm)
        rows.append({"arm": label(scores, arm)} | {level: _percent(right[levels == level].mean()) for level in LEVELS})
    return Table(title="By hardness (execution, strict)", columns=columns, rows=rows)


def _both(scores: Scores) -> tuple[str, ...]:
    return ("linking-plan", "plan-linking", "weighted")


def database_table(scores: Scores) -> Table:
    """Strict execution accuracy of each database."""
    columns = [Column(key="database", label="database"), Column(key="n", label="questions")]
    shown = (FIRST, "first-executable", scores.both, ORACLE)
    columns += [Column(key=arm, label=label(scores, arm), unit="%", better="higher") for arm in shown]
    names = np.array(scores.databases)
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(scores.databases):
        own = names == name
        rows.append(
            {"database": name, "n": int(own.sum())} | {arm: _percent(scores.arm(arm)[own].mean()) for arm in shown}
        )
    return Table(title="By database (execution, strict)", columns=columns, rows=rows)


def synonym_table(scores: Scores) -> Table:
    """The same lists, with the rerankers told the question in other words."""
    columns = [
        Column(key="arm", label="arm"),
        Column(key="asked", label="question as asked", unit="%", better="higher"),
        Column(key="synonym", label="with synonyms", unit="%", better="higher"),
        Column(key="gain", label="with synonyms, against first pass", unit="percentage points", better="higher"),
    ]
    first = scores.arm(FIRST)
    rows: list[dict[str, Any]] = []
    for arm in ("plan", "linking-hard", "linking", *_both(scores)):
        other = scores.arm(arm, synonym=True)
        low, high = (estimate := difference(scores, stats(other), stats(first))).interval()
        rows.append(
            {"arm": label(scores, arm), "asked": _percent(scores.arm(arm).mean()), "synonym": _percent(other.mean()),
             "gain": {"value": round(estimate.value, 2), "low": round(low, 2), "high": round(high, 2)}}
        )  # fmt: skip
    caption = (
        "Candidates are those of the original question: only what the rerankers read changes (Spider-Syn). Links by words "
        "are expected to lose."
    )
    return Table(title="Rerankers that read synonyms", caption=caption, columns=columns, rows=rows)


def errors_table(scores: Scores) -> Table:
    """Where the questions stand that the combination does not answer."""
    right, match = scores.arm(scores.both), scores.arm(scores.both, "exact-match-strict")
    first, best = scores.arm(FIRST), scores.arm(ORACLE)
    official = scores.arm(scores.both, "execution")
    rows: list[dict[str, Any]] = [
        {"kind": "right, by rows and by match", "n": int((right & match).sum())},
        {"kind": "right by rows, another query than gold (or noise of the metric)", "n": int((right & ~match).sum())},
        {"kind": "right only by the official form (its leniency)", "n": int((~right & official).sum())},
        {"kind": "wrong, a right candidate was in the list", "n": int((~right & best).sum())},
        {"kind": "of these, right before reranking", "n": int((~right & first).sum())},
        {"kind": "wrong, no candidate was right", "n": int((~best).sum())},
        {"kind": "gold clauses by match, other rows", "n": int((~right & match).sum())},
    ]
    columns = [Column(key="kind", label="the chosen candidate"), Column(key="n", label="questions")]
    return Table(title='Where "both" stands', columns=columns, rows=rows)


def tuning_table(tuned: Mapping[str, Any]) -> Table:
    """What the tune lists said."""
    columns = [
        Column(key="arm", label="arm"),
        Column(key="seen", label="on the questions that chose", unit="%"),
        Column(key="out", label="on each database left out", unit="%", better="higher"),
    ]
    rows: list[dict[str, Any]] = []
    for arm, found in tuned["accuracy"].items():
        pair = found if isinstance(found, Mapping) else {"left out": found}
        rows.append(
            {"arm": LABELS.get(arm, arm), "seen": _percent(pair["seen"]) if "seen" in pair else None,
             "out": _percent(pair["left out"])}
        )  # fmt: skip
    caption = (
        f"{tuned['items']} questions of {tuned['databases']} train databases that no model saw; the best of the three "
        f'combinations on databases left out is "both": {LABELS[tuned["both"]]}.'
    )
    return Table(title="Chosen on held-out train databases", caption=caption, columns=columns, rows=rows)


def chart(scores: Scores) -> Chart:
    """Gains of the arms."""
    points = []
    for arm in LABELS:
        if arm in (FIRST, ORACLE, "first-planned"):
            continue
        estimate = difference(scores, stats(*_rights(scores, arm, FORMS[0])), stats(scores.arm(FIRST)))
        low, high = estimate.interval()
        points.append(Point(x=label(scores, arm), y=estimate.value, low=low, high=high))
    return Chart(
        title="Execution accuracy against the first pass",
        kind="intervals",
        x_label="arm",
        y_label="percentage points",
        series=[Series(name="strict execution", points=points)],
        alt="Differences to the first pass of every arm, with intervals over databases.",
        reference=0.0,
    )
