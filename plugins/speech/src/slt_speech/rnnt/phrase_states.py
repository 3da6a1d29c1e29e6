"""Phrases as an automaton over labels whose states say what is owed to the phrase that has begun."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sltcore.vocabulary import WORD_MARK, Vocabulary

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Phrase(NamedTuple):
    """A way to write a phrase in labels, and its whole bonus in nats."""

    labels: tuple[int, ...]
    bonus: float


class Row(NamedTuple):
    """One state: the next one for each label [v], and ln P of each label [v]."""

    following: Ints
    log_probs: Floats


class PhraseStates:
    """An Aho-Corasick automaton, and a distribution over labels in each of its states.

    A phrase counts from a word start to a word end where the labels form words, anywhere else. Along it a hypothesis
    holds `bonus · labels read / labels in all`; what it holds is given back when the phrase breaks off, unless a phrase
    was completed on the way: then the largest completed bonus stays. Of phrases inside each other or with a common
    beginning the best counts, once. Deviation from the optimum: of two that overlap without one being inside the other,
    both count.

    What a label adds, s(label | state), is told as a distribution: `ln P = s - C`, the same C in all states, and what
    is left goes to the blank. So `ln P - neutral`, `neutral = -C`, sums up to what is held, for any label sequence.

    **Source**: Aho and Corasick, "Efficient string matching", 1975, doi:10.1145/360825.360855.
    """

    def __init__(self, phrases: Sequence[Phrase], vocabulary: Vocabulary) -> None:
        self._blank, self._v = vocabulary.blank, len(vocabulary)
        boundary = vocabulary.boundary if vocabulary.kind in ("characters", "phones") else None
        self._ends = _word_ends(vocabulary, boundary)
        before = () if boundary is None else (boundary,)
        self._children: list[dict[int, int]] = [{}]
        self._fails = [0]
        held, total = [0.0], [0.0]
        for labels, bonus in phrases:
            node = 0
            for count, label in enumerate((*before, *labels), 1 - len(before)):
                node = self._grow(node, label, held, total)
                held[node] = max(held[node], bonus * count / len(labels))
            total[node] = max(total[node], bonus)
        self._complete, self._earned, self._held = np.array(total), np.zeros(len(total)), np.array(held)
        self._link()
        surplus = float(np.maximum(self._complete - self._held, 0.0).max())
        self._constant = (
            math.log(self._v + 1) + float(self._held.max()) + surplus
        )  # so that the labels' sum stays below 1
        self.start = self._children[0].get(before[0], 0) if before else 0
        self.neutral = -self._constant
        self._rows: dict[int, Row] = {}
        self._follow: dict[int, Ints] = {}

    def _grow(self, node: int, label: int, held: list[float], total: list[float]) -> int:
        if label not in self._children[node]:
            self._children[node][label] = len(held)
            self._children.append({})
            self._fails.append(0)
            held.append(0.0)
            total.append(0.0)
        return self._children[node][label]

    def _link(self) -> None:
        """Fails, the best phrase that is complete in each node, and the best that was completed on the way to it."""
        queue = deque((0, label, child) for label, child in self._children[0].items())
        while queue:
            above, label, node = queue.popleft()
            fail = self._fails[above]
            while fail and label not in self._children[fail]:
                fail = self._fails[fail]
            self._fails[node] = self._children[fail].get(label, 0) if above else 0
            self._complete[node] = max(self._complete[node], self._complete[self._fails[node]])
            kept = self._complete[above] if self._ends[label] else 0.0
            self._earned[node] = max(self._earned[above], kept)
            self._held[node] = max(self._held[node], self._earned[node])
            queue.extend((node, further, child) for further, child in self._children[node].items())

    def row(self, state: int) -> Row:
        """The row of a state, made when it is first reached."""
        if state not in self._rows:
            following = self._following(state)
            kept = np.where(self._ends, max(self._earned[state], self._complete[state]), self._earned[state])
            for label in self._children[state]:
                kept[label] = 0.0
            added = kept - self._held[state] + self._held[following] - self._constant
            added[self._blank] = -np.inf
            added[self._blank] = np.log1p(-np.exp(added).sum())
            self._rows[state] = Row(following, added)
        return self._rows[state]

    def _following(self, state: int) -> Ints:
        if state not in self._follow:
            found = self._following(self._fails[state]).copy() if state else np.zeros(self._v, np.int64)
            for label, child in self._children[state].items():
                found[label] = child
            self._follow[state] = found
        return self._follow[state]

    def ending(self, state: int) -> float:
        """What is added where a sentence ends: nothing for a complete phrase, what is held for one that was begun."""
        return float(max(self._earned[state], self._complete[state]) - self._held[state])


def _word_ends(vocabulary: Vocabulary, boundary: int | None) -> npt.NDArray[np.bool_]:
    """For each label whether a word is complete before it."""
    if boundary is not None:
        return np.array([label == boundary for label in range(len(vocabulary))])
    if vocabulary.kind == "subwords":
        return np.array([label.startswith(WORD_MARK) for label in vocabulary.labels])
    return np.ones(len(vocabulary), bool)
