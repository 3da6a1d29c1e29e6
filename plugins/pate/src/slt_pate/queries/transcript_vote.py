"""Transcript vote: which of a few public texts an utterance is, one query for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from slt_pate.next_token import encode, prefixes
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
    read_inputs,
    silent,
)
from slt_pate.queries.sources import CandidateList, PublicModel, require_public
from slt_pate.rows import readings
from sltcore.errors import PortError, PrivacyError, VocabularyError
from sltcore.interfaces.decoder import spelling
from sltcore.types import Hypothesis, NBest


class TranscriptVote(Design):
    """Which candidate an utterance is. Candidates are a public model's n-best list, or a list in the spec.

    A teacher votes by the score that its decoder gives each candidate: `score` where the decoder has it, else the sum over
    `next_token`, else, for other models, the place in its own n-best list. A teacher that ranks no candidate abstains. The
    cheapest design: one query an utterance, however long it is. No candidate may be right, which no vote can mend.

    **Source**: Papernot et al. 2018 for the vote; candidates from a public n-best list are ours.
    """

    name = "transcript"

    def __init__(self, source: PublicModel | CandidateList, *, n_best: int = 8, batch: int = 8) -> None:
        self.source = require_public(source, query=self.name, kinds=(PublicModel, CandidateList))
        self.n_best, self.batch = n_best, batch
        self._lists: dict[str, tuple[str, ...]] = {}

    def statement(self) -> Statement:
        return Statement(
            "one query for each utterance: which of its candidates it is",
            SENSITIVITY,
            "1 for each utterance, none where there is a single candidate",
            f"candidates: {self.source.origin}",
        )

    def most_queries(self, utterances: int) -> int:
        return utterances

    def count(self, utterances: Sequence[Utterance]) -> int:
        return sum(len(texts) > 1 for texts in self.candidates(utterances))

    def candidates(self, utterances: Sequence[Utterance]) -> list[tuple[str, ...]]:
        """The texts that are voted on, for each utterance, without empty ones."""
        if isinstance(self.source, CandidateList):
            return [tuple(dict.fromkeys(self.source.texts))] * len(utterances)
        missing = [one for one in utterances if one.name not in self._lists]
        for one, nbest in zip(missing, readings(self.source.pipeline, [one.row for one in missing]), strict=True):
            texts = dict.fromkeys(" ".join(each.text.split()) for each in nbest)
            self._lists[one.name] = tuple(text for text in texts if text)[: self.n_best]
        return [self._lists[one.name] for one in utterances]

    def label(self, teachers: Sequence[Any], utterances: Sequence[Utterance], ask: Ask) -> list[str | None]:
        if all(teacher is None for teacher in teachers):
            raise PrivacyError("no teacher has any data; expected at least one shard that is not empty")
        found: list[str | None] = []
        for part in in_batches(utterances, self.batch):
            lists = self.candidates(part)
            open_rows = [row for row, texts in enumerate(lists) if len(texts) > 1]
            labels: list[str | None] = [texts[0] if len(texts) == 1 else None for texts in lists]
            if open_rows:
                asked = [part[row] for row in open_rows]
                texts = [lists[row] for row in open_rows]
                scored = [_scored(teacher, asked, texts) for teacher in teachers]
                questions = [
                    Question(one.name, np.stack([rows[place] for rows in scored])) for place, one in enumerate(asked)
                ]
                for row, answer in zip(open_rows, ask(questions).tolist(), strict=True):
                    labels[row] = None if answer == NOTHING else lists[row][answer]
            found += labels
        return found


def _scored(teacher: Any, part: Sequence[Utterance], lists: Sequence[tuple[str, ...]]) -> list[Scores]:
    """One row [k] for each utterance."""
    if teacher is None:
        return [silent(len(texts)) for texts in lists]
    decoder = getattr(teacher, "parts", {}).get("decoder")
    if decoder is None or getattr(decoder, "vocabulary", None) is None:
        return _ranked(teacher, part, lists)
    with torch.inference_mode():
        encoded = encode(teacher, read_inputs(teacher, part))
        spelled = [NBest(Hypothesis(text, 0.0, tuple(_spelled(decoder, text))) for text in texts) for texts in lists]
        if _has_score(decoder):
            table = decoder.score(encoded, spelled).double().cpu().numpy()
            return [_finite(table[row, : len(texts)]) for row, texts in enumerate(lists)]
        try:
            return [_summed(teacher, encoded, row, nbest) for row, nbest in enumerate(spelled)]
        except PortError:
            return _ranked(teacher, part, lists)


def _has_score(decoder: Any) -> bool:
    from sltcore.interfaces import Decoder
    from sltcore.interfaces.part import overrides

    return overrides(decoder, "score", Decoder)


def _spelled(decoder: Any, text: str) -> list[int]:
    try:
        return spelling(decoder.vocabulary, text)
    except VocabularyError as error:
        raise PrivacyError(
            f"a candidate cannot be written by the teachers: {error}; give candidates in their labels"
        ) from None


def _finite(row: Scores) -> Scores:
    """Scores of a teacher; it has nothing to say where it can write none of the texts."""
    return row if np.isfinite(row).any() else silent(len(row))


def _summed(teacher: Any, encoded: Any, row: int, nbest: NBest) -> Scores:
    """ln P(text | frames) of each candidate of one utterance, label by label."""
    lengths = encoded.lengths[row : row + 1].expand(len(nbest))
    values = encoded.values[row : row + 1].expand(len(nbest), -1, -1)
    running = prefixes(teacher, encoded._replace(values=values, lengths=lengths))
    longest = max(len(one.tokens) for one in nbest)
    total = np.zeros(len(nbest))
    for place in range(longest + 1):
        table = running.log_probs().cpu().numpy()
        written = []
        for k, one in enumerate(nbest):
            token = one.tokens[place] if place < len(one.tokens) else running.end
            if place <= len(one.tokens):
                total[k] += table[k, token]
            written.append(token if token != running.end else (0 if running.end else 1))
        if place < longest:
            running.advance(torch.tensor(written, dtype=torch.int64))
    return _finite(total)


def _ranked(teacher: Any, part: Sequence[Utterance], lists: Sequence[tuple[str, ...]]) -> list[Scores]:
    """-place in the teacher's own n-best list, the highest for its first; -inf for what it does not name."""
    found = []
    for nbest, texts in zip(readings(teacher, [one.row for one in part]), lists, strict=True):
        places = {" ".join(one.text.split()): -float(place) for place, one in reversed(list(enumerate(nbest)))}
        found.append(_finite(np.array([places.get(text, -np.inf) for text in texts])))
    return found
