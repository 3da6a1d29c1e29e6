"""How many utterances or seeds would have settled an undecided claim."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from sltcore.experiment.statistics import Estimate, error_of, student_quantiles

POWER = 0.8  # of the runs are to come to a verdict
MOST_CLUSTERS = 10_000_000
MOST_SEEDS = 1000


class Needed(NamedTuple):
    """What would settle a claim: clusters of items with the same seeds, or seeds with the same items; None where the
    one alone cannot. `both` has clusters and seeds, each times the same factor, where neither alone can."""

    clusters: int | None
    seeds: int | None
    both: tuple[int, int] | None


def needed(estimate: Estimate, distance: float, *, level: float = 0.95, power: float = POWER) -> Needed:
    """What it takes for the interval at `level` to leave out a bound that lies `distance` from the true value, in a
    share `power` of the runs.

    The smallest c or s with e(1 - alpha / 2) + e(power) <= distance, alpha = 1 - level, where

        e(p)^2 = t(p, c - 1)^2 (C / c + B / (c s)) + t(p, s - 1)^2 S / s

    with Student's quantiles t and the components C of clusters, S of seeds and B of both, as estimated from the run
    (for one seed S = B = 0). More clusters alone leave S / s, more seeds alone leave C / c: where that is too much, the
    one alone is not enough. At most 10 million clusters and 1000 seeds. The true value is taken to be the one found, so this
    is a rough guide: what is needed goes with the square of the distance and varies accordingly from run to run.
    """
    seeds, clusters = len(estimate.seeds), estimate.clusters
    if not math.isfinite(distance) or distance <= 0 or math.isnan(estimate.components.clusters):
        return Needed(None, None, None)

    def enough(c: float, s: float) -> bool:
        parts = estimate.components.errors(c, s)
        errors = (error_of(parts, student_quantiles(p, c, s)) for p in ((1 + level) / 2, power))
        return sum(errors) <= distance

    more_clusters = _smallest(lambda c: enough(c, seeds), clusters, MOST_CLUSTERS)
    more_seeds = None if seeds < 2 else _smallest(lambda s: enough(clusters, s), seeds, MOST_SEEDS)
    both = None
    if more_clusters is None and more_seeds is None and seeds > 1:
        # In steps of one seed, clusters in proportion.
        found = _smallest(lambda s: enough(clusters * s / seeds, s), seeds, MOST_SEEDS)
        both = None if found is None else (math.ceil(clusters * found / seeds), found)
    return Needed(more_clusters, more_seeds, both)


def _smallest(enough: Callable[[float], bool], start: int, most: int) -> int | None:
    """The smallest number above `start` that is enough; None where `most` is not."""
    low, high = start, start + 1
    while not enough(high):
        if high >= most:
            return None
        low, high = high, min(most, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def settling(estimate: Estimate, distance: float, *, level: float = 0.95, power: float = POWER) -> str:
    """A sentence that says what would settle an undecided claim, for people."""
    found = needed(estimate, distance, level=level, power=power)
    seeds, clusters = len(estimate.seeds), estimate.clusters
    per_cluster = estimate.items / clusters

    def items(count: int) -> str:
        utterances = _rounded(count * per_cluster)
        if clusters == estimate.items:
            return f"about {utterances} utterances (now {estimate.items})"
        return f"about {utterances} utterances in {_rounded(count)} clusters (now {estimate.items} in {clusters})"

    ways = []
    if found.clusters is not None:
        ways.append(f"{items(found.clusters)} with {_seeds(seeds)}")
    if found.seeds is not None:
        ways.append(f"about {found.seeds} seeds (now {seeds}) with these utterances")
    if found.both is not None:
        ways.append(f"{items(found.both[0])} with {found.both[1]} seeds (now {seeds}), neither alone,")
    if not ways:
        return "No affordable number of utterances or seeds would settle it: the difference is too near to the margin."
    alone = ""
    if found.both is None and seeds > 1 and len(ways) == 1:
        alone = " More seeds alone would not." if found.seeds is None else " More utterances alone would not."
    text = f"{' or '.join(ways)} would settle it in {round(100 * power)} % of runs"
    return f"{text[0].upper()}{text[1:]}, if the true difference is the one found.{alone}"


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _rounded(count: float) -> str:
    """Two digits that count, as no more are known: 1,900."""
    if count < 100:
        return str(math.ceil(count))
    step = 10 ** (len(str(int(count))) - 2)
    return f"{math.ceil(count / step) * step:,}"
