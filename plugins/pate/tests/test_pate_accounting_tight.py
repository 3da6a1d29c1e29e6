"""Epsilon from the exact privacy loss: against quadrature, dp-accounting's loss distributions, and discrete noise itself."""

from __future__ import annotations

import math
import re

import mpmath
import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from slt_pate.accounting.conversion import epsilon
from slt_pate.accounting.independent import rdp
from slt_pate.accounting.orders import ORDERS
from slt_pate.accounting.tight import REACH, gaussian_delta, gaussian_epsilon, grid_loss, tight_epsilon
from slt_pate.events import Charge, GaussianMax, LaplaceMax, NoisyVector, SampledGaussian, ThresholdTest
from sltcore.errors import PrivacyError

DELTA = 1e-5


def of_rdp(*charges: Charge, delta: float = DELTA) -> float:
    return epsilon(sum(charge.count * rdp(charge.event) for charge in charges), ORDERS, delta).epsilon


@pytest.mark.parametrize(("moved", "at"), [(0.1, 0.05), (1.0, 3.0), (5.0, 20.0), (0.01, 0.0)])
def test_gaussian_delta_is_the_integral_of_what_one_density_exceeds_the_other_by(moved: float, at: float) -> None:
    crossing = mpmath.mpf(at) / moved + mpmath.mpf(moved) / 2
    exceeds = mpmath.quad(
        lambda x: mpmath.npdf(x, moved, 1) - mpmath.exp(at) * mpmath.npdf(x, 0, 1),
        [crossing, crossing + 1, crossing + 4, crossing + 12, crossing + 40],
    )
    assert gaussian_delta(moved, at) == pytest.approx(float(exceeds), rel=1e-10)


@given(moved=st.floats(1e-3, 30), log_delta=st.floats(-40, -1))
def test_gaussian_epsilon_is_the_least_that_keeps_delta(moved: float, log_delta: float) -> None:
    delta = math.exp(log_delta)
    found = gaussian_epsilon(moved, delta)
    assert gaussian_delta(moved, found) <= delta * (1 + 1e-9)
    if found > 1e-6:
        assert gaussian_delta(moved, found * (1 - 1e-6)) > delta * (1 - 1e-9)


@pytest.mark.parametrize(("sigma", "count"), [(40.0, 1000), (100.0, 10), (5.0, 100)])
def test_votes_agree_with_the_loss_distribution_of_dp_accounting(sigma: float, count: int) -> None:
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    accountant.compose(GaussianDpEvent(sigma / math.sqrt(2)), count)
    reference = accountant.get_epsilon(DELTA)  # rounded up cell by cell
    found = tight_epsilon([Charge(GaussianMax(sigma), count)], DELTA)
    assert reference * (1 - 2e-3) <= found <= reference * (1 + 1e-6)


def test_different_gaussian_releases_add_up_in_squares() -> None:
    charges = [
        Charge(GaussianMax(20.0), 7),
        Charge(ThresholdTest(30.0), 50),
        Charge(NoisyVector(25.0, math.sqrt(2)), 3),
    ]
    moved = math.sqrt(7 * 2 / 400 + 50 / 900 + 3 * 2 / 625)
    exact = gaussian_epsilon(moved, DELTA)
    found = tight_epsilon(charges, DELTA, classes=30)
    assert exact <= found <= exact * (1 + 1e-8)


@settings(deadline=None, max_examples=60)
@given(sigma=st.floats(0.5, 500), count=st.integers(1, 10_000), log_delta=st.floats(-30, -2))
def test_it_is_never_above_the_sum_of_divergences(sigma: float, count: int, log_delta: float) -> None:
    charge, delta = Charge(GaussianMax(sigma), count), math.exp(log_delta)
    assert 0 <= tight_epsilon([charge], delta) <= of_rdp(charge, delta=delta)


@settings(deadline=None, max_examples=40)
@given(sigma=st.floats(1, 300), count=st.integers(1, 3000))
def test_more_noise_fewer_queries_and_more_delta_never_cost_more(sigma: float, count: int) -> None:
    here = tight_epsilon([Charge(GaussianMax(sigma), count)], DELTA)
    assert tight_epsilon([Charge(GaussianMax(sigma * 1.1), count)], DELTA) <= here
    assert tight_epsilon([Charge(GaussianMax(sigma), count + 1)], DELTA) >= here
    assert tight_epsilon([Charge(GaussianMax(sigma), count)], 2 * DELTA) <= here


