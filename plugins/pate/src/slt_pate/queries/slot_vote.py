"""Slot vote for CTC: a public model says where labels are, the teachers say which."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slt_pate.next_token import encode
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
from slt_pate.queries.token_vote import Unsure
from sltcore import ctc
from sltcore.alignment.posteriors import ctc_head
from sltcore.errors import PrivacyError

SlotKind = Literal["labels", "frames"]


class Slot(NamedTuple):
    """A stretch of an utterance in seconds, [start_s, stop_s), and the public model's label for it."""

    start_s: float
    stop_s: float
    label: int


class SlotVote(Design):
    """Which label stands in each slot, or none.

    `slots: labels`: the public model's best path gives one slot for each label that it writes; borders lie halfway between
    neighbouring labels, and slots cover the utterance. A teacher's class scores are the probabilities that its own frames
    in the slot read as nothing at all or as exactly one label c:

        P(nothing) = prod_t p_t(blank),   P(c) = sum over paths blank* c+ blank* of their probability.

    `slots: frames`: every frame of the public model is a slot and the released path is collapsed; as many queries as
    frames, so budgets are gone soon. Which frames or slots there are is the public model's word alone; asked from teachers
    it would be private. Where no answer comes, `unsure` says: the public model's label, or the utterance is given up.

    **Source**: CTC paths after Graves et al. 2006, doi:10.1145/1143844.1143891; the vote Papernot et al. 2018; slots from a
    public alignment are ours.
    """

    name = "slot"

    def __init__(
        self,
        public: PublicModel,
        *,
        slots: SlotKind = "labels",
        most_slots: int = 100,
        batch: int = 8,
        unsure: Unsure = "drop",
    ) -> None:
        self.public = require_public(public, query=self.name)
        self.slots, self.most_slots, self.batch, self.unsure = slots, most_slots, batch, unsure
        self._found: dict[str, list[Slot]] = {}

    def statement(self) -> Statement:
        each = "label that the public model writes" if self.slots == "labels" else "frame of the public model"
        return Statement(
            f"one query for each {each}: which label the teachers hear there, or none",
            SENSITIVITY,
            f"as many as there are slots, at most {self.most_slots} for each utterance; longer ones are not asked about",
            f"slots: the alignment of a public model ({self.public.origin})",
        )

    def most_queries(self, utterances: int) -> int:
        return utterances * self.most_slots

    def count(self, utterances: Sequence[Utterance]) -> int:
        return sum(map(len, self.slots_of(utterances)))

    def slots_of(self, utterances: Sequence[Utterance]) -> list[list[Slot]]:
        """The slots of each utterance; none where there are more than `most_slots`."""
        missing = [one for one in utterances if one.name not in self._found]
        for part in in_batches(missing, self.batch):
            for one, (frames, centres_s, shift_s) in zip(part, _posteriors(self.public.pipeline, part), strict=True):
                blank = ctc_head(self.public.pipeline).vocabulary.blank
                found = _slots(frames.argmax(-1).numpy(), centres_s, shift_s, blank=blank, kind=self.slots)
                self._found[one.name] = found if len(found) <= self.most_slots else []
        return [self._found[one.name] for one in utterances]

    def label(self, teachers: Sequence[Any], utterances: Sequence[Utterance], ask: Ask) -> list[str | None]:
        if all(teacher is None for teacher in teachers):
            raise PrivacyError("no teacher has any data; expected at least one shard that is not empty")
        head = ctc_head(self.public.pipeline)
        _refuse_other_labels([ctc_head(one).vocabulary.labels for one in teachers if one is not None], head)
        found: list[str | None] = []
        for part in in_batches(utterances, self.batch):
            heard = [None if one is None else _posteriors(one, part) for one in teachers]
            for row, (one, slots) in enumerate(zip(part, self.slots_of(part), strict=True)):
                questions = [
                    Question(f"{one.name}/{place}", self._scores(heard, row, slot, len(head.vocabulary)))
                    for place, slot in enumerate(slots)
                ]
                found.append(self._text(slots, ask(questions), head) if slots else None)
        return found

    def _scores(self, heard: Sequence[Any], row: int, slot: Slot, classes: int) -> Scores:
        rows = [silent(classes) if one is None else self._of(one[row], slot, classes) for one in heard]
        return np.stack(rows)

    def _of(self, posteriors: tuple[Tensor, NDArray[np.float64], float], slot: Slot, classes: int) -> Scores:
        frames, centres_s, _ = posteriors
        if not len(centres_s):
            return silent(classes)
        if self.slots == "frames":
            nearest = int(np.abs(centres_s - (slot.start_s + slot.stop_s) / 2).argmin())
            return frames[nearest].double().numpy()
        inside = np.flatnonzero((centres_s >= slot.start_s) & (centres_s < slot.stop_s))
        if not len(inside):
            return silent(classes)
        blank = ctc_head(self.public.pipeline).vocabulary.blank
        return one_label_scores(frames[inside[0] : inside[-1] + 1], blank)

    def _text(self, slots: Sequence[Slot], answers: NDArray[np.int64], head: ctc.Head) -> str | None:
        labels = [slot.label if answer == NOTHING else int(answer) for slot, answer in zip(slots, answers, strict=True)]
        if self.unsure == "drop" and (answers == NOTHING).any():
            return None
        if self.slots == "frames":
            labels = [label for place, label in enumerate(labels) if not place or label != labels[place - 1]]
        return head.vocabulary.decode([label for label in labels if label != head.vocabulary.blank])


