"""The claims of an experiment held against what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sltcore.errors import DataError, SltError
from sltcore.experiment.records import Measured, Records, Seed
from sltcore.experiment.statistics import Estimate, difference
from sltcore.experiment.verdict import Judgement, judge, settle, unmeasured
from sltcore.report import SeedEffect, Verdict
from sltcore.spec.experiments import Claim


def judged(records: Records, measured: Mapping[str, Measured]) -> list[Verdict]:
    """A verdict for each claim, in the order in which they were made, corrected for their number."""
    from sltcore.experiment.arms import arm_labels

    claims = [Claim.model_validate(entry) for entry in records.spec["claims"]]
    judgements, seeds = [], []
    for claim in claims:
        try:
            judgement, own = _judgement(claim, records, measured)
        except SltError as error:
            judgement, own = unmeasured(claim, str(error).rstrip(".")), ()
        judgements.append(judgement)
        seeds.append(own)
    settled = settle(judgements, records.spec.get("correction", "holm"))
    labels = arm_labels(records)
    return [_verdict(entry, own, labels) for entry, own in zip(settled, seeds, strict=True)]


def compared(
    measured: Measured, arm: str, versus: str, value: str, *, clusters: str | None, relative: bool = False
) -> Estimate:
    """arm - versus of METRIC.VALUE. **Raises** `DataError` where one of them is not measured."""
    metric, _, name = value.partition(".")
    systems = []
    for system in (arm, versus):
        values = measured.system(system, metric, clusters)
        if name not in values:
            raise DataError(f"the metric '{metric}' gives no value '{name}'; it gives: {', '.join(values)}")
        systems.append(values[name])
    return difference(systems[0], systems[1], measured.draws(clusters), relative=relative)


def seeds_of_difference(measured: Measured, arm: str, versus: str) -> tuple[Seed, ...]:
    """The seeds of a difference: those of the arm that has any."""
    return measured.seeds_of(arm) if arm in measured.drawn else measured.seeds_of(versus)


def _judgement(claim: Claim, records: Records, measured: Mapping[str, Measured]) -> tuple[Judgement, tuple[Seed, ...]]:
    for stage in (claim.measure, claim.arm, claim.versus):
        found = records.stages(stage)
        if found != [stage]:
            raise DataError(f"'{stage}' is a grid; a claim names one of its stages: {', '.join(found)}")
    if claim.measure not in measured:
        raise DataError(f"'{claim.measure}' is not finished{_why(records, claim.measure)}")
    held = measured[claim.measure]
    estimate = compared(held, claim.arm, claim.versus, claim.value, clusters=claim.clusters, relative=claim.relative)
    metric, _, name = claim.value.partition(".")
    drawn = bool(held.drawn & {claim.arm, claim.versus})
    judgement = judge(claim, estimate, better=held.direction(metric, name), drawn=drawn)
    judgement = replace(judgement, notes=(*_conditions(claim, records, held), *judgement.notes))
    return judgement, seeds_of_difference(held, claim.arm, claim.versus)


def _conditions(claim: Claim, records: Records, held: Measured) -> Iterator[str]:
    """In what the run was not as it was meant to be, or as a fair comparison is."""
    from sltcore.experiment.arms import arm_labels, costs_of

    wanted, arms = records.seeds(claim.measure), (claim.arm, claim.versus)
    lost = [seed for seed in wanted if seed not in held.seeds]
    if lost and held.drawn & set(arms):
        told = f"{'Seed' if len(lost) == 1 else 'Seeds'} {', '.join(map(str, lost))}"
        yield f"{told} of {len(wanted)} left no values: this is the verdict of the others alone."
    steps = [costs_of(records, held, arm).get("steps", 0) for arm in arms]
    if None not in steps and steps[0] != steps[1]:
        labels = arm_labels(records)
        said = (
            f"{labels[arm]} for {f'{count:,.0f}' if count else 'none'}" for arm, count in zip(arms, steps, strict=True)
        )
        yield f"The arms did not learn for equally many steps: {', '.join(said)}."


def _why(records: Records, stage: str) -> str:
    """The error of its first unit that has one."""
    for seed in records.seeds(stage):
        row = records.row(stage, seed)
        if row is not None and row.get("error"):
            return f": {row['error']}"
    return ""


def _verdict(judgement: Judgement, seeds: tuple[Seed, ...], labels: Mapping[str, str]) -> Verdict:
    claim, estimate = judgement.claim, judgement.estimate
    more: dict[str, Any] = {}
    if estimate is not None:
        more = {
            "effect": finite(estimate.value),
            "low": finite(judgement.low),
            "high": finite(judgement.high),
            "unit": estimate.unit,
            "p": judgement.p,
            "p_adjusted": judgement.p_adjusted,
            "seeds": [
                SeedEffect(seed=seed, effect=finite(value)) for seed, value in zip(seeds, estimate.seeds, strict=True)
            ],
        }
    return Verdict(
        text=claim.text or _words(claim, labels),
        measure=claim.measure,
        value=claim.value,
        arm=labels.get(claim.arm, claim.arm),
        versus=labels.get(claim.versus, claim.versus),
        verdict=judgement.verdict,
        better=judgement.better,
        direction=claim.direction,
        margin=claim.margin,
        relative=claim.relative,
        level=claim.level,
        note=" ".join(judgement.notes),
        **more,
    )


def _words(claim: Claim, labels: Mapping[str, str]) -> str:
    """The claim in words, where its author gave none."""
    says = {"better": "is better than", "not-worse": "is not worse than", "different": "differs from"}[claim.direction]
    by = f" by more than {claim.margin:g}{' %' if claim.relative else ''}" if claim.margin else ""
    return f"{labels.get(claim.arm, claim.arm)} {says} {labels.get(claim.versus, claim.versus)} in {claim.value}{by}"


def finite(value: float) -> float | None:
    """A number, or None for NaN and infinity."""
    return float(value) if abs(value) < float("inf") else None
