"""The bootstrap, against enumeration, closed forms, scipy, and coverage in simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest

from sltcore.errors import DataError, ShapeError
from sltcore.experiment.bootstrap import Interval, interval, paired_difference
from sltcore.interfaces import Value


def mean(stats: np.ndarray) -> Mapping[str, Value]:
    return {"mean": Value(float(stats[:, 0].mean()) if len(stats) else math.nan, "dB")}


def rate(stats: np.ndarray) -> Mapping[str, Value]:
    """A ratio of sums, as an error rate is."""
    errors, length = stats.sum(axis=0)
    return {"rate": Value(100 * errors / length if length else math.nan, "%")}


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_percentiles_are_those_of_all_possible_draws() -> None:
    stats = np.array([[0.0], [1.0], [5.0], [6.0]])
    every = [np.mean(draw) for draw in itertools.product(stats[:, 0], repeat=4)]  # 256 draws, equally likely
    found = interval(stats, mean, replicates=20000, level=0.8, generator=generator(), method="percentile")["mean"]
    low, high = np.quantile(every, (0.1, 0.9), method="inverted_cdf")
    assert found == Interval(3.0, pytest.approx(low, abs=0.26), pytest.approx(high, abs=0.26), "dB")


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_the_mean_of_many_has_the_normal_interval(method: str) -> None:
    values = generator(1).standard_normal((400, 1))
    found = interval(values, mean, replicates=4000, generator=generator(), method=method)["mean"]  # type: ignore[arg-type]
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.1 * half)


@pytest.mark.slow
def test_bca_agrees_with_scipy_on_skewed_data() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    values = generator(2).lognormal(0, 1, (40, 1))
    ours = interval(values, mean, replicates=10000, generator=generator())["mean"]
    theirs = scipy_stats.bootstrap(
        (values[:, 0],), np.mean, n_resamples=10000, method="BCa", rng=generator(3), confidence_level=0.95
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.04 * width)
    plain = interval(values, mean, replicates=10000, generator=generator(), method="percentile")["mean"]
    assert ours.high > plain.high + 0.04 * width  # the correction moves towards the long tail


def test_clusters_widen_the_interval_by_their_size() -> None:
    """m equal items in each cluster carry the information of one: the interval is sqrt(m) times as wide."""
    values = np.repeat(generator(4).standard_normal((60, 1)), 9, axis=0)
    speakers = [f"speaker-{i // 9}" for i in range(540)]
    free = interval(values, mean, generator=generator())["mean"]
    tied = interval(values, mean, clusters=speakers, generator=generator())["mean"]
    assert (tied.high - tied.low) / (free.high - free.low) == pytest.approx(3.0, rel=0.1)


def test_clusters_of_one_and_their_order_change_nothing() -> None:
    values = generator(5).random((30, 2))
    plain = interval(values, rate, replicates=300, generator=generator())
    assert interval(values, rate, replicates=300, generator=generator(), clusters=list(range(30))) == plain


def test_clusters_of_any_size_are_drawn_whole() -> None:
    clusters = ["a", "b", "a", "c", "c", "c"]
    stats = np.array([[1.0, 1], [10, 1], [2, 1], [100, 1], [200, 1], [300, 1]])
    sums = {"a": 3.0, "b": 10.0, "c": 600.0}
    sizes = {"a": 2, "b": 1, "c": 3}
    seen: set[float] = set()

    def watch(rows: np.ndarray) -> Mapping[str, Value]:
        seen.add(round(float(rows[:, 0].sum() / len(rows)), 6))
        return rate(rows)

    interval(stats, watch, clusters=clusters, replicates=500, generator=generator(), method="percentile")
    draws = itertools.product("abc", repeat=3)
    assert seen == {round(sum(sums[c] for c in draw) / sum(sizes[c] for c in draw), 6) for draw in draws}


def test_the_same_generator_gives_the_same_interval() -> None:
    values = generator(6).random((50, 2))
    first, again, other = (interval(values, rate, replicates=200, generator=generator(s)) for s in (7, 7, 8))
    assert first == again
    assert first != other


def test_a_paired_difference_cancels_what_is_hard_for_both() -> None:
    hard = 10 * generator(8).standard_normal((100, 1))
    a, b = hard + 1.0, hard + 0.1 * generator(9).standard_normal((100, 1))
    found = paired_difference(a, b, mean, generator=generator())["mean"]
    assert found.value == pytest.approx(float((a - b).mean()))
    assert found.unit == "dB"
    direct = interval(a - b, mean, generator=generator())["mean"]  # the difference of means is the mean of differences
    assert (found.low, found.high) == pytest.approx((direct.low, direct.high))
    alone = interval(a, mean, generator=generator())["mean"]
    assert found.high - found.low < 0.05 * (alone.high - alone.low)


def test_equal_systems_differ_by_nothing_and_signs_turn() -> None:
    stats = generator(10).random((40, 2))
    other = generator(11).random((40, 2))
    assert paired_difference(stats, stats, rate, generator=generator())["rate"] == Interval(0.0, 0.0, 0.0, "%")
    forth = paired_difference(stats, other, rate, generator=generator(), method="percentile")["rate"]
    back = paired_difference(other, stats, rate, generator=generator(), method="percentile")["rate"]
    assert (forth.value, forth.low, forth.high) == pytest.approx((-back.value, -back.high, -back.low))


def test_a_wider_level_has_a_wider_interval() -> None:
    stats = generator(12).random((40, 2))
    narrow, wide = (interval(stats, rate, level=level, generator=generator())["rate"] for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_what_says_nothing_has_no_bounds() -> None:
    some = interval(np.array([[1.0, 0.0]] * 3), rate, generator=generator())["rate"]
    assert math.isnan(some.value)
    assert math.isnan(some.low)
    assert math.isnan(some.high)
    # one item of ten has a reference: 65 % of the draws hold it, and those say 50 %
    stats = np.zeros((10, 2))
    stats[3] = (1.0, 2.0)
    assert interval(stats, rate, generator=generator())["rate"] == Interval(50.0, 50.0, 50.0, "%")


def test_one_item_has_an_interval_of_no_width() -> None:
    assert interval(np.array([[3.0]]), mean, generator=generator())["mean"] == Interval(3.0, 3.0, 3.0, "dB")


@pytest.mark.parametrize(
    ("stats", "options", "error", "match"),
    [
        (np.zeros(3), {}, ShapeError, r"stats has shape \(3,\), expected \(n, s\)"),
        (np.zeros((0, 2)), {}, DataError, "holds no items"),
        (np.zeros((3, 2)), {"clusters": ["a"]}, ShapeError, "3 items were given with 1 clusters"),
        (np.zeros((3, 2)), {"level": 95}, DataError, "level is 95, expected a number between 0 and 1"),
        (np.zeros((3, 2)), {"replicates": 1}, DataError, "replicates is 1, expected at least 2"),
        (np.zeros((3, 2)), {"method": "t"}, DataError, "method is 't', expected 'bca' or 'percentile'"),
    ],
)
def test_bad_input_is_refused(stats: np.ndarray, options: dict, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        interval(stats, rate, generator=generator(), **options)


def test_systems_on_other_items_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"stats_a has shape \(3, 2\) and stats_b \(4, 2\)"):
        paired_difference(np.zeros((3, 2)), np.zeros((4, 2)), rate, generator=generator())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_nineteen_of_twenty_intervals_hold_the_truth(method: str) -> None:
    """Coverage for an error rate over 40 speakers with skewed rates: 300 worlds, standard error 1.4 points."""
    held = 0
    for world in range(300):
        source = generator(1000 + world)
        speakers = np.repeat(np.arange(40), 3)
        lengths = source.integers(5, 15, 120)
        errors = source.binomial(lengths, np.repeat(source.beta(1, 9, 40), 3))  # E[errors] = 0.1 E[length]
        stats = np.stack([errors, lengths], axis=1).astype(float)
        found = interval(stats, rate, clusters=speakers.tolist(), replicates=400, generator=source, method=method)[
            "rate"
        ]  # type: ignore[arg-type]
        held += found.low <= 10.0 <= found.high
    assert 0.90 <= held / 300 <= 0.985
