"""Decoders `plan-labels` and `plan-sequence`: from a question and a schema to the clauses that the query needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slt_sql_rerank import databases
from slt_sql_rerank.clauses import CLAUSES, PLACE, clauses, from_text, written
from slt_sql_rerank.databases import DATABASE, schema_of
from slt_sql_rerank.parsing import read
from slt_sql_rerank.query_plan.distribution import Distribution
from slt_sql_rerank.query_plan.features import QuestionEncoder
from slt_sql_rerank.query_plan.heads import Head
from slt_sql_rerank.schema import Schema
from sltcore.context import per_utterance
from sltcore.errors import VocabularyError
from sltcore.interfaces import Decoder
from sltcore.interfaces.decoder import padded
from sltcore.types import ContextKey, Hypothesis, NBest, Port, Targets, Text
from sltcore.vocabulary import Vocabulary

SQL = ContextKey("sql", "text", "the gold query, of which plan models learn the clauses; not read otherwise")
NOWHERE = Schema("", [])
LABELS = ("<blank>", *CLAUSES)


class QueryPlan(Decoder, nn.Module):
    """h = encoder(question, schema); p(Y | question, schema) = head(h), Y a set of clauses.

    Its hypotheses are plans, `select where order`, with log p as score; the empty text is a plan without clauses. It sees
    no candidate and no first-pass score, so its errors are its own. Trained from gold SQL, whose clauses are read from its
    tree (`slt_sql_rerank.clauses`): as context `sql`, else as the text, which may also be a plan.

    **Source**: Zeng, Parthasarathi and Hakkani-Tur 2022, arXiv:2210.10668, which generates a plan by T5. Size, features and
    the set of clauses are ours.
    """

    def __init__(self, encoder: QuestionEncoder, head: Head, *, beam: int = 5) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.beam = beam
        self._vocabulary = Vocabulary(LABELS, kind="words", blank=0)

    @property
    def consumes(self) -> Port:
        """Questions."""
        return Port("Text")

    @property
    def produces(self) -> Port:
        """Plans."""
        return Port("Hypotheses")

    @property
    def vocabulary(self) -> Vocabulary:
        """The clauses in canonical order, behind a blank that is never written."""
        return self._vocabulary

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`database`, for its schema, and in training `sql`."""
        return (DATABASE, SQL)

    def targets(self, texts: Sequence[str], context: Mapping[str, Any]) -> Targets:
        """Ids of the clauses of each `sql` of the context, else of each text.

        **Raises** `VocabularyError` for what is neither SQL nor a plan.
        """
        gold = per_utterance(context, SQL, len(texts))
        rows = [wanted(sql if sql else text) for sql, text in zip(gold, texts, strict=True)]
        return padded([[1 + PLACE[name] for name in sorted(row, key=PLACE.__getitem__)] for row in rows])

    def loss(self, encoded: Any, targets: Targets, context: Mapping[str, Any]) -> Tensor:
        """The head's loss [b]; a target is a set, so neither order nor repetition counts."""
        hidden = self._hidden(encoded.texts, context)
        marks = hidden.new_zeros(len(encoded.texts), len(LABELS), dtype=torch.bool)
        inside = torch.arange(targets.ids.shape[1], device=hidden.device) < targets.lengths[:, None]
        marks.scatter_(1, torch.where(inside, targets.ids, 0), True)
        return self.head.loss(hidden, marks[:, 1:])

    def plans(self, questions: Sequence[str], schemas: Sequence[Schema | None]) -> list[Distribution]:
        """One distribution for each question; the same in training mode and in evaluation."""
        was = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self.head.distributions(self.encoder(questions, schemas))
        finally:
            self.train(was)

    def decode(self, encoded: Text, context: Mapping[str, Any]) -> list[NBest]:
        """The `beam` most probable plans of each question."""
        found = self.plans(encoded.texts, _schemas(context, len(encoded.texts)))
        return [
            NBest(
                Hypothesis(written(names), score, tuple(1 + PLACE[n] for n in sorted(names, key=PLACE.__getitem__)))
                for names, score in plan.best(self.beam)
            )
            for plan in found
        ]

    def _hidden(self, questions: Sequence[str], context: Mapping[str, Any]) -> Tensor:
        hidden: Tensor = self.encoder(questions, _schemas(context, len(questions)))
        return hidden


def _schemas(context: Mapping[str, Any], batch: int) -> list[Schema | None]:
    return [schema_of(database) for database in databases.given(context, batch)]


def wanted(text: str) -> frozenset[str]:
    """The clauses of a plan or of a query. **Raises** `VocabularyError` for what is neither."""
    if all(word == "select" or word in PLACE for word in text.lower().split()):
        return from_text(text)
    found = read(text, NOWHERE)
    if found.tree is None:
        raise VocabularyError(f"{text[:80]!r} is neither SQL nor a plan: {found.problem}")
    return clauses(found.tree)