@pytest.mark.parametrize("steps", [256.0, 300.5, 1000.0])
def test_discrete_noise_differs_from_rounded_noise_by_no_more_than_the_slack(steps: float) -> None:
    x = np.arange(math.floor(REACH * steps) + 1)
    picked = x[:: max(1, x.size // 60)]
    norm = float(2 * np.exp(-0.5 * (x[1:] / steps) ** 2).sum() + 1)
    with mpmath.workdps(30):
        worst = max(
            abs(
                mpmath.log(
                    mpmath.ncdf(-(mpmath.mpf(int(k)) - 0.5) / steps) - mpmath.ncdf(-(mpmath.mpf(int(k)) + 0.5) / steps)
                )
                - (-(mpmath.mpf(int(k)) ** 2) / (2 * mpmath.mpf(steps) ** 2) - mpmath.log(norm))
            )
            for k in picked
        )
    assert 0.5 * grid_loss(steps, grid=1.0) < worst <= grid_loss(steps, grid=1.0)


@pytest.mark.parametrize("epsilon_at", [0.5, 1.0, 2.0])
def test_delta_of_discrete_noise_lies_within_the_slack(epsilon_at: float) -> None:
    steps, move = 256.0, 256  # one vote, on a grid of 1/256
    x = np.arange(-20 * 256, 20 * 256 + move + 1)
    log_here, log_moved = -0.5 * (x / steps) ** 2, -0.5 * ((x - move) / steps) ** 2
    total = np.exp(log_here).sum()
    exact = np.maximum(0, np.exp(log_moved) - np.exp(epsilon_at + log_here)).sum() / total
    shift = grid_loss(steps, grid=1.0)
    assert exact <= math.exp(shift) * gaussian_delta(1.0, epsilon_at - 2 * shift)


def test_noise_of_few_grid_steps_keeps_to_the_sum_of_divergences() -> None:
    charge = Charge(ThresholdTest(2.0**-13))
    assert tight_epsilon([charge], DELTA) == of_rdp(charge)
    with pytest.raises(
        PrivacyError, match=re.escape("sigma is 0.00012207 votes, 128 grid steps; expected at least 256 steps")
    ):
        grid_loss(2.0**-13)


def test_noisy_vectors_of_unknown_length_and_laplace_noise_keep_to_the_sum_of_divergences() -> None:
    vector, laplace = Charge(NoisyVector(30.0, 1.4), 5), Charge(LaplaceMax(50.0), 5)
    assert tight_epsilon([vector], DELTA) == of_rdp(vector)
    assert tight_epsilon([vector], DELTA, classes=30) < of_rdp(vector)
    assert tight_epsilon([laplace, vector], DELTA, classes=30) == of_rdp(laplace, vector)


def test_steps_of_dp_sgd_go_through_the_loss_distribution() -> None:
    charge = Charge(SampledGaussian(1.0, 0.01), 10_000)
    accountant = PLDAccountant()
    accountant.compose(PoissonSampledDpEvent(0.01, GaussianDpEvent(1.0)), 10_000)
    found = tight_epsilon([charge], DELTA)
    assert found == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-9)
    assert found < 0.95 * of_rdp(charge)


def test_nothing_costs_nothing() -> None:
    assert tight_epsilon([], DELTA) == 0
    assert tight_epsilon([Charge(GaussianMax(1.0), 0)], DELTA) == 0


def test_steps_of_dp_sgd_are_not_mixed_with_votes() -> None:
    with pytest.raises(PrivacyError, match="whose neighbours are not|account for them apart"):
        tight_epsilon([Charge(SampledGaussian(1.0, 0.01)), Charge(GaussianMax(40.0))], DELTA)


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan, True])
def test_a_delta_outside_0_to_1_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match="expected a number between 0 and 1"):
        tight_epsilon([Charge(GaussianMax(40.0))], delta)
