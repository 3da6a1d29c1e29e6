"""What a reranker gained: oracle, recovered gap, wins and losses."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from sltcore.errors import ShapeError
from sltcore.experiment.statistics import mcnemar


class WinsLosses(NamedTuple):
    """Of the items, how many a reranker mended and broke, and the exact McNemar probability of so uneven a split."""

    fixed: int
    broken: int
    both_right: int
    both_wrong: int
    p: float


class Gain(NamedTuple):
    """Shares of right items, first pass, reranked and best of the list, and the share of the gap that was recovered."""

    items: int
    first: float
    reranked: float
    oracle: float
    recovered: float


def oracle_at(correct: Sequence[Sequence[bool]], n: int) -> float:
    """The share of items with a right candidate among their first n; NaN without items.

    **Raises** `ShapeError` for an n below 1 or a list without candidates.
    """
    if n < 1:
        raise ShapeError(f"the oracle of the first {n} candidates was asked for; expected at least 1")
    _not_empty(correct)
    return sum(any(row[:n]) for row in correct) / len(correct) if correct else math.nan


def recovered_gap(first: float, reranked: float, oracle: float) -> float:
    """(reranked - first) / (oracle - first): 1 where every possible gain was made, NaN where none is possible.

    >>> recovered_gap(0.5, 0.5625, 0.75)
    0.25
    """
    return (reranked - first) / (oracle - first) if oracle > first else math.nan


def wins_losses(before: Sequence[bool], after: Sequence[bool]) -> WinsLosses:
    """What changed from the first pass to the reranked list, item by item.

    **Raises** `ShapeError` where the two differ in length.
    """
    test = mcnemar(before, after)
    right = sum(a and b for a, b in zip(before, after, strict=True))
    return WinsLosses(test.only_b, test.only_a, right, len(before) - right - test.only_a - test.only_b, test.p)


def gains(
    correct: Sequence[Sequence[bool]], orders: Sequence[Sequence[int]], groups: Sequence[Hashable] | None = None
) -> Mapping[Hashable, Gain]:
    """The gain over all items, under "all", and over each group (hardness, database).

    `correct` says of each candidate of each item, in first-pass order, whether it is right; `orders` is the reranked order of
    each item's candidates.
    **Raises** `ShapeError` where the numbers differ, or an order is no permutation.
    """
    _not_empty(correct)
    given = list(groups) if groups is not None else []
    if len(orders) != len(correct) or (groups is not None and len(given) != len(correct)):
        raise ShapeError(
            f"{len(correct)} items came with {len(orders)} orders and {len(given)} groups; expected one each"
        )
    for row, order in zip(correct, orders, strict=True):
        if sorted(order) != list(range(len(row))):
            raise ShapeError(f"order {list(order)} is no permutation of {len(row)} candidates")
    chosen: dict[Hashable, list[int]] = {"all": list(range(len(correct)))}
    for index, group in enumerate(given):
        chosen.setdefault(group, []).append(index)
    return {group: _gain([correct[i] for i in items], [orders[i] for i in items]) for group, items in chosen.items()}


def _gain(correct: Sequence[Sequence[bool]], orders: Sequence[Sequence[int]]) -> Gain:
    if not correct:
        return Gain(0, math.nan, math.nan, math.nan, math.nan)
    first = sum(row[0] for row in correct) / len(correct)
    reranked = sum(row[order[0]] for row, order in zip(correct, orders, strict=True)) / len(correct)
    best = sum(map(any, correct)) / len(correct)
    return Gain(len(correct), first, reranked, best, recovered_gap(first, reranked, best))


def _not_empty(correct: Sequence[Sequence[bool]]) -> None:
    for index, row in enumerate(correct):
        if not len(row):
            raise ShapeError(f"item {index} has no candidates; expected at least one")
