"""Greedy CTC decoding: the most probable label of each frame, repeats merged, blanks dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sltcore import ctc
from sltcore.errors import ShapeError, StreamError
from sltcore.interfaces import Decoder, Session
from sltcore.types import Encoded, Hypothesis, NBest, Port, Targets
from sltcore.vocabulary import Vocabulary, word_spans


class Run(NamedTuple):
    """A label that won `stop - start` frames in a row; `score` is its highest log-probability among them."""

    label: int
    start: int
    stop: int
    score: float


def collapse(log_probs: Tensor, lengths: Tensor, blank: int) -> tuple[list[list[Run]], list[float]]:
    """The runs of equal winning labels, without the blank's, and the log-probability of each whole best path.

    **Shapes**: `log_probs` [b t v] natural log, `lengths` [b] int64 in frames; what stands after a length is not read.
    A blank between two equal labels keeps them apart (Graves et al. 2006, doi:10.1145/1143844.1143891, section 3.1).
    """
    frames = log_probs.shape[1]
    inside = torch.arange(frames, device=lengths.device) < lengths[:, None]
    peak, label = log_probs.max(dim=-1)
    totals = torch.where(inside, peak, 0.0).double().sum(dim=1).tolist()
    label = torch.where(inside, label, blank)
    begins = torch.ones_like(inside)
    begins[:, 1:] = label[:, 1:] != label[:, :-1]
    # One row (utterance, frame) for each run of labels, blanks included; a run ends where the next one begins.
    batch, start = begins.nonzero(as_tuple=True)
    stop = torch.cat([start[1:], start.new_zeros(1)])
    stop = torch.where(stop == 0, frames, stop)
    number = begins.flatten().cumsum(0) - 1
    best = peak.new_full((len(start),), -torch.inf)
    best.scatter_reduce_(0, number, torch.where(inside, peak, -torch.inf).flatten(), "amax")
    kept = (label[batch, start] != blank).nonzero(as_tuple=True)[0]
    found: list[list[Run]] = [[] for _ in range(len(lengths))]
    columns = (batch, label[batch, start], start, stop, best)
    for row, *run in zip(*(column[kept].tolist() for column in columns), strict=True):
        found[row].append(Run(*run))
    return found, totals


def hypothesis(
    runs: Sequence[Run], score: float, vocabulary: Vocabulary, *, frame_shift_s: float, offset_s: float = 0.0
) -> Hypothesis:
    """The reading that a list of runs spells.

    Frame i covers `offset_s + (i ± 1/2) frame_shift_s`, so a token lasts from half a frame before the first frame it
    won to half a frame after the last, in seconds to the microsecond, never before zero. `extra` holds `token_times`,
    `token_scores` (natural log) and, where the labels form words, `words`; `times` are then the words' times.
    """
    tokens = tuple(run.label for run in runs)
    token_times = tuple(
        (
            max(0.0, round(offset_s + (run.start - 0.5) * frame_shift_s, 6)),
            max(0.0, round(offset_s + (run.stop - 0.5) * frame_shift_s, 6)),
        )
        for run in runs
    )
    extra: dict[str, Any] = {"token_times": token_times, "token_scores": tuple(run.score for run in runs)}
    spans = word_spans(tokens, vocabulary)
    times = token_times
    if spans is not None:
        extra["words"] = tuple(vocabulary.decode(tokens[first:stop]) for first, stop in spans)
        times = tuple((token_times[first][0], token_times[stop - 1][1]) for first, stop in spans)
    return Hypothesis(text=vocabulary.decode(tokens), score=score, tokens=tokens, times=times, extra=extra)


def greedy(
    log_probs: Tensor, lengths: Tensor, vocabulary: Vocabulary, *, frame_shift_s: float, offset_s: float = 0.0
) -> list[NBest]:
    """The best path of each utterance, collapsed: one hypothesis each, scored by the log-probability of the path.

    **Shapes**: `log_probs` [b t v] natural log, `lengths` [b] int64 in frames.
    **Raises** `ShapeError` when the axes do not match each other or the vocabulary.
    """
    if log_probs.ndim != 3 or log_probs.shape[2] != len(vocabulary) or lengths.shape != log_probs.shape[:1]:
        raise ShapeError(
            f"log_probs has shape {tuple(log_probs.shape)} with lengths {tuple(lengths.shape)}, expected (b, t, v) and "
            f"(b,) with v = {len(vocabulary)} labels"
        )
    runs, totals = collapse(log_probs, lengths, vocabulary.blank)
    return [
        NBest([hypothesis(row, total, vocabulary, frame_shift_s=frame_shift_s, offset_s=offset_s)])
        for row, total in zip(runs, totals, strict=True)
    ]


class CtcGreedy(Decoder, nn.Module):
    """Takes the most probable label of every frame, merges repeats and drops blanks.

    `log_probs = log_softmax(head(values))`; path = argmax over v for each frame; B(path) is the text, where B merges
    equal neighbours and then removes blanks. The hypothesis' score is ln P(path), at most ln P(text), which `score`
    gives by the forward algorithm.

    **Source**: Graves, Fernández, Gomez, Schmidhuber, "Connectionist temporal classification", ICML 2006,
    doi:10.1145/1143844.1143891: best-path decoding in section 3.2, the loss in section 4.
    """

    def __init__(self, head: ctc.Head, *, freeze_head: bool = False) -> None:
        """`head` maps [b t d] to logits or log-probabilities [b t v]; frozen, training leaves it as it is."""
        super().__init__()
        self.head = head.module
        self.d = head.d
        self._vocabulary = head.vocabulary
        if freeze_head:
            for parameter in self.head.parameters():
                parameter.requires_grad_(False)

    @property
    def consumes(self) -> Port:
        """Frames as wide as the head."""
        return Port("Encoded", {"d": self.d})

    @property
    def produces(self) -> Port:
        """One hypothesis for each utterance."""
        return Port("Hypotheses")

    @property
    def vocabulary(self) -> Vocabulary:
        """The labels it writes with."""
        return self._vocabulary

    def offers(self) -> Mapping[str, Any]:
        """`head` and `vocabulary`, for another search on the same posteriors."""
        return {"head": self.head, "vocabulary": self._vocabulary}

    def save_files(self) -> Mapping[str, bytes]:
        """`vocabulary.json`."""
        return ctc.vocabulary_file(self._vocabulary)

    @property
    def _head(self) -> ctc.Head:
        return ctc.Head(self.head, self._vocabulary, self.d)

    def log_probs(self, encoded: Encoded) -> Tensor:
        """Natural-log posteriors [b t v] float32; see `sltcore.ctc.log_probs`."""
        return ctc.log_probs(self._head, encoded)

    @torch.no_grad()
    def decode(self, encoded: Encoded, context: Mapping[str, Any]) -> list[NBest]:
        """The best path of each utterance; times in seconds, token scores in `extra` (see `hypothesis`)."""
        return greedy(
            self.log_probs(encoded),
            encoded.lengths,
            self._vocabulary,
            frame_shift_s=encoded.frame_shift_s,
            offset_s=encoded.offset_s,
        )

    def frames_needed(self, targets: Targets) -> Tensor:
        """Its labels, and one blank between equal neighbours: [b]."""
        return ctc.frames_needed(targets.ids, targets.lengths)

    def loss(self, encoded: Encoded, targets: Targets, context: Mapping[str, Any]) -> Tensor:
        """CTC loss of each utterance: [b] float32 in nats; see `sltcore.ctc.training_loss`."""
        return ctc.training_loss(self._head, encoded, targets)

    def score(self, encoded: Encoded, hypotheses: Sequence[NBest]) -> Tensor:
        """ln P(text | frames), summed over all paths: [b k] float32; see `sltcore.ctc.forward_scores`."""
        return ctc.forward_scores(self._head, encoded, hypotheses)

    def open(self, context: Mapping[str, Any]) -> Session:
        """A session over chunks of one utterance's frames; see `GreedySession`."""
        return GreedySession(self)


