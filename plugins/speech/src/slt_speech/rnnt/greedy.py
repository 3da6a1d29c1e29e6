"""Greedy search of a transducer, label by label for a whole batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from slt_speech.ctc_greedy import Run
from slt_speech.rnnt.joint import Joint
from slt_speech.rnnt.prediction import PredictionNetwork

AHEAD = 12
"""Frames of an utterance that are joined at a time: with fewer, calls cost more than products; with more, products of frames
behind the next label are wasted."""


class Path(NamedTuple):
    """What a search found: the labels with their frames and log-probabilities, and the natural-log score of the whole."""

    runs: list[Run]
    score: float


class Greedy:
    """The path that takes the most probable arc in every cell, for each utterance of a batch; frames come in pieces.

    In frame t after labels y the winner of `joint(frame t, prediction(y))` is written; the blank, and `max_symbols`
    labels in one frame, move on to the next frame. The score is the log-probability of that one path, blanks included.

    **Label-looping** (Bataev et al., arXiv:2406.06220): a batch goes on from label to label, not from frame to frame, so
    that the prediction network runs once for each label, and utterances need not be in the same frame. Deviation: while
    no label is written the prediction stays, so `AHEAD` frames of each are joined at once, and read up to the first label;
    that takes the place of most of the inner loop over blanks.
    """

    def __init__(
        self, prediction: PredictionNetwork, joint: Joint, batch: int, *, blank: int, max_symbols: int
    ) -> None:
        self._prediction, self._joint, self._blank, self._most = prediction, joint, blank, max_symbols
        self._device = prediction.embedding.weight.device
        first = torch.full((batch,), blank, device=self._device)
        out, self._state = prediction.step(prediction.start(batch), first)
        self._projected = joint.project_prediction(out)
        self._runs: list[list[Run]] = [[] for _ in range(batch)]
        self._scores = [0.0] * batch
        self._past = [0] * batch

    def push(self, values: Tensor, lengths: Tensor) -> None:
        """Read frames [b t d] of which each utterance has `lengths` [b]."""
        frames = self._joint.project_encoder(values)
        ends: list[int] = lengths.tolist()
        at, written = [0] * len(ends), [0] * len(ends)  # in each utterance: its frame, and the labels of that frame
        rows = [row for row, end in enumerate(ends) if end]
        while rows:
            ahead = min(AHEAD, max(ends[row] - at[row] for row in rows))
            winners = self._winners(frames, rows, [at[row] for row in rows], ahead)
            labels: list[int] = []
            for row, (label, score, blank) in zip(rows, winners, strict=True):
                labels.append(self._read(row, (label, score, blank), at, written, ends))
            grown = [place for place, label in enumerate(labels) if label >= 0]
            if grown:
                self._write([rows[place] for place in grown], [labels[place] for place in grown])
            rows = [row for row in rows if at[row] < ends[row]]
        self._past = [past + end for past, end in zip(self._past, ends, strict=True)]

    def _winners(
        self, frames: Tensor, rows: list[int], at: list[int], ahead: int
    ) -> list[tuple[list[int], list[float], list[float]]]:
        """For each row the winning labels of the next frames, their log-probabilities, and those of the blank."""
        width = frames.shape[1]
        places = [
            row * width + min(place + i, width - 1) for row, place in zip(rows, at, strict=True) for i in range(ahead)
        ]
        near = frames.flatten(0, 1).index_select(0, torch.tensor(places, device=self._device))
        index = torch.tensor(rows, device=self._device)
        log_probs = (
            self._joint.combine(near.reshape(len(rows), ahead, -1), self._projected[index][:, None])
            .float()
            .log_softmax(dim=-1)
        )
        top, label = log_probs.max(dim=-1)
        scores = torch.stack([top, log_probs[..., self._blank]]).tolist()
        return list(zip(label.tolist(), *scores, strict=True))

    def _read(
        self,
        row: int,
        winners: tuple[list[int], list[float], list[float]],
        at: list[int],
        written: list[int],
        ends: list[int],
    ) -> int:
        """Follow one utterance's winners up to its next label, which is returned; -1 where there is none yet."""
        for label, score, blank in zip(*winners, strict=True):
            if at[row] == ends[row]:
                break
            if label != self._blank and written[row] < self._most:
                frame = self._past[row] + at[row]
                self._runs[row].append(Run(label, frame, frame + 1, score))
                self._scores[row] += score
                written[row] += 1
                return label
            self._scores[row] += blank
            at[row], written[row] = at[row] + 1, 0
        return -1

    def _write(self, rows: list[int], labels: list[int]) -> None:
        """Tell the prediction network the labels that some utterances got."""
        tokens = torch.tensor(labels, device=self._device)
        if len(rows) == len(self._runs):
            out, self._state = self._prediction.step(self._state, tokens)
            self._projected = self._joint.project_prediction(out)
            return
        index = torch.tensor(rows, device=self._device)
        out, longer = self._prediction.step(tuple(each[index] for each in self._state), tokens)
        self._state = tuple(each.index_copy(0, index, new) for each, new in zip(self._state, longer, strict=True))
        self._projected = self._projected.index_copy(0, index, self._joint.project_prediction(out))

    def found(self) -> list[list[Path]]:
        """One path for each utterance, of all frames so far."""
        return [[Path(list(runs), score)] for runs, score in zip(self._runs, self._scores, strict=True)]
