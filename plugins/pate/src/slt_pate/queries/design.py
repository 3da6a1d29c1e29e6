"""What every query design states, and how it puts its questions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slt_pate.rows import id_of, item_of
from sltcore.errors import PrivacyError

Scores = NDArray[np.float64]

NOTHING = -1
"""In answers: the mechanism gave none."""


class Statement(NamedTuple):
    """What a privacy officer is told about a design: what one query is, what one unit can change, how many there are."""

    query: str
    sensitivity: str
    queries: str
    source: str


SENSITIVITY = (
    "one unit is in one teacher's shard, so it changes that teacher's answer and no other: in every query at most one vote "
    "moves, two counts by one each (sqrt(2) in L2, 2 in L1), or in votes of posteriors one teacher's distribution "
    "(sqrt(2) in L2, 2 in L1, in votes); the changes add up over all queries"
)


@dataclass(frozen=True)
class Question:
    """One query: what each teacher thinks of each class.

    `scores` [m v] float64, natural log, need not be normalised; a row of NaN is a teacher that has nothing to say. `key`
    names the query by public facts alone, and is the same when a run is taken up again.
    """

    key: str
    scores: Scores = field(repr=False)

    def votes(self) -> NDArray[np.int64]:
        """How many teachers like each class best, int64 [v]; equal scores go to the lower class."""
        speaking = self.scores[~np.isnan(self.scores).any(axis=1)]
        return np.bincount(speaking.argmax(axis=1), minlength=self.scores.shape[1]).astype(np.int64)

    def posteriors(self) -> Scores:
        """Each teacher's distribution [m v]; of one that has nothing to say the uniform one."""
        scores = np.where(np.isnan(self.scores).any(axis=1, keepdims=True), 0.0, self.scores)
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        normalised: Scores = shifted / shifted.sum(axis=1, keepdims=True)
        return normalised


Ask = Callable[[Sequence[Question]], NDArray[np.int64]]
"""Puts questions: the class that each released answer names [q] int64, NOTHING where there is none."""


class Utterance(NamedTuple):
    """A public recording that is asked about: its row, and a name for its queries."""

    name: str
    row: Any


class Design(ABC):
    """A way to ask teachers about sequences."""

    name: str

    @abstractmethod
    def statement(self) -> Statement:
        """Unit, sensitivity and number of its queries, and where what is voted on comes from."""

    @abstractmethod
    def most_queries(self, utterances: int) -> int:
        """The most queries that so many utterances can take, known without any data."""

    def count(self, utterances: Sequence[Utterance]) -> int:
        """The most queries that these public utterances take; may look at them, never at teachers."""
        return self.most_queries(len(utterances))

    @abstractmethod
    def label(self, teachers: Sequence[Any], utterances: Sequence[Utterance], ask: Ask) -> list[str | None]:
        """A transcript for each utterance from released answers alone, None where they are too few.

        `teachers` are models, None where a shard was empty. **Raises** what asking raises.
        """


def utterances_of(rows: Sequence[Any]) -> list[Utterance]:
    """Rows with their names. **Raises** `PrivacyError` where two have the same: their answers would be mixed up."""
    found = [Utterance(id_of(row, place), row) for place, row in enumerate(rows)]
    names: set[str] = set()
    for one in found:
        if one.name in names:
            raise PrivacyError(
                f"two public utterances have the id '{one.name}'; expected one each, as ids name the queries"
            )
        names.add(one.name)
    return found


def silent(classes: int) -> Scores:
    """The scores [v] of a teacher that has nothing to say."""
    return np.full(classes, np.nan)


def read_inputs(pipeline: Any, utterances: Sequence[Utterance]) -> list[Any]:
    """The utterances as the pipeline's first stage takes them."""
    return [pipeline.read(item_of(one.row)) for one in utterances]


def in_batches(utterances: Sequence[Utterance], size: int) -> list[Sequence[Utterance]]:
    """Parts of at most `size`, in order."""
    return [utterances[begin : begin + size] for begin in range(0, len(utterances), size)]
