"""Confidence intervals of any metric by resampling items, or clusters of items."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sltcore.errors import DataError, ShapeError

if TYPE_CHECKING:
    from sltcore.interfaces import Value

Stats = npt.NDArray[np.float64]
Reduce = Callable[[Stats], Mapping[str, "Value"]]
Method = Literal["bca", "percentile"]

LARGEST_JACKKNIFE = 200  # groups that are left out in turn for the acceleration
SMALLEST_SHARE = 0.5  # of the replicates that must say something


class Interval(NamedTuple):
    """A measured value with the bounds between which it lies at the asked level; `unit` as the metric gives it."""

    value: float
    low: float
    high: float
    unit: str


def interval(
    stats: Stats,
    reduce: Reduce,
    *,
    clusters: Sequence[Hashable] | None = None,
    replicates: int = 2000,
    level: float = 0.95,
    generator: np.random.Generator,
    method: Method = "bca",
) -> dict[str, Interval]:
    """Bootstrap confidence interval of each value that `reduce` gives.

    Draws as many items as there are, with replacement, `replicates` times; with `clusters` [n] (speakers, prompt
    texts) it draws whole clusters, as items of one cluster are not independent. `percentile` takes the quantiles
    (1 - level) / 2 and (1 + level) / 2 of the replicates; `bca` first corrects them for bias and skewness, by the share
    of replicates below the value and a jackknife over at most 200 groups, and is `percentile` where those say nothing.
    Few clusters make either too narrow: of 95 % intervals for a skewed error rate about 90 % hold the truth with 20
    clusters, 94 % with 40 (tests/test_bootstrap.py measures the latter).

    **Shapes**: `stats` [n s] float64, one row of sufficient statistics for each item. Replicates that give NaN are
    left out; where more than half do, or the value itself is NaN, the bounds are NaN.
    **Raises** `ShapeError` when stats is not [n s] or clusters not [n], `DataError` for no items, a level outside
    (0, 1), or fewer than 2 replicates.
    **Source**: Efron, "Better bootstrap confidence intervals", JASA 82, 1987, doi:10.1080/01621459.1987.10478410;
    clusters: Field & Welsh, JRSS B 69, 2007, doi:10.1111/j.1467-9868.2007.00593.x.
    """
    stats = _checked(stats, "stats")

    def measure(rows: npt.NDArray[np.intp]) -> dict[str, float]:
        return {name: float(value.value) for name, value in reduce(stats[rows]).items()}

    units = {name: value.unit for name, value in reduce(stats).items()}
    return _resample(measure, units, len(stats), clusters, replicates, level, generator, method)


def paired_difference(
    stats_a: Stats,
    stats_b: Stats,
    reduce: Reduce,
    *,
    clusters: Sequence[Hashable] | None = None,
    replicates: int = 2000,
    level: float = 0.95,
    generator: np.random.Generator,
    method: Method = "bca",
) -> dict[str, Interval]:
    """Interval of each value of a minus that of b, where row i of both is the same item under two systems.

    Each replicate draws the same items (or clusters) for both, so what is hard for both cancels. Otherwise as
    `interval`; the difference of two percentages is in percentage points and keeps the unit's name.
    **Raises** as `interval`, and `ShapeError` when the two differ in shape.
    """
    stats_a, stats_b = _checked(stats_a, "stats_a"), _checked(stats_b, "stats_b")
    if stats_a.shape != stats_b.shape:
        raise ShapeError(
            f"stats_a has shape {stats_a.shape} and stats_b {stats_b.shape}; a paired difference needs the same items, "
            f"in the same order, under both systems"
        )

    def measure(rows: npt.NDArray[np.intp]) -> dict[str, float]:
        a, b = reduce(stats_a[rows]), reduce(stats_b[rows])
        return {name: float(a[name].value - b[name].value) for name in a}

    units = {name: value.unit for name, value in reduce(stats_a).items()}
    return _resample(measure, units, len(stats_a), clusters, replicates, level, generator, method)


def _checked(stats: Stats, name: str) -> Stats:
    found = np.asarray(stats, dtype=np.float64)
    if found.ndim != 2:
        raise ShapeError(f"{name} has shape {found.shape}, expected (n, s): one row of statistics for each item")
    if not len(found):
        raise DataError(f"{name} holds no items, so there is nothing to resample")
    return found


class Clusters:
    """Rows sorted by cluster, so that any draw of clusters is one vectorized look-up.

    **Raises** `ShapeError` when there is not one label for each item.
    """

    def __init__(self, items: int, clusters: Sequence[Hashable] | None) -> None:
        if clusters is not None and len(clusters) != items:
            raise ShapeError(f"{items} items were given with {len(clusters)} clusters; expected one for each item")
        numbers: dict[Hashable, int] = {}
        labels = range(items) if clusters is None else clusters
        member = np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.intp)
        self.count = len(numbers)
        self.rows = np.argsort(member, kind="stable")
        self.sizes = np.bincount(member, minlength=self.count)
        self.starts = np.cumsum(self.sizes) - self.sizes

    def pick(self, chosen: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """The rows of the chosen clusters, repeated as often as chosen."""
        sizes = self.sizes[chosen]
        first = np.repeat(self.starts[chosen] - (np.cumsum(sizes) - sizes), sizes)
        picked: npt.NDArray[np.intp] = self.rows[first + np.arange(sizes.sum())]
        return picked


def _resample(
    measure: Callable[[npt.NDArray[np.intp]], dict[str, float]],
    units: Mapping[str, str],
    items: int,
    clusters: Sequence[Hashable] | None,
    replicates: int,
    level: float,
    generator: np.random.Generator,
    method: Method,
) -> dict[str, Interval]:
    if not 0 < level < 1:
        raise DataError(f"level is {level}, expected a number between 0 and 1 such as 0.95")
    if replicates < 2:
        raise DataError(f"replicates is {replicates}, expected at least 2; 2000 is usual")
    if method not in ("bca", "percentile"):
        raise DataError(f"method is {method!r}, expected 'bca' or 'percentile'")
    drawn = Clusters(items, clusters)
    whole = measure(np.arange(items))
    samples = [measure(drawn.pick(generator.integers(drawn.count, size=drawn.count))) for _ in range(replicates)]
    left_out: list[dict[str, float]] = []
    if method == "bca":
        # The groups are drawn at random: clusters that stand together may be alike.
        parts = np.array_split(generator.permutation(drawn.count), min(drawn.count, LARGEST_JACKKNIFE))
        everyone = np.arange(drawn.count)
        if len(parts) > 1:
            left_out = [measure(drawn.pick(np.setdiff1d(everyone, part))) for part in parts]
    return {
        name: Interval(
            value,
            *_bounds(
                value,
                np.array([sample[name] for sample in samples]),
                np.array([sample[name] for sample in left_out]),
                level,
            ),
            units[name],
        )
        for name, value in whole.items()
    }


def _bounds(value: float, samples: Stats, left_out: Stats, level: float) -> tuple[float, float]:
    """The interval's ends from replicates and, for BCa, the values with one group left out."""
    kept = samples[~np.isnan(samples)]
    if math.isnan(value) or len(kept) < max(2, SMALLEST_SHARE * len(samples)):
        return math.nan, math.nan
    ends = ((1 - level) / 2, (1 + level) / 2)
    if len(left_out):
        ends = _corrected(ends, value, kept, left_out[~np.isnan(left_out)])
    low, high = np.quantile(kept, ends)
    return float(low), float(high)


def _corrected(ends: tuple[float, float], value: float, samples: Stats, left_out: Stats) -> tuple[float, float]:
    """BCa's quantiles (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 14.3)."""
    # Ties with the value count half, as rates of few items have many.
    share = float(np.mean(samples < value) + 0.5 * np.mean(samples == value))
    deviation = left_out.mean() - left_out if len(left_out) else np.zeros(0)
    spread = float((deviation**2).sum())
    if not 0 < share < 1 or not math.isfinite(spread) or spread == 0:
        return ends
    normal = NormalDist()
    bias = normal.inv_cdf(share)
    acceleration = float((deviation**3).sum()) / (6 * spread**1.5)
    moved = []
    for end in ends:
        z = bias + normal.inv_cdf(end)
        scale = 1 - acceleration * z
        if scale <= 0:
            return ends
        moved.append(normal.cdf(bias + z / scale))
    return moved[0], moved[1]
