"""A distribution over sets of clauses that are written one after another."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slt_sql_rerank.clauses import CLAUSES, FUNCTIONS, PLACE
from slt_sql_rerank.query_plan.distribution import Distribution, Set, Vector
from sltcore.errors import SpecError

if TYPE_CHECKING:
    from slt_sql_rerank.query_plan.heads import SequenceHead

END = len(CLAUSES)
START = END + 1
COUNT = START + 1
ENOUGH = 0.995
MOST_SETS = 400


def _follows() -> NDArray[np.bool_]:
    """Whether label j may follow label i [n n]: later ones may, a direction after ORDER BY alone, an aggregate after `agg`."""
    table = np.zeros((COUNT, COUNT), dtype=np.bool_)
    directions, functions = {PLACE["asc"], PLACE["desc"]}, {PLACE[name] for name in FUNCTIONS}
    for before in (*range(END), START):
        for after in range(0 if before == START else before + 1, END):
            if after in directions:
                table[before, after] = before in {PLACE["order"], PLACE["asc"]}
            elif after in functions:
                table[before, after] = before == PLACE["agg"] or before in functions
            else:
                table[before, after] = before != PLACE["order"]
        table[before, END] = before != PLACE["order"]
    table[END, END] = True
    return table


NEXT = _follows()


class SequenceDistribution(Distribution):
    """The chain of a `SequenceHead` for one question; what follows a prefix is computed once.

    `among` must be the first clauses in canonical order: then the probability of a set is that of its prefix times that of
    going on behind them.
    """

    def __init__(self, head: SequenceHead, hidden: Vector) -> None:
        """Hidden [d]."""
        self._weights = {name: value.detach().cpu().numpy() for name, value in head.state_dict().items()}
        self._hidden = hidden.astype(np.float32)
        self._states: dict[tuple[int, ...], Any] = {}
        self._logs: dict[tuple[int, ...], Vector] = {}

    def following(self, prefix: tuple[int, ...]) -> Vector:
        """Log-probabilities [n] of the label after a prefix of ids."""
        if prefix not in self._logs:
            w = self._weights
            state = self._state(prefix)
            before = prefix[-1] if prefix else START
            scores = (w["output.weight"] @ state + w["output.bias"]) / w["temperature"][0]
            scores = np.where(NEXT[before], scores, -np.inf).astype(np.float64)
            self._logs[prefix] = scores - np.logaddexp.reduce(scores)
        return self._logs[prefix]

    def _state(self, prefix: tuple[int, ...]) -> Any:
        if prefix not in self._states:
            w = self._weights
            if prefix:
                old, before = self._state(prefix[:-1]), prefix[-1]
            else:
                old, before = np.tanh(w["begin.weight"] @ self._hidden + w["begin.bias"]), START
            given = np.concatenate([w["inputs.weight"][before], self._hidden])
            self._states[prefix] = _gru(w, given, old)
        return self._states[prefix]

    def log_prob(self, chosen: Set, among: Sequence[str] = CLAUSES) -> float:
        """By the chain; -inf where no query has this set."""
        return sum(self.terms(chosen, among).values())

    def terms(self, chosen: Set, among: Sequence[str] = CLAUSES) -> Mapping[str, float]:
        """log P of each clause that is there given those before it, and of nothing more (`end`)."""
        last = _first(tuple(among))
        ids = tuple(place for place in range(last) if CLAUSES[place] in chosen)
        found = {CLAUSES[place]: float(self.following(ids[:step])[place]) for step, place in enumerate(ids)}
        reachable = all(value > -np.inf for value in found.values())
        found["end"] = self._leaves(ids, last) if reachable else -np.inf
        return found

    def _leaves(self, prefix: tuple[int, ...], last: int) -> float:
        """Log-probability that no clause before place `last` follows."""
        return float(np.logaddexp.reduce(self.following(prefix)[last : END + 1]))

    def best(self, count: int, among: Sequence[str] = CLAUSES) -> list[tuple[Set, float]]:
        """Exact, by best-first search."""
        return list(islice(self._sorted(_first(tuple(among))), count))

    def _sorted(self, last: int) -> Iterator[tuple[Set, float]]:
        """All sets, most probable first: a prefix is never less probable than what it begins."""
        waiting: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        while waiting:
            cost, ids = heapq.heappop(waiting)
            if ids and ids[-1] == END:
                yield frozenset(CLAUSES[place] for place in ids[:-1]), -cost
                continue
            logs = self.following(ids)
            for place in np.flatnonzero(logs[:last] > -np.inf).tolist():
                heapq.heappush(waiting, (cost - float(logs[place]), (*ids, place)))
            leaves = self._leaves(ids, last)
            if leaves > -np.inf:
                heapq.heappush(waiting, (cost - leaves, (*ids, END)))

    def marginals(self) -> Mapping[str, float]:
        """Over the most probable sets that have 0.995 of the probability together, or the first 400, normalised."""
        found = dict.fromkeys(CLAUSES, 0.0)
        total = 0.0
        for names, score in islice(self._sorted(END), MOST_SETS):
            share = float(np.exp(score))
            total += share
            for name in names:
                found[name] += share
            if total > ENOUGH:
                break
        return {name: value / total for name, value in found.items()}


@lru_cache
def _first(among: tuple[str, ...]) -> int:
    if among != CLAUSES[: len(among)]:
        raise SpecError(f"a sequence model speaks of the first clauses in canonical order, not of {', '.join(among)}")
    return len(among)


def _gru(w: Mapping[str, Any], given: Any, old: Any) -> Any:
    """One step of torch's GRUCell: n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h' = (1 - z) n + z h."""
    from_input = w["cell.weight_ih"] @ given + w["cell.bias_ih"]
    from_state = w["cell.weight_hh"] @ old + w["cell.bias_hh"]
    (ri, zi, ni), (rh, zh, nh) = np.split(from_input, 3), np.split(from_state, 3)
    reset, update = 1 / (1 + np.exp(-(ri + rh))), 1 / (1 + np.exp(-(zi + zh)))
    return (1 - update) * np.tanh(ni + reset * nh) + update * old
