"""Data-independent costs, their conversion and the budget, against closed forms, integrals and dp-accounting."""

from __future__ import annotations

import math
from random import Random

import dp_accounting
import mpmath
import numpy as np
import pytest
from dp_accounting.rdp import rdp_privacy_accountant
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from slt_pate.accounting.conversion import delta, epsilon
from slt_pate.accounting.filter import RdpFilter
from slt_pate.accounting.independent import _pure as pure_bound
from slt_pate.accounting.independent import laplace, rdp
from slt_pate.accounting.orders import ORDERS
from slt_pate.events import (
    Charge,
    Event,
    GaussianMax,
    LaplaceMax,
    NoisyVector,
    NoisyVectorLaplace,
    SampledGaussian,
    ThresholdTest,
)
from sltcore.errors import PrivacyError

SCALES = st.floats(0.3, 500)
DELTAS = st.floats(1e-12, 0.1)
EVENTS = st.one_of(
    st.builds(GaussianMax, SCALES),
    st.builds(LaplaceMax, SCALES),
    st.builds(ThresholdTest, SCALES),
    st.builds(NoisyVector, SCALES, st.floats(0.1, 3)),
    st.builds(NoisyVectorLaplace, SCALES, st.floats(0.1, 3)),
)


def peer(event: dp_accounting.DpEvent, count: int, orders: np.ndarray | None = None) -> float:
    accountant = rdp_privacy_accountant.RdpAccountant(orders)
    accountant.compose(dp_accounting.SelfComposedDpEvent(event, count))
    return float(accountant.get_epsilon(1e-5))


@pytest.mark.parametrize("count", [1, 50, 3000])
@pytest.mark.parametrize(
    ("event", "theirs"),
    [
        (GaussianMax(40.0), dp_accounting.GaussianDpEvent(40 / math.sqrt(2))),
        (GaussianMax(1.5), dp_accounting.GaussianDpEvent(1.5 / math.sqrt(2))),
        (ThresholdTest(30.0), dp_accounting.GaussianDpEvent(30.0)),
        (NoisyVector(2.0, 0.3), dp_accounting.GaussianDpEvent(2 / 0.3)),
        (NoisyVectorLaplace(90.0, 2.0), dp_accounting.LaplaceDpEvent(45.0)),
    ],
)
def test_compositions_cost_what_dp_accounting_says(event: Event, theirs: dp_accounting.DpEvent, count: int) -> None:
    ours = epsilon(count * rdp(event), ORDERS, 1e-5).epsilon
    assert ours == pytest.approx(peer(theirs, count, ORDERS), rel=1e-6)
    assert ours <= peer(theirs, count) * (1 + 1e-12)  # dp-accounting's own orders are among ours


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(1.0, 0.01, 1000), (0.7, 0.2, 50), (5.0, 0.001, 100), (2.0, 1.0, 3)]
)
def test_sampled_steps_cost_no_more_than_dp_accounting_says(noise: float, rate: float, steps: int) -> None:
    theirs = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    whole = np.arange(2.0, 64)
    ours = epsilon(steps * rdp(SampledGaussian(noise, rate), whole), whole, 1e-5).epsilon
    assert ours == pytest.approx(peer(theirs, steps, whole), rel=1e-6)
    assert epsilon(steps * rdp(SampledGaussian(noise, rate)), ORDERS, 1e-5).epsilon <= peer(theirs, steps) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("noise", "rate", "order"), [(5, 0.001, 1.01), (0.7, 0.2, 1.1), (1, 0.01, 3.94), (2, 0.5, 7.3), (0.3, 0.05, 10.9)]
)
def test_sampled_steps_at_fractional_orders_are_the_integral(noise: float, rate: float, order: float) -> None:
    with mpmath.workdps(30):

        def mixture(z: mpmath.mpf) -> mpmath.mpf:
            return (1 - rate) * mpmath.npdf(z, 0, noise) + rate * mpmath.npdf(z, 1, noise)

        ends = [-60 * noise, -10 * noise, 0, 1, order + 10 * noise, order + 60 * noise]
        first = mpmath.quad(lambda z: mixture(z) ** order * mpmath.npdf(z, 0, noise) ** (1 - order), ends)
        second = mpmath.quad(lambda z: mpmath.npdf(z, 0, noise) ** order * mixture(z) ** (1 - order), ends)
        exact = mpmath.log(first) / (order - 1)
        assert second <= first
    assert rdp(SampledGaussian(noise, rate), [order])[0] == pytest.approx(float(exact), rel=1e-8)


