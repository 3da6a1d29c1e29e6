"""ROVER vote: word slots of a public model's n-best list, and what the teachers' own transcripts put into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from slt_pate.queries.design import (
    NOTHING,
    SENSITIVITY,
    Ask,
    Design,
    Question,
    Scores,
    Statement,
    Utterance,
    in_batches,
    silent,
)
from slt_pate.queries.sources import PublicModel, require_public
from slt_pate.queries.token_vote import Unsure
from slt_pate.rows import readings
from sltcore.errors import PrivacyError

GAP, SUBSTITUTION = 3, 4
"""What an insertion or deletion costs in an alignment, and a substitution."""


class RoverVote(Design):
    """Which words stand in each slot where the hypotheses of a public n-best list differ.

    Every hypothesis is aligned with the list's first one (`fill`). That gives a slot for each of its words and
    one for each gap, with the fillings that occur; slots with one filling are no question. A teacher's best transcript is
    aligned the same way and votes in each slot for its own filling, or abstains where the list has no such one. Only public
    hypotheses make slots and fillings.

    **Source**: Fiscus, "A post-processing system to yield reduced word error rates: ROVER", 1997,
    doi:10.1109/ASRU.1997.659110. Slots come from the public list alone, where ROVER merges what all systems say.
    """

    name = "rover"

    def __init__(
        self, public: PublicModel, *, n_best: int = 8, most_slots: int = 100, batch: int = 8, unsure: Unsure = "drop"
    ) -> None:
        self.public = require_public(public, query=self.name)
        self.n_best, self.most_slots, self.batch, self.unsure = n_best, most_slots, batch, unsure
        self._lists: dict[str, tuple[list[str], list[tuple[str, ...]]]] = {}

    def statement(self) -> Statement:
        return Statement(
            "one query for each slot in which the public hypotheses of an utterance differ: which of their words stand there",
            SENSITIVITY,
            f"as many as there are such slots, at most {self.most_slots} for each utterance; others are not asked about",
            f"slots and words: n-best lists of a public model ({self.public.origin})",
        )

    def most_queries(self, utterances: int) -> int:
        return utterances * self.most_slots

    def count(self, utterances: Sequence[Utterance]) -> int:
        return sum(len(_open(fillings)) for _, fillings in self.slots_of(utterances))

    def slots_of(self, utterances: Sequence[Utterance]) -> list[tuple[list[str], list[tuple[str, ...]]]]:
        """The words of the first hypothesis, and the fillings of its slots: gap, word, gap, …, gap."""
        missing = [one for one in utterances if one.name not in self._lists]
        for one, nbest in zip(missing, readings(self.public.pipeline, [one.row for one in missing]), strict=True):
            words = [each.text.split() for each in nbest[: self.n_best]]
            columns = [fill(words[0], each) for each in words]
            fillings = [tuple(dict.fromkeys(each[slot] for each in columns)) for slot in range(len(columns[0]))]
            self._lists[one.name] = (words[0], fillings if len(_open(fillings)) <= self.most_slots else [])
        return [self._lists[one.name] for one in utterances]

    def label(self, teachers: Sequence[Any], utterances: Sequence[Utterance], ask: Ask) -> list[str | None]:
        if all(teacher is None for teacher in teachers):
            raise PrivacyError("no teacher has any data; expected at least one shard that is not empty")
        found: list[str | None] = []
        for part in in_batches(utterances, self.batch):
            said = [None if one is None else readings(one, [each.row for each in part]) for one in teachers]
            for row, (one, (words, fillings)) in enumerate(zip(part, self.slots_of(part), strict=True)):
                columns = [None if each is None else fill(words, each[row].text.split()) for each in said]
                found.append(self._text(one, fillings, columns, ask) if fillings else None)
        return found

    def _text(
        self,
        utterance: Utterance,
        fillings: Sequence[tuple[str, ...]],
        columns: Sequence[list[str] | None],
        ask: Ask,
    ) -> str | None:
        chosen = [texts[0] for texts in fillings]
        slots = _open(fillings)
        questions = [Question(f"{utterance.name}/{slot}", _scores(slot, fillings[slot], columns)) for slot in slots]
        for slot, answer in zip(slots, ask(questions).tolist() if questions else [], strict=True):
            if answer != NOTHING:
                chosen[slot] = fillings[slot][answer]
            elif self.unsure == "drop":
                return None
        return " ".join(" ".join(chosen).split())


def _open(fillings: Sequence[tuple[str, ...]]) -> list[int]:
    return [slot for slot, texts in enumerate(fillings) if len(texts) > 1]


def _scores(slot: int, texts: tuple[str, ...], columns: Sequence[list[str] | None]) -> Scores:
    rows = []
    for column in columns:
        if column is None or column[slot] not in texts:
            rows.append(silent(len(texts)))
        else:
            rows.append(np.where(np.arange(len(texts)) == texts.index(column[slot]), 0.0, -np.inf))
    return np.stack(rows)


def fill(backbone: Sequence[str], words: Sequence[str]) -> list[str]:
    """What `words` put into the slots of a backbone of n words: 2 n + 1 texts for gap, word, gap, …, gap.

    By the alignment with the least cost, an insertion or deletion 3 and a substitution 4, as NIST's sclite weighs them;
    among equals the one whose pairs stand further right.
    """
    n, m = len(backbone), len(words)
    cost = np.zeros((n + 1, m + 1), dtype=np.int64)
    cost[:, 0], cost[0, :] = GAP * np.arange(n + 1), GAP * np.arange(m + 1)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            pair = cost[i - 1, j - 1] + SUBSTITUTION * (backbone[i - 1] != words[j - 1])
            cost[i, j] = min(pair, cost[i - 1, j] + GAP, cost[i, j - 1] + GAP)
    slots: list[list[str]] = [[] for _ in range(2 * n + 1)]
    i, j = n, m
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + SUBSTITUTION * (backbone[i - 1] != words[j - 1]):
            slots[2 * i - 1].append(words[j - 1])
            i, j = i - 1, j - 1
        elif i and cost[i, j] == cost[i - 1, j] + GAP:
            i -= 1
        else:
            slots[2 * i].append(words[j - 1])
            j -= 1
    return [" ".join(reversed(each)) for each in slots]
