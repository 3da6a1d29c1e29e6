"""The spotter's definition, written down by enumeration."""

from __future__ import annotations

import math
from functools import cache
from itertools import groupby, product

import numpy as np
import numpy.typing as npt

Row = tuple[int, int, int, float, int]


@cache
def alignments(path: tuple[int, ...], frames: int, blank: int) -> tuple[tuple[int, ...], ...]:
    """Every way to write `path` in so many frames, its first label first and its last label last."""
    found = []
    for sequence in product(sorted({*path, blank}), repeat=frames):
        written = tuple(label for label, _ in groupby(sequence) if label != blank)
        if sequence[0] == path[0] and sequence[-1] == path[-1] and written == path:
            found.append(sequence)
    return tuple(found)


def reference_hits(
    frames: npt.NDArray[np.float32],
    phrases: list[list[tuple[int, ...]]],
    *,
    blank: int,
    borders: frozenset[int],
    boundary: int | None,
    weight: float,
    threshold: float,
    missed: float,
    settle: int,
) -> list[Row]:
    """(phrase, begin, end, score, path) of each hit, in the order of begin, end and phrase."""
    values = frames.astype(np.float64)
    d = values - values.max(axis=1, keepdims=True)
    total = len(d)

    def blanks(first: int, stop: int) -> float:
        return float(d[first:stop, blank].sum())

    def left(begin: int) -> float:
        if boundary is None:
            return 0.0
        heard = [d[u, boundary] + blanks(u + 1, begin) for u in range(begin)]
        return max([blanks(0, begin), *heard, -missed])

    def right(end: int, last: int) -> list[tuple[int, float]]:
        """Frames in which the phrase is found, with the cost of its right border."""
        if not borders:
            return [(end - 1, 0.0)]
        choices = [(total, blanks(end, total))]
        if missed < math.inf:
            choices.append((end - 1, -missed))
        for place in range(end, total):
            labels = [label for label in borders if place > end or label != last]
            choices += [(place, blanks(end, place) + d[place, label]) for label in labels]
        return choices

    best: dict[tuple[int, int], tuple[float, int, int, int]] = {}
    for phrase, paths in enumerate(phrases):
        for index, path in enumerate(paths):
            for begin in range(total):
                for end in range(begin + 1, total + 1):
                    ways = alignments(path, end - begin, blank)
                    if not ways:
                        continue
                    inner = max(sum(d[begin + i, label] for i, label in enumerate(way)) for way in ways)
                    for found, cost in right(end, path[-1]):
                        score = left(begin) + inner + cost + weight * len(path)
                        if score >= threshold and score > -math.inf:
                            key = (score, -begin, end, -index)
                            best[found, phrase] = max(best.get((found, phrase), key), key)
    return resolved(best, total, settle)


def resolved(best: dict[tuple[int, int], tuple[float, int, int, int]], total: int, settle: int) -> list[Row]:
    """Hits that overlap, decided in the order of frames."""
    out: list[Row] = []
    for phrase in sorted({phrase for _, phrase in best}):
        held: Row | None = None
        since, taken = -1, 0
        for frame in range(total + 1):
            if (frame, phrase) in best:
                score, begin, end, index = best[frame, phrase]
                row = (phrase, -begin, end, score, -index)
                if -begin >= taken:
                    if held is not None and row[1] >= held[2]:
                        out.append(held)
                        taken, held = held[2], None
                    wider = held is not None and row[1] <= held[1] and row[2] >= held[2]
                    if held is None or score > held[3] or (score == held[3] and wider):
                        held, since = row, frame
            if held is not None and (frame - since >= settle or frame == total):
                out.append(held)
                taken, held = held[2], None
    return sorted(out, key=lambda row: (row[1], row[2], row[0]))
