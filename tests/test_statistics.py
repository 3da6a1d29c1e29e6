"""Differences over seeds and items, and the tests beside them: against scipy, closed forms, hand cases and coverage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from sltcore.errors import DataError, ShapeError
from sltcore.experiment.resampling import Draws, replicated
from sltcore.experiment.statistics import (
    Components,
    Estimate,
    benjamini_hochberg,
    holm,
    level_of,
    mcnemar,
    seeded_difference,
    spearman,
)
from sltcore.experiment.student import student_cdf, student_quantile
from sltcore.interfaces import Value


def rate(stats: np.ndarray) -> Mapping[str, Value]:
    """A ratio of sums, as an error rate is."""
    errors, length = stats.sum(axis=0)
    return {"rate": Value(100 * errors / length if length else math.nan, "%")}


def mean(stats: np.ndarray) -> Mapping[str, Value]:
    return {"mean": Value(float(stats[:, 0].mean()), "dB")}


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def compare(a: np.ndarray, b: np.ndarray, reduce: Any = mean, value: str = "mean", **options: Any) -> Estimate:
    options.setdefault("generator", generator())
    return seeded_difference(a, b, reduce, value=value, **options)


def two_way(
    source: np.random.Generator, *, truth: float, clusters: int, seeds: int, of: Components, items: int = 2
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Differences [s n 1] of a mean with the given components, skewed over clusters; the other system; clusters."""
    labels = np.repeat(np.arange(clusters), items)
    hard = math.sqrt(of.clusters) * (source.exponential(1, clusters) - 1)
    lucky = math.sqrt(of.seeds) * source.standard_normal((seeds, 1))
    both = math.sqrt(of.both) * source.standard_normal((seeds, clusters))
    found = truth + (hard + lucky + both)[:, labels]
    other = 3 * source.standard_normal((1, len(labels)))
    return (found + other)[..., None], np.repeat(other, seeds, axis=0)[..., None], labels.tolist()


def test_one_seed_and_a_mean_have_students_interval() -> None:
    """Of many values the bounds are value -+ t s / sqrt(n), scipy's."""
    scipy_stats = pytest.importorskip("scipy.stats")
    values = generator(1).standard_normal((1, 100, 1)) + 0.2
    found = compare(values, np.zeros((1, 100, 1)), replicates=20000)
    low, high = scipy_stats.t.interval(0.95, 99, values.mean(), scipy_stats.sem(values[0, :, 0]))
    assert found.value == pytest.approx(values.mean())
    assert found.interval() == pytest.approx((low, high), abs=0.02)
    assert found.p == pytest.approx(scipy_stats.ttest_1samp(values[0, :, 0], 0).pvalue, rel=0.2)
    assert math.isnan(found.components.seeds)


def test_seeds_that_say_all_have_students_interval() -> None:
    """Where items differ by nothing, the bounds are those of a t-test over seeds."""
    scipy_stats = pytest.importorskip("scipy.stats")
    offsets = np.array([0.4, 0.9, 1.6, 1.1, 0.7])
    a = np.repeat(offsets[:, None, None], 50, axis=1) + 1e-9 * generator(2).standard_normal((5, 50, 1))
    found = compare(a, np.zeros_like(a), replicates=20000)
    low, high = scipy_stats.t.interval(0.95, 4, offsets.mean(), scipy_stats.sem(offsets))
    assert found.interval() == pytest.approx((low, high), abs=0.03)
    assert found.p == pytest.approx(scipy_stats.ttest_1samp(offsets, 0).pvalue, rel=0.2)
    assert found.seeds == pytest.approx(offsets)


def test_components_are_those_that_were_put_in() -> None:
    """Averaged over worlds, as each has few seeds: clusters 1, seeds 0.25, both 4 (items of a cluster are alike)."""
    of = Components(1.0, 0.25, 4.0)
    found = []
    for world in range(60):
        a, b, clusters = two_way(generator(world), truth=0, clusters=60, seeds=6, of=of)
        found.append(compare(a, b, clusters=clusters, replicates=300, generator=generator(world)).components)
    assert np.mean([entry.clusters for entry in found]) == pytest.approx(of.clusters, rel=0.25)
    assert np.mean([entry.seeds for entry in found]) == pytest.approx(of.seeds, rel=0.35)
    assert np.mean([entry.both for entry in found]) == pytest.approx(of.both, rel=0.15)


def test_what_is_hard_for_both_cancels_and_signs_turn() -> None:
    source = generator(3)
    hard = 10 * source.standard_normal((1, 80, 1))
    a, b = (hard + 0.1 * source.standard_normal((3, 80, 1)) + shift for shift in (1.0, 0.0))
    forth, back = compare(a, b), compare(b, a)
    low, high = forth.interval()
    assert 0.8 < low < 1 < high < 1.2
    assert back.interval() == pytest.approx((-high, -low))
    assert back.value == pytest.approx(-forth.value)


