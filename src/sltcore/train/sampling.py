"""Which utterances make up each step: an epoch as a list of batches, and one batch divided between processes.

Everything is decided by the seed, the epoch and the utterances' ids, never by the order of a list, the number of
processes or a random state, so a run can be continued anywhere and spread over any number of processes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple


class Drawn(NamedTuple):
    """An utterance of an epoch: `place` in the list of examples, `key` its name in draws, `seconds` its length."""

    place: int
    key: str
    seconds: float


def utterance_seed(seed: int, epoch: int, id: str) -> int:
    """A number in [0, 2**63) that depends on the three alone.

    >>> utterance_seed(0, 1, "a") == utterance_seed(0, 1, "a") != utterance_seed(0, 2, "a")
    True
    """
    return _hash(seed, epoch, id) >> 1


def _hash(*parts: object) -> int:
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def draw(
    ids: Sequence[str], seconds: Sequence[float], weights: Sequence[float], *, seed: int, epoch: int
) -> list[Drawn]:
    """The utterances of an epoch in random order.

    One of weight w occurs floor(w) times, and once more with probability w - floor(w), decided by a hash of (seed, epoch,
    id). With weight 1 each occurs exactly once.
    """
    found: list[Drawn] = []
    for place, (name, length, weight) in enumerate(zip(ids, seconds, weights, strict=True)):
        whole = math.floor(weight)
        extra = _hash("weight", seed, epoch, name) / 2**64 < weight - whole
        keys = (name if copy == 0 else f"{name}#{copy}" for copy in range(whole + extra))
        found += [Drawn(place, key, length) for key in keys]
    return sorted(found, key=lambda drawn: (_hash("order", seed, epoch, drawn.key), drawn.key))


def batches(
    drawn: Sequence[Drawn], *, size: int, seconds: float, bucket: int, seed: int, epoch: int
) -> list[list[Drawn]]:
    """An epoch cut into batches of at most `size` utterances and `seconds` with padding, a longer one standing alone.

    The order is kept in runs of about `bucket` full batches; inside a run utterances are sorted by length, and the
    batches made of them stand in random order. `bucket` 1 leaves the order random.
    """
    if bucket == 1:
        return _cut(drawn, size, seconds)
    found: list[list[Drawn]] = []
    for number, run in enumerate(_runs(drawn, bucket * size, bucket * seconds)):
        made = _cut(sorted(run, key=lambda one: one.seconds), size, seconds)
        places = sorted(range(len(made)), key=lambda place: _hash("batch", seed, epoch, number, place))
        found += [made[place] for place in places]
    return found


def _runs(drawn: Sequence[Drawn], most: int, limit: float) -> list[list[Drawn]]:
    runs: list[list[Drawn]] = []
    run: list[Drawn] = []
    total = 0.0
    for one in drawn:
        if run and (len(run) >= most or total + one.seconds > limit):
            runs.append(run)
            run, total = [], 0.0
        run.append(one)
        total += one.seconds
    return [*runs, run] if run else runs


def _cut(ordered: Sequence[Drawn], size: int, seconds: float) -> list[list[Drawn]]:
    found: list[list[Drawn]] = []
    batch: list[Drawn] = []
    longest = 0.0
    for one in ordered:
        longest_then = max(longest, one.seconds)
        if batch and (len(batch) >= size or longest_then * (len(batch) + 1) > seconds):
            found.append(batch)
            batch, longest_then = [], one.seconds
        batch.append(one)
        longest = longest_then
    return [*found, batch] if batch else found


def divide(batch: Sequence[Drawn], parts: int, *, size: int) -> list[list[Drawn]]:
    """A batch in `parts` lists of neighbours in length, longest first, so that the largest padded one is smallest.

    Each holds at most `size` utterances; some are empty where there are fewer utterances than parts.

    **Raises** `ValueError` when parts x size is too little.
    """
    if len(batch) > parts * size:
        raise ValueError(f"{len(batch)} utterances do not fit into {parts} parts of {size}")
    ordered = sorted(batch, key=lambda one: (-one.seconds, one.key))
    if not ordered:
        return [[] for _ in range(parts)]
    equal = -(-len(ordered) // parts)
    low, high = 0.0, ordered[0].seconds * equal  # which equal numbers keep
    if not high:  # texts last no time
        size = equal
    for _ in range(40):
        middle = (low + high) / 2
        if len(_filled(ordered, middle, size)) <= parts:
            high = middle
        else:
            low = middle
    filled = _filled(ordered, high, size)
    return filled + [[] for _ in range(parts - len(filled))]


def rounds(batch: Sequence[Drawn], processes: int, *, size: int, seconds: float) -> int:
    """How many batches of at most `size` utterances and `seconds` with padding each of so many processes needs for a
    batch; at least one."""
    ordered = sorted(batch, key=lambda one: (-one.seconds, one.key))
    return max(1, -(-len(_filled(ordered, seconds, size)) // processes))


def _filled(ordered: Sequence[Drawn], limit: float, size: int) -> list[list[Drawn]]:
    """Parts of neighbours, each at least one and at most `size` long, padded below the limit where one alone is."""
    found: list[list[Drawn]] = []
    for one in ordered:
        if found and len(found[-1]) < size and found[-1][0].seconds * (len(found[-1]) + 1) <= limit:
            found[-1].append(one)
        else:
            found.append([one])
    return found
