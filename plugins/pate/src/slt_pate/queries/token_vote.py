"""Token vote: all teachers continue the same prefix, which holds released tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from slt_pate.next_token import Prefixes, encode, prefixes
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
from slt_pate.queries.sources import PublicModel, require_public
from sltcore.errors import PrivacyError

Unsure = Literal["drop", "public"]


class TokenVote(Design):
    """At each place of the text, which label comes next, or whether the text ends.

    Works with the step interface, with transducers (exactly, summed over alignments; `TransducerPrefixes`) and with CTC
    (`CtcPrefixes`). Later questions depend on earlier released answers and on nothing else of the private data, which is
    why costs add up. Where the mechanism gives no answer, `unsure: public` takes the label that a public model would write
    behind that prefix, at no cost; `drop` gives the utterance up and asks no more about it. A text that has not ended after
    `max_tokens` labels is given up, too.

    **Source**: Papernot et al. 2018 for the vote; label-synchronous votes after Yang et al. 2022, whose own choice of the
    query is not established. The public continuation is ours.
    """

    name = "token"

    def __init__(
        self, *, max_tokens: int = 100, batch: int = 8, unsure: Unsure = "drop", public: PublicModel | None = None
    ) -> None:
        self.max_tokens, self.batch = max_tokens, batch
        self.public = None if unsure == "drop" else require_public(public, query=self.name)

    def statement(self) -> Statement:
        return Statement(
            "one query for each released token, the end of the text among them",
            SENSITIVITY,
            f"labels of a text plus one, at most {self.max_tokens} + 1 for each utterance",
            "the classes are the model's labels; the prefix holds released tokens"
            + (
                ""
                if self.public is None
                else f"; where no answer comes, labels of a public model ({self.public.origin})"
            ),
        )

    def most_queries(self, utterances: int) -> int:
        return utterances * (self.max_tokens + 1)

    def label(self, teachers: Sequence[Any], utterances: Sequence[Utterance], ask: Ask) -> list[str | None]:
        _refuse_other_labels(teachers, self.public)
        found: list[str | None] = []
        with torch.inference_mode():
            for part in in_batches(utterances, self.batch):
                found += self._batch(teachers, part, ask)
        return found

    def _batch(self, teachers: Sequence[Any], part: Sequence[Utterance], ask: Ask) -> list[str | None]:
        running = [None if teacher is None else _begun(teacher, part) for teacher in teachers]
        public = None if self.public is None else _begun(self.public.pipeline, part)
        vocabulary = next(teacher for teacher in teachers if teacher is not None).parts["decoder"].vocabulary
        first = next(one for one in running if one is not None)
        end, filler = first.end, _any_label(len(vocabulary), first.end)
        texts: list[list[int] | None] = [[] for _ in part]
        open_rows = list(range(len(part)))
        for place in range(self.max_tokens + 1):
            if not open_rows:
                break
            scores = [None if one is None else one.log_probs().cpu().numpy() for one in running]
            questions = [Question(f"{part[row].name}/{place}", _stacked(scores, row)) for row in open_rows]
            answers = ask(questions)
            likely = None if public is None else public.log_probs().argmax(-1)
            written = np.full(len(part), filler)
            for row, answer in zip(list(open_rows), answers.tolist(), strict=True):
                token = int(likely[row]) if answer == NOTHING and likely is not None else answer
                text = texts[row]
                assert text is not None
                if token in (NOTHING, end) or place == self.max_tokens:
                    open_rows.remove(row)
                    texts[row] = text if token == end else None
                else:
                    text.append(token)
                    written[row] = token
            tokens = torch.from_numpy(written)
            for one in (*running, public):
                if one is not None and open_rows:
                    one.advance(tokens)
        return [None if text is None else vocabulary.decode(text) for text in texts]


def _begun(pipeline: Any, part: Sequence[Utterance]) -> Prefixes:
    return prefixes(pipeline, encode(pipeline, read_inputs(pipeline, part)))


def _stacked(scores: Sequence[Scores | None], row: int) -> Scores:
    classes = next(one.shape[1] for one in scores if one is not None)
    return np.stack([silent(classes) if one is None else one[row] for one in scores])


def _any_label(classes: int, end: int) -> int:
    return 0 if end else min(1, classes - 1)


def _refuse_other_labels(teachers: Sequence[Any], public: PublicModel | None) -> None:
    """**Raises** `PrivacyError` where two models would not mean the same by a class."""
    models = [*(one for one in teachers if one is not None), *([] if public is None else [public.pipeline])]
    if all(teacher is None for teacher in teachers):
        raise PrivacyError("no teacher has any data; expected at least one shard that is not empty")
    labels = [getattr(model.parts["decoder"].vocabulary, "labels", None) for model in models]
    for other in labels[1:]:
        if other != labels[0]:
            raise PrivacyError(
                f"two models that vote on tokens write with different labels, {len(labels[0] or ())} and {len(other or ())} of "
                f"them; expected the same vocabulary, as votes are counted label by label"
            )
