"""What would settle an undecided claim: the formula, and a simulation with as many as it says."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sltcore.experiment.power import needed, settling
from sltcore.experiment.statistics import Components, Estimate, error_of, student_quantiles


def estimate(of: Components, *, clusters: int, seeds: int, items: int | None = None) -> Estimate:
    return Estimate(
        value=0.0,
        unit="%",
        seeds=(0.0,) * seeds,
        items=items or clusters,
        clusters=clusters,
        components=of,
        distances=np.zeros(1),
    )


def test_many_items_need_the_textbook_number() -> None:
    """n = (z(0.975) + z(0.8))^2 sigma^2 / delta^2 = 7.849 * 4 / 0.01."""
    one = estimate(Components(4.0, math.nan, math.nan), clusters=100, seeds=1)
    assert needed(one, 0.1).clusters == pytest.approx(3140, abs=5)
    assert needed(one, 0.1, level=0.99, power=0.9).clusters == pytest.approx((2.5758 + 1.2816) ** 2 * 400, rel=0.003)
    assert needed(one, 0.1).seeds is None


def test_what_is_needed_is_the_smallest_that_is_enough() -> None:
    of = Components(1.0, 0.05, 0.4)
    found = needed(estimate(of, clusters=30, seeds=4), 0.35)

    def error(clusters: int, seeds: int) -> float:
        parts = of.errors(clusters, seeds)
        return sum(error_of(parts, student_quantiles(p, clusters, seeds)) for p in (0.975, 0.8))

    assert found.clusters is None  # sqrt(0.05 / 4) (t_3(0.975) + t_3(0.8)) = 0.46 is more than the distance
    assert found.seeds is None  # sqrt(1 / 30) 2.8 = 0.51 too
    assert found.both is not None
    clusters, seeds = found.both
    assert error(clusters, seeds) <= 0.35 < error(math.ceil(30 * (seeds - 1) / 4), seeds - 1)
    nearer = needed(estimate(of, clusters=120, seeds=4), 0.5)
    assert nearer.clusters is not None
    assert error(nearer.clusters, 4) <= 0.5 < error(nearer.clusters - 1, 4)
    assert nearer.seeds is not None
    assert error(120, nearer.seeds) <= 0.5 < error(120, nearer.seeds - 1)


def test_a_larger_distance_needs_less() -> None:
    one = estimate(Components(1.0, 0.01, 0.1), clusters=20, seeds=5)
    found = [needed(one, distance).clusters for distance in (0.3, 0.4, 0.5)]
    assert all(a is not None and b is not None and a > b for a, b in itertools.pairwise(found))


def test_no_distance_is_never_settled() -> None:
    one = estimate(Components(1.0, 0.01, 0.1), clusters=20, seeds=5)
    for distance in (0.0, math.nan):
        assert needed(one, distance) == (None, None, None)
    assert settling(one, 0.0).startswith("No affordable number of utterances or seeds would settle it")


def test_the_sentence_counts_utterances_and_clusters() -> None:
    one = estimate(Components(1.0, 0.0, 0.0), clusters=50, seeds=5, items=200)
    assert settling(one, 0.2).startswith(
        "About 800 utterances in 200 clusters (now 200 in 50) with 5 seeds would settle it in 80 % of runs"
    )
    noisy = estimate(Components(0.1, 1.0, 0.0), clusters=50, seeds=3, items=50)
    assert settling(noisy, 1.0).startswith("About 11 seeds (now 3) with these utterances would settle it")
    assert settling(noisy, 1.0).endswith("More utterances alone would not.")
    single = estimate(Components(1.0, math.nan, math.nan), clusters=50, seeds=1)
    assert "with 1 seed would settle it" in settling(single, 0.2)


@pytest.mark.parametrize("what", ["clusters", "seeds"])
def test_as_many_as_it_says_settle_it_as_often_as_it_says(what: str) -> None:
    """4000 worlds of the two-way layout with known components, intervals by the same formula from their estimates.

    A mean over c clusters and s seeds is normal with the variance of its parts; estimates of the parts are chi-squared.
    """
    of, distance = Components(1.0, 0.02, 0.3), 0.5
    found = needed(estimate(of, clusters=40, seeds=5), distance)
    clusters, seeds = (found.clusters, 5) if what == "clusters" else (40, found.seeds)
    assert clusters is not None
    assert seeds is not None
    source = np.random.default_rng(0)
    of_items, of_seeds = of.errors(clusters, seeds)
    value = distance + math.sqrt(of_items + of_seeds) * source.standard_normal(4000)
    estimated = zip(
        of_items * source.chisquare(clusters - 1, 4000) / (clusters - 1),
        of_seeds * source.chisquare(seeds - 1, 4000) / (seeds - 1),
        strict=True,
    )
    quantiles = student_quantiles(0.975, clusters, seeds)
    half = np.array([error_of(parts, quantiles) for parts in estimated])
    assert np.mean(value - half > 0) == pytest.approx(0.8, abs=0.06)


@pytest.mark.slow
def test_a_run_of_the_size_it_says_settles_the_claim() -> None:
    """From data to verdict: 80 worlds with the number of clusters that the true components ask for."""
    from sltcore.experiment.statistics import seeded_difference
    from sltcore.interfaces import Value

    of, distance, seeds = Components(1.0, 0.004, 0.3), 0.5, 4
    clusters = needed(estimate(of, clusters=20, seeds=seeds), distance).clusters
    assert clusters is not None
    decided = 0
    for world in range(80):
        source = np.random.default_rng(world)
        values = distance + source.standard_normal(clusters) + math.sqrt(0.004) * source.standard_normal((seeds, 1))
        values = values + math.sqrt(0.3) * source.standard_normal((seeds, clusters))
        found = seeded_difference(
            values[..., None],
            np.zeros((1, clusters, 1)),
            lambda rows: {"mean": Value(float(rows.mean()), "dB")},
            value="mean",
            replicates=300,
            generator=source,
        )
        decided += found.interval()[0] > 0
    assert decided / 80 == pytest.approx(0.8, abs=0.12)
