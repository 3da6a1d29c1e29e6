"""Publishing a data-dependent epsilon: what the released figure tells, and that it is counted."""

from __future__ import annotations

import math
import time

import mpmath
import numpy as np
import pytest

from slt_pate.accounting.conversion import slack
from slt_pate.accounting.independent import rdp
from slt_pate.accounting.smooth_sensitivity import Answered, noise_cost, published_epsilon, smooth_sensitivity
from slt_pate.events import GaussianMax, ThresholdTest

SETTINGS = {"order": 6.0, "beta": 0.05, "noise": 8.0, "teachers": 100}


def votes(agreeing: int, queries: int = 50) -> np.ndarray:
    return np.tile([agreeing, 100 - agreeing, 0], (queries, 1))


@pytest.mark.parametrize("quantile", [0.0, 2.326])
@pytest.mark.parametrize("ratio", [math.exp(-0.05), 0.98, 1.0, 1.03, math.exp(0.05)])
def test_the_released_law_of_a_neighbour_diverges_by_no_more_than_the_cost(ratio: float, quantile: float) -> None:
    order, noise, sensitivity = 4.0, 3.0, 0.7
    mean, deviation = noise * sensitivity * quantile, noise * sensitivity
    other = min(1.0, ratio) * sensitivity + noise * ratio * sensitivity * quantile
    if ratio < 1:  # f moves against the quantile's share or with it, whichever is further
        other = max(other, 2 * mean - other, -sensitivity * ratio + mean * ratio, key=lambda at: abs(at - mean))
    with mpmath.workdps(30):
        total = mpmath.quad(
            lambda z: (
                mpmath.npdf(z, mean, deviation) ** order * mpmath.npdf(z, other, ratio * deviation) ** (1 - order)
            ),
            [-60, mean - 5, mean, mean + 5, 60],
        )
        found = float(mpmath.log(total) / (order - 1))
    assert found <= noise_cost(order, beta=0.05, noise=noise, quantile=quantile) * (1 + 1e-9)


def test_what_is_told_is_a_multiple_of_a_public_step() -> None:
    answered = Answered(votes(90), 10.0)
    for draw in (-1.0, -0.123456789, 0.0, 0.7):
        told = published_epsilon(answered, 1e-5, draw=draw, **SETTINGS)  # type: ignore[arg-type]
        steps = (told.epsilon - told.cost_of_publishing - float(slack(6.0, 1e-5))) * 2**20
        assert steps == pytest.approx(round(steps), abs=1e-6)


def test_it_is_never_above_the_data_independent_divergence_and_its_own_cost() -> None:
    tested = votes(60)
    answered = Answered(tested[:20], 10.0, tested, 15.0, 55.0)
    most = 20 * rdp(GaussianMax(10.0), [6.0])[0] + 50 * rdp(ThresholdTest(15.0), [6.0])[0]
    told = published_epsilon(answered, 1e-5, draw=50.0, **SETTINGS)  # type: ignore[arg-type]
    assert told.epsilon == pytest.approx(most + told.cost_of_publishing + float(slack(6.0, 1e-5)), rel=1e-12)


def test_a_draw_of_its_own_differs_from_call_to_call() -> None:
    answered = Answered(votes(100), 12.0)
    told = [
        published_epsilon(answered, 1e-5, confidence=0.5, **{**SETTINGS, "noise": 0.5}).epsilon  # type: ignore[arg-type]
        for _ in range(40)
    ]
    assert len(set(told)) > 2  # half of them end at 0


def test_thousands_of_teachers_take_little_time() -> None:
    rng = np.random.default_rng(0)
    first = rng.binomial(3000, rng.uniform(0.5, 1, 300))
    answered = Answered(np.stack([first, 3000 - first], axis=1), 60.0)
    smooth_sensitivity(answered, 10.0, beta=0.01, teachers=3)
    start = time.process_time()
    assert smooth_sensitivity(answered, 10.0, beta=0.01, teachers=3000) > 0
    assert time.process_time() - start < 10
