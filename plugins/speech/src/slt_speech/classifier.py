"""One class for a whole utterance: frames pooled over time, one linear layer, log-softmax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from sltcore.errors import ShapeError, StreamError, VocabularyError
from sltcore.interfaces import Decoder, Session
from sltcore.types import Encoded, Hypothesis, NBest, Port, Targets
from sltcore.vocabulary import Vocabulary

Pooling = Literal["mean", "attention", "max", "last"]
NO_CLASS = "<blank>"  # a vocabulary must name a blank; the classifier has no output for it


class Pooled(NamedTuple):
    """A pooling under way: what it needs to go on with the next frames.

    `vector` [b d] is the pooled frames so far; `weight` [b 1] is the frames counted (mean, max, last) or the natural
    log of the summed attention.
    """

    vector: Tensor
    weight: Tensor


def class_vocabulary(labels: Sequence[str]) -> Vocabulary:
    """The vocabulary of class names, ids in the given order, with a last label that stands for no class.

    **Raises** `VocabularyError` when a name is empty, holds a space, or repeats, and for fewer than two.
    """
    for label in labels:
        if not label or len(label.split()) != 1 or label.strip() != label:
            raise VocabularyError(f"class name {label!r} must be one word without spaces; join words with '-' or '_'")
    if len(labels) < 2:
        raise VocabularyError(f"a classifier needs at least two labels, got {list(labels)}; list them in 'labels'")
    return Vocabulary([*labels, NO_CLASS], kind="words", blank=len(labels))


class Classifier(Decoder, nn.Module):
    """Pools an utterance's frames into one vector and names its class.

    `p = softmax(head(pool(values)))`. Poolings over the frames x_t inside the length: `mean`; `max` of each feature;
    `last` frame; `attention`: sum of a_t x_t with a = softmax over t of w · x_t. An utterance without frames is
    pooled to the zero vector, so it gets the head's prior.

    **Source**: attention pooling as in Safari, India, Hernando, "Self-attention encoding and pooling for speaker
    recognition", arXiv:2008.01077, with one query.
    """

    def __init__(self, d: int, labels: Sequence[str], *, pooling: Pooling = "mean", n_best: int = 5) -> None:
        super().__init__()
        self._vocabulary = class_vocabulary(labels)
        self.d = d
        self.pooling: Pooling = pooling
        self.n_best = min(n_best, len(labels))
        self.head = nn.Linear(d, len(labels))
        # A bias would cancel in the softmax over frames, and never receive a gradient.
        self.query = nn.Linear(d, 1, bias=False) if pooling == "attention" else None

    @property
    def consumes(self) -> Port:
        """Frames as wide as the head."""
        return Port("Encoded", {"d": self.d})

    @property
    def produces(self) -> Port:
        """The most probable classes of each utterance."""
        return Port("Hypotheses")

    @property
    def vocabulary(self) -> Vocabulary:
        """The class names."""
        return self._vocabulary

    def offers(self) -> Mapping[str, Any]:
        """`head` and `vocabulary`."""
        return {"head": self.head, "vocabulary": self._vocabulary}

    def begin(self, batch: int, like: Tensor) -> Pooled:
        """The pooling of no frames."""
        weight = -torch.inf if self.pooling == "attention" else 0.0
        return Pooled(like.new_zeros(batch, self.d), like.new_full((batch, 1), weight))

    def extend(self, pooled: Pooled, encoded: Encoded) -> Pooled:
        """The pooling after more frames; frames after a length are not read, not even NaN.

        **Raises** `ShapeError` when values are not [b t d].
        """
        values = encoded.values
        if values.ndim != 3 or values.shape[2] != self.d:
            raise ShapeError(f"Encoded.values has shape {tuple(values.shape)}, expected (b, t, d) with d = {self.d}")
        if values.shape[1] == 0:
            return pooled
        lengths = encoded.lengths[:, None]
        inside = (torch.arange(values.shape[1], device=values.device) < lengths)[..., None]
        values = torch.where(inside, values, 0.0)
        some = lengths > 0
        if self.query is not None:
            # Rows without frames stay unmasked: a softmax over nothing but -inf would have a gradient of NaN.
            outside = ~inside & some[..., None]
            return _attend(pooled, values, self.query(values).masked_fill(outside, -torch.inf), some)
        weight = pooled.weight + lengths
        if self.pooling == "mean":
            vector = (pooled.vector * pooled.weight + values.sum(dim=1)) / weight.clamp_min(1)
        elif self.pooling == "last":
            final = values[torch.arange(len(values), device=values.device), (encoded.lengths - 1).clamp_min(0)]
            vector = torch.where(some, final, pooled.vector)
        else:
            peak = values.masked_fill(~inside, -torch.inf).amax(dim=1)
            vector = torch.where(pooled.weight > 0, torch.maximum(pooled.vector, peak), peak)
            vector = torch.where(some, vector, pooled.vector)
        return Pooled(vector, weight)

    def log_probs(self, encoded: Encoded) -> Tensor:
        """Natural-log probability of each class: [b v] float32."""
        pooled = self.extend(self.begin(len(encoded.lengths), encoded.values), encoded)
        return self.classify(pooled)

    def classify(self, pooled: Pooled) -> Tensor:
        """Natural-log probability of each class given pooled frames: [b v] float32."""
        result: Tensor = self.head(pooled.vector).float().log_softmax(dim=-1)
        return result

    @torch.no_grad()
    def decode(self, encoded: Encoded, context: Mapping[str, Any]) -> list[NBest]:
        """The `n_best` most probable classes of each utterance, scored by log-probability."""
        return self.rank(self.log_probs(encoded))

    def rank(self, log_probs: Tensor) -> list[NBest]:
        """N-best lists of [b v] log-probabilities; equal ones keep the order of the labels."""
        scores, ids = log_probs.sort(dim=-1, descending=True, stable=True)
        return [
            NBest(
                Hypothesis(text=self._vocabulary.labels[i], score=score, tokens=(i,))
                for score, i in zip(row_scores[: self.n_best], row_ids[: self.n_best], strict=True)
            )
            for row_scores, row_ids in zip(scores.tolist(), ids.tolist(), strict=True)
        ]

    def loss(self, encoded: Encoded, targets: Targets, context: Mapping[str, Any]) -> Tensor:
        """Cross entropy of each utterance: [b] float32 in nats.

        **Raises** `ShapeError` unless each target is one label, `VocabularyError` when it is no class.
        """
        if (targets.lengths != 1).any():
            row = int((targets.lengths != 1).nonzero()[0])
            raise ShapeError(f"target {row} has {int(targets.lengths[row])} labels, a classifier needs exactly one")
        ids, classes = targets.ids[:, 0], self.head.out_features
        wrong = (ids < 0) | (ids >= classes)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            names = ", ".join(self._vocabulary.labels[:classes][:8])
            raise VocabularyError(f"target {row} has id {int(ids[row])}, expected 0 to {classes - 1}: {names}")
        return functional.nll_loss(self.log_probs(encoded), ids, reduction="none")

    def score(self, encoded: Encoded, hypotheses: Sequence[NBest]) -> Tensor:
        """ln P(class) of given hypotheses, by their text: [b k] float32, -inf beyond a list's end.

        **Raises** `VocabularyError` when a text is no class.
        """
        log_probs = self.log_probs(encoded)
        result = log_probs.new_full((len(hypotheses), max(map(len, hypotheses), default=0)), -torch.inf)
        for row, nbest in enumerate(hypotheses):
            ids = [self._vocabulary.id(hypothesis.text) for hypothesis in nbest]
            result[row, : len(ids)] = log_probs[row, ids]
        return result

    def open(self, context: Mapping[str, Any]) -> Session:
        """A session over chunks of one utterance's frames; see `ClassifierSession`."""
        return ClassifierSession(self)


