"""Differences between systems that were run with several seeds, and the tests that go with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations as orders
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sltcore.errors import DataError, ShapeError
from sltcore.experiment.bootstrap import SMALLEST_SHARE, Reduce, Stats
from sltcore.experiment.resampling import Draws, Replicated, replicated
from sltcore.experiment.student import normal_quantile, student_quantile


class Components(NamedTuple):
    """Variance of a value by where it comes from: Var(value) = clusters / c + seeds / s + both / (c s).

    For c clusters of items and s seeds. `seeds` and `both` are NaN where there is one seed, which cannot tell.
    """

    clusters: float
    seeds: float
    both: float

    def errors(self, clusters: float, seeds: float) -> tuple[float, float]:
        """Variance of a mean over so many clusters and seeds: what other items would change, and what other seeds."""
        if math.isnan(self.seeds):
            return self.clusters / clusters, 0.0
        return self.clusters / clusters + self.both / (clusters * seeds), self.seeds / seeds


def error_of(parts: tuple[float, float], quantiles: tuple[float, float]) -> float:
    """sqrt(t_c^2 V_c + t_s^2 V_s): how far a sum of two independent means is off, each with a quantile of its own."""
    return math.sqrt(sum(part * t * t for part, t in zip(parts, quantiles, strict=True) if part > 0))


def student_quantiles(probability: float, clusters: float, seeds: float) -> tuple[float, float]:
    """t for c - 1 and for s - 1 degrees of freedom; 0 for one seed, whose part is 0."""
    return student_quantile(probability, clusters - 1), student_quantile(probability, seeds - 1) if seeds > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds with what it would have been on other items and, with several seeds, under other seeds.

    Seeds and clusters of items are crossed: every seed meets the same items. Replicates draw clusters with replacement,
    and add to the mean over seeds the seeds' deviations from it with random normal weights. Alone that is too narrow
    for the few seeds one can afford, and too wide where seeds and items interact (that part is counted several times).
    The distances of the replicates from the value are therefore scaled to the standard error e of the two-way layout
    with random seeds and clusters (moments), and quantile for quantile by z: bounds = value + q sqrt(t_c^2 V_c + t_s^2
    V_s) / z, q being the quantile of the replicates' distances over their standard deviation, V_c + V_s = e^2 the parts
    of items and seeds, t Student's quantile for c - 1 clusters and s - 1 seeds, and z the normal's. What skewness the
    items bring stays. With one seed there are clusters only: the interval then says nothing of what another seed would
    give.

    Of 95 % intervals for a difference over 40 clusters, between 93 and 98 % hold the truth with 5, 3 or 2 seeds,
    whether items, seeds or both together vary most, and 92 % with 20 skewed clusters (400 worlds each;
    tests/test_statistics.py measures four of these cases).

    **Source**: crossed resampling and what it counts too often: Owen, "The pigeonhole bootstrap", Annals of Applied
    Statistics 1, 2007, doi:10.1214/07-AOAS122; random weights: Wu, Annals of Statistics 14, 1986,
    doi:10.1214/aos/1176350142; sum of two parts: Howe, JASA 69, 1974, p. 789.
    """

    value: float
    unit: str
    seeds: tuple[float, ...]  # the value of each seed on all items
    items: int
    clusters: int
    components: Components
    distances: Stats  # of the replicates from the value over their standard deviation, ascending; empty: no bounds

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The bounds at a level; NaN where one cluster or replicates without a value leave none.

        **Raises** `DataError` for a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise DataError(f"level is {level}, expected a number between 0 and 1 such as 0.95")
        if not len(self.distances) or math.isnan(self.value):
            return math.nan, math.nan
        tail = (1 - level) / 2
        parts = self.components.errors(self.clusters, len(self.seeds))
        error = error_of(parts, student_quantiles(1 - tail, self.clusters, len(self.seeds))) / normal_quantile(1 - tail)
        low, high = np.quantile(self.distances, (tail, 1 - tail)) * error
        return self.value + float(low), self.value + float(high)

    def smallest(self, decided: Callable[[float, float], bool]) -> float:
        """The two-sided p-value: the smallest 1 - level at which `decided(low, high)` holds; 1 where it never does.

        Intervals are nested, so it is found by bisection, between 2 / (replicates + 1) and 1.
        """
        if not len(self.distances) or math.isnan(self.value):
            return 1.0
        low, high = 2 / (len(self.distances) + 1), 1 - 1e-6
        if decided(*self.interval(1 - low)):
            return low
        if not decided(*self.interval(1 - high)):
            return 1.0
        while high / low > 1.0005:
            middle = math.sqrt(low * high)
            if decided(*self.interval(1 - middle)):
                high = middle
            else:
                low = middle
        return high

    @property
    def p(self) -> float:
        """Two-sided, of the value being 0."""
        return self.smallest(lambda low, high: low > 0 or high < 0)