def test_the_mean_of_seeds_is_the_value_and_relative_is_in_percent_of_the_other() -> None:
    source = generator(4)
    lengths = source.integers(3, 12, (3, 60, 1)).repeat(1, axis=2)
    a, b = (np.concatenate([source.binomial(lengths, q), lengths], 2).astype(float) for q in (0.1, 0.2))
    found = compare(a, b, rate, "rate", relative=True)
    each = [100 * (rate(x)["rate"].value / rate(y)["rate"].value - 1) for x, y in zip(a, b, strict=True)]
    assert found.seeds == pytest.approx(each)
    assert found.value == pytest.approx(np.mean(each))
    assert found.unit == "%"
    plain = compare(a, b, rate, "rate")
    assert plain.value == pytest.approx(
        np.mean([rate(x)["rate"].value for x in a]) - np.mean([rate(y)["rate"].value for y in b])
    )


def test_more_is_more_in_percent_of_a_value_below_zero_too() -> None:
    """-1 dB against -2 dB is one more, half of what the other is away from zero."""
    a, b = np.full((1, 30, 1), -1.0), np.full((1, 30, 1), -2.0)
    assert compare(a, b, relative=True).value == pytest.approx(50.0)
    assert compare(b, a, relative=True).value == pytest.approx(-100.0)


def test_a_system_without_seeds_is_paired_with_every_seed() -> None:
    source = generator(5)
    a, b = source.standard_normal((4, 50, 1)), source.standard_normal((1, 50, 1))
    once, repeated = compare(a, b), compare(a, np.repeat(b, 4, axis=0))
    assert once.seeds == repeated.seeds
    assert once.interval() == pytest.approx(repeated.interval())


def test_equal_systems_differ_by_nothing() -> None:
    a = generator(6).random((3, 40, 1))
    found = compare(a, a)
    assert found.interval() == (0.0, 0.0)
    assert found.p == 1.0


def test_seeds_widen_the_interval_of_one() -> None:
    of = Components(0.5, 0.5, 0.0)
    a, b, clusters = two_way(generator(7), truth=0, clusters=50, seeds=5, of=of)
    several = compare(a, b, clusters=clusters)
    one = compare(a[:1], b[:1], clusters=clusters)
    width, alone = (high - low for low, high in (several.interval(), one.interval()))
    assert width > 1.5 * alone


def test_intervals_are_nested_and_p_is_where_they_reach_zero() -> None:
    a, b, clusters = two_way(generator(8), truth=0.3, clusters=40, seeds=3, of=Components(1.0, 0.0, 0.1))
    found = compare(a, b, clusters=clusters)
    bounds = [found.interval(level) for level in (0.5, 0.8, 0.95, 0.99)]
    assert all(
        low >= wider_low and high <= wider_high for (low, high), (wider_low, wider_high) in itertools.pairwise(bounds)
    )
    assert 0.001 < found.p < 1
    low, high = found.interval(1 - found.p)
    assert min(abs(low), abs(high)) < 0.003
    assert found.smallest(lambda low, high: low > found.value) == 1.0


def test_one_cluster_or_no_value_has_no_interval() -> None:
    a, b = generator(9).random((2, 2, 20, 1))
    tied = compare(a, b, clusters=["x"] * 20)
    assert all(math.isnan(bound) for bound in tied.interval())
    assert tied.p == 1.0
    nothing = np.zeros((2, 20, 2))
    assert math.isnan(compare(nothing, nothing, rate, "rate", replicates=200).interval()[0])


def test_a_value_by_itself_has_an_interval_over_items_and_seeds() -> None:
    a, b, clusters = two_way(generator(10), truth=1, clusters=40, seeds=4, of=Components(1.0, 0.2, 0.5))
    drawn = Draws(80, clusters=clusters, replicates=2000, generator=generator())
    alone = level_of(replicated(a - b, mean, drawn)["mean"], drawn)
    paired = compare(a - b, np.zeros_like(a), clusters=clusters, replicates=2000)
    assert alone.value == pytest.approx(paired.value)
    assert alone.interval() == pytest.approx(paired.interval())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "seeds"),
    [
        (Components(1.0, 0.0, 0.0), 5),  # items alone, skewed
        (Components(0.0, 0.1, 0.0), 3),  # seeds alone
        (Components(0.0, 0.0, 1.0), 5),  # each seed stumbles over other items
        (Components(1.0, 0.1, 1.0), 5),
    ],
)
def test_nineteen_of_twenty_intervals_hold_the_truth(of: Components, seeds: int) -> None:
    """100 worlds of 40 clusters each: standard error 2.2 points."""
    held = 0
    for world in range(100):
        a, b, clusters = two_way(generator(500 + world), truth=0.5, clusters=40, seeds=seeds, of=of)
        low, high = compare(a, b, clusters=clusters, replicates=400, generator=generator(world)).interval()
        held += low <= 0.5 <= high
    assert held / 100 >= 0.89


