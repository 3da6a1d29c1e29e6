"""Attacks: their figures against closed forms and other libraries, and whether they find what leaks and nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from slt_pate.attacks.audit import epsilon_of_one_run, epsilon_of_scores, epsilon_of_two_worlds
from slt_pate.attacks.likelihood_ratio import Shadows, confidence_of, halves, likelihood_ratio_scores
from slt_pate.attacks.membership import evaluate_attack, loss_attack, unit_scores
from slt_pate.attacks.statistics import area_under_curve, clopper_pearson, curve, true_positives_at
from sltcore.errors import PrivacyError

RNG = np.random.default_rng


def test_the_area_is_that_of_the_rank_test_and_of_the_curve() -> None:
    rng = RNG(0)
    inside, outside = rng.normal(0.5, 1, 80).round(1), rng.normal(0, 1, 120).round(1)
    found = area_under_curve(inside, outside)
    statistic = stats.mannwhitneyu(inside, outside).statistic
    assert found.value == pytest.approx(statistic / (80 * 120))
    false, true = curve(inside, outside)
    assert integrate.trapezoid(true, false) == pytest.approx(found.value)
    assert found.low < found.value < found.high


def test_the_interval_of_the_area_covers_the_truth_as_often_as_it_says() -> None:
    rng = RNG(1)
    truth = stats.norm.cdf(0.8 / math.sqrt(2))
    covered = 0
    for _ in range(400):
        found = area_under_curve(rng.normal(0.8, 1, 40), rng.normal(0, 1, 60))
        covered += found.low <= truth <= found.high
    assert stats.binomtest(covered, 400, 0.95).pvalue > 1e-3


def test_clopper_pearson_is_that_of_scipy_with_its_ends() -> None:
    for successes, trials in ((0, 10), (3, 10), (10, 10), (77, 500)):
        interval = stats.binomtest(successes, trials).proportion_ci(0.95, "exact")
        assert clopper_pearson(successes, trials) == pytest.approx((interval.low, interval.high))
    with pytest.raises(PrivacyError, match="11 of 10 at confidence"):
        clopper_pearson(11, 10)


def test_no_more_non_members_pass_than_the_rate_allows() -> None:
    outside = [*range(100)]
    assert true_positives_at([98.5, 99.5, 50], outside, 0.005).value == pytest.approx(1 / 3)
    assert true_positives_at([98.5, 99.5, 50], outside, 0.01).value == pytest.approx(2 / 3)
    assert true_positives_at([99, 99], outside, 0.001).value == 0  # a tie is no pass
    assert true_positives_at([99, 99], outside, 1.0).value == 1
    found = true_positives_at(np.ones(50), np.zeros(50), 0.01)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(clopper_pearson(50, 50)[0])


def test_scores_that_say_nothing_give_an_area_of_a_half_and_those_that_separate_one() -> None:
    assert area_under_curve([1, 1, 1], [1, 1]).value == 0.5
    found = area_under_curve([2, 3, 4], [0, 1])
    assert found.value == 1
    assert found.low < 0.6
    assert found.high == 1
    for bad in ([], [math.nan]):
        with pytest.raises(PrivacyError, match="expected one number for each of at least one"):
            evaluate_attack(bad, [1.0])


# A model that memorises: its loss of a row is lower where the row was learned.


class Memory:
    def __init__(self, rows: Any, leak: float, rng: np.random.Generator) -> None:
        self.rows, self.leak, self.rng = set(rows), leak, rng


def memory_losses(model: Memory, rows: Any) -> Any:
    """Rows differ much in how hard they are, so a threshold on the loss says little; learned rows lose `leak`."""
    hard = np.array([20 + 10 * np.sin(row * 12.9898) for row in rows])
    learned = np.array([row in model.rows for row in rows])
    return hard - model.leak * learned + model.rng.normal(0, 0.5, len(rows))


def test_the_likelihood_ratio_finds_what_the_loss_alone_does_not() -> None:
    rng = RNG(2)
    rows = list(range(200))
    target = Memory(rows[:100], 2.0, rng)
    by_loss = loss_attack(memory_losses, target, rows[:100], rows[100:])
    shadows = Shadows.train(
        lambda own: Memory(own, 2.0, rng), memory_losses, rows, [str(row) for row in rows], models=16, rng=rng
    )
    losses = memory_losses(target, rows)
    for attack in ("online", "offline"):
        scores = likelihood_ratio_scores(shadows, losses, attack=attack)  # type: ignore[arg-type]
        found = evaluate_attack(scores[:100], scores[100:])
        assert found.area.low > 0.95 > by_loss.area.high
        assert found.found_at[0.01].low > 0.4 > by_loss.found_at[0.01].high
    calibrated = loss_attack(memory_losses, target, rows[:100], rows[100:], reference=Memory([], 0, rng))
    assert calibrated.area.low > 0.9
    assert "200" not in str(found)
    assert str(found).startswith("area 0.9")


def test_attacks_on_a_model_that_learned_nothing_find_nothing() -> None:
    rng = RNG(3)
    rows = list(range(300))
    shadows = Shadows.train(
        lambda own: Memory(own, 0.0, rng), memory_losses, rows, [str(row) for row in rows], models=8, rng=rng
    )
    scores = likelihood_ratio_scores(shadows, memory_losses(Memory(rows[:150], 0.0, rng), rows))
    found = evaluate_attack(scores[:150], scores[150:])
    assert found.area.low < 0.5 < found.area.high
    assert found.found_at[0.01].low < 0.05


def test_the_likelihood_ratio_is_that_of_the_gaussians_by_hand() -> None:
    rng = RNG(4)
    inside = halves([str(k) for k in range(5)], 8, rng)
    losses = rng.uniform(5, 50, (8, 5))
    target = rng.uniform(5, 50, 5)
    found = likelihood_ratio_scores(Shadows(losses, inside), target, shares_variance=False)
    phi = confidence_of(losses)
    for row in range(5):
        own = [
            stats.norm(phi[chosen, row].mean(), phi[chosen, row].std(ddof=1))
            for chosen in (inside[:, row], ~inside[:, row])
        ]
        x = confidence_of(target)[row]
        assert found[row] == pytest.approx(own[0].logpdf(x) - own[1].logpdf(x))


def test_confidence_is_the_logit_of_the_probability() -> None:
    p = np.array([0.9999, 0.5, 1e-3])
    np.testing.assert_allclose(confidence_of(-np.log(p)), np.log(p / (1 - p)), rtol=1e-9)
    assert np.isfinite(confidence_of([0.0, 1e-300, 800.0])).all()


def test_shadow_models_have_each_unit_in_half_of_them_with_all_its_rows() -> None:
    inside = halves([f"s{k}" for k in range(30)], 6, RNG(5))
    assert (inside.sum(0) == 3).all()
    assert inside.sum(1).min() > 5
    seen: list[set[int]] = []
    rows, units = list(range(20)), [f"s{row // 4}" for row in range(20)]

    def train(own: Any) -> Memory:
        seen.append({row // 4 for row in own})
        assert len(own) == 4 * len(seen[-1])
        return Memory(own, 1.0, RNG(0))

    Shadows.train(train, memory_losses, rows, units, models=4, rng=RNG(6))
    assert all(sum(unit in one for one in seen) == 2 for unit in range(5))
    with pytest.raises(PrivacyError, match="5 shadow models; expected an even number from 4 on"):
        halves(["a"], 5, RNG(0))
    with pytest.raises(PrivacyError, match="row 0 has 0 shadow models with it"):
        likelihood_ratio_scores(Shadows(np.ones((4, 1)), np.zeros((4, 1), dtype=bool)), [1.0])
    assert unit_scores([1, 3, 5], ["a", "a", "b"]) == {"a": 2.0, "b": 5.0}


# Lower bounds of epsilon


def randomized_response(epsilon: float, bits: Any, rng: np.random.Generator) -> Any:
    """Each bit told truly with probability e^epsilon / (1 + e^epsilon): epsilon-private, and no less."""
    truth = rng.random(len(bits)) < 1 / (1 + math.exp(-epsilon))
    return np.where(truth, bits, ~bits).astype(float)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_one_run_bounds_lie_below_the_truth_and_near_it(epsilon: float) -> None:
    rng = RNG(7)
    bounds = []
    for _ in range(60):
        bits = rng.random(1000) < 0.5
        said = randomized_response(epsilon, bits, rng)
        correct = int((said == bits).sum())
        bounds.append(epsilon_of_one_run(correct, 1000, 1000, delta=0.0).epsilon)
    over = int(sum(bound > epsilon for bound in bounds))
    assert stats.binomtest(over, 60, 0.05, alternative="greater").pvalue > 1e-3
    assert np.mean(bounds) > 0.7 * epsilon


def test_one_run_bounds_hold_for_the_gaussian_mechanism() -> None:
    rng = RNG(8)
    sigma, delta = 1.0, 1e-5

    # The least epsilon at delta: Balle, Wang 2018, theorem 8.
    def delta_at(epsilon: float) -> float:
        a, b = 1 / (2 * sigma), epsilon * sigma
        return float(stats.norm.cdf(a - b) - math.exp(epsilon) * stats.norm.cdf(-a - b))

    truth = next(e for e in np.arange(0, 10, 0.01) if delta_at(e) <= delta)
    found = []
    for _ in range(20):
        bits = rng.random(2000) < 0.5
        scores = bits + rng.normal(0, sigma, 2000)
        found.append(epsilon_of_scores(scores, bits, delta=delta).epsilon)
    assert 0.5 < max(found) < truth
    wild = RNG(9).random(2000) < 0.5
    assert epsilon_of_scores(RNG(10).normal(0, 1, 2000), wild, delta=delta).epsilon < 0.3


def test_delta_makes_a_bound_weaker_and_more_hits_stronger() -> None:
    loose = [epsilon_of_one_run(v, 100, 1000, delta=0.0).epsilon for v in (50, 70, 90, 100)]
    tight = [epsilon_of_one_run(v, 100, 1000, delta=1e-4).epsilon for v in (50, 70, 90, 100)]
    assert loose == sorted(loose)
    assert tight == sorted(tight)
    assert loose[0] == 0
    assert all(0 <= b <= a for a, b in zip(loose, tight, strict=True))
    assert tight[2] < loose[2]
    # All of n guesses right: P <= (1 / (1 + e^-epsilon))^n = 0.05.
    assert loose[-1] == pytest.approx(-math.log(0.05 ** (-1 / 100) - 1), abs=1e-5)
    # A mechanism that gives everything away with probability delta does that within the chance that the bound leaves.
    assert epsilon_of_one_run(100, 100, 100, delta=0.05).epsilon == 0


def test_two_worlds_bound_a_laplace_mechanism_from_below() -> None:
    rng = RNG(11)
    for epsilon in (0.5, 1.5):
        bounds = [
            epsilon_of_two_worlds(
                1 + rng.laplace(0, 1 / epsilon, 2000), rng.laplace(0, 1 / epsilon, 2000), delta=0.0
            ).epsilon
            for _ in range(20)
        ]
        assert sum(bound > epsilon for bound in bounds) <= 3
        assert np.mean(bounds) > 0.5 * epsilon


def test_two_worlds_find_a_mechanism_without_noise() -> None:
    assert epsilon_of_two_worlds(np.ones(400), np.zeros(400), delta=1e-5).epsilon > 3.5
    assert epsilon_of_two_worlds(np.ones(400), np.ones(400), delta=1e-5).epsilon == 0


def test_wrong_counts_are_refused() -> None:
    with pytest.raises(PrivacyError, match="6 right of 5 guesses about 10 canaries"):
        epsilon_of_one_run(6, 5, 10, delta=0.0)
    with pytest.raises(PrivacyError, match="delta is 1.0, expected a number from 0 to below 1"):
        epsilon_of_one_run(5, 5, 10, delta=1.0)
    with pytest.raises(PrivacyError, match="3 runs with the canary and 9 without; expected at least 4 of each"):
        epsilon_of_two_worlds([1, 2, 3], range(9), delta=0.0)
    with pytest.raises(PrivacyError, match=r"scores \(3,\) and memberships \(2,\)"):
        epsilon_of_scores([1, 2, 3], [True, False], delta=0.0)