def seeded_difference(
    stats_a: Stats,
    stats_b: Stats,
    reduce: Reduce,
    *,
    value: str,
    clusters: Sequence[Hashable] | None = None,
    relative: bool = False,
    replicates: int = 10_000,
    generator: np.random.Generator,
) -> Estimate:
    """The mean over seeds of the value of a minus that of b, on the same items in the same order.

    `relative` gives 100 (a - b) / |b| of each seed instead, in percent. Seed j of a is paired with seed j of b; a system
    that draws nothing at random has one seed and is paired with every seed of the other.

    **Shapes**: `stats_a`, `stats_b` [s n k] float64: seeds, items, statistics; `clusters` [n] labels.
    **Raises** `ShapeError` when items or seeds do not fit, `DataError` when `reduce` gives no such value.
    """
    stats_a, stats_b = np.asarray(stats_a, dtype=np.float64), np.asarray(stats_b, dtype=np.float64)
    if stats_a.ndim != 3 or stats_b.ndim != 3 or stats_a.shape[1:] != stats_b.shape[1:]:
        raise ShapeError(
            f"stats_a has shape {stats_a.shape} and stats_b {stats_b.shape}; a difference needs (s, n, k) for both, "
            f"with the same items in the same order"
        )
    draws = Draws(stats_a.shape[1], clusters=clusters, replicates=replicates, generator=generator)
    a, b = (replicated(stats, reduce, draws, names=[value])[value] for stats in (stats_a, stats_b))
    return difference(a, b, draws, relative=relative)


def difference(a: Replicated, b: Replicated, draws: Draws, *, relative: bool = False) -> Estimate:
    """As `seeded_difference`, from replicates that were made with the same draws.

    **Raises** `ShapeError` when both have several seeds, but not the same number.
    """
    counts = {len(a.values), len(b.values)}
    if len(counts - {1}) > 1:
        raise ShapeError(
            f"one system has {len(a.values)} seeds and the other {len(b.values)}; expected the same seeds for both, or "
            f"one for a system that draws nothing at random"
        )
    values, replicates = a.values - b.values, a.replicates - b.replicates
    if relative:
        with np.errstate(divide="ignore", invalid="ignore"):
            values, replicates = 100 * values / abs(b.values), 100 * replicates / abs(b.replicates)
    return _estimate(values, replicates, "%" if relative else a.unit, draws)


def level_of(system: Replicated, draws: Draws) -> Estimate:
    """The mean over seeds of the value itself."""
    return _estimate(system.values, system.replicates, system.unit, draws)


def _estimate(values: Stats, replicates: Stats, unit: str, draws: Draws) -> Estimate:
    replicates = np.where(np.isfinite(replicates), replicates, np.nan)
    seeds = len(values)
    value = float(values.mean()) if np.isfinite(values).all() else math.nan
    drawn = replicates.mean(axis=1)
    if seeds > 1:
        drawn = drawn + (draws.seeds(seeds) * replicates).sum(axis=1)
    drawn = drawn[~np.isnan(drawn)]
    components = _components(values, replicates, draws.clusters)
    distances = np.zeros(0)
    if draws.clusters > 1 and len(drawn) >= max(2, SMALLEST_SHARE * draws.replicates) and not math.isnan(value):
        spread = float(drawn.var())
        # A variance of rounding errors is none.
        flat = spread <= (1e-12 * max(abs(value), float(np.abs(drawn).max()))) ** 2
        distances = np.zeros(len(drawn)) if flat else np.sort(drawn - value) / math.sqrt(spread)
    return Estimate(
        value=value,
        unit=unit,
        seeds=tuple(float(entry) for entry in values),
        items=draws.items,
        clusters=draws.clusters,
        components=components,
        distances=distances,
    )


def _components(values: Stats, replicates: Stats, clusters: int) -> Components:
    """By moments; what would be below 0 is 0."""
    seeds = len(values)
    known = replicates[~np.isnan(replicates).any(axis=1)]
    if clusters < 2 or len(known) < 2 or not np.isfinite(values).all():
        return Components(math.nan, math.nan, math.nan)
    unbiased = clusters / (clusters - 1)
    of_mean = float(known.mean(axis=1).var()) * unbiased  # clusters / c + both / (c s)
    if seeds == 1:
        return Components(of_mean * clusters, math.nan, math.nan)
    of_one = float(known.var(axis=0).mean()) * unbiased  # clusters / c + both / c
    both = min(of_mean, max(0.0, (of_one - of_mean) / (seeds - 1)))  # both / (c s)
    between = max(0.0, float(values.var(ddof=1)) / seeds - both)  # seeds / s
    return Components((of_mean - both) * clusters, between * seeds, both * clusters * seeds)