@pytest.mark.parametrize("scale", [0.5, 3.0, 40.0])
@pytest.mark.parametrize("order", [1.1, 2.0, 17.0])
def test_laplace_noise_costs_its_integral(scale: float, order: float) -> None:
    with mpmath.workdps(30):
        ends = [-80 * scale, 0, 1, 1 + 80 * scale]
        integral = mpmath.quad(
            lambda z: mpmath.exp(-(order * abs(z) + (1 - order) * abs(z - 1)) / scale) / (2 * scale), ends
        )
        exact = float(mpmath.log(integral) / (order - 1))
    assert rdp(NoisyVectorLaplace(scale, 1.0), [order])[0] == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("scale", [0.5, 3.0])
@pytest.mark.parametrize("order", [1.1, 2.0, 17.0])
@pytest.mark.parametrize("steps", [1, 3, 64])
def test_laplace_noise_on_a_grid_costs_its_sum(scale: float, order: float, steps: int) -> None:
    reach = round(60 * steps * max(1.0, scale))
    t = np.arange(-reach, reach + steps)
    log_p, log_q = -np.abs(t) / (steps * scale), -np.abs(t - steps) / (steps * scale)
    total = np.exp(order * log_p + (1 - order) * log_q).sum() * math.tanh(1 / (2 * steps * scale))
    found = laplace(1 / scale, np.array([order]), 1 / (steps * scale))[0]
    assert found == pytest.approx(math.log(total) / (order - 1), rel=1e-9)


@pytest.mark.parametrize("pure", [1e-6, 1e-3, 0.1, 3.0, 60.0])
def test_the_pure_bound_is_that_of_randomised_response(pure: float) -> None:
    for order in (1.01, 2.0, 40.0, 8192.0):
        with mpmath.workdps(60):
            p = mpmath.exp(pure) / (1 + mpmath.exp(pure))
            a = mpmath.mpf(order)
            exact = mpmath.log(p**a * (1 - p) ** (1 - a) + (1 - p) ** a * p ** (1 - a)) / (a - 1)
        assert pure_bound(pure, np.array([order]))[0] == pytest.approx(float(exact), rel=1e-10)


@given(st.lists(st.tuples(EVENTS, st.integers(0, 9)), max_size=6), st.randoms())
def test_a_filter_counts_the_same_however_charges_are_grouped(pairs: list[tuple[Event, int]], random: Random) -> None:
    charges = [Charge(event, count) for event, count in pairs]
    one, other = RdpFilter(1e9, 1e-5, ORDERS), RdpFilter(1e9, 1e-5, ORDERS)
    one.charge(charges)
    random.shuffle(charges)
    for charge in charges:
        for _ in range(charge.count):
            other.charge([Charge(charge.event)])
    assert one.used == other.used


def test_noisy_max_with_laplace_noise_costs_at_most_its_pure_bound() -> None:
    for scale in (0.3, 1.0, 5.0, 100.0):
        found = rdp(LaplaceMax(scale))
        assert (found <= 2 / scale + 1e-12).all()
        assert (found <= 2 * rdp(NoisyVectorLaplace(scale, 1.0)) + 1e-15).all()
    assert rdp(LaplaceMax(100.0), [2.0])[0] == pytest.approx(2 / 100**2, rel=0.02)  # a m^2 for small m


@given(EVENTS, DELTAS)
def test_costs_fall_with_noise_and_rise_with_the_order(event: Event, chance: float) -> None:
    costs = rdp(event)
    assert (costs >= 0).all()
    assert (np.diff(costs) >= -1e-12 * costs[1:]).all()
    name = "scale" if hasattr(event, "scale") else "sigma"
    louder = type(event)(**{**event.__dict__, name: getattr(event, name) * 1.25})
    assert (rdp(louder) <= costs * (1 + 1e-9)).all()
    for count in (1, 7):
        spent = epsilon(count * costs, ORDERS, chance).epsilon
        assert spent <= epsilon((count + 1) * costs, ORDERS, chance).epsilon + 1e-12
        assert spent <= epsilon(count * costs, ORDERS, chance / 2).epsilon + 1e-12


@given(st.floats(0.02, 20), DELTAS)
def test_epsilon_is_never_below_the_exact_one_of_a_gaussian(sigma: float, chance: float) -> None:
    found = epsilon(rdp(NoisyVector(sigma, 1.0)), ORDERS, chance).epsilon
    exact = norm.cdf(0.5 / sigma - found * sigma) - np.exp(found + norm.logcdf(-0.5 / sigma - found * sigma))
    assert exact <= chance * (1 + 1e-9)


