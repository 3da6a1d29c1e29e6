"""The claims, written before the first full run, and their verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from counting import COLUMNS, Stats
from scores import Scores, recall, wer

from sltcore.experiment.statistics import Estimate, seeded_difference
from sltcore.experiment.verdict import Judgement, judge, settle, unmeasured
from sltcore.report import SeedEffect, Verdict
from sltcore.spec.experiments import Claim

AT = 4
"""Active updates that the claims are about."""
HALF = 0.5
"""Most of the recall: more than that share of what a single update brings over the base."""
LABELS = {
    "sum": f"sum, {AT} active", "average": f"average, {AT} active", "halfway": "halfway from base to single adapter",
    "base": "base", "sequential": "sequential, after the last", "taught": "sequential, right after each set",
}  # fmt: skip
CLAIMS = (
    Claim(
        text=f"With {AT} active updates their sum keeps most of the recall that each brings alone: it lies above the middle "
        "between base and single adapter",
        measure="recall", value="recall.recall", arm="sum", versus="halfway", direction="better", clusters="text",
    ),
    Claim(
        text=f"With {AT} active updates their average does not: its recall lies below that middle",
        measure="recall", value="recall.recall", arm="halfway", versus="average", direction="better", clusters="text",
    ),
    Claim(
        text=f"With {AT} active updates summed, general WER stays within 1 % of the base's",
        measure="general", value="wer.wer", arm="sum", versus="base", direction="not-worse", margin=1.0, relative=True,
        clusters="text",
    ),
    Claim(
        text="Sequential fine-tuning forgets: after the last set, recall of the earlier ones is lower than right after each "
        "was taught",
        measure="recall", value="recall.recall", arm="taught", versus="sequential", direction="better", clusters="text",
    ),
)  # fmt: skip


class Pair(NamedTuple):
    """Statistics [s n 5] of arm and versus on the same items, the clusters of these, and the seeds."""

    arm: Stats
    versus: Stats
    clusters: list[str]
    seeds: list[int]


def count_of(scores: Scores) -> int:
    """`AT`, or in a run of fewer sets all of them."""
    return min(AT, scores.study.size.sets)


def halfway(scores: Scores, seeds: Sequence[int], items: Sequence[object]) -> Stats:
    """[s n 5]: hits halfway between the base and the single update."""
    single = scores.recalls("single", 1, seeds, items)  # type: ignore[arg-type]
    base = scores.recalls("base", 1, seeds, items)  # type: ignore[arg-type]
    found = single.copy()
    place = COLUMNS.index("hits")
    found[..., place] = (1 - HALF) * base[..., place] + HALF * single[..., place]
    return found


def _recall_at(scores: Scores, arm: str) -> Pair:
    seeds = scores.seeds("single", arm)
    items = scores.recall_items(arm, count_of(scores))
    own = scores.recalls(arm, count_of(scores), seeds, items)
    return Pair(own, halfway(scores, seeds, items), [item.text for item in items], seeds)


def _sum(scores: Scores) -> Pair:
    return _recall_at(scores, "sum")


def _average(scores: Scores) -> Pair:
    pair = _recall_at(scores, "average")
    return Pair(pair.versus, pair.arm, pair.clusters, pair.seeds)


def _general(scores: Scores) -> Pair:
    seeds, count = scores.seeds("sum"), count_of(scores)
    starts = scores.starts(count, "sum")
    arm, base = (scores.general_rows(name, count, seeds, starts) for name in ("sum", "base"))
    return Pair(arm, base, scores.general_clusters(starts), seeds)


def _forgetting(scores: Scores) -> Pair:
    seeds, sets = scores.seeds("sequential"), scores.study.size.sets
    items = scores.recall_items("sequential", sets, scores.study.numbers[:-1])
    taught, last = (scores.recalls("sequential", count, seeds, items) for count in (1, sets))
    return Pair(taught, last, [item.text for item in items], seeds)


PAIRS: Sequence[Callable[[Scores], Pair]] = (_sum, _average, _general, _forgetting)


def verdicts(scores: Scores) -> list[Verdict]:
    """One for each claim, corrected for their number by Holm's rule; without a finished seed there is no figure."""
    judged: list[Judgement] = []
    seeds: list[list[int]] = []
    for claim, pair_of in zip(CLAIMS, PAIRS, strict=True):
        try:
            pair = pair_of(scores)
        except (FileNotFoundError, ValueError):
            judged.append(unmeasured(claim, "no seed of its arms is finished"))
            seeds.append([])
            continue
        better = "higher" if claim.measure == "recall" else "lower"
        judged.append(judge(claim, _estimate(scores, claim, pair), better=better))
        seeds.append(pair.seeds)
    return [_verdict(one, own) for one, own in zip(settle(judged, "holm"), seeds, strict=True)]


def _estimate(scores: Scores, claim: Claim, pair: Pair) -> Estimate:
    return seeded_difference(
        pair.arm, pair.versus, recall if claim.measure == "recall" else wer, value=claim.value.partition(".")[2],
        clusters=pair.clusters, relative=claim.relative, replicates=scores.study.size.replicates,
        generator=np.random.default_rng(0),
    )  # fmt: skip


def _verdict(found: Judgement, seeds: Sequence[int]) -> Verdict:
    claim, estimate = found.claim, found.estimate
    shown = Verdict(
        text=claim.text, measure=claim.measure, value=claim.value, arm=LABELS[claim.arm], versus=LABELS[claim.versus],
        verdict=found.verdict, better=found.better, direction=claim.direction, margin=claim.margin,
        relative=claim.relative, level=claim.level, note=" ".join(found.notes), p=found.p, p_adjusted=found.p_adjusted,
    )  # fmt: skip
    if estimate is None:
        return shown
    effects = [SeedEffect(seed=seed, effect=value) for seed, value in zip(seeds, estimate.seeds, strict=False)]
    return Verdict(
        **{**shown.__dict__, "effect": estimate.value, "low": found.low, "high": found.high, "unit": estimate.unit,
           "seeds": effects}
    )  # fmt: skip
