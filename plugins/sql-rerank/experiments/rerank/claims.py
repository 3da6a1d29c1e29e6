"""The claims, worded before any list was ranked, and their verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scores import FIRST, Right, Scores, stats

from sltcore.experiment.bootstrap import Stats
from sltcore.experiment.statistics import Estimate, mcnemar, seeded_difference
from sltcore.experiment.verdict import Judgement, judge, settle
from sltcore.interfaces import Value
from sltcore.report import SeedEffect, Verdict
from sltcore.spec.experiments import Claim

REPLICATES = 10_000
LEAST, MOST = 0.30, 0.80
"""Top-1 of the first pass between which the claims mean something."""
LEVEL = 0.05


class Asked(NamedTuple):
    """A claim and where its figures come from: values [n] of the arm and of what it is compared with."""

    claim: Claim
    arm: str
    versus: str
    values: Callable[[Scores], tuple[Right, Right]]
    is_paired: bool = True
    """Whether the values are right or wrong answers, which McNemar's test compares."""


def _claim(text: str, arm: str, versus: str, direction: str = "better") -> Claim:
    return Claim.model_validate(
        {"text": text, "measure": "spider", "value": "execution.accuracy", "arm": arm, "versus": versus,
         "direction": direction, "clusters": "database"}
    )  # fmt: skip


CLAIMS = (
    Asked(
        _claim("Both rerankers answer more questions than the first pass", "both", "first-pass"),
        "both", FIRST, lambda scores: (scores.arm(scores.both), scores.arm(FIRST)),
    ),
    Asked(
        _claim("Both rerankers answer more questions than the first candidate that runs", "both", "first-executable"),
        "both", "first-executable", lambda scores: (scores.arm(scores.both), scores.arm("first-executable")),
    ),
    Asked(
        _claim("Both rerankers gain at least as much in execution as in exact match", "execution", "match", "not-worse"),
        "gain in execution", "gain in exact match",
        lambda scores: (_gain(scores, "execution-strict"), _gain(scores, "exact-match-strict")), is_paired=False,
    ),
)  # fmt: skip


def _gain(scores: Scores, form: str) -> Right:
    gain: Right = scores.arm(scores.both, form).astype(float) - scores.arm(FIRST, form).astype(float)
    return gain


def share(values: Stats) -> dict[str, Value]:
    """The mean in percent."""
    return {"accuracy": Value(100.0 * float(values[:, 0].mean()), "%")}


def difference(scores: Scores, arm: Stats, versus: Stats) -> Estimate:
    """arm - versus in points, with an interval over databases."""
    return seeded_difference(
        arm, versus, share, value="accuracy", clusters=scores.databases, replicates=REPLICATES,
        generator=np.random.default_rng(0),
    )  # fmt: skip


def verdicts(scores: Scores) -> list[Verdict]:
    """One for each claim: the interval over databases after Holm's correction, and McNemar's test over questions."""
    pairs = [asked.values(scores) for asked in CLAIMS]
    judged = [
        judge(asked.claim, difference(scores, stats(pair[0]), stats(pair[1])), better="higher", drawn=False)
        for asked, pair in zip(CLAIMS, pairs, strict=True)
    ]
    top = float(scores.arm(FIRST).mean())
    found = []
    for asked, pair, one in zip(CLAIMS, pairs, settle(judged, "holm"), strict=True):
        noted = _with_mcnemar(one, *pair) if asked.is_paired else one
        found.append(_verdict(asked, _in_range(noted, top)))
    return found


def _with_mcnemar(found: Judgement, arm: Right, versus: Right) -> Judgement:
    test = mcnemar(arm, versus)
    note = f"McNemar: {test.only_a} questions won, {test.only_b} lost, p = {test.p:.2g}."
    if found.verdict == "supported" and test.p >= LEVEL:
        return replace(found, verdict="undecided", notes=(f"{note} Not below {LEVEL:g}.", *found.notes))
    return replace(found, notes=(note, *found.notes))


def _in_range(found: Judgement, top: float) -> Judgement:
    if LEAST <= top <= MOST:
        return found
    note = (
        f"The first pass answers {100 * top:.1f} %, outside of {100 * LEAST:g} to {100 * MOST:g} %: nothing is decided."
    )
    return replace(found, verdict="undecided", notes=(note, *found.notes))


def _verdict(asked: Asked, found: Judgement) -> Verdict:
    claim, estimate = asked.claim, found.estimate
    assert estimate is not None
    return Verdict(
        text=claim.text, measure="Spider, test databases", value="execution (strict)", arm=asked.arm, versus=asked.versus,
        verdict=found.verdict, better=found.better, direction=claim.direction, margin=claim.margin, level=claim.level,
        note=" ".join(found.notes), p=found.p, p_adjusted=found.p_adjusted, effect=estimate.value, low=found.low,
        high=found.high, unit=estimate.unit, seeds=[SeedEffect(seed=None, effect=estimate.value)],
    )  # fmt: skip
