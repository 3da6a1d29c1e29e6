"""Data-dependent costs against the formulas in other arithmetic, and against the divergence of outcomes itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.legendre import leggauss
from scipy.special import ndtr

from slt_pate.accounting.independent import rdp
from slt_pate.accounting.orders import ORDERS
from slt_pate.accounting.smooth_sensitivity import (
    Answered,
    local_sensitivities,
    noise_cost,
    published_epsilon,
    smooth_sensitivity,
    stepped,
)
from slt_pate.accounting.votes import log_other, rdp_of_each, rdp_of_votes
from slt_pate.events import GaussianMax, LaplaceMax, NoisyVector, ThresholdTest
from sltcore.errors import PrivacyError

SOME = np.array([1.01, 1.5, 2.0, 4.7, 11.0, 40.0, 300.0])
HISTOGRAMS = st.lists(st.integers(0, 60), min_size=2, max_size=8).filter(any).map(lambda row: np.array([row]))
NOISE = st.floats(0.8, 60)


def published(votes: np.ndarray, sigma: float, order: float) -> float:
    """Theorem 6 with proposition 10 for one histogram, in 300 digits, from the paper's formulas."""
    with mpmath.workdps(300):
        row, s = sorted(map(int, votes), reverse=True), mpmath.mpf(sigma)
        q = sum(mpmath.erfc((row[0] - n) / (2 * s)) / 2 for n in row[1:])
        most = mpmath.mpf(order) / s**2
        if not 0 < q < 1:
            return float(most)
        high = s * mpmath.sqrt(-mpmath.log(q))
        low = high + 1
        if high <= 1 or order >= low:
            return float(most)
        first, second = low / s**2, high / s**2
        room = mpmath.exp((high - 1) * second) / (low / (low - 1) * high / (high - 1)) ** high
        if q > room or -mpmath.log(q) <= second:
            return float(most)
        a = (1 - q) / (1 - (q * mpmath.exp(second)) ** (1 - 1 / high))
        b = mpmath.exp(first) / q ** (1 / (low - 1))
        bound = mpmath.log((1 - q) * a ** (order - 1) + q * b ** (order - 1)) / (order - 1)
        return float(min(most, max(bound, 0)))


