"""Mechanisms: what they release against quadrature, what neighbours may differ by against what is claimed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import integrate, stats

from slt_pate.events import Charge, GaussianMax, LaplaceMax, NoisyVector, NoisyVectorLaplace, ThresholdTest
from slt_pate.mechanisms import (
    ConfidentGNMax,
    GNMax,
    LNMax,
    Mechanism,
    NoisyPosterior,
    count_votes,
    noisy_max,
    noisy_posterior,
    project_to_simplex,
)
from slt_pate.mechanisms.noisy_posterior import to_steps
from slt_pate.noise import STEPS
from sltcore.errors import PrivacyError

DRAWS = 1_000_000
SURE = 1e-7
"""Share of runs in which one interval of a true probability misses it."""

NEIGHBOURS = [([8, 1, 1], [7, 2, 1]), ([6, 2, 2], [5, 3, 2]), ([3, 3, 3], [2, 4, 3])]


def chances(votes: Sequence[int], law: Any) -> np.ndarray:
    """Probability that each class wins, by quadrature over its noisy count."""
    x = np.linspace(-60, 80, 280_001)
    return np.array(
        [
            integrate.simpson(
                law.pdf(x - n) * np.prod([law.cdf(x - m) for k, m in enumerate(votes) if k != j], axis=0), x=x
            )
            for j, n in enumerate(votes)
        ]
    )


def wins(mechanism: Mechanism, votes: Sequence[int], draws: int = DRAWS) -> np.ndarray:
    """How often each class is released."""
    counts = np.zeros(len(votes), dtype=np.int64)
    for _ in range(0, draws, 100_000):
        values = mechanism.release_batch(np.tile(votes, (100_000, 1))).values
        counts += np.bincount(values, minlength=len(votes))
    return counts


def intervals(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clopper-Pearson bounds of the probability of every set of outcomes that is neither empty nor whole."""
    total = counts.sum()
    sets = [[j for j in range(len(counts)) if mask >> j & 1] for mask in range(1, 2 ** len(counts) - 1)]
    seen = np.array([counts[one].sum() for one in sets])
    return stats.beta.ppf(SURE / 2, seen, total - seen + 1), stats.beta.ppf(1 - SURE / 2, seen + 1, total - seen)


def pure_claim(epsilon: float) -> Callable[[np.ndarray], np.ndarray]:
    """The largest log P(S) that pure differential privacy allows where the neighbour has log Q(S)."""
    return lambda log_q: log_q + epsilon


def renyi_claim(sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    """The same of RDP(a) = a / sigma^2 at every order: log P <= (a - 1) / a (a / sigma^2 + log Q).

    Mironov, "Rényi differential privacy", 2017, proposition 10.
    """
    order = np.linspace(1.01, 200, 5000)[:, np.newaxis]
    return lambda log_q: np.min((order - 1) / order * (order / sigma**2 + log_q), axis=0)


def largest_excess(first: np.ndarray, second: np.ndarray, claim: Callable[..., np.ndarray], *, surely: bool) -> float:
    """By how much log P of some set exceeds the claim, both ways: at the ends of the intervals that make it largest, or,
    `surely`, at those that make it smallest."""
    found = []
    for p, q in ((first, second), (second, first)):
        (p_low, p_high), (q_low, q_high) = intervals(p), intervals(q)
        found.append(np.max(np.log(p_low) - claim(np.log(q_high)) if surely else np.log(p_high) - claim(np.log(q_low))))
    return float(max(found))


@pytest.mark.slow
@pytest.mark.parametrize(("votes", "moved"), NEIGHBOURS)
def test_on_neighbouring_votes_lnmax_stays_within_its_epsilon(votes: list[int], moved: list[int]) -> None:
    first, second = wins(LNMax(2.0), votes), wins(LNMax(2.0), moved)
    assert largest_excess(first, second, pure_claim(2 / 2.0), surely=False) < 0
    # Half the noise, passed off as the whole, is caught.
    assert largest_excess(first, second, pure_claim(2 / 4.0), surely=True) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("votes", "moved"), NEIGHBOURS)
