"""N-gram language models from text: interpolated modified Kneser-Ney.

For a context h and a word w, with c the count (for orders below the highest: the number of different words seen before
the n-gram, unless it begins with `<s>`):

    p(w | h)  = max(c(h w) - D(c(h w)), 0) / c(h .) + g(h) p(w | h')
    g(h)      = (sum over w of D(c(h w))) / c(h .)
    p(w | ()) = (c(w) - D(c(w))) / c(.) + g(()) / V

    Y = n1 / (n1 + 2 n2),  D(k) = k - (k + 1) Y n(k+1) / n(k) for k = 1, 2, and D(k >= 3) = 3 - 4 Y n4 / n3

where n(k) is the number of n-grams of that order with count k and V the vocabulary with `<unk>` and `</s>`. Written as
back-off model: p as above for n-grams that are listed, weight g(h) for the others; every context sums to one.

**Source**: Chen and Goodman, "An empirical study of smoothing techniques for language modeling", 1999, eq. 26-28;
Heafield et al., "Scalable modified Kneser-Ney language model estimation", 2013, for sentence markers and the uniform
distribution below the 1-grams. Deviations: texts too small for the formulas take `FALLBACK` for that order (as
`lmplz --discount_fallback`); the counts of pruned n-grams go to g(h), so pruned models sum to one as well.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.language_model.arpa import MARKERS, ArpaModel, write_arpa
from slt_ctc_personalization.language_model.ngram import BEGIN, END, UNKNOWN, NgramModel
from slt_ctc_personalization.language_model.ngram_tables import build_model
from sltcore.errors import DataError

FALLBACK = (0.5, 1.0, 1.5)  # lmplz's discounts for small texts
NEVER = -99.0  # log10 p of <s>, which nothing predicts
MAX_ORDER = 10
TINY = 1e-99  # keeps the logarithm of pruned n-grams finite; no listed one is that small
Rows = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Level(NamedTuple):
    """The n-grams of one order, sorted: words, counts, and the places of h and of h' w one order below."""

    rows: Rows
    counts: Ints
    context: Ints
    suffix: Ints


def build_lm(
    lines: Iterable[str],
    *,
    order: int = 3,
    prune: Sequence[int] = (),
    vocabulary: int | Iterable[str] | None = None,
    out: str | Path | None = None,
) -> NgramModel:
    """Estimate a model from lines of text, one sentence each, words separated by white space.

    `prune[k]`: n-grams of order k + 1 with a count up to this are left out (the last value holds for higher orders; the
    first must be 0). `vocabulary`: the words to list, or how many of the most frequent; others become `<unk>`. `out`:
    also write an ARPA file, gzipped when the name ends in `.gz`.

    Raises `DataError` when the text holds no word, or a value is out of range.
    """
    arpa = estimate(lines, order=order, prune=prune, vocabulary=vocabulary)
    if out is not None:
        write_arpa(arpa, out)
    return build_model(arpa, source=str(out) if out is not None else "built from text")


def estimate(
    lines: Iterable[str],
    *,
    order: int = 3,
    prune: Sequence[int] = (),
    vocabulary: int | Iterable[str] | None = None,
) -> ArpaModel:
    """As `build_lm`: the n-grams, probabilities and weights, before they are made ready for queries."""
    if not 1 <= order <= MAX_ORDER:
        raise DataError(f"order is {order}; 1 to {MAX_ORDER} words are expected.")
    thresholds = _thresholds(prune, order)
    words, sentences = _read_text(lines, vocabulary)
    levels = _count(sentences, order, len(words))
    kept = _kept(levels, thresholds)
    log_p: list[npt.NDArray[np.float32]] = []
    log_b = [np.zeros(len(level.counts), np.float32) for level in levels]
    lower: Floats = np.full(1, 1.0 / (len(words) - 1))  # <s> is never predicted
    for number, level in enumerate(levels):
        contexts = len(levels[number - 1].counts) if number else 1
        gained, weight = _discounted(level, kept[number], contexts)
        lower = np.maximum(gained + weight[level.context] * lower[level.suffix], TINY)
        log_p.append(np.log10(lower).astype(np.float32))
        if number:
            log_b[number - 1] = np.log10(weight).astype(np.float32)
    log_p[0][BEGIN] = NEVER
    rows = [level.rows[chosen] for level, chosen in zip(levels, kept, strict=True)]
    return ArpaModel(
        words=words,
        ngrams=rows,
        log10_p=[values[chosen] for values, chosen in zip(log_p, kept, strict=True)],
        log10_b=[values[chosen] for values, chosen in zip(log_b, kept, strict=True)],
    )