def _attend(pooled: Pooled, values: Tensor, logits: Tensor, some: Tensor) -> Pooled:
    """Attention over old and new frames together, from the old result and its log-weight (a running softmax)."""
    new_weight = logits.logsumexp(dim=1).masked_fill(~some, -torch.inf)
    weight = torch.logaddexp(pooled.weight, new_weight)
    # Rows that have met no frame yet have weight -inf; zero in its place keeps exp(-inf - 0) = 0 and its gradient.
    scale = weight.masked_fill(weight.isinf(), 0.0)
    old = (pooled.weight - scale).exp() * pooled.vector
    new = ((logits - scale[:, None]).exp() * values).sum(dim=1)
    return Pooled(old + new, weight)


class ClassifierSession(Session):
    """The class of one utterance while it is heard, in constant memory.

    `push` takes an `Encoded` with one utterance and returns the n-best list of everything heard so far (None for a
    chunk without frames); `finish` returns the list that `decode` gives on the whole.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._pooled: Pooled | None = None
        self._finished = False

    @torch.no_grad()
    def push(self, chunk: Encoded, **streams: Any) -> NBest | None:
        """Hear the next frames. **Raises** `StreamError` after `finish`, `ShapeError` for more than one utterance."""
        if self._finished:
            raise StreamError("this classifier session is finished; open another one")
        if len(chunk.lengths) != 1:
            raise ShapeError(f"a streaming chunk holds one utterance, got {len(chunk.lengths)}")
        pooled = self._pooled or self._classifier.begin(1, chunk.values)
        self._pooled = self._classifier.extend(pooled, chunk)
        return self._current() if int(chunk.lengths[0]) else None

    @torch.no_grad()
    def finish(self) -> NBest:
        """The n-best list of the whole. **Raises** `StreamError` when called twice."""
        if self._finished:
            raise StreamError("this classifier session is finished already; open another one")
        self._finished = True
        return self._current()

    def _current(self) -> NBest:
        pooled = self._pooled or self._classifier.begin(1, self._classifier.head.weight)
        return self._classifier.rank(self._classifier.classify(pooled))[0]