def test_on_neighbouring_votes_gnmax_stays_within_its_renyi_divergence(votes: list[int], moved: list[int]) -> None:
    first, second = wins(GNMax(2.0), votes), wins(GNMax(2.0), moved)
    assert largest_excess(first, second, renyi_claim(2.0), surely=False) < 0
    assert largest_excess(first, second, renyi_claim(4.0), surely=True) > 0


@pytest.mark.slow
@pytest.mark.parametrize("votes", [[8, 1, 1], [3, 2, 2, 1]])
@pytest.mark.parametrize(
    ("mechanism", "law"), [(GNMax(2.0), stats.norm(scale=2.0)), (LNMax(2.0), stats.laplace(scale=2.0))]
)
def test_each_class_wins_as_often_as_the_integral_says(mechanism: Mechanism, law: Any, votes: list[int]) -> None:
    expected = chances(votes, law)
    counts = wins(mechanism, votes, 300_000)
    assert stats.chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > 1e-6


def test_the_threshold_test_and_the_answer_have_noise_of_their_own() -> None:
    votes, queries = [8, 4, 1], 200_000
    answers = ConfidentGNMax(9.0, 3.0, sigma=2.0).release_batch(np.tile(votes, (queries, 1)))
    passed = int(answers.answered.sum())
    assert stats.binomtest(passed, queries, stats.norm.sf(1 / 3)).pvalue > 1e-6
    counts = np.bincount(answers.values[answers.answered], minlength=3)
    assert stats.chisquare(counts, chances(votes, stats.norm(scale=2.0)) * passed).pvalue > 1e-6
    assert set(answers.values[~answers.answered]) == {-1}
    assert answers.charges == (Charge(ThresholdTest(3.0), queries), Charge(GaussianMax(2.0), passed))


