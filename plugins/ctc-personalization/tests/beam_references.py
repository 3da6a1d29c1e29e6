"""Slow, independent definitions of what the beam search computes, by enumeration of every alignment."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Tokens = tuple[int, ...]


def random_log_probs(
    rng: np.random.Generator, frames: int, labels: int, *, spread: float = 2.0
) -> npt.NDArray[np.float32]:
    logits = rng.normal(scale=spread, size=(frames, labels))
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def collapse(alignment: Sequence[int], blank: int) -> Tokens:
    """CTC: repeats merge, then blanks go."""
    return tuple(label for label, _ in itertools.groupby(alignment) if label != blank)


def mass_of_texts(
    log_probs: npt.NDArray[np.float32], blank: int, read: Callable[[Tokens], Sequence[Tokens]]
) -> dict[Tokens, float]:
    """ln of the summed probability of all alignments of each text; `read` gives the texts of a label sequence."""
    found: defaultdict[Tokens, float] = defaultdict(lambda: -np.inf)
    values = log_probs.astype(np.float64)
    frames, labels = values.shape
    for alignment in itertools.product(range(labels), repeat=frames):
        mass = float(sum(values[frame, label] for frame, label in enumerate(alignment)))
        for text in read(collapse(alignment, blank)):
            found[text] = float(np.logaddexp(found[text], mass))
    return dict(found)


def without_idle_boundaries(tokens: Tokens, boundary: int | None) -> Tokens:
    """A boundary at the start, at the end or after another adds nothing."""
    if boundary is None:
        return tokens
    words = [list(group) for is_border, group in itertools.groupby(tokens, lambda t: t == boundary) if not is_border]
    return tuple(itertools.chain.from_iterable([*(boundary,), *word] for word in words))[1:]


def bonus_of(size: int, occurrences: Sequence[tuple[int, int, float]]) -> float:
    """The largest total of occurrences (begin, end, bonus) that share no position, by trying every subset."""
    best = 0.0
    for count in range(1, len(occurrences) + 1):
        for chosen in itertools.combinations(occurrences, count):
            used: set[int] = set()
            free = True
            for begin, end, _ in chosen:
                places = set(range(begin, end))
                free = free and not places & used
                used |= places
            if free:
                best = max(best, sum(bonus for _, _, bonus in chosen))
    return best


def occurrences_of(
    tokens: Sequence[int],
    phrases: Sequence[tuple[Sequence[int], float]],
    begins: Callable[[int], bool],
    ends: Callable[[int], bool],
) -> list[tuple[int, int, float]]:
    """Where each path stands in `tokens` between allowed borders."""
    return [
        (begin, begin + len(path), bonus)
        for path, bonus in phrases
        for begin in range(len(tokens) - len(path) + 1)
        if list(tokens[begin : begin + len(path)]) == list(path) and begins(begin) and ends(begin + len(path))
    ]