class GreedySession(Session):
    """Greedy decoding of one utterance, chunk by chunk, in memory that grows with the text only.

    `push` takes an `Encoded` with one utterance and returns the n-best list of everything heard so far, or None while
    the text is unchanged; `finish` returns the list that `decode` gives on the whole.
    """

    def __init__(self, decoder: CtcGreedy) -> None:
        self._decoder = decoder
        self._runs: list[Run] = []
        self._total = 0.0
        self._frames = 0
        self._last = decoder.vocabulary.blank  # the label of the frame before this chunk
        self._timing: tuple[float, float] | None = None
        self._said: tuple[int, ...] = ()
        self._finished = False

    @torch.no_grad()
    def push(self, chunk: Encoded, **streams: Any) -> NBest | None:
        """Hear the next frames. **Raises** `StreamError` after `finish`, `ShapeError` for more than one utterance."""
        if self._finished:
            raise StreamError("this ctc-greedy session is finished; open another one")
        if len(chunk.lengths) != 1:
            raise ShapeError(f"a streaming chunk holds one utterance, got {len(chunk.lengths)}")
        if self._timing is None:
            self._timing = (chunk.frame_shift_s, chunk.offset_s)
        frames = int(chunk.lengths[0])
        if not frames:
            return None
        log_probs = self._decoder.log_probs(chunk)[:, :frames]
        (runs,), (total,) = collapse(log_probs, chunk.lengths, self._decoder.vocabulary.blank)
        shifted = [run._replace(start=run.start + self._frames, stop=run.stop + self._frames) for run in runs]
        if shifted and shifted[0].start == self._frames and shifted[0].label == self._last:
            before, now = self._runs.pop(), shifted[0]
            shifted[0] = before._replace(stop=now.stop, score=max(before.score, now.score))
        self._runs.extend(shifted)
        self._total += total
        self._frames += frames
        self._last = runs[-1].label if runs and runs[-1].stop == frames else self._decoder.vocabulary.blank
        tokens = tuple(run.label for run in self._runs)
        if tokens == self._said:
            return None
        self._said = tokens
        return self._nbest()

    def finish(self) -> NBest:
        """The n-best list of the whole. **Raises** `StreamError` when called twice."""
        if self._finished:
            raise StreamError("this ctc-greedy session is finished already; open another one")
        self._finished = True
        return self._nbest()

    def _nbest(self) -> NBest:
        shift, offset = self._timing or (0.0, 0.0)
        return NBest(
            [hypothesis(self._runs, self._total, self._decoder.vocabulary, frame_shift_s=shift, offset_s=offset)]
        )
