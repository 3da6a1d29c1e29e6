"""Tables and charts on real speech."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from scores import METRICS, Scores, cell, level
from settings import DELTA, EPSILONS, TEACHERS, TRIALS, TUNED_AT, Votes, budget_name
from speech import chosen
from study import BUDGETS, PLAIN_ARMS, PRIVATE_ARMS, Unit

from slt_pate.budget import Noise, fits, least_noise
from sltcore.experiment.statistics import seeded_difference
from sltcore.report import Chart, Column, Point, Series, Table

LABELS = {
    "public": "public only", "self-taught": "public only, own readings of the silent recordings", "private": "non-private",
    "transcript": "PATE, whole transcript", "slot": "PATE, slots, confident", "dp-sgd": "DP-SGD",
}  # fmt: skip
QUERIES = (1, 5, 20, 100)


def arms(scores: Scores) -> Iterator[tuple[str, float | None]]:
    """Arms of real speech that are finished for at least one seed."""
    every: list[tuple[str, float | None]] = [(arm, None) for arm in PLAIN_ARMS]
    every += [(arm, epsilon) for arm in PRIVATE_ARMS for epsilon in BUDGETS]
    return (one for one in every if scores.seeds(one))


def shown(epsilon: float | None) -> str:
    """A budget in a table.

    >>> shown(None), shown(4.0), shown(math.inf)
    ('', '4', 'no noise')
    """
    return "" if epsilon is None else "no noise" if math.isinf(epsilon) else budget_name(epsilon)


def results(scores: Scores) -> Table:
    """Errors of every arm on the test units."""
    columns = [
        Column(key="arm", label="arm"), Column(key="epsilon", label="epsilon, data-independent"),
        Column(key="cer", label="character errors", unit="%", better="lower"),
        Column(key="wer", label="word errors", unit="%", better="lower"),
        Column(key="gain", label="character errors against public only", unit="percentage points", better="lower"),
        Column(key="queries", label="queries"), Column(key="answered", label="answered"), Column(key="seeds", label="seeds"),
    ]  # fmt: skip
    rows = []
    for arm, epsilon in arms(scores):
        seeds = scores.seeds((arm, epsilon), ("public", None))
        if not seeds:
            continue
        row: dict[str, Any] = {"arm": LABELS[arm], "epsilon": shown(epsilon), "seeds": len(seeds)}
        for metric in METRICS:
            stats = scores.heard(arm, epsilon, seeds, metric)
            row[metric] = cell(level(scores, stats, METRICS[metric].reduce, metric, scores.references), seeds)
        if arm != "public":
            row["gain"] = cell(
                seeded_difference(
                    scores.heard(arm, epsilon, seeds, "cer"), scores.heard("public", None, seeds, "cer"),
                    METRICS["cer"].reduce, value="cer", clusters=scores.references,
                    replicates=scores.study.size.replicates, generator=np.random.default_rng(0),
                ),
                seeds,
            )  # fmt: skip
        found = [scores.found(arm, epsilon, seed) for seed in seeds]
        if "queries" in found[0]:
            row |= {key: round(float(np.mean([one[key] for one in found])), 1) for key in ("queries", "answered")}
        rows.append(row)
    caption = (
        f"Greedy, no lexicon and no language model. Delta {DELTA:g}; the unit is the dialogue file after merging. Means over "
        "seeds with 95 % intervals over texts and seeds; differences are paired."
    )
    return Table(title="Real speech: errors on held-out roles", caption=caption, columns=columns, rows=rows)


def dependent(scores: Scores) -> Table | None:
    """What the same runs cost given their votes, and what telling that costs."""
    columns = [
        Column(key="arm", label="arm"), Column(key="epsilon", label="budget"), Column(key="spent", label="data-independent"),
        Column(key="own", label="data-dependent, may not leave"), Column(key="told", label="data-dependent, may be told"),
        Column(key="cost", label="of it for telling, in nats"), Column(key="sigma", label="noise, votes"),
        Column(key="first", label="votes of the winner, mean"), Column(key="second", label="of the second, mean"),
    ]  # fmt: skip
    rows = []
    for arm, epsilon in arms(scores):
        found = [scores.found(arm, epsilon, seed) for seed in scores.seeds((arm, epsilon))]
        found = [one for one in found if "data_dependent" in one]
        if not found:
            continue
        row: dict[str, Any] = {"arm": LABELS[arm], "epsilon": shown(epsilon)}
        for key, source in (("spent", "spent"), ("own", "data_dependent"), ("told", "published"), ("cost", "cost_of_publishing"), ("sigma", "sigma")):  # fmt: skip
            values = [one[source] for one in found if one.get(source) is not None]
            row[key] = round(float(np.mean(values)), 2) if values else None
        row["first"] = round(float(np.mean([np.mean(one["winners"]) for one in found])), 1)
        row["second"] = round(float(np.mean([np.mean(one["runners_up"]) for one in found])), 1)
        rows.append(row)
    note = (
        "Means over seeds. The bound given votes helps only where the winner's lead exceeds the noise, which ten teachers never "
        "reach at these budgets, so it equals the other one; telling it, with noise scaled to its smooth sensitivity "
        "(order 6, beta 0.06, noise 12, chosen on made-up votes), costs more than it saves."
    )
    return Table(title="Data-dependent figures", caption=note, columns=columns, rows=rows) if rows else None


def arithmetic(scores: Scores) -> Table:
    """How much noise so many queries take, and how many teachers stand out of it."""
    columns = [
        Column(key="queries", label="queries"),
        *(Column(key=f"sigma-{epsilon:g}", label=f"noise at epsilon {epsilon:g}, votes") for epsilon in EPSILONS),
        *(Column(key=f"teachers-{epsilon:g}", label=f"teachers for that, epsilon {epsilon:g}") for epsilon in EPSILONS),
    ]
    rows = []
    for queries in QUERIES:
        row: dict[str, Any] = {"queries": queries}
        for epsilon in EPSILONS:
            sigma = least_noise(Noise(), 10, within=lambda one, n=queries, e=epsilon: fits(one.events(n), e, DELTA))  # type: ignore[misc]
            row[f"sigma-{epsilon:g}"] = round(sigma, 2)
            row[f"teachers-{epsilon:g}"] = math.ceil(4 * sigma / SHARE)
        rows.append(row)
    units = scores.study.data.facts["private"]["units"]
    enough = [
        f"{queries} at epsilon {epsilon:g}"
        for queries, row in zip(QUERIES, rows, strict=True)
        for epsilon in EPSILONS
        if row[f"teachers-{epsilon:g}"] <= units
    ]
    note = (
        f"GNMax, delta {DELTA:g}, whatever the votes. Noise on the difference of two counts has 1.4 times the standard deviation "
        f"shown, so a lead of four times it is found in 99.8 % of queries with two classes; the number of teachers takes a winner "
        f"that leads by {SHARE:.0%} of all votes, as whole transcripts did. {units} private units make at most {units} teachers "
        f"({TEACHERS} were trained, with about two units each), enough for this many queries: {'; '.join(enough) or 'none'}."
    )
    return Table(title="Why this sample is too small", caption=note, columns=columns, rows=rows)


SHARE = 0.3
"""Lead of the winner over the second, as a share of all teachers."""


def settings(scores: Scores) -> Table:
    """The trials from which settings were chosen."""
    columns = [
        Column(key="arm", label="mechanism"), Column(key="setting", label="setting"),
        Column(key="cer", label="character errors on pretended roles", unit="%", better="lower"),
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    for arm, trials in TRIALS.items():
        for number, one in enumerate(trials, 1):
            name = Unit("trial", arm, number=number).name
            if not scores.study.has(name):
                continue
            if isinstance(one, Votes):
                text = f"{one.utterances} recordings asked about" + (
                    f", {one.threshold:.0%} must agree" if one.threshold else ""
                )
            else:
                what = "head" if len(one.trainable) == 1 else "layer and head"
                text = f"learning rate {one.learning_rate:g}, {what}"
            row = {"arm": LABELS[arm], "setting": text, "cer": round(scores.study.result(name)["pretended_dev_cer"], 2)}
            rows.append(row | ({"_mark": "chosen"} if _is_chosen(scores, arm, one) else {}))
    note = (
        f"At epsilon {TUNED_AT:g}, seed 0, on the hero's lines: each of his dialogues plays a unit, and other dialogues of his are "
        "looked at. He is in no other part of the experiment, so this costs nothing. Equally many trials for each mechanism."
    )
    return Table(title="Choice of the settings", caption=note, columns=columns, rows=rows)


def _is_chosen(scores: Scores, arm: str, setting: Any) -> bool:
    try:
        return bool(chosen(scores.study, arm) == setting)
    except FileNotFoundError:
        return False


def costs(scores: Scores) -> Table:
    """Processor time."""
    columns = [
        Column(key="arm", label="arm"), Column(key="cpu", label="CPU time of one", unit="s"), Column(key="runs", label="runs")
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    for arm in (*PLAIN_ARMS, *PRIVATE_ARMS):
        found = [
            scores.found(arm, epsilon, seed)["cpu_s"]
            for one, epsilon in arms(scores)
            if one == arm
            for seed in scores.seeds((arm, epsilon))
        ]
        if found:
            rows.append({"arm": LABELS[arm], "cpu": round(float(np.mean(found)), 1), "runs": len(found)})
    note = (
        "One thread of a shared machine, with hearing the test; teachers are trained once for a seed and count with the first "
        "budget of the whole transcript. The encoder's frames of all recordings took 86 s once."
    )
    return Table(title="What an arm costs", caption=note, columns=columns, rows=rows)


def chart(table: Table) -> Chart:
    """Character errors of all arms."""
    points = []
    for row in table.rows:
        found: Any = row["cer"]
        budget = {"": "", "no noise": ", no noise"}.get(str(row["epsilon"]), f", epsilon {row['epsilon']}")
        points.append(Point(x=f"{row['arm']}{budget}", y=found["value"], low=found.get("low"), high=found.get("high")))
    return Chart(
        title="Real speech: character errors", kind="intervals", x_label="", y_label="character errors (%)",
        series=[Series(name="held-out roles", points=points)],
        alt="Character error rates of all arms with their intervals.",
    )  # fmt: skip
