"""Promises of epochs and steps: who is drawn when, in batches of what size, on how many processes."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sltcore.train.sampling import Drawn, batches, divide, draw, rounds, utterance_seed

SECONDS = st.lists(st.floats(0.1, 30.0), min_size=1, max_size=60)
QUICK = settings(max_examples=60, deadline=None)


def drawn_of(seconds: list[float], *, seed: int = 0, epoch: int = 0) -> list[Drawn]:
    ids = [f"u{index}" for index in range(len(seconds))]
    return draw(ids, seconds, [1.0] * len(seconds), seed=seed, epoch=epoch)


@QUICK
@given(SECONDS, st.integers(1, 9), st.floats(1.0, 40.0), st.integers(1, 5), st.integers(0, 3))
def test_every_utterance_comes_once_an_epoch(
    seconds: list[float], size: int, limit: float, bucket: int, epoch: int
) -> None:
    plan = batches(drawn_of(seconds, epoch=epoch), size=size, seconds=limit, bucket=bucket, seed=0, epoch=epoch)
    assert sorted(one.place for batch in plan for one in batch) == list(range(len(seconds)))


@QUICK
@given(SECONDS, st.integers(1, 9), st.floats(1.0, 40.0), st.integers(1, 5))
def test_a_batch_keeps_its_limits_or_holds_one_utterance(
    seconds: list[float], size: int, limit: float, bucket: int
) -> None:
    for batch in batches(drawn_of(seconds), size=size, seconds=limit, bucket=bucket, seed=0, epoch=0):
        padded = max(one.seconds for one in batch) * len(batch)
        assert len(batch) == 1 or (len(batch) <= size and padded <= limit)


@QUICK
@given(SECONDS, st.integers(1, 6), st.integers(1, 12))
def test_parts_hold_each_utterance_once_within_their_limits(seconds: list[float], parts: int, size: int) -> None:
    batch = drawn_of(seconds)[: parts * size]
    divided = divide(batch, parts, size=size)
    assert len(divided) == parts
    assert Counter(one.key for part in divided for one in part) == Counter(one.key for one in batch)
    assert all(len(part) <= size for part in divided)
    longest = max(one.seconds for one in batch)
    share = longest * len(batch) / parts
    assert all(part[0].seconds * len(part) <= share + longest + 1e-9 for part in divided if part)
    assert all(len(part) > 0 for part in divided[: min(1, len(batch))])


def least_largest(lengths: list[float], parts: int, size: int) -> float:
    """The least possible largest padded length of neighbours in `parts` lists, by trying every way to cut."""
    if not lengths:
        return 0.0
    if parts == 0:
        return math.inf
    ways = (
        max(lengths[0] * n, least_largest(lengths[n:], parts - 1, size)) for n in range(1, min(size, len(lengths)) + 1)
    )
    return min(ways)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.1, 30.0), min_size=1, max_size=8), st.integers(1, 3), st.integers(3, 8))
def test_the_largest_part_is_as_small_as_brute_force_finds(seconds: list[float], parts: int, size: int) -> None:
    batch = drawn_of(seconds)[: parts * size]
    found = max(part[0].seconds * len(part) for part in divide(batch, parts, size=size) if part)
    best = least_largest(sorted((one.seconds for one in batch), reverse=True), parts, size)
    assert found == pytest.approx(best, rel=1e-6)


@QUICK
@given(SECONDS, st.integers(1, 5), st.floats(2.0, 40.0), st.integers(1, 4))
def test_two_processes_share_the_batch_that_one_with_twice_the_size_has(
    seconds: list[float], size: int, limit: float, bucket: int
) -> None:
    """The plan knows only size and seconds of the whole step, so both are made of one plan."""
    drawn = drawn_of(seconds)
    one = batches(drawn, size=2 * size, seconds=2 * limit, bucket=bucket, seed=0, epoch=0)
    for batch in one:
        first, second = divide(batch, 2, size=size)
        assert sorted([*first, *second]) == sorted(batch)


def test_texts_without_length_are_divided_evenly() -> None:
    batch = drawn_of([0.0] * 7)
    assert [len(part) for part in divide(batch, 3, size=5)] == [3, 3, 1]


def test_more_than_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="5 utterances do not fit into 2 parts of 2"):
        divide(drawn_of([1.0] * 5), 2, size=2)


@pytest.mark.parametrize(("processes", "expected"), [(1, 4), (2, 2), (3, 2), (8, 1)])
def test_a_drawn_batch_gets_as_many_rounds_as_it_needs(processes: int, expected: int) -> None:
    assert rounds(drawn_of([5.0] * 8), processes, size=10, seconds=10.0) == expected  # two fit into a batch


def test_nothing_drawn_needs_one_round() -> None:
    assert rounds([], 2, size=10, seconds=10.0) == 1


def test_the_order_differs_between_epochs_and_seeds_and_not_with_the_list() -> None:
    seconds = [1.0 + index for index in range(30)]
    base = [one.key for one in drawn_of(seconds)]
    assert base != [one.key for one in drawn_of(seconds, epoch=1)]
    assert base != [one.key for one in drawn_of(seconds, seed=1)]
    ids = [f"u{index}" for index in range(30)]
    turned = draw(ids[::-1], seconds[::-1], [1.0] * 30, seed=0, epoch=0)
    assert base == [one.key for one in turned]


def test_a_bucket_of_one_leaves_the_order_random() -> None:
    drawn = drawn_of([random.Random(0).uniform(1, 9) for _ in range(40)])
    plan = batches(drawn, size=4, seconds=1000.0, bucket=1, seed=0, epoch=0)
    assert [one for batch in plan for one in batch] == drawn


def test_buckets_put_neighbours_in_length_together() -> None:
    source = random.Random(1)
    drawn = drawn_of([source.uniform(1, 20) for _ in range(400)])

    def padding(bucket: int) -> float:
        plan = batches(drawn, size=8, seconds=1e9, bucket=bucket, seed=0, epoch=0)
        padded = sum(max(one.seconds for one in batch) * len(batch) for batch in plan)
        return padded / sum(one.seconds for one in drawn) - 1

    assert padding(50) < 0.05 < 0.3 < padding(1)


def test_a_weight_draws_so_many_copies() -> None:
    ids = [f"u{index}" for index in range(2000)]
    seconds = [1.0] * 2000
    counts = Counter(len(draw([name], [1.0], [2.0], seed=0, epoch=0)) for name in ids[:10])
    assert counts == {2: 10}
    copies = [one.key for one in draw(["a"], [1.0], [3.0], seed=0, epoch=0)]
    assert sorted(copies) == ["a", "a#1", "a#2"]
    for weight in (0.25, 1.5):
        drawn = draw(ids, seconds, [weight] * 2000, seed=0, epoch=0)
        # 2000 draws with probability p: standard deviation sqrt(p (1 - p) / 2000) < 0.0112 of the share
        assert len(drawn) / 2000 == pytest.approx(weight, abs=5 * 0.0112)


def test_a_fractional_weight_takes_others_in_every_epoch() -> None:
    ids = [f"u{index}" for index in range(200)]
    epochs = [{one.place for one in draw(ids, [1.0] * 200, [0.5] * 200, seed=0, epoch=e)} for e in range(12)]
    assert epochs[0] != epochs[1]
    assert len(set().union(*epochs)) > 190  # each is missed twelve times with probability 2^-12


def test_an_utterances_seed_depends_on_seed_epoch_and_id_alone() -> None:
    seeds = {utterance_seed(seed, epoch, name) for seed in range(3) for epoch in range(3) for name in ("a", "b", "a#1")}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert utterance_seed(1, 2, "a") == utterance_seed(1, 2, "a")
    assert utterance_seed(1, 12, "a") != utterance_seed(11, 2, "a")
