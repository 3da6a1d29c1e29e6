"""The claims and their verdicts: what is compared was fixed before any run, this file was written during the full one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scores import METRICS, Scores, Stats, wrong_share
from settings import CLAIMED

from sltcore.experiment.statistics import Estimate, seeded_difference
from sltcore.experiment.verdict import Judgement, judge, settle, unmeasured
from sltcore.report import SeedEffect, Verdict
from sltcore.spec.experiments import Claim

CROWD = 1_000
"""Made-up people that the claims are about."""


class Pair(NamedTuple):
    """Statistics [s n k] of arm and versus on the same items, their clusters and seeds."""

    arm: Stats
    versus: Stats
    clusters: list[str]
    seeds: list[int]


class Asked(NamedTuple):
    """A claim, what it is called in the report, and where its figures come from."""

    claim: Claim
    arm: str
    versus: str
    pair: Callable[[Scores], Pair]


def _heard(arm: tuple[str, float | None], versus: tuple[str, float | None]) -> Callable[[Scores], Pair]:
    def pair(scores: Scores) -> Pair:
        seeds = _some(scores.seeds(arm, versus))
        return Pair(scores.heard(*arm, seeds, "cer"), scores.heard(*versus, seeds, "cer"), scores.references, seeds)

    return pair


def _made_up(model: str, arm: str, versus: str) -> Callable[[Scores], Pair]:
    def pair(scores: Scores) -> Pair:
        people = max(n for n in scores.study.size.populations if n <= CROWD)
        seeds = _some(scores.made_up_seeds(model, people))
        stats = [scores.made_up(model, people, one, seeds) for one in (arm, versus)]
        return Pair(stats[0], stats[1], scores.made_up_clusters(model, people, seeds[0]), seeds)

    return pair


def _some(seeds: list[int]) -> list[int]:
    """**Raises** `FileNotFoundError` for none."""
    if not seeds:
        raise FileNotFoundError("no seed is finished")
    return seeds


def _claims() -> list[Asked]:
    found = [
        Asked(
            Claim(
                text="Real speech: private recordings help at all, trained on without privacy against public ones alone",
                measure="game", value="cer.cer", arm="private", versus="public", clusters="text",
            ),
            "non-private", "public only", _heard(("private", None), ("public", None)),
        )
    ]  # fmt: skip
    for query, label in (("transcript", "PATE, whole transcript"), ("slot", "PATE, slots, confident")):
        for epsilon in CLAIMED:
            claim = Claim(
                text=f"Real speech: at epsilon {epsilon:g} {label} has fewer character errors than DP-SGD",
                measure="game", value="cer.cer", arm=query, versus="dp-sgd", clusters="text",
            )  # fmt: skip
            pair = _heard((query, epsilon), ("dp-sgd", epsilon))
            found.append(Asked(claim, f"{label}, epsilon {epsilon:g}", f"DP-SGD, epsilon {epsilon:g}", pair))
    for model in ("small", "large"):
        for epsilon in CLAIMED:
            claim = Claim(
                text=f"Made-up people, {CROWD:,} of them, {model} model: at epsilon {epsilon:g} PATE has fewer errors than DP-SGD",
                measure="made-up", value="wrong.wrong", arm="pate", versus="dp-sgd", clusters="speaker",
            )  # fmt: skip
            pair = _made_up(model, f"pate--{epsilon:g}", f"dp-sgd--{epsilon:g}")
            found.append(Asked(claim, f"PATE, epsilon {epsilon:g}", f"DP-SGD, epsilon {epsilon:g}", pair))
    return found


CLAIMS: Sequence[Asked] = tuple(_claims())


def verdicts(scores: Scores) -> list[Verdict]:
    """One for each claim, corrected for their number by Holm's rule; without a finished seed there is no figure."""
    judged: list[Judgement] = []
    seeds: list[list[int]] = []
    for asked in CLAIMS:
        try:
            pair = asked.pair(scores)
        except FileNotFoundError:
            judged.append(unmeasured(asked.claim, "no seed of its arms is finished"))
            seeds.append([])
            continue
        judged.append(judge(asked.claim, _estimate(scores, asked.claim, pair), better="lower"))
        seeds.append(pair.seeds)
    settled = settle(judged, "holm")
    return [_verdict(asked, one, own) for asked, one, own in zip(CLAIMS, settled, seeds, strict=True)]


def _estimate(scores: Scores, claim: Claim, pair: Pair) -> Estimate:
    reduce = METRICS["cer"].reduce if claim.measure == "game" else wrong_share
    return seeded_difference(
        pair.arm, pair.versus, reduce, value=claim.value.partition(".")[2], clusters=pair.clusters,
        replicates=scores.study.size.replicates, generator=np.random.default_rng(0),
    )  # fmt: skip


def _verdict(asked: Asked, found: Judgement, seeds: Sequence[int]) -> Verdict:
    claim, estimate = asked.claim, found.estimate
    shown = Verdict(
        text=claim.text, measure=claim.measure, value=claim.value, arm=asked.arm, versus=asked.versus,
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