class McNemar(NamedTuple):
    """How many items only the one got right, and only the other, and the probability of so uneven a split."""

    only_a: int
    only_b: int
    p: float


def mcnemar(correct_a: Sequence[bool], correct_b: Sequence[bool]) -> McNemar:
    """Exact McNemar test: of the items on which two systems disagree, each is as likely to be right as the other.

    p = min(1, 2 P(X <= min(only_a, only_b))), X binomial with the disagreements at one half; 1 where there are none.
    Items must be independent of each other.
    **Raises** `ShapeError` when the two differ in length.
    **Source**: McNemar, Psychometrika 12, 1947, doi:10.1007/BF02295996.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ShapeError(f"correct_a has shape {a.shape} and correct_b {b.shape}; expected the same items for both")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    total, fewer = only_a + only_b, min(only_a, only_b)
    steps = np.arange(1, fewer + 1)
    logarithms = np.concatenate([[0.0], np.cumsum(np.log((total - steps + 1) / steps))]) - total * math.log(2)
    return McNemar(only_a, only_b, min(1.0, 2 * math.fsum(np.exp(logarithms))))


class Spearman(NamedTuple):
    """Correlation of ranks, and how often orders at random are as far from 0 (`exact`: all orders were tried)."""

    rho: float
    p: float
    exact: bool


def spearman(
    x: Sequence[float], y: Sequence[float], *, permutations: int = 10_000, generator: np.random.Generator
) -> Spearman:
    """Spearman's rank correlation, ties at their mean rank, and its two-sided p by permutation.

    All n! orders where they are no more than `permutations`; otherwise p = (1 + as far) / (1 + permutations).
    NaN where one of the two is constant.
    **Raises** `ShapeError` when lengths differ, `DataError` for fewer than 3 pairs or fewer than 1 permutation.
    **Source**: Spearman, American Journal of Psychology 15, 1904, doi:10.2307/1412159; p: Phipson & Smyth, "Permutation
    p-values should never be zero", SAGMB 9, 2010, doi:10.2202/1544-6115.1585.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ShapeError(f"x has shape {first.shape} and y {second.shape}; expected one of each for every pair")
    if len(first) < 3 or permutations < 1:
        raise DataError(
            f"{len(first)} pairs and {permutations} permutations were given; expected at least 3 pairs and 1"
        )
    a, b = _standard_ranks(first), _standard_ranks(second)
    if not a.any() or not b.any():
        return Spearman(math.nan, math.nan, False)
    rho = float(a @ b)
    exact = math.factorial(min(len(a), 20)) <= permutations
    if exact:
        drawn = np.array([a[list(order)] @ b for order in orders(range(len(a)))])
    else:
        drawn = np.array([generator.permutation(a) @ b for _ in range(permutations)])
    as_far = int((np.abs(drawn) >= abs(rho) - 1e-12).sum())
    p = as_far / len(drawn) if exact else (1 + as_far) / (1 + permutations)
    return Spearman(min(1.0, max(-1.0, rho)), p, exact)


def _standard_ranks(values: Stats) -> Stats:
    """Ranks, ties at their mean, centred and of length 1; zeros where all are equal."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place.reshape(-1)]
    centred: Stats = ranks - ranks.mean()
    length = float(np.linalg.norm(centred))
    return centred / length if length > 0 else np.zeros(len(values))


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: those below alpha keep the chance of any false one below alpha, however they depend.

    The k-th smallest of m is max over j <= k of min(1, (m - j + 1) p_j).
    **Raises** `DataError` for a p outside [0, 1].
    **Source**: Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    values = _probabilities(p)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, values[order] * np.arange(len(values), 0, -1)))
    return [float(entry) for entry in adjusted]


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: among those below alpha, at most the share alpha is false on average (independent tests).

    The k-th smallest of m is min over j >= k of min(1, m p_j / j).
    **Raises** `DataError` for a p outside [0, 1].
    **Source**: Benjamini & Hochberg, JRSS B 57, 1995, doi:10.1111/j.2517-6161.1995.tb02031.x.
    """
    values = _probabilities(p)
    order = np.argsort(values, kind="stable")[::-1]
    count = len(values)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum.accumulate(np.minimum(1.0, values[order] * count / np.arange(count, 0, -1)))
    return [float(entry) for entry in adjusted]


def _probabilities(p: Sequence[float]) -> npt.NDArray[np.float64]:
    values = np.asarray(p, dtype=np.float64).reshape(-1)
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        raise DataError(f"p-value {int(np.argmax(wrong))} is {values[wrong][0]}, expected a number from 0 to 1")
    return values