def some_votes(queries: int, classes: int, teachers: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.multinomial(teachers, rng.dirichlet(np.full(classes, 0.2), queries))


@pytest.mark.parametrize(
    ("classes", "teachers", "sigma"), [(2, 20, 2.0), (10, 250, 40.0), (10, 250, 8.0), (30, 50, 4.0)]
)
def test_random_histograms_cost_what_the_published_analysis_says(classes: int, teachers: int, sigma: float) -> None:
    votes = some_votes(60, classes, teachers, classes)
    event = GaussianMax(sigma)
    for order in SOME:
        expected = np.array([published(row, sigma, order) for row in votes])
        np.testing.assert_allclose(rdp_of_each(event, votes, order, grid=0.0), expected, rtol=1e-8, atol=1e-300)
        assert rdp_of_votes(event, votes, [order], grid=0.0)[0] == pytest.approx(expected.sum(), rel=1e-8)


def test_some_of_those_histograms_are_cheaper_than_the_worst_case() -> None:
    event = GaussianMax(8.0)
    costs = rdp_of_each(event, some_votes(60, 10, 250, 10), 4.7)
    assert 5 < (costs < 0.5 * rdp(event, [4.7])[0]).sum() < 60


def test_laplace_votes_cost_what_the_2017_theorem_says() -> None:
    votes, scale = some_votes(50, 6, 40, 3), 4.0
    for order in SOME:
        for row, found in zip(votes, rdp_of_each(LaplaceMax(scale), votes, order, grid=0.0), strict=True):
            with mpmath.workdps(60):
                gaps = [mpmath.mpf(int(max(row) - n)) / scale for n in np.delete(row, row.argmax())]
                q = sum((2 + gap) / (4 * mpmath.exp(gap)) for gap in gaps)
                pure, expected = mpmath.mpf(2) / scale, float(rdp(LaplaceMax(scale), [order])[0])
                if q < (mpmath.exp(pure) - 1) / (mpmath.exp(2 * pure) - 1):
                    moment = (1 - q) * ((1 - q) / (1 - mpmath.exp(pure) * q)) ** (order - 1)
                    moment += q * mpmath.exp(pure * (order - 1))
                    expected = min(expected, float(mpmath.log(moment) / (order - 1)))
            assert found == pytest.approx(expected, rel=1e-8)


def moved(row: np.ndarray) -> Iterator[np.ndarray]:
    """Every histogram in which one teacher votes otherwise."""
    for source, target in itertools.permutations(range(len(row)), 2):
        if row[source]:
            other = row.copy()
            other[source] -= 1
            other[target] += 1
            yield other


Law = Callable[[np.ndarray], np.ndarray]
NODES, WEIGHTS = leggauss(80)
PIECES = np.array([-40.0, -12, -6, -3, -1, 0, 1, 3, 6, 12, 40])
Z = ((PIECES[1:] + PIECES[:-1])[:, None] / 2 + (PIECES[1:] - PIECES[:-1])[:, None] / 2 * NODES).ravel()
DZ = ((PIECES[1:] - PIECES[:-1])[:, None] / 2 * WEIGHTS).ravel()


def gaussian_below(x: np.ndarray) -> np.ndarray:
    return np.asarray(ndtr(x))


def laplace_below(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, np.exp(np.minimum(x, 0)) / 2, 1 - np.exp(-np.maximum(x, 0)) / 2)


def outcomes(row: Sequence[int], scale: float, below: Law, density: np.ndarray) -> np.ndarray:
    """P(class has the highest noisy count), by quadrature over the winner's noise."""
    gaps = np.subtract.outer(np.asarray(row), np.asarray(row)) / scale
    result = []
    for j in range(len(row)):
        others = [below(Z + gaps[j, k]) for k in range(len(row)) if k != j]
        result.append((DZ * density * np.prod(others, axis=0)).sum())
    return np.array(result)


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("gaussian", [True, False])
def test_outcomes_of_neighbours_diverge_by_no_more_than_the_votes_are_charged(gaussian: bool, scale: float) -> None:
    event = GaussianMax(scale) if gaussian else LaplaceMax(scale)
    below = gaussian_below if gaussian else laplace_below
    density = np.exp(-Z * Z / 2) / math.sqrt(2 * math.pi) if gaussian else np.exp(-np.abs(Z)) / 2
    dependent = 0
    for row in np.array([[9, 0, 0], [8, 1, 0], [5, 4, 0], [3, 3, 3], [7, 0, 2], [12, 0, 0], [6, 5, 1]]):
        p = outcomes(row, scale, below, density)
        neighbours = [outcomes(other, scale, below, density) for other in moved(row)]
        assert p.sum() == pytest.approx(1, abs=1e-6)
        assert np.delete(p, p.argmax()).sum() <= math.exp(log_other(event, row[None])[0]) * (1 + 1e-6)
        for order in (1.5, 2.0, 5.0, 11.0):
            claimed = rdp_of_votes(event, row[None], [order])[0]
            dependent += claimed < rdp(event, [order])[0]
            for q in neighbours:
                found = math.log((p**order * q ** (1 - order)).sum()) / (order - 1)
                assert found <= claimed + 1e-7, (row, order)
    assert dependent


@given(HISTOGRAMS, NOISE)
def test_votes_never_cost_more_than_the_worst_case(votes: np.ndarray, scale: float) -> None:
    for event in (GaussianMax(scale), LaplaceMax(scale)):
        assert (rdp_of_votes(event, votes) <= rdp(event) * (1 + 1e-12)).all()
    test = ThresholdTest(scale)
    assert (rdp_of_votes(test, votes, threshold=20.0) <= rdp(test) * (1 + 1e-12)).all()


@given(HISTOGRAMS, NOISE, st.integers(1, 10))
def test_a_wider_gap_costs_no_more(votes: np.ndarray, scale: float, more: int) -> None:
    wider = votes.copy()
    wider[0, votes[0].argmax()] += more
    for event in (GaussianMax(scale), LaplaceMax(scale)):
        assert log_other(event, wider)[0] <= log_other(event, votes)[0] + 1e-12
        assert (rdp_of_votes(event, wider) <= rdp_of_votes(event, votes) * (1 + 1e-9) + 1e-15).all()


@given(st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=1, max_size=12), NOISE)
def test_queries_add_up_and_equal_ones_count_each(rows: list[list[int]], sigma: float) -> None:
    votes, event = np.array(rows), GaussianMax(sigma)
    total = rdp_of_votes(event, votes)
    np.testing.assert_allclose(total, sum(rdp_of_votes(event, votes[i : i + 1]) for i in range(len(votes))), rtol=1e-9)
    np.testing.assert_allclose(rdp_of_votes(event, np.repeat(votes, 3, axis=0)), 3 * total, rtol=1e-9)
    shuffled = votes[::-1, [2, 0, 1]]
    np.testing.assert_allclose(rdp_of_votes(event, shuffled), total, rtol=1e-9)


