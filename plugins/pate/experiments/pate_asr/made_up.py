"""Tables and charts on made-up people."""

from __future__ import annotations

from typing import Any

import numpy as np
from claims import Pair
from scores import Scores, cell, level, wrong_share
from settings import AUDITED, EPSILONS, MODELS, budget_name
from study import BUDGETS, Unit
from synthetic import EACH, TRIALS, Votes

from sltcore.experiment.statistics import seeded_difference
from sltcore.report import Chart, Column, Point, Series, Table

NAMES = {"public": "public only", "private": "non-private", "pate": "PATE", "dp-sgd": "DP-SGD"}
WEIGHTS = {"small": 410, "large": 13_056}
SYNTHETIC = "Synthetic: no recording and no person stands behind these figures."


def label(arm: str) -> str:
    """An arm in a table.

    >>> label("pate--4"), label("dp-sgd--inf"), label("public")
    ('PATE, epsilon 4', 'DP-SGD, no noise', 'public only')
    """
    name, _, budget = arm.partition("--")
    return NAMES[name] + ("" if not budget else ", no noise" if budget == "inf" else f", epsilon {budget}")


ARMS = ("public", "private", *(f"{name}--{budget_name(epsilon)}" for name in TRIALS for epsilon in BUDGETS))


def finished(scores: Scores, model: str) -> list[int]:
    """Numbers of people for which some seed is finished."""
    return [people for people in scores.study.size.populations if scores.made_up_seeds(model, people)]


def errors(scores: Scores, model: str) -> Table | None:
    """Errors by arm and number of protected people."""
    numbers = finished(scores, model)
    if not numbers:
        return None
    columns = [
        Column(key="arm", label="arm"),
        *(Column(key=str(n), label=f"{n:,} people", unit="%", better="lower") for n in numbers),
    ]
    rows = []
    for arm in ARMS:
        row: dict[str, Any] = {"arm": label(arm)}
        for people in numbers:
            seeds = scores.made_up_seeds(model, people)
            stats = scores.made_up(model, people, arm, seeds)
            clusters = scores.made_up_clusters(model, people, seeds[0])
            row[str(people)] = cell(level(scores, stats, wrong_share, "wrong", clusters), seeds, 1)
        rows.append(row)
    note = (
        f"{SYNTHETIC} {EACH} digits of each protected person; a model of {WEIGHTS[model]:,} weights. Intervals over people of the "
        "test and seeds."
    )
    title = f"Made-up people, {model} model: digits heard wrongly"
    return Table(title=title, caption=note, columns=columns, rows=rows)


def crossings(scores: Scores) -> Table | None:
    """From how many people on each mechanism beats the public model, and which of the two is better where."""
    columns = [
        Column(key="model", label="model"), Column(key="epsilon", label="epsilon"),
        Column(key="pate", label="PATE below public only from"), Column(key="dp-sgd", label="DP-SGD below public only from"),
        Column(key="better", label="fewer errors, by number of people"),
    ]  # fmt: skip
    rows = []
    for model in MODELS:
        numbers = finished(scores, model)
        for epsilon in EPSILONS if numbers else ():
            row: dict[str, Any] = {"model": model, "epsilon": budget_name(epsilon)}
            for name in TRIALS:
                row[name] = _first(scores, model, numbers, f"{name}--{epsilon:g}")
            row["better"] = "; ".join(f"{n:,}: {_better(scores, model, n, epsilon)}" for n in numbers)
            rows.append(row)
    note = (
        f"{SYNTHETIC} Counted where the whole 95 % interval of the paired difference lies on that side, at that number and all "
        "larger ones that were tried; not corrected for their number."
    )
    return (
        Table(title="Made-up people: where the mechanisms cross", caption=note, columns=columns, rows=rows)
        if rows
        else None
    )


def _first(scores: Scores, model: str, numbers: list[int], arm: str) -> str:
    found = "none tried"
    for people in reversed(numbers):
        low, high = _difference(scores, model, people, arm, "public")
        if not high < 0:
            break
        found = f"{people:,} people"
    return found


def _better(scores: Scores, model: str, people: int, epsilon: float) -> str:
    low, high = _difference(scores, model, people, f"pate--{epsilon:g}", f"dp-sgd--{epsilon:g}")
    return "PATE" if high < 0 else "DP-SGD" if low > 0 else "undecided"