@given(EVENTS, st.integers(1, 200), DELTAS)
def test_delta_undoes_epsilon(event: Event, count: int, chance: float) -> None:
    costs = count * rdp(event)
    spent = epsilon(costs, ORDERS, chance).epsilon
    assert delta(costs, ORDERS, spent) <= chance * (1 + 1e-6)


def test_nothing_costs_nothing() -> None:
    assert epsilon(np.zeros(ORDERS.size), ORDERS, 1e-9).epsilon == 0
    assert delta(np.zeros(ORDERS.size), ORDERS, 0.0) == 0


@given(EVENTS, st.floats(0.1, 20), DELTAS, st.lists(st.integers(0, 40), max_size=20))
def test_a_filter_never_lets_more_than_the_budget_pass(
    event: Event, most: float, chance: float, counts: list[int]
) -> None:
    budget, passed = RdpFilter(most, chance, ORDERS), 0
    for count in counts:
        charges = [Charge(event, count)]
        if budget.allows(charges):
            budget.charge(charges)
            passed += count
        else:
            used = budget.used
            with pytest.raises(PrivacyError, match=r"the budget is epsilon .* of it is used and .* more is asked for"):
                budget.charge(charges)
            assert budget.used == used
    assert epsilon(passed * rdp(event), ORDERS, chance).epsilon <= most * (1 + 1e-9)
    left = budget.affordable(event)
    assert budget.allows([Charge(event, left)])
    assert not budget.allows([Charge(event, left + 1)])


@given(st.floats(0.1, 20), DELTAS)
def test_the_order_of_a_filter_is_the_best_for_gaussian_noise(most: float, chance: float) -> None:
    budget = RdpFilter(most, chance, ORDERS)
    sigma = math.sqrt(1000 * budget.order / budget.budget)  # a thousand such queries use all of it
    assert epsilon(1000 * rdp(GaussianMax(sigma)), ORDERS, chance).epsilon == pytest.approx(most, rel=1e-9)
    assert RdpFilter(most, chance, ORDERS).order == budget.order


def test_bad_input_is_told_in_one_line() -> None:
    with pytest.raises(PrivacyError, match=r"GaussianMax has sigma 0, expected a positive finite number"):
        rdp(GaussianMax(0))
    with pytest.raises(PrivacyError, match=r"LaplaceMax has scale nan"):
        rdp(LaplaceMax(math.nan))
    with pytest.raises(PrivacyError, match=r"rate 1.5, expected a probability above 0, at most 1"):
        rdp(SampledGaussian(1.0, 1.5))
    with pytest.raises(PrivacyError, match=r"orders are \[1.0\], expected finite numbers above 1"):
        rdp(GaussianMax(1.0), [1.0])
    with pytest.raises(PrivacyError, match=r"'gnmax' is no event of slt_pate.events"):
        rdp("gnmax")  # type: ignore[arg-type]
    with pytest.raises(PrivacyError, match=r"delta is 0, expected a number between 0 and 1"):
        epsilon(rdp(GaussianMax(1.0)), ORDERS, 0)
    with pytest.raises(PrivacyError, match=r"costs have shape \(2,\), expected one for each of 173 orders"):
        epsilon([0.1, 0.2], ORDERS, 1e-5)
    with pytest.raises(PrivacyError, match=r"costs hold a negative number"):
        epsilon([-0.1], [2.0], 1e-5)
    with pytest.raises(PrivacyError, match=r"epsilon is -1, expected a number from 0 on"):
        delta([0.1], [2.0], -1)
    with pytest.raises(PrivacyError, match=r"epsilon is inf, expected a positive finite number"):
        RdpFilter(math.inf, 1e-5)
    with pytest.raises(PrivacyError, match=r"no order from 2 to 2 keeps epsilon 0.1 at delta 1e-05"):
        RdpFilter(0.1, 1e-5, [2.0])
    with pytest.raises(PrivacyError, match=r"has a negative count; nothing that was released can be taken back"):
        RdpFilter(1.0, 1e-5).charge([Charge(GaussianMax(9.0), -1)])
    with pytest.raises(PrivacyError, match=r"3 is no charge"):
        RdpFilter(1.0, 1e-5).allows([3])  # type: ignore[list-item]
