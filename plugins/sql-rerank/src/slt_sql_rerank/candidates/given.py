"""Decoder `candidates`: what some text-to-SQL model has given, from the call or from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slt_sql_rerank.candidates.distinct import distinct
from slt_sql_rerank.ranking import candidate, read_lists
from sltcore.context import per_utterance
from sltcore.errors import ContextError, DataError
from sltcore.interfaces import Decoder
from sltcore.types import ContextKey, Hypothesis, NBest, Port, Text

CANDIDATES = ContextKey(
    "candidates", "any", "the candidates of each question: a list of lists of SQL, of {sql, score}, or of hypotheses"
)
NOTHING = NBest([Hypothesis("")])


class Candidates(Decoder):
    """Best first, spellings of one query merged.

    A question's candidates are those of the context, else those of the file's line with that question, else the one empty
    text. Without scores the first is the best, as place 0, -1, -2.

    **Source**: own; queries are merged because a beam's ten are often one query in several spellings.
    """

    def __init__(self, file: str = "") -> None:
        """**Raises** `DataError` for a file that holds no lists, or one question twice with other candidates."""
        self._lists: dict[str, NBest] = {}
        for one in read_lists(file) if file else ():
            found = distinct(one.candidates)
            if self._lists.setdefault(one.question, found) != found:
                raise DataError(f"{file} holds the question {one.question[:80]!r} twice, with other candidates")

    @property
    def consumes(self) -> Port:
        """Questions."""
        return Port("Text")

    @property
    def produces(self) -> Port:
        """Candidates."""
        return Port("Hypotheses")

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`candidates`."""
        return (CANDIDATES,)

    def decode(self, encoded: Text, context: Mapping[str, Any]) -> list[NBest]:
        """One list for each question. **Raises** `ContextError` or `DataError` for what is no list of candidates."""
        given = per_utterance(context, CANDIDATES, len(encoded.texts)) if context.get("candidates") else None
        if given is None:
            return [self._lists.get(question, NOTHING) for question in encoded.texts]
        return [
            self._lists.get(question, NOTHING) if not own else read_given(own)
            for question, own in zip(encoded.texts, given, strict=True)
        ]


def read_given(own: Any) -> NBest:
    """The candidates of one question."""
    if not isinstance(own, list | tuple):
        raise ContextError(
            f"context 'candidates' has a {type(own).__name__} for a question; expected a list of candidates for each question"
        )
    return distinct(
        one if isinstance(one, Hypothesis) else candidate(one, place, "context 'candidates'")
        for place, one in enumerate(own)
    )
