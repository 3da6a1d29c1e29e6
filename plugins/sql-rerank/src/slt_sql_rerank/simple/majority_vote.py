"""Reranker `majority-vote`: candidates that give the same rows vote for each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from slt_sql_rerank import databases
from slt_sql_rerank.databases import DATABASE, Sandboxes
from slt_sql_rerank.sandbox.outcome import Cell, Result
from sltcore.interfaces import Reranker
from sltcore.types import ContextKey, Hypothesis

Votes = Literal["probability", "count"]
Empty = Literal["vote", "alone", "last"]
DIGITS = 9


class MajorityVote(Reranker):
    """score_i = log of the votes of all candidates with the rows of candidate i.

        votes_j = exp(s_j) / sum_k exp(s_k), or 1 where `votes` is `count`

    Candidates that do not run within `seconds`, or give too much, have no vote and score -inf. Rows are compared as bags,
    column by column, numbers to 9 digits; as lists where `ordered`. An empty result votes like any other, stands alone with
    its own vote, or goes behind all that give rows but before those that fail (`last`). Equal scores keep first-pass order.

    **Source**: self-consistency, Wang et al. 2022, arXiv:2203.11171, over results as in Shi et al., "MBR-EXEC", 2022,
    arXiv:2204.11454.
    """

    def __init__(
        self,
        sandboxes: Sandboxes,
        *,
        votes: Votes = "probability",
        empty: Empty = "vote",
        ordered: bool = False,
        seconds: float = 2.0,
    ) -> None:
        self.sandboxes = sandboxes
        self.votes = votes
        self.empty = empty
        self.ordered = ordered
        self.seconds = seconds

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`database`."""
        return (DATABASE,)

    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[float]:
        """Logs of votes. **Raises** `ContextError` without a database."""
        (database,) = databases.given(context)
        sandbox = self.sandboxes.of(database)
        verdicts = sandbox.check_all([hypothesis.text for hypothesis in hypotheses])
        ran: dict[str, Result] = {}
        for hypothesis, verdict in zip(hypotheses, verdicts, strict=True):
            if verdict.ok and hypothesis.text not in ran:
                ran[hypothesis.text] = sandbox.execute(hypothesis.text, self.seconds)
        results = [ran.get(hypothesis.text) for hypothesis in hypotheses]
        return self.vote([hypothesis.score for hypothesis in hypotheses], results)

    def vote(self, scores: Sequence[float], results: Sequence[Result | None]) -> list[float]:
        """Logs of votes from first-pass scores and what ran; None: was not run."""
        keys = [self._key(place, result) for place, result in enumerate(results)]
        own = log_votes(scores) if self.votes == "probability" else [0.0] * len(scores)
        found = [
            -math.inf if key is None else log_sum(vote for vote, other in zip(own, keys, strict=True) if other == key)
            for key in keys
        ]
        if self.empty == "last":
            below = min((value for value in found if value > -math.inf), default=0.0) - 1.0
            behind = below - max((value for value in found if value > -math.inf), default=0.0)
            return [value + behind if is_empty(result) else value for value, result in zip(found, results, strict=True)]
        return found

    def _key(self, place: int, result: Result | None) -> Any:
        if result is None or not result.ok:
            return None
        if not result.rows and self.empty == "alone":
            return ("alone", place)
        return rows_key(result, ordered=self.ordered)


def rows_key(result: Result, *, ordered: bool) -> Any:
    """What two results share that are the same."""
    rows = [tuple(map(_cell, row)) for row in result.rows]
    return (len(result.columns), tuple(rows if ordered else sorted(rows, key=repr)))


def _cell(value: Cell) -> Any:
    if isinstance(value, float):
        short = float(f"{value:.{DIGITS}g}")
        return int(short) if short.is_integer() else short
    return value


def is_empty(result: Result | None) -> bool:
    """Whether it ran and gave no row."""
    return result is not None and result.ok and not result.rows


def log_votes(scores: Sequence[float]) -> list[float]:
    """log exp(s_i) / sum_j exp(s_j); equal shares where no score is finite."""
    finite = [-math.inf if math.isnan(score) else score for score in scores]
    total = log_sum(finite)
    return [score - total for score in finite] if math.isfinite(total) else [-math.log(len(finite))] * len(finite)


def log_sum(values: Any) -> float:
    """log sum exp, -inf of nothing."""
    listed = list(values)
    most = max(listed, default=-math.inf)
    if not math.isfinite(most):
        return most
    return most + math.log(sum(math.exp(value - most) for value in listed))
