"""Reranker `first-executable`: the first candidate that runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from slt_sql_rerank import databases
from slt_sql_rerank.databases import DATABASE, Runs, Sandboxes
from slt_sql_rerank.sandbox.limits import Limits
from sltcore.interfaces import Reranker
from sltcore.types import ContextKey, Hypothesis

Check = Literal["run", "plan"]


class FirstExecutable(Reranker):
    """0 for a candidate that runs, -inf for one that does not; so the order among those that run stays.

    `run` executes candidates in order, in the sandbox and within `seconds` each, and stops at the first that gives rows (any
    result, where `empty` counts); those behind it are only planned. `plan` executes none. Where none gives rows, those that
    gave an empty result come first.

    **Source**: the rule of Li et al., "RESDSQL", AAAI 2023, arXiv:2302.05965, section 3.5, which takes the first of a beam
    that executes. Whether empty results count is ours.
    """

    def __init__(self, sandboxes: Sandboxes, *, check: Check = "run", empty: bool = True, seconds: float = 2.0) -> None:
        self.sandboxes = sandboxes
        self.check = check
        self.empty = empty
        self.seconds = seconds

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`database`."""
        return (DATABASE,)

    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[float]:
        """0, -1 for an empty result that does not count, or -inf. **Raises** `ContextError` without a database."""
        (database,) = databases.given(context)
        sandbox = self.sandboxes.of(database)
        verdicts = sandbox.check_all([hypothesis.text for hypothesis in hypotheses])
        scores = [0.0 if verdict.ok else -math.inf for verdict in verdicts]
        if self.check == "run":
            self._run(sandbox, hypotheses, scores)
        return scores

    def _run(self, sandbox: Runs, hypotheses: Sequence[Hypothesis], scores: list[float]) -> None:
        for place, hypothesis in enumerate(hypotheses):
            if scores[place] == -math.inf:
                continue
            result = sandbox.execute(hypothesis.text, self.seconds)
            if not result.ok:
                scores[place] = -math.inf
            elif result.rows or self.empty:
                return
            else:
                scores[place] = -1.0


def build_sandboxes(memory_mb: int, rows: int) -> Sandboxes:
    """Sandboxes with these caps."""
    return Sandboxes(Limits(memory_bytes=memory_mb << 20, rows=rows, cells=10 * rows))