def _thresholds(prune: Sequence[int], order: int) -> list[int]:
    values = list(prune) or [0]
    if values[0] != 0 or any(b < a for a, b in itertools.pairwise(values)):
        raise DataError(f"prune is {values}; it must begin with 0 (every word is listed) and never fall.")
    return [values[min(index, len(values) - 1)] for index in range(order)]


def _read_text(lines: Iterable[str], vocabulary: int | Iterable[str] | None) -> tuple[list[str], list[list[int]]]:
    texts = [words for line in lines if (words := line.split())]
    tally: Counter[str] = Counter(word for words in texts for word in words)
    for marker in MARKERS:
        if tally.pop(marker, 0) and marker != "<unk>":
            raise DataError(f"the text holds {marker} as a word; sentence markers are added, remove them.")
    if not tally:
        raise DataError("the text holds no word; a line of text for each sentence is expected.")
    names = sorted(tally)
    if isinstance(vocabulary, int):
        if vocabulary < 1:
            raise DataError(f"vocabulary is {vocabulary}; at least 1 word is expected.")
        names = sorted(sorted(names, key=lambda word: -tally[word])[:vocabulary])
    elif vocabulary is not None:
        names = sorted(set(vocabulary) - set(MARKERS))
    words = [*MARKERS, *names]
    ids = {word: index for index, word in enumerate(words)}
    return words, [[BEGIN, *(ids.get(word, UNKNOWN) for word in text), END] for text in texts]


def _count(sentences: list[list[int]], order: int, vocabulary: int) -> list[Level]:
    """The n-grams of each order, sorted, with their counts: Kneser-Ney's below the highest order."""
    flat = np.array([word for sentence in sentences for word in sentence], np.int64)
    lengths = np.array([len(sentence) for sentence in sentences])
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(flat))  # words to the sentence's end
    unigrams = np.arange(vocabulary, dtype=np.int32)[:, None]
    nothing = np.zeros(vocabulary, np.int64)
    levels = [Level(unigrams, np.bincount(flat, minlength=vocabulary), nothing, nothing)]
    number = flat  # of the n-gram that begins at each place, in its level
    for size in range(2, order + 1):
        starts = np.flatnonzero(left >= size)
        keys = number[starts] * vocabulary + flat[starts + size - 1]
        found, first, inverse, raw = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        context, word = found // vocabulary, found % vocabulary
        rows = np.concatenate([levels[-1].rows[context], word[:, None].astype(np.int32)], axis=1)
        levels.append(Level(rows, raw.astype(np.int64), context, number[starts[first] + 1]))
        number = np.full(len(flat), -1, np.int64)
        number[starts] = inverse
    for index in range(order - 1):
        seen_after = np.bincount(levels[index + 1].suffix, minlength=len(levels[index].counts))
        inside = levels[index].rows[:, 0] != BEGIN  # all that does not begin a sentence has a word before it
        levels[index] = levels[index]._replace(counts=np.where(inside, seen_after, levels[index].counts))
    levels[0].counts[BEGIN] = 0
    return levels


def _kept(levels: list[Level], thresholds: list[int]) -> list[npt.NDArray[np.bool_]]:
    """Which n-grams are listed: frequent ones, and the contexts and suffixes of listed ones."""
    kept = [level.counts > threshold for level, threshold in zip(levels, thresholds, strict=True)]
    kept[0][:] = True
    for index in range(len(levels) - 1, 0, -1):
        kept[index - 1][levels[index].context[kept[index]]] = True
        kept[index - 1][levels[index].suffix[kept[index]]] = True
    return kept


def _discounts(counts: Ints) -> Floats:
    """D for the counts 0, 1, 2 and from 3 on."""
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == value)) for value in (1, 2, 3, 4))
    if min(n1, n2, n3) > 0:
        shared = n1 / (n1 + 2 * n2)
        found = (1 - 2 * shared * n2 / n1, 2 - 3 * shared * n3 / n2, 3 - 4 * shared * n4 / n3)
        if all(0 < value <= limit for value, limit in zip(found, (1, 2, 3), strict=True)):
            return np.array([0.0, *found])
    return np.array([0.0, *FALLBACK])


def _discounted(level: Level, kept: npt.NDArray[np.bool_], contexts: int) -> tuple[Floats, Floats]:
    """What each n-gram keeps of its context's mass, and what each context leaves to the order below."""
    counts = level.counts.astype(np.float64)
    discount = _discounts(level.counts)[np.minimum(level.counts, 3)]
    total = np.bincount(level.context, counts, minlength=contexts)
    given = np.bincount(level.context, np.where(kept, discount, counts), minlength=contexts)
    used = total > 0
    weight = np.ones(contexts)
    weight[used] = given[used] / total[used]
    gained = np.zeros(len(counts))
    inside = kept & used[level.context]
    gained[inside] = (counts - discount)[inside] / total[level.context[inside]]
    return gained, weight