@pytest.mark.parametrize(
    ("a", "b", "options", "error", "match"),
    [
        (np.zeros((5, 9)), np.zeros((5, 9)), {}, ShapeError, r"stats_a has shape \(5, 9\)"),
        (np.zeros((2, 9, 1)), np.zeros((2, 8, 1)), {}, ShapeError, "the same items in the same order"),
        (np.zeros((2, 9, 1)), np.zeros((3, 9, 1)), {}, ShapeError, "one system has 2 seeds and the other 3"),
        (np.zeros((2, 9, 1)), np.zeros((2, 9, 1)), {"value": "wer"}, DataError, "no value named 'wer'"),
    ],
)
def test_systems_that_do_not_fit_are_refused(
    a: np.ndarray, b: np.ndarray, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        compare(a, b, **options)


def test_a_level_outside_0_to_1_is_refused() -> None:
    found = compare(np.ones((1, 5, 1)), np.zeros((1, 5, 1)))
    with pytest.raises(DataError, match="level is 95, expected a number between 0 and 1"):
        found.interval(95)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 5), (2, 11), (40, 21), (700, 800), (6000, 5700)])
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    a = [True] * only_a + [False] * only_b + [True] * 7
    b = [False] * only_a + [True] * only_b + [True] * 7
    found = mcnemar(a, b)
    total = only_a + only_b
    expected = scipy_stats.binomtest(only_a, total, 0.5).pvalue if total else 1.0
    assert found[:2] == (only_a, only_b)
    assert found.p == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    """2 against 11: 2 (1 + 13 + 78) / 2^13."""
    assert mcnemar([1] * 2 + [0] * 11, [0] * 2 + [1] * 11).p == pytest.approx(2 * 92 / 8192)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_agrees_with_scipy(ties: bool) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    x, y = generator(11).standard_normal((2, 30))
    y = y + 0.8 * x
    if ties:
        x, y = np.round(x), np.round(y)
    found = spearman(x.tolist(), y.tolist(), permutations=20000, generator=generator())
    expected = scipy_stats.spearmanr(x, y)
    assert found.rho == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, abs=0.003)
    assert not found.exact


def test_spearman_of_few_pairs_tries_every_order() -> None:
    """Of the 24 orders of 4, only two are as far from 0 as a perfect one."""
    found = spearman([1, 2, 3, 4], [10, 20, 30, 1000], generator=generator())
    assert found == (pytest.approx(1.0), pytest.approx(2 / 24), True)
    assert spearman([1, 2, 3, 4], [9, 7, 5, 3], generator=generator()).rho == pytest.approx(-1.0)


def test_spearman_of_a_constant_says_nothing() -> None:
    found = spearman([1, 1, 1, 1], [1, 2, 3, 4], generator=generator())
    assert math.isnan(found.rho)
    assert math.isnan(found.p)


def test_holm_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_benjamini_hochberg_agrees_with_scipy() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    p = generator(12).random(25) ** 3
    assert benjamini_hochberg(p.tolist()) == pytest.approx(scipy_stats.false_discovery_control(p, method="bh"))


def test_holm_is_bonferroni_for_the_smallest_and_never_below_benjamini_hochberg() -> None:
    p = (generator(13).random(12) ** 2).tolist()
    strict, mild = holm(p), benjamini_hochberg(p)
    assert min(strict) == pytest.approx(min(1.0, 12 * min(p)))
    assert all(
        own <= second + 1e-12 and second <= first + 1e-12 for own, first, second in zip(p, strict, mild, strict=True)
    )


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_probabilities_outside_0_to_1_are_refused(adjust: Any) -> None:
    with pytest.raises(DataError, match=r"p-value 1 is 1\.5, expected a number from 0 to 1"):
        adjust([0.5, 1.5])
    with pytest.raises(DataError, match="p-value 0 is nan"):
        adjust([math.nan])


def test_pairs_that_do_not_match_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"correct_a has shape \(2,\) and correct_b \(1,\)"):
        mcnemar([True, False], [True])
    with pytest.raises(ShapeError, match=r"x has shape \(3,\) and y \(2,\)"):
        spearman([1, 2, 3], [1, 2], generator=generator())
    with pytest.raises(DataError, match="2 pairs and 10000 permutations were given; expected at least 3"):
        spearman([1, 2], [1, 2], generator=generator())


@pytest.mark.parametrize("degrees", [1.0, 2.0, 3.7, 4.0, 39.0, 1234.5])
def test_students_quantiles_agree_with_scipy(degrees: float) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    for probability in (0.001, 0.3, 0.5, 0.9, 0.975, 0.9999):
        expected = scipy_stats.t.ppf(probability, degrees)
        assert student_quantile(probability, degrees) == pytest.approx(expected, rel=1e-7, abs=1e-9)
    for t in (-3.0, 0.0, 0.4, 12.0):
        assert student_cdf(t, degrees) == pytest.approx(scipy_stats.t.cdf(t, degrees), rel=1e-9)


def test_many_degrees_are_normal() -> None:
    assert student_quantile(0.975, 1e7) == pytest.approx(1.959964, abs=1e-6)
