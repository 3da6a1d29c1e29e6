"""Replicates of the bootstrap: the short cuts agree with the long way, and are left where they do not hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from sltcore.errors import DataError, ShapeError
from sltcore.experiment.resampling import Draws, ratio_form, replicated
from sltcore.interfaces import Value

ITEMS = 60


def ratio(a: float, b: float) -> float:
    return a / b if b else math.nan


def error_rate(stats: np.ndarray) -> Mapping[str, Value]:
    """As word error rates: ratios of sums, and a share of items."""
    wrong, length = stats[:, 0].sum(), stats[:, 1].sum()
    return {
        "rate": Value(100 * ratio(wrong, length), "%"),
        "items": Value(100 * ratio(float(np.count_nonzero(stats[:, 0])), len(stats)), "%"),
    }


def f1(stats: np.ndarray) -> Mapping[str, Value]:
    hits, extra, missed = stats[:, :3].sum(axis=0)
    return {"f1": Value(100 * ratio(2 * hits, 2 * hits + extra + missed), "%")}


def root_mean_square(stats: np.ndarray) -> Mapping[str, Value]:
    return {"rms": Value(math.sqrt((stats[:, 0] ** 2).sum() / len(stats)), "dB")}


def root_of_mean(stats: np.ndarray) -> Mapping[str, Value]:
    return {"root": Value(math.sqrt(stats[:, 0].mean()), "dB")}


def median(stats: np.ndarray) -> Mapping[str, Value]:
    return {"median": Value(float(np.median(stats[:, 0])), "dB")}


def capped(stats: np.ndarray) -> Mapping[str, Value]:
    """A ratio of sums except at its ends."""
    return {"capped": Value(min(30.0, 100 * ratio(stats[:, 0].sum(), stats[:, 1].sum())), "%")}


def total(stats: np.ndarray) -> Mapping[str, Value]:
    return {"total": Value(float(stats[:, 0].sum()), "1")}


class Counted:
    """Counts how often, and with how many rows, a metric is asked."""

    def __init__(self, reduce: Callable[[np.ndarray], Mapping[str, Value]]) -> None:
        self.reduce = reduce
        self.calls = 0

    def __call__(self, stats: np.ndarray) -> Mapping[str, Value]:
        self.calls += 1
        return self.reduce(stats)


def draws(*, replicates: int = 300, clusters: list[str] | None = None, seed: int = 0) -> Draws:
    return Draws(ITEMS, clusters=clusters, replicates=replicates, generator=np.random.default_rng(seed))


@pytest.fixture
def stats() -> np.ndarray:
    source = np.random.default_rng(1)
    lengths = source.integers(1, 12, (2, ITEMS, 1))
    return np.concatenate([source.binomial(lengths, 0.2), lengths, source.integers(0, 2, (2, ITEMS, 1))], 2).astype(
        float
    )


METRICS = [error_rate, f1, root_mean_square, root_of_mean, median, capped, total]


@pytest.mark.parametrize("clusters", [None, [f"speaker-{i % 7}" for i in range(ITEMS)]])
@pytest.mark.parametrize("reduce", METRICS, ids=lambda reduce: reduce.__name__)
def test_replicates_are_what_reduce_says_of_the_drawn_rows(
    stats: np.ndarray, reduce: Callable[[np.ndarray], Mapping[str, Value]], clusters: list[str] | None
) -> None:
    drawn = draws(clusters=clusters)
    found = replicated(stats, reduce, drawn)
    for replicate, rows in drawn.rows(range(300)):
        for seed in range(2):
            for name, value in reduce(stats[seed][rows]).items():
                assert found[name].replicates[replicate, seed] == pytest.approx(value.value, rel=1e-8, nan_ok=True)
                assert found[name].unit == value.unit
    for seed in range(2):
        assert {name: entry.values[seed] for name, entry in found.items()} == {
            name: value.value for name, value in reduce(stats[seed]).items()
        }


@pytest.mark.parametrize(
    ("reduce", "most"),  # the last two are asked for each replicate of both seeds, the first of them on one row
    [(error_rate, 500), (f1, 500), (root_of_mean, 2500), (median, 2500)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_ratios_of_sums_ask_reduce_seldom(
    stats: np.ndarray, reduce: Callable[[np.ndarray], Mapping[str, Value]], most: int
) -> None:
    counted = Counted(reduce)
    replicated(stats, counted, draws(replicates=1000))
    assert counted.calls < most


def test_clusters_are_drawn_whole_and_as_many_as_there_are() -> None:
    labels = [f"speaker-{i % 7}" for i in range(ITEMS)]
    drawn = draws(clusters=labels, replicates=50)
    members = {name: sorted(i for i in range(ITEMS) if labels[i] == name) for name in set(labels)}
    for _, rows in drawn.rows(range(50)):
        counts = np.bincount(rows, minlength=ITEMS)
        taken = [set(counts[members[name]]) for name in members]
        assert all(len(found) == 1 for found in taken)
        assert sum(found.pop() for found in taken) == 7


def test_each_cluster_is_drawn_once_on_average() -> None:
    """Multinomial: mean 1, variance 1 - 1 / c."""
    counts = draws(replicates=4000).sums(np.eye(ITEMS))
    assert counts.mean() == pytest.approx(1.0)
    assert counts.var() == pytest.approx(1 - 1 / ITEMS, rel=0.02)


def test_weights_of_seeds_have_the_variance_of_the_mean() -> None:
    """Var(sum w_j x_j) = s^2 / k for any x, s^2 with k - 1 in the denominator."""
    values = np.array([1.0, 4.0, 4.5, 9.0])
    drawn = draws(replicates=20000).seeds(4) @ values
    assert drawn.mean() == pytest.approx(0.0, abs=0.05)
    assert drawn.var() == pytest.approx(values.var(ddof=1) / 4, rel=0.03)


def test_all_systems_meet_the_same_draws(stats: np.ndarray) -> None:
    drawn = draws()
    first, again = (replicated(stats, error_rate, drawn)["rate"].replicates for _ in range(2))
    assert np.array_equal(first, again)
    other = replicated(stats, error_rate, draws(seed=1))["rate"].replicates
    assert not np.array_equal(first, other)


def test_what_a_selection_cannot_say_stays_nan() -> None:
    """One item of 60 has a reference: a draw without it has no rate."""
    stats = np.zeros((1, ITEMS, 2))
    stats[0, 3] = (1.0, 2.0)
    drawn = draws()
    found = replicated(stats, error_rate, drawn)["rate"].replicates[:, 0]
    holds = np.array([3 in rows for _, rows in drawn.rows(range(300))])
    assert np.array_equal(np.isnan(found), ~holds)
    assert set(found[holds]) == {50.0}


def test_a_form_that_does_not_exist_is_not_found(stats: np.ndarray) -> None:
    rows = stats.reshape(-1, 3)
    source = np.random.default_rng(0)
    selections = [source.integers(len(rows), size=size) for size in range(1, 40)]
    features = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    values = np.array([rows[chosen, 0].sum() / rows[chosen, 1].sum() for chosen in selections])
    form = ratio_form(features, selections, values)
    assert form is not None
    sums = features[selections[5]].sum(axis=0)
    assert form.of(sums[None])[0] == pytest.approx(values[5], rel=1e-10)
    assert ratio_form(features, selections, values**2) is None


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Draws(0, generator=np.random.default_rng()), DataError, "there are no items"),
        (lambda: draws(replicates=1), DataError, "replicates is 1, expected at least 2"),
        (lambda: draws(clusters=["a"]), ShapeError, "60 items were given with 1 clusters"),
        (
            lambda: replicated(np.zeros((3, 2)), error_rate, draws()),
            ShapeError,
            r"shape \(3, 2\), expected \(s, 60, k\)",
        ),
        (
            lambda: replicated(np.ones((1, ITEMS, 2)), error_rate, draws(), names=["wer"]),
            DataError,
            "no value named 'wer'; it gives items, rate",
        ),
    ],
)
def test_bad_input_is_refused(make: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


@pytest.mark.slow
def test_ten_thousand_replicates_of_three_thousand_items_and_five_seeds_take_seconds() -> None:
    import time

    source = np.random.default_rng(2)
    lengths = source.integers(1, 12, (5, 3000, 1))
    stats = np.concatenate([source.binomial(lengths, 0.2), lengths], 2).astype(float)
    start = time.process_time()
    replicated(stats, error_rate, Draws(3000, replicates=10_000, generator=source))
    assert time.process_time() - start < 15  # about 1 on an idle core
