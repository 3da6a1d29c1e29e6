"""What a plan model says of one question: a distribution over sets of clauses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slt_sql_rerank.clauses import CLAUSES, PLACE, is_valid

Vector = NDArray[np.float64]
Set = frozenset[str]


class Distribution(ABC):
    """Probabilities of sets of clauses of one question; natural logs.

    `among` restricts it to some clauses: the probability of a set is then that of all sets that agree with it on them.
    """

    @abstractmethod
    def log_prob(self, chosen: Set, among: Sequence[str] = CLAUSES) -> float:
        """Of a set of clauses, of which those outside `among` do not count."""

    @abstractmethod
    def terms(self, chosen: Set, among: Sequence[str] = CLAUSES) -> Mapping[str, float]:
        """`log_prob` as a sum over clauses, up to a constant of the question: what each one adds."""

    @abstractmethod
    def best(self, count: int, among: Sequence[str] = CLAUSES) -> list[tuple[Set, float]]:
        """The `count` most probable sets, or as many as there are, and their logs; best first, ties in canonical order."""

    @abstractmethod
    def marginals(self) -> Mapping[str, float]:
        """The probability of each clause."""


class Block(NamedTuple):
    """Clauses that hang together, and their valid states [s m] as zeros and ones."""

    members: tuple[str, ...]
    states: Vector
    names: tuple[Set, ...]


def _blocks() -> tuple[Block, ...]:
    groups = [("order", "asc", "desc"), ("agg", "count", "max", "min", "sum", "avg")]
    tied = {name for group in groups for name in group}
    groups += [(name,) for name in CLAUSES if name not in tied]
    found = []
    for members in groups:
        every = product((0.0, 1.0), repeat=len(members))
        named = [(bits, frozenset(n for n, bit in zip(members, bits, strict=True) if bit)) for bits in every]
        valid = [(bits, names) for bits, names in named if is_valid(names)]
        found.append(Block(members, np.array([bits for bits, _ in valid]), tuple(names for _, names in valid)))
    return tuple(found)


BLOCKS = _blocks()


class LabelDistribution(Distribution):
    """Clauses by themselves, as far as they can be together.

        p(Y) proportional to prod_c p_c^[c in Y] (1 - p_c)^[c not in Y]  for the sets that a query can have, else 0

    with p_c = sigmoid(logit_c): ORDER BY hangs together with its direction and `agg` with the aggregates, the rest is
    independent. Its logarithm is the sum of the soft rule and a constant.
    """

    def __init__(self, logits: Vector) -> None:
        """Logits [c] in canonical order."""
        self.logits = dict(zip(CLAUSES, logits.tolist(), strict=True))
        self._tables: dict[tuple[str, ...], list[dict[Set, float]]] = {}

    def _projected(self, among: Sequence[str]) -> list[dict[Set, float]]:
        """For each block the normalised logs of its states, states that agree on `among` added up."""
        key = tuple(among)
        if key not in self._tables:
            kept = frozenset(among)
            self._tables[key] = [self._table(block, kept) for block in BLOCKS if not kept.isdisjoint(block.members)]
        return self._tables[key]

    def _table(self, block: Block, kept: Set) -> dict[Set, float]:
        scores = block.states @ np.array([self.logits[name] for name in block.members])
        scores -= np.logaddexp.reduce(scores)
        table: dict[Set, float] = {}
        for names, score in zip(block.names, scores.tolist(), strict=True):
            shown = names & kept
            table[shown] = float(np.logaddexp(table[shown], score)) if shown in table else score
        return table

    def log_prob(self, chosen: Set, among: Sequence[str] = CLAUSES) -> float:
        """Of a set; -inf where no query has it."""
        kept, left, total = frozenset(among), 0, 0.0
        for table in self._projected(among):
            own = chosen & kept & frozenset().union(*table)
            left += len(own)
            total += table.get(own, -np.inf)
        return total if left == len(chosen & kept) else -np.inf

    def terms(self, chosen: Set, among: Sequence[str] = CLAUSES) -> Mapping[str, float]:
        """log p_c of what is there, log(1 - p_c) of what is not."""
        signed = {name: self.logits[name] if name in chosen else -self.logits[name] for name in among}
        return {name: -float(np.logaddexp(0.0, -logit)) for name, logit in signed.items()}

    def best(self, count: int, among: Sequence[str] = CLAUSES) -> list[tuple[Set, float]]:
        """Exact: blocks are independent, so no set is among the best whose part is not."""
        found: list[tuple[Set, float]] = [(frozenset(), 0.0)]
        for table in self._projected(among):
            joined = [(names | own, score + more) for names, score in found for own, more in table.items()]
            found = sorted(joined, key=by_score)[:count]
        return found

    def marginals(self) -> Mapping[str, float]:
        """Sums over the states of each clause's block."""
        found: dict[str, float] = {}
        for block, table in zip(BLOCKS, self._projected(CLAUSES), strict=True):
            for name in block.members:
                found[name] = float(sum(np.exp(score) for names, score in table.items() if name in names))
        return found


def by_score(entry: tuple[Set, float]) -> tuple[float, tuple[int, ...]]:
    """Sorts the most probable first, and equals in canonical order."""
    names, score = entry
    return -score, tuple(sorted(map(PLACE.__getitem__, names)))
