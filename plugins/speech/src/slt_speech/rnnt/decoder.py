"""Decoder `rnnt`: a transducer with its loss, its searches and its stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from slt_speech.ctc_greedy import hypothesis
from slt_speech.rnnt.beam import Beam
from slt_speech.rnnt.boosting import Fusion, steps_of
from slt_speech.rnnt.greedy import Greedy, Path
from slt_speech.rnnt.joint import Joint
from slt_speech.rnnt.prediction import PredictionNetwork
from sltcore import ctc
from sltcore.errors import ShapeError
from sltcore.interfaces import Decoder
from sltcore.types import ContextKey, Encoded, NBest, Port, Targets
from sltcore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from sltcore.interfaces import Session

SIMPLE_WEIGHT = 0.5
"""Of the simple loss beside the pruned one, as in the paper's recipes."""


class Rnnt(Decoder, nn.Module):
    """A transducer: P(y | frames) is the sum over alignments of labels y and one blank for each frame.

    `P(next | frame t, labels so far) = softmax(joint(frame t, prediction(labels)))`; a label is written and the frame
    stays, the blank moves on to the next frame. Loss: `slt_speech.rnnt.loss.rnnt_loss`, or with `pruned` the loss over
    windows that a simple additive joint finds, plus half the simple loss, for large vocabularies. Searches: `Greedy` and
    `Beam`, whose docstrings say what their scores are.

    The networks stay under `self.prediction` and `self.joint`. `boost`, a decoder with the step interface, adds to the
    beam search (see `slt_speech.rnnt.boosting`), and brings the context keys it reads. It takes no part in loss and score.

    **Source**: Graves, "Sequence transduction with recurrent neural networks", arXiv:1211.3711; pruned loss: Kuang et
    al., arXiv:2206.13236.
    """

    def __init__(
        self,
        prediction: PredictionNetwork,
        joint: Joint,
        vocabulary: Vocabulary,
        *,
        search: Literal["greedy", "beam"] = "greedy",
        beam: int = 4,
        max_symbols: int = 10,
        n_best: int = 1,
        boost: Decoder | None = None,
        boost_weight: float = 1.0,
        loss: Literal["full", "pruned"] = "full",
        window: int = 5,
        fastemit: float = 0.0,
        clamp: float | None = None,
    ) -> None:
        """`max_symbols` labels at most are written in one frame; `window` label positions for each frame of the pruned loss."""
        super().__init__()
        self.prediction, self.joint = prediction, joint
        self.boost: Any = boost
        self._vocabulary = vocabulary
        self._search, self._beam, self._most, self._n_best = search, beam, max_symbols, n_best
        self._boost_weight = boost_weight
        self._window = window if loss == "pruned" else None
        self._loss_settings: dict[str, Any] = {"blank": vocabulary.blank, "fastemit": fastemit, "clamp": clamp}
        d_encoder = joint.encoder_projection.in_features
        pruned = loss == "pruned"
        self.simple_encoder = nn.Linear(d_encoder, len(vocabulary)) if pruned else None
        self.simple_prediction = nn.Linear(prediction.d, len(vocabulary)) if pruned else None
        self.d = d_encoder

    @property
    def consumes(self) -> Port:
        """Frames as wide as the joint expects."""
        return Port("Encoded", {"d": self.d})

    @property
    def produces(self) -> Port:
        """N-best lists."""
        return Port("Hypotheses")

    @property
    def vocabulary(self) -> Vocabulary:
        """The labels it writes with."""
        return self._vocabulary

    def context_keys(self) -> tuple[ContextKey, ...]:
        """Those of the decoder that boosts."""
        return () if self.boost is None else tuple(self.boost.context_keys())

    def prepare(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        """As the decoder that boosts prepares it."""
        prepared: Mapping[str, Any] = context if self.boost is None else self.boost.prepare(context)
        return prepared

    def offers(self) -> Mapping[str, Any]:
        """`prediction`, `joint` and `vocabulary`."""
        return {"prediction": self.prediction, "joint": self.joint, "vocabulary": self._vocabulary}

    def save_files(self) -> Mapping[str, bytes]:
        """`vocabulary.json`."""
        return ctc.vocabulary_file(self._vocabulary)

    def values(self, encoded: Encoded) -> Tensor:
        """The frames [b t d], zeros after each length. **Raises** `ShapeError` when they are not [b t d]."""
        x = encoded.values
        if x.ndim != 3 or x.shape[2] != self.d:
            raise ShapeError(f"Encoded.values has shape {tuple(x.shape)}, expected (b, t, d) with d = {self.d}")
        inside = torch.arange(x.shape[1], device=x.device) < encoded.lengths[:, None]
        return torch.where(inside[..., None], x, 0.0)

    def searching(self, context: Mapping[str, Any], batch: int) -> Greedy | Beam:
        """A search that has read no frames yet, for a batch of utterances."""
        limits = {"blank": self._vocabulary.blank, "max_symbols": self._most}
        if self._search == "greedy":
            return Greedy(self.prediction, self.joint, batch, **limits)
        steps = steps_of(self.boost, context, batch)
        fusion = None
        if steps is not None:
            fusion = Fusion(steps, weight=self._boost_weight, blank=self._vocabulary.blank, v=len(self._vocabulary))
        return Beam(self.prediction, self.joint, batch, beam=self._beam, fusion=fusion, **limits)

    @torch.no_grad()
    def decode(self, encoded: Encoded, context: Mapping[str, Any]) -> list[NBest]:
        """N-best lists; times in seconds, token times and scores in `extra` (see `slt_speech.ctc_greedy.hypothesis`)."""
        if not len(encoded.lengths):
            return []
        search = self.searching(context, len(encoded.lengths))
        search.push(self.values(encoded), encoded.lengths)
        return [self.nbest(paths, encoded.frame_shift_s, encoded.offset_s) for paths in search.found()]

    def nbest(self, paths: Sequence[Path], frame_shift_s: float, offset_s: float) -> NBest:
        """The list that the best paths of an utterance spell; of those that read the same the best stays."""
        found: dict[tuple[str, tuple[int, ...]], Any] = {}
        for path in paths[: self._n_best]:
            one = hypothesis(path.runs, path.score, self._vocabulary, frame_shift_s=frame_shift_s, offset_s=offset_s)
            found.setdefault((one.text, one.tokens), one)
        return NBest(found.values())

    def frames_needed(self, targets: Targets) -> Tensor:
        """One frame where there is a label, for a frame may hold any number of them: [b]."""
        return (targets.lengths > 0).to(targets.lengths.dtype)

    def loss(self, encoded: Encoded, targets: Targets, context: Mapping[str, Any]) -> Tensor:
        """-ln P(target | frames) of each utterance: [b] float32 in nats; labels without any frame count 0.

        With the pruned loss: of the alignments within the windows, plus half the simple loss.
        **Raises** `VocabularyError` when a target id is no label or the blank.
        """
        ctc.check_targets(targets, self._vocabulary)
        places = torch.arange(targets.ids.shape[1], device=targets.ids.device)
        ids = torch.where(places < targets.lengths[:, None], targets.ids, self._any_label)
        rest = (ids, encoded.lengths, targets.lengths)
        values = self.values(encoded)
        predicted = self.prediction(ids)
        losses = self._full(values, predicted, rest) if self._window is None else self._pruned(values, predicted, rest)
        return torch.where(losses.isinf(), 0.0, losses).float().clamp_min(0.0)

    @property
    def _any_label(self) -> int:
        return 0 if self._vocabulary.blank else min(1, len(self._vocabulary) - 1)

    def _full(self, values: Tensor, predicted: Tensor, rest: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        from slt_speech.rnnt.loss import rnnt_loss

        return rnnt_loss(self.joint(values, predicted), *rest, **self._loss_settings)

    def _pruned(self, values: Tensor, predicted: Tensor, rest: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        from slt_speech.rnnt.pruned import pruned_rnnt_loss, pruning_windows, simple_rnnt_loss, windowed

        assert self.simple_encoder is not None
        assert self.simple_prediction is not None
        assert self._window is not None
        sums = self.simple_encoder(values), self.simple_prediction(predicted)
        simple = simple_rnnt_loss(*sums, *rest, blank=self._vocabulary.blank)
        size = min(max(self._window, self._least_window(rest)), predicted.shape[1])
        first = pruning_windows(simple.occupancy, *rest[1:], size=size)
        e, p = self.joint.project_encoder(values), self.joint.project_prediction(predicted)
        logits = self.joint.combine(e[:, :, None], windowed(p, first, size=size))
        return pruned_rnnt_loss(logits, first, *rest, **self._loss_settings) + SIMPLE_WEIGHT * simple.losses

    @staticmethod
    def _least_window(rest: tuple[Tensor, Tensor, Tensor]) -> int:
        """The smallest window through which every target of the batch fits: u labels need t (size - 1) >= u."""
        _, frames, labels = rest
        return int((-(-labels // frames.clamp_min(1))).max()) + 1 if len(labels) else 1

    @torch.no_grad()
    def score(self, encoded: Encoded, hypotheses: Sequence[NBest]) -> Tensor:
        """ln P(y | frames), summed over all alignments: [b k] float32; -inf beyond a list's end or where nothing fits.

        A hypothesis without `tokens` is spelled from its text. A search's own score is at most that.
        """
        from slt_speech.rnnt.loss import rnnt_loss

        frames = self.joint.project_encoder(self.values(encoded))
        result = frames.new_full((len(hypotheses), max(map(len, hypotheses), default=0)), -torch.inf).float()
        for row, nbest in enumerate(hypotheses):
            length = encoded.lengths[row : row + 1]
            for column, one in enumerate(nbest):
                targets = ctc.pad_labels([one.tokens or self._vocabulary.encode(one.text)], frames.device)
                ctc.check_targets(targets, self._vocabulary)
                prefixes = self.joint.project_prediction(self.prediction(targets.ids))
                logits = self.joint.combine(frames[row : row + 1, : int(length), None], prefixes[:, None])
                losses = rnnt_loss(logits, targets.ids, length, targets.lengths, blank=self._vocabulary.blank)
                result[row, column] = -losses[0]
        return result

    def open(self, context: Mapping[str, Any]) -> Session:
        """A session over chunks of one utterance's frames; see `RnntSession`."""
        from slt_speech.rnnt.session import RnntSession

        return RnntSession(self, context)
