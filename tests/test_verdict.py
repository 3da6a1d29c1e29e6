"""Verdicts follow the rule that was written down, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sltcore.errors import DataError
from sltcore.experiment.statistics import Components, Estimate
from sltcore.experiment.verdict import Judgement, decide, judge, settle, unmeasured
from sltcore.spec.experiments import Claim

# (low, high) of the gain, margin, verdict by direction
RULE = [
    ((2.0, 4.0), 1.0, {"better": "supported", "not-worse": "supported", "different": "supported"}),
    ((0.5, 4.0), 1.0, {"better": "undecided", "not-worse": "supported", "different": "undecided"}),
    ((-0.5, 0.5), 1.0, {"better": "not supported", "not-worse": "supported", "different": "not supported"}),
    ((-2.0, 0.5), 1.0, {"better": "not supported", "not-worse": "undecided", "different": "undecided"}),
    ((-4.0, -2.0), 1.0, {"better": "not supported", "not-worse": "not supported", "different": "supported"}),
    ((-2.0, 2.0), 1.0, {"better": "undecided", "not-worse": "undecided", "different": "undecided"}),
    ((0.1, 0.2), 0.0, {"better": "supported", "not-worse": "supported", "different": "supported"}),
    ((0.0, 0.0), 0.0, {"better": "not supported", "not-worse": "supported", "different": "not supported"}),
    ((-0.2, 0.2), 0.0, {"better": "undecided", "not-worse": "undecided", "different": "undecided"}),
    ((-0.2, -0.1), 0.0, {"better": "not supported", "not-worse": "not supported", "different": "supported"}),
    ((math.nan, 1.0), 0.0, {"better": "undecided", "not-worse": "undecided", "different": "undecided"}),
]


@pytest.mark.parametrize(("bounds", "margin", "expected"), RULE)
def test_the_interval_decides(bounds: tuple[float, float], margin: float, expected: dict[str, str]) -> None:
    for direction, verdict in expected.items():
        assert decide(*bounds, direction=direction, margin=margin) == verdict  # type: ignore[arg-type]


def claim(**fields: Any) -> Claim:
    return Claim.model_validate({"measure": "scores", "value": "wer.wer", "arm": "new", "versus": "old", **fields})


def estimate(value: float, error: float, *, seeds: int = 5, clusters: int = 400, unit: str = "%") -> Estimate:
    """A normal estimate with that standard error, of items alone."""
    drawn = np.sort(np.random.default_rng(0).standard_normal(20001))
    return Estimate(
        value=value,
        unit=unit,
        seeds=(value,) * seeds,
        items=clusters,
        clusters=clusters,
        components=Components(error**2 * clusters, math.nan if seeds == 1 else 0.0, math.nan if seeds == 1 else 0.0),
        distances=(drawn - drawn.mean()) / drawn.std(),
    )


@pytest.mark.parametrize(
    ("better", "value", "verdict"),
    [
        ("lower", -3.0, "supported"),
        ("lower", 3.0, "not supported"),
        ("higher", 3.0, "supported"),
        ("higher", -3.0, "not supported"),
    ],
)
def test_better_is_the_way_the_metric_says(better: str, value: float, verdict: str) -> None:
    found = judge(claim(), estimate(value, 1.0), better=better)
    assert found.verdict == verdict
    assert found.low < value < found.high
    assert found.p == pytest.approx(0.0029, abs=0.001)  # 2 P(T > 3), 399 degrees


def test_the_margin_moves_what_has_to_be_shown() -> None:
    found = [judge(claim(margin=margin), estimate(-5.0, 1.0), better="lower").verdict for margin in (0, 2, 4, 6, 8)]
    assert found == ["supported", "supported", "undecided", "undecided", "not supported"]


def test_not_worse_is_about_the_other_side_of_the_margin() -> None:
    found = [
        judge(claim(direction="not-worse", margin=3), estimate(value, 1.0), better="lower").verdict
        for value in (-4.0, 0.0, 2.0, 6.0)
    ]
    assert found == ["supported", "supported", "undecided", "not supported"]


def test_p_is_the_level_at_which_there_is_a_verdict() -> None:
    for value in (-1.3, -2.5, 1.5):
        found = judge(claim(margin=0.2), estimate(value, 1.0), better="lower")
        assert found.p is not None
        held = judge(claim(margin=0.2, level=1 - 1.02 * found.p), estimate(value, 1.0), better="lower")
        assert held.verdict != "undecided"
        narrow = judge(claim(margin=0.2, level=1 - 0.98 * found.p), estimate(value, 1.0), better="lower")
        assert narrow.verdict == "undecided"


def test_a_value_without_direction_can_only_differ() -> None:
    assert judge(claim(direction="different"), estimate(4.0, 1.0), better="").verdict == "supported"
    with pytest.raises(DataError, match=r"claim on wer\.wer says 'better', but the metric names no direction"):
        judge(claim(), estimate(4.0, 1.0), better="")


def judged(*values: float) -> list[Judgement]:
    return [judge(claim(), estimate(value, 1.0), better="lower") for value in values]


def test_one_claim_is_not_corrected() -> None:
    [found] = settle(judged(-2.1), "holm")
    assert found.verdict == "supported"
    assert found.p_adjusted == found.p


def test_a_claim_that_does_not_survive_correction_is_undecided_and_says_so() -> None:
    """p = 0.035 is enough for one claim; the second smallest of three counts twice with Holm."""
    alone = judged(-2.1, -0.2, -5.0)
    assert [entry.verdict for entry in alone] == ["supported", "undecided", "supported"]
    found = settle(alone, "holm")
    assert [entry.verdict for entry in found] == ["undecided", "undecided", "supported"]
    assert found[0].p_adjusted == pytest.approx(2 * found[0].p)  # type: ignore[operator]
    assert "By itself it would be supported (p = 0.035), but not after the correction" in found[0].notes[0]
    assert "Holm: p = 0.07" in found[0].notes[0]
    assert "would settle it in 80 % of runs" in found[0].notes[-1]
    assert [entry.verdict for entry in settle(alone, "none")] == ["supported", "undecided", "supported"]


def test_benjamini_hochberg_is_milder() -> None:
    found = judged(-2.2, -2.25, -2.3, -2.35)
    assert [entry.verdict for entry in settle(found, "holm")] == ["undecided"] * 4  # the smallest, 0.019, times 4
    assert [entry.verdict for entry in settle(found, "benjamini-hochberg")] == ["supported"] * 4


def test_no_correction_saves_a_claim() -> None:
    found = settle(judged(2.1, -0.2, -0.1), "holm")
    assert [entry.verdict for entry in found] == ["not supported", "undecided", "undecided"]


def test_a_claim_without_figure_is_undecided_and_counts() -> None:
    found = settle([*judged(-2.1), unmeasured(claim(), "stage 'new' failed")], "holm")
    assert [entry.verdict for entry in found] == ["undecided", "undecided"]
    assert found[1].notes == ("No figure: stage 'new' failed.",)
    assert found[1].p_adjusted is None


def test_one_seed_says_so_and_an_arm_without_seeds_does_not() -> None:
    [found] = settle([judge(claim(), estimate(-9.0, 1.0, seeds=1), better="lower")], "holm")
    assert found.notes == (
        "One seed: the interval says what other utterances would give, not what another seed would.",
    )
    assert judge(claim(), estimate(-9.0, 1.0, seeds=1), better="lower", drawn=False).notes == ()


def test_few_clusters_are_told_and_one_decides_nothing() -> None:
    found = judge(claim(clusters="speaker"), estimate(-9.0, 1.0, clusters=8), better="lower")
    assert found.notes == ("Only 8 values of speaker: an interval of so few is rather too narrow.",)
    nothing = Estimate(
        value=-9.0,
        unit="%",
        seeds=(-9.0,),
        items=50,
        clusters=1,
        components=Components(math.nan, math.nan, math.nan),
        distances=np.zeros(0),
    )
    [found] = settle([judge(claim(clusters="speaker"), nothing, better="lower", drawn=False)], "holm")
    assert found.verdict == "undecided"
    assert found.p == 1.0
    assert found.notes[0].startswith("All utterances have one value of speaker, so there is no interval")


def test_an_undecided_claim_says_what_would_settle_it() -> None:
    [found] = settle(judged(-1.4), "holm")
    assert found.verdict == "undecided"
    # (1.96 + 0.84)^2 400 / 1.4^2 = 1600, a few more for Student's t, two digits
    assert found.notes[-1].startswith("About 1,700 utterances (now 400) with 5 seeds would settle it in 80 % of runs")
    assert found.notes[-1].endswith("More seeds alone would not.")