def test_the_grid_of_the_noise_costs_a_little() -> None:
    votes = some_votes(40, 5, 60, 1)
    for event in (GaussianMax(5.0), LaplaceMax(5.0)):
        assert (log_other(event, votes) >= log_other(event, votes, grid=0.0)).all()
        np.testing.assert_allclose(rdp_of_votes(event, votes), rdp_of_votes(event, votes, grid=0.0), rtol=1e-3)


def test_one_class_and_no_queries_tell_nothing() -> None:
    assert (rdp_of_votes(GaussianMax(3.0), np.full((4, 1), 9)) == 0).all()
    assert (rdp_of_votes(LaplaceMax(3.0), np.zeros((0, 5), int)) == 0).all()
    assert (rdp_of_votes(GaussianMax(3.0), np.zeros((0, 5), int)) == 0).all()


def test_votes_beyond_floating_point_are_counted() -> None:
    far = rdp_of_votes(GaussianMax(1.0), np.array([[2**24, 0]]))
    assert np.isfinite(far).all()
    assert far.max() < 1e-3


@pytest.mark.parametrize("sigma", [1.0, 3.0, 9.0])
def test_no_neighbour_lies_further_away_than_the_local_sensitivity(sigma: float) -> None:
    rng = np.random.default_rng(int(sigma))
    for row in rng.multinomial(12, rng.dirichlet(np.full(3, 0.4), 12)):
        bounds = local_sensitivities(Answered(row[None], sigma), 5.0, 3)
        assert (np.diff(bounds) >= -1e-15).all()
        reached = [row]
        for distance in range(3):
            for one in reached:
                here = stepped(Answered(one[None], sigma), 5.0)
                for other in moved(one):
                    assert abs(stepped(Answered(other[None], sigma), 5.0) - here) <= bounds[distance] + 1e-12
            reached = [other for one in reached for other in moved(one)][::7]


def test_a_threshold_test_moves_by_exactly_its_neighbours() -> None:
    for highest in (3, 9, 10, 11, 18):
        votes = np.array([[highest, 20 - highest - 1, 1]]) if highest < 19 else np.array([[highest, 1, 0]])
        top = int(votes.max())
        answered = Answered(np.zeros((0, 3), int), 1.0, votes, 2.0, 10.0)
        event = ThresholdTest(2.0)
        costs = [rdp_of_votes(event, np.array([[n]]), [5.0], threshold=10.0)[0] for n in range(top - 1, top + 2)]
        assert local_sensitivities(answered, 5.0, 0)[0] == pytest.approx(np.abs(np.diff(costs)).max(), rel=1e-12)


def test_the_staircase_lies_just_above_the_divergence_itself() -> None:
    votes = some_votes(80, 6, 100, 4)
    for sigma in (2.0, 12.0):
        exact, found = rdp_of_votes(GaussianMax(sigma), votes, [5.0])[0], stepped(Answered(votes, sigma), 5.0)
        assert exact <= found * (1 + 1e-12)
        assert found <= exact * 1.02


def test_smooth_sensitivity_changes_slowly_from_neighbour_to_neighbour() -> None:
    rng, beta = np.random.default_rng(0), 0.2
    for row in rng.multinomial(14, rng.dirichlet(np.full(3, 0.4), 8)):
        here = smooth_sensitivity(Answered(row[None], 2.0), 5.0, beta=beta, teachers=14)
        for other in moved(row):
            there = smooth_sensitivity(Answered(other[None], 2.0), 5.0, beta=beta, teachers=14)
            assert there <= math.exp(beta) * here * (1 + 1e-12)


