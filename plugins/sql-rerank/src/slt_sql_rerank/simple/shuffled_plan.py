"""Reranker `shuffled-plan`: the plan of another question, which should help nobody."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from slt_sql_rerank.databases import DATABASE
from slt_sql_rerank.query_plan.reranker import QueryPlanReranker
from sltcore.errors import DataError
from sltcore.interfaces import Reranker
from sltcore.types import ContextKey, Hypothesis

FILE = "donors.jsonl"


class Donor(NamedTuple):
    """A question and the database it is about, where one is named."""

    question: str
    database: Any = None


QUESTIONS = (
    "How many ships are there?",
    "List the names of all members.",
    "What are the names and ages of players sorted by age in descending order?",
    "Which city has the most airports?",
    "Show the name of each teacher and the number of courses they teach.",
    "What is the average salary of employees hired after 2010?",
    "Find the titles of books that were never borrowed.",
    "Which genres have more than 3 songs?",
    "What are the ids of orders that are both paid and shipped?",
    "Give the cheapest product.",
    "How many different countries do the riders come from?",
    "What is the name of the youngest student who owns a dog?",
    "List customers whose name contains the word Smith.",
    "What are the stores with a size between 100 and 200?",
    "Show all years in which a film or a series was made.",
    "For each department, what is the highest budget?",
)
"""Of our own, for where no other questions are named."""


class ShuffledPlan(Reranker, nn.Module):
    """A `query-plan` reranker that is asked about another question, chosen by a hash of its own: the negative control.

    What it gains over first pass is not due to understanding the question. The donor is never the question itself.

    **Source**: own, a control for Zeng et al. 2022, arXiv:2210.10668.
    """

    def __init__(self, inner: QueryPlanReranker, donors: Sequence[Donor] = ()) -> None:
        """**Raises** `DataError` where fewer than two different questions are given."""
        super().__init__()
        self.inner = inner
        self.donors = tuple(donors) or tuple(Donor(question) for question in QUESTIONS)
        if len({donor.question for donor in self.donors}) < 2:
            raise DataError("shuffled-plan needs at least two different questions to choose another one from")

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`database`, for the candidates."""
        return (DATABASE,)

    def save_files(self) -> Mapping[str, bytes]:
        """The questions, so that a bundle goes on without the file they came from."""
        lines = [json.dumps(donor._asdict(), ensure_ascii=False) for donor in self.donors]
        return {FILE: "\n".join(lines).encode()}

    def donor(self, query: Any) -> Donor:
        """The question whose plan is taken."""
        text = str(query or "")
        start = int(hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(), 16) % len(self.donors)
        turned = (*self.donors[start:], *self.donors[:start])
        return next(donor for donor in turned if donor.question != text)

    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[float]:
        """The inner reranker's scores by the other question's plan."""
        donor = self.donor(query)
        return self.inner.score_by(donor.question, donor.database, hypotheses, context)


def read_donors(path: Path) -> list[Donor]:
    """Questions of a JSONL file with `question` and, where it is there, `database`. **Raises** `DataError` for another file."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found.append(Donor(str(row["question"]), row.get("database")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f'{path}: line {number} is no object with "question": {error}') from error
    return found
