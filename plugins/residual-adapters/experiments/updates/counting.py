"""What is counted in a text: words that were taught, where they were said and where nobody said them, and word errors."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

Stats = npt.NDArray[np.float64]
COLUMNS = ("hits", "said", "errors", "words", "insertions")


def aligned(reference: Sequence[str], heard: Sequence[str]) -> list[tuple[int | None, int | None]]:
    """Pairs of places of a shortest edit path, None for what the other has not.

    Of several shortest paths it takes one with the most equal words.
    """
    rows, columns = len(reference) + 1, len(heard) + 1
    cost = [[(0, 0)] * columns for _ in range(rows)]
    for i in range(rows):
        for j in range(columns):
            ways = []
            if i and j:
                same = reference[i - 1] == heard[j - 1]
                ways.append((cost[i - 1][j - 1][0] + (not same), cost[i - 1][j - 1][1] - same))
            if i:
                ways.append((cost[i - 1][j][0] + 1, cost[i - 1][j][1]))
            if j:
                ways.append((cost[i][j - 1][0] + 1, cost[i][j - 1][1]))
            if ways:
                cost[i][j] = min(ways)
    return _walked(reference, heard, cost)


def _walked(
    reference: Sequence[str], heard: Sequence[str], cost: Sequence[Sequence[tuple[int, int]]]
) -> list[tuple[int | None, int | None]]:
    i, j = len(reference), len(heard)
    found: list[tuple[int | None, int | None]] = []
    while i or j:
        errors, equal = cost[i][j]
        if i and j:
            same = reference[i - 1] == heard[j - 1]
            if (errors, equal) == (cost[i - 1][j - 1][0] + (not same), cost[i - 1][j - 1][1] - same):
                i, j = i - 1, j - 1
                found.append((i, j))
                continue
        if i and (errors, equal) == (cost[i - 1][j][0] + 1, cost[i - 1][j][1]):
            i -= 1
            found.append((i, None))
        else:
            j -= 1
            found.append((None, j))
    return found[::-1]


def count(text: str, heard: str, taught: Collection[str]) -> tuple[int, int, int, int, int]:
    """`COLUMNS` of one utterance: taught words heard at their place, how often they are said, word errors, words said, and
    taught words heard where something else or nothing is said."""
    reference, said = text.split(), heard.split()
    pairs = aligned(reference, said)
    same = {(i, j) for i, j in pairs if i is not None and j is not None and reference[i] == said[j]}
    hits = sum(reference[i] in taught for i, _ in same)
    insertions = sum(word in taught for word in said) - hits
    return hits, sum(word in taught for word in reference), len(pairs) - len(same), len(reference), insertions


def statistics(texts: Sequence[str], heard: Sequence[str], taught: Collection[str]) -> Stats:
    """[n 5]: the columns of each utterance."""
    rows = [count(text, other, taught) for text, other in zip(texts, heard, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(-1, len(COLUMNS))


def percent(stats: Stats, of: str, by: str) -> float:
    """100 times the sum of one column over that of another; NaN where that is 0."""
    above, below = (stats[..., COLUMNS.index(name)].sum() for name in (of, by))
    return float(100 * above / below) if below else float("nan")