@given(st.floats(1.2, 30), st.floats(0.001, 0.02), st.floats(0.5, 50), st.floats(0, 3))
def test_noise_on_a_published_figure_costs_the_worst_of_its_neighbours(
    order: float, beta: float, noise: float, quantile: float
) -> None:
    claimed = noise_cost(order, beta=beta, noise=noise, quantile=quantile)
    if math.isinf(claimed):
        assert math.exp(-2 * beta) <= 1 - 1 / order
        return
    for ratio in np.exp(np.linspace(-beta, beta, 9)):
        shift = min(1.0, ratio) / noise + quantile * abs(ratio - 1)
        width = order * ratio**2 + 1 - order
        exact = math.log(ratio) + math.log(ratio**2 / width) / (2 * (order - 1)) + order * shift**2 / (2 * width)
        assert exact <= claimed * (1 + 1e-9) + 1e-15
    if order == round(order):
        assert claimed >= rdp(NoisyVector(noise, 1.0), [order])[0]


def test_the_divergence_of_two_normal_laws_is_its_integral() -> None:
    order, ratio, shift = 3.0, math.exp(0.05), 0.3
    with mpmath.workdps(30):
        integral = mpmath.quad(
            lambda z: mpmath.npdf(z, 0, 1) ** order * mpmath.npdf(z, shift, ratio) ** (1 - order), [-40, 0, 40]
        )
        exact = float(mpmath.log(integral) / (order - 1))
    width = order * ratio**2 + 1 - order
    formula = math.log(ratio) + math.log(ratio**2 / width) / (2 * (order - 1)) + order * shift**2 / (2 * width)
    assert formula == pytest.approx(exact, rel=1e-9)


def test_a_published_epsilon_is_rarely_below_the_true_one() -> None:
    answered = Answered(some_votes(200, 5, 100, 2), 12.0)
    rng, settings = np.random.default_rng(1), {"order": 6.0, "beta": 0.02, "noise": 15.0, "teachers": 100}
    exact = stepped(answered, 6.0)
    told = [
        published_epsilon(answered, 1e-5, draw=float(draw), confidence=0.9, **settings)  # type: ignore[arg-type]
        for draw in rng.standard_normal(150)
    ]
    cost = noise_cost(6.0, beta=0.02, noise=15.0, quantile=1.2815515655446004)
    slack = math.log1p(-1 / 6) - math.log(1e-5 * 6) / 5
    below = sum(one.epsilon < exact + cost + slack for one in told)
    assert 4 <= below <= 32
    assert told[0].cost_of_publishing == pytest.approx(cost)


def test_bad_votes_are_told_in_one_line() -> None:
    event = GaussianMax(3.0)
    with pytest.raises(PrivacyError, match=r"votes have shape \(3,\), expected \(q, v\)"):
        rdp_of_votes(event, [1, 2, 3])
    with pytest.raises(PrivacyError, match=r"votes have dtype float64, expected integers"):
        rdp_of_votes(event, [[0.5, 2.0]])
    with pytest.raises(PrivacyError, match=r"votes go from -1 to 2, expected counts from 0"):
        rdp_of_votes(event, [[-1, 2]])
    with pytest.raises(PrivacyError, match=r"the threshold of a ThresholdTest is None, expected how many votes"):
        rdp_of_votes(ThresholdTest(3.0), [[1, 2]])
    with pytest.raises(PrivacyError, match=r"NoisyVector has no votes"):
        rdp_of_votes(NoisyVector(3.0, 1.0), [[1, 2]])  # type: ignore[arg-type]
    with pytest.raises(PrivacyError, match=r"beta is 0, expected a positive finite number"):
        smooth_sensitivity(Answered([[1, 2]], 3.0), 5.0, beta=0, teachers=3)
    with pytest.raises(PrivacyError, match=r"distances is -1, expected a whole number from 0 on"):
        local_sensitivities(Answered([[1, 2]], 3.0), 5.0, -1)
    with pytest.raises(PrivacyError, match=r"test_sigma or threshold is empty; give both"):
        stepped(Answered([[1, 2]], 3.0, [[1, 2]]), 5.0)
    with pytest.raises(PrivacyError, match=r"beta 0.5 is too large for order 5; expected below 0.112"):
        published_epsilon(Answered([[1, 2]], 3.0), 1e-5, order=5.0, beta=0.5, noise=3.0, teachers=3, draw=0.0)


def test_the_table_of_orders_covers_what_the_costs_need() -> None:
    assert ORDERS[0] == 1.01
    assert (np.diff(ORDERS) > 0).all()