def one_label_scores(frames: Tensor, blank: int) -> Scores:
    """ln P that frames [t v] (natural log) read as exactly one label, [v]; in the blank's place that they read as nothing."""
    frames = frames.double()
    v = frames.shape[1]
    before, inside, after = 0.0, frames.new_full((v,), -torch.inf), frames.new_full((v,), -torch.inf)
    for row in frames:
        after = torch.logaddexp(after, inside) + row[blank]
        inside = torch.logaddexp(inside, torch.full_like(inside, float(before))) + row
        before = before + float(row[blank])
    scores = torch.logaddexp(inside, after)
    scores[blank] = before
    found: Scores = scores.numpy()
    return found


def _slots(path: NDArray[Any], centres_s: NDArray[np.float64], shift_s: float, *, blank: int, kind: str) -> list[Slot]:
    half = shift_s / 2
    if kind == "frames":
        return [Slot(float(at) - half, float(at) + half, int(label)) for at, label in zip(centres_s, path, strict=True)]
    begins = np.flatnonzero(np.concatenate([[True], path[1:] != path[:-1]])) if len(path) else np.zeros(0, int)
    stops = np.concatenate([begins[1:], [len(path)]]).astype(int)
    runs = [(int(a), int(b), int(path[a])) for a, b in zip(begins, stops, strict=False) if path[a] != blank]
    if not runs:
        return []
    edges = [float(centres_s[0]) - half]
    for (_, stop, _), (start, _, _) in itertools.pairwise(runs):
        edges.append(float(centres_s[stop - 1] + centres_s[start]) / 2)
    edges.append(float(centres_s[-1]) + half)
    return [Slot(edges[place], edges[place + 1], label) for place, (_, _, label) in enumerate(runs)]


def _posteriors(pipeline: Any, part: Sequence[Utterance]) -> list[tuple[Tensor, NDArray[np.float64], float]]:
    """Log-posteriors [t v], centres of frames in seconds [t], and the frame shift, of each utterance."""
    head = ctc_head(pipeline)
    with torch.inference_mode():
        encoded = encode(pipeline, read_inputs(pipeline, part))
        frames = ctc.log_probs(head, encoded).cpu()
    shift = encoded.frame_shift_s
    found = []
    for row, length in enumerate(encoded.lengths.tolist()):
        centres = encoded.offset_s + shift * np.arange(length, dtype=np.float64)
        found.append((frames[row, :length], centres, shift))
    return found


def _refuse_other_labels(labels: Sequence[Any], head: ctc.Head) -> None:
    for other in labels:
        if tuple(other) != head.vocabulary.labels:
            raise PrivacyError(
                f"a teacher writes with {len(other)} labels, the public model with {len(head.vocabulary.labels)}; expected the "
                f"same vocabulary, as slots are filled label by label"
            )