def zeros(scale: float, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, dtype=np.int64)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise that is 0."""
    for module in (noisy_max, noisy_posterior):
        for name in ("gaussian_votes", "laplace_votes"):
            monkeypatch.setattr(module, name, zeros)


@pytest.mark.usefixtures("silent")
def test_equal_counts_go_to_the_lower_index() -> None:
    for mechanism in (GNMax(1.0), LNMax(1.0), ConfidentGNMax(3.0, 1.0, sigma=1.0)):
        assert mechanism.release_batch([[1, 3, 3], [3, 3, 1], [0, 0, 5]]).values.tolist() == [1, 0, 2]


@pytest.mark.usefixtures("silent")
def test_the_threshold_belongs_to_those_that_pass() -> None:
    confident = ConfidentGNMax(3.0, 1.0, sigma=1.0)
    assert confident.release([1, 3]).value == 1
    assert confident.release([2, 2]).value is None
    assert confident.release([2, 2]).charges == (Charge(ThresholdTest(1.0), 1),)
    assert ConfidentGNMax(3.0 + 2.0**-21, 1.0, sigma=1.0).release([0, 3]).value is None  # rounded up to the grid


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("cells", [1, 5, 64, 1 << 20])
def test_queries_in_parts_are_answered_as_at_once(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    votes = np.random.default_rng(3).integers(0, 50, (13, 5))
    monkeypatch.setattr(noisy_max, "CELLS", cells)
    np.testing.assert_array_equal(GNMax(1.0).release_batch(votes).values, votes.argmax(axis=1))


def test_one_step_of_the_grid_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noisy_max, "gaussian_votes", lambda sigma, shape: np.array([[-1, STEPS]]))
    assert GNMax(1.0).release([2**24, 2**24 - 1]).value == 1
    monkeypatch.setattr(noisy_max, "gaussian_votes", lambda sigma, shape: np.array([[0, STEPS]]))
    assert GNMax(1.0).release([2**24, 2**24 - 1]).value == 0


@pytest.mark.parametrize(
    ("mechanism", "expected"),
    [
        (GNMax(2.0), (Charge(GaussianMax(2.0), 7),)),
        (LNMax(3.0), (Charge(LaplaceMax(3.0), 7),)),
        (ConfidentGNMax(5.0, 3.0, sigma=2.0), (Charge(ThresholdTest(3.0), 7), Charge(GaussianMax(2.0), 7))),
        (NoisyPosterior(2.0), (Charge(NoisyVector(2.0, math.sqrt(2)), 7),)),
        (NoisyPosterior(2.0, "laplace"), (Charge(NoisyVectorLaplace(2.0, 2.0), 7),)),
    ],
)
def test_the_worst_case_is_known_without_data_and_never_exceeded(
    mechanism: Mechanism, expected: tuple[Charge, ...]
) -> None:
    assert mechanism.events(7) == expected
    assert mechanism.events(0) == ()
    data = np.full((7, 4, 5), 0.2) if isinstance(mechanism, NoisyPosterior) else np.tile([4, 0, 2], (7, 1))
    for _ in range(20):
        spent = {charge.event: charge.count for charge in mechanism.release_batch(data).charges}
        assert all(spent.get(charge.event, 0) <= charge.count for charge in expected)
        assert set(spent) <= {charge.event for charge in expected}
    with pytest.raises(PrivacyError, match="is asked for -1 queries, expected a whole number from 0 on"):
        mechanism.events(-1)


@pytest.mark.parametrize("mechanism", [GNMax(3.0), LNMax(3.0), ConfidentGNMax(3.0, 3.0, sigma=3.0)])
def test_the_same_votes_get_new_noise_each_time(mechanism: Mechanism) -> None:
    asked = [[mechanism.release([3, 2, 2, 3]).value for _ in range(64)] for _ in range(2)]
    assert asked[0] != asked[1]
    batch = mechanism.release_batch(np.tile([3, 2, 2, 3], (64, 1))).values
    assert len(set(batch)) > 1


@given(arrays.arrays(np.float64, (3, 6), elements=st.floats(1e-6, 1.0)), st.integers(0, 5))
def test_a_teacher_moves_the_sum_by_no_more_than_the_sensitivity(weights: np.ndarray, hot: int) -> None:
    posteriors = weights / weights.sum(axis=1, keepdims=True)
    steps = to_steps(posteriors)
    assert (steps >= 0).all()
    assert (steps.sum(axis=1) == STEPS).all()
    assert np.abs(steps - posteriors * STEPS).max() <= 1 + 1e-6
    one_hot = to_steps(np.eye(6)[[hot]])[0]
    for row in steps:
        assert np.square(row - one_hot).sum() <= 2 * STEPS**2
        assert np.abs(row - one_hot).sum() <= 2 * STEPS
    other = to_steps(np.eye(6)[[hot - 1]])[0]
    assert np.square(other - one_hot).sum() == 2 * STEPS**2  # the bound is reached


@given(arrays.arrays(np.float64, (4, 5), elements=st.floats(-3, 3)))
def test_projection_is_the_nearest_point_of_the_simplex(vectors: np.ndarray) -> None:
    projected = project_to_simplex(vectors)
    np.testing.assert_allclose(projected.sum(axis=1), 1, atol=1e-12)
    assert (projected >= 0).all()
    # Nearest: (x - p) . (y - p) <= 0 for each corner y of the simplex.
    inner = np.einsum("qv,qkv->qk", vectors - projected, np.eye(5) - projected[:, np.newaxis])
    assert inner.max() <= 1e-9


@pytest.mark.parametrize(("noise", "deviation"), [("gaussian", 1.0), ("laplace", math.sqrt(2))])
def test_a_posterior_is_the_mean_with_noise_of_the_stated_scale(noise: Any, deviation: float) -> None:
    teachers, queries = 50, 20_000
    rows = np.random.default_rng(0).dirichlet(np.full(4, 5.0), teachers)
    answers = NoisyPosterior(2.0, noise).release_batch(np.broadcast_to(rows, (queries, teachers, 4)))
    error = (answers.values - rows.mean(axis=0)) * teachers
    # Far from the border the projection takes away the mean over the 4 classes: 3/4 of the variance stay.
    np.testing.assert_allclose(error.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(error.std(axis=0), 2.0 * deviation * math.sqrt(3 / 4), rtol=0.04)


@pytest.mark.usefixtures("silent")
def test_without_noise_a_posterior_is_the_plain_mean() -> None:
    rows = np.random.default_rng(1).dirichlet(np.ones(30), (5, 8)).astype(np.float32)
    answers = NoisyPosterior(1.0, teachers=8).release_batch(rows)
    np.testing.assert_allclose(answers.values, rows.mean(axis=1), atol=2 / STEPS)
    one = NoisyPosterior(1.0).release(rows[0]).value
    np.testing.assert_array_equal(one, answers.values[0])


@given(arrays.arrays(np.int64, (4, 7), elements=st.integers(-1, 4)))
def test_votes_are_counted_and_abstentions_are_not(answers: np.ndarray) -> None:
    expected = [[int((row == j).sum()) for j in range(5)] for row in answers]
    assert count_votes(answers, 5).tolist() == expected


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([[[1, 2]]], r"votes have shape \(1, 1, 1, 2\), expected \(v,\) for release and \(q, v\) for release_batch"),
        (3, r"votes have shape \(1,\), expected"),
        ([], r"votes have shape \(1, 0\), expected .* with v > 0 classes"),
        ([1.0, 2.0], r"votes have dtype float64, expected integers: .* Next: count_votes\(answers, classes\)"),
        ([True, False], "votes have dtype bool, expected integers"),
        ([1, -1], "votes run from -1 to 1, expected counts from 0 to 16777216"),
        ([1, 2**24 + 1], "votes run from 1 to 16777217, expected counts"),
    ],
)
def test_votes_that_are_no_counts_are_refused(data: Any, text: str) -> None:
    for mechanism in (GNMax(1.0), LNMax(1.0), ConfidentGNMax(1.0, 1.0, sigma=1.0)):
        with pytest.raises(PrivacyError, match=text):
            mechanism.release(data)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([0.5, 0.5], r"posteriors have shape \(1, 2\), expected \(m, v\) for release"),
        ([[1, 0]], "posteriors have dtype int64, expected floats; for counts of votes use GNMax"),
        ([[0.5, 0.4]], "posteriors hold a negative or infinite number, NaN, or a row whose sum is not 1"),
        ([[1.5, -0.5]], "posteriors hold a negative"),
        ([[math.nan, 0.5]], r"Next: a softmax over the last axis"),
        ([[math.inf, 0.5]], "posteriors hold"),
        (np.zeros((0, 3)), r"posteriors have shape \(1, 0, 3\), expected"),
        ([[0.5, 0.5]] * 3, "posteriors come from 3 teachers, expected 1"),
    ],
)
def test_posteriors_that_are_none_are_refused(data: Any, text: str) -> None:
    with pytest.raises(PrivacyError, match=text):
        NoisyPosterior(1.0, teachers=1).release(data)


def test_parameters_out_of_range_are_refused() -> None:
    for make in (GNMax, LNMax, NoisyPosterior):
        with pytest.raises(PrivacyError, match=r"(sigma|scale) is 0 votes, expected a number from 9.54e-07 to"):
            make(0)
    with pytest.raises(PrivacyError, match=r"sigma_threshold is -1 votes, expected a number"):
        ConfidentGNMax(1.0, -1, sigma=1.0)
    with pytest.raises(PrivacyError, match="threshold is nan votes, expected a number of at most 16777216"):
        ConfidentGNMax(math.nan, 1.0, sigma=1.0)
    with pytest.raises(PrivacyError, match="noise is 'uniform', expected one of: gaussian, laplace"):
        NoisyPosterior(1.0, "uniform")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answers", "classes", "text"),
    [
        ([[0, 5]], 5, "answers run from 0 to 5, expected classes from 0 to 4, or -1 for none"),
        ([[0, -2]], 5, "answers run from -2 to 0, expected"),
        ([0, 1], 5, r"answers have shape \(2,\) and dtype int64, expected integers \(q, m\)"),
        ([[0.0]], 5, "dtype float64, expected integers"),
        ([[0]], 0, "classes is 0, expected a whole number from 1 on"),
    ],
)
def test_answers_that_are_no_classes_are_refused(answers: Any, classes: int, text: str) -> None:
    with pytest.raises(PrivacyError, match=text):
        count_votes(answers, classes)