def _difference(scores: Scores, model: str, people: int, arm: str, versus: str) -> tuple[float, float]:
    seeds = scores.made_up_seeds(model, people)
    pair = Pair(
        scores.made_up(model, people, arm, seeds), scores.made_up(model, people, versus, seeds),
        scores.made_up_clusters(model, people, seeds[0]), seeds,
    )  # fmt: skip
    return seeded_difference(
        pair.arm, pair.versus, wrong_share, value="wrong", clusters=pair.clusters,
        replicates=scores.study.size.replicates, generator=np.random.default_rng(0),
    ).interval()  # fmt: skip


def settings(scores: Scores) -> Table | None:
    """The trials from which settings were chosen."""
    columns = [
        Column(key="model", label="model"), Column(key="people", label="people"), Column(key="arm", label="mechanism"),
        Column(key="setting", label="setting"), Column(key="wrong", label="heard wrongly", unit="%", better="lower"),
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    for model in MODELS:
        for people in scores.study.size.populations:
            name = Unit("choice", model, number=people).name
            if not scores.study.has(name):
                continue
            found = scores.study.result(name)
            for arm, trials in TRIALS.items():
                for place, (one, value) in enumerate(zip(trials, found["errors"][arm], strict=True)):
                    text = (
                        f"{one.people} people a teacher, {one.queries} queries"
                        if isinstance(one, Votes)
                        else f"learning rate {one.learning_rate:g}, {one.steps} steps"
                    )
                    row = {
                        "model": model,
                        "people": people,
                        "arm": NAMES[arm],
                        "setting": text,
                        "wrong": round(value, 1),
                    }
                    rows.append(row | ({"_mark": "chosen"} if found["chosen"][arm] == place else {}))
    note = f"{SYNTHETIC} At epsilon 4, on people who are in no other part; equally many trials for each mechanism."
    return (
        Table(title="Made-up people: choice of the settings", caption=note, columns=columns, rows=rows)
        if rows
        else None
    )


def charts(scores: Scores) -> list[Chart]:
    """Errors by number of people."""
    found = []
    for model in MODELS:
        table = errors(scores, model)
        if table is None or len(finished(scores, model)) < 2:
            continue
        series = [
            Series(
                name=str(row["arm"]),
                points=[Point(x=float(n), y=row[str(n)]["value"]) for n in finished(scores, model)],  # type: ignore[arg-type,index,call-overload]
            )
            for row in table.rows
            if not str(row["arm"]).endswith(("no noise", "epsilon 8"))
        ]
        found.append(
            Chart(
                title=f"Made-up people, {model} model", kind="lines", x_label="protected people", y_label="heard wrongly (%)",
                series=series, x_scale="log",
                alt="Errors of the mechanisms fall with the number of protected people; public only stays where it is.",
            )
        )  # fmt: skip
    return found


def audits(scores: Scores) -> Table | None:
    """Lower bounds of epsilon from canaries beside what the accountant says, and the loss attack."""
    columns = [
        Column(key="arm", label="model"), Column(key="claimed", label="epsilon by the accountant"),
        Column(key="bound", label="epsilon at least, 95 % confidence"), Column(key="area", label="loss attack: area"),
        Column(key="found", label="found at 1 % false", unit="%"), Column(key="canaries", label="canaries in"),
    ]  # fmt: skip
    rows = []
    for arm in ("private", *TRIALS):
        name = Unit("audit", arm).name
        if not scores.study.has(name):
            continue
        for budget, one in scores.study.result(name)["audits"].items():
            area, share = one["area"], one["found"]
            rows.append(
                {
                    "arm": label(arm if arm == "private" else f"{arm}--{budget}"),
                    "claimed": "none" if budget == "inf" else budget, "bound": round(one["epsilon"], 2),
                    "area": {key: round(value, 3) for key, value in zip(("value", "low", "high"), area, strict=True)},
                    "found": {key: round(100 * value, 1) for key, value in zip(("value", "low", "high"), share, strict=True)},
                    "canaries": one["in"],
                }
            )  # fmt: skip
    note = (
        f"{SYNTHETIC} 200 canaries, recordings of other people with random names, each a unit that is in by a fair coin, beside "
        f"{AUDITED} people; the large model, one run for each row, scored by the loss against the public start. A bound above "
        "the accountant's figure would show a fault."
    )
    return Table(title="Made-up people: what attacks show", caption=note, columns=columns, rows=rows) if rows else None
