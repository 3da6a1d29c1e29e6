"""What a recogniser expects next behind a prefix that is given: P(label | recording, prefix), or that the text ends.

One interface for three families, so that a vote on tokens can be taken among any of them. All give an exact conditional
distribution over the labels and the end: what is not the next label is the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sltcore import ctc
from sltcore.alignment.posteriors import ctc_head
from sltcore.errors import PortError, VocabularyError
from sltcore.types import Encoded
from sltcore.vocabulary import Vocabulary

BEGINS = ("<s>", "<sos>", "<bos>", "<|startoftranscript|>", "<sos/eos>")
ENDS = ("</s>", "<eos>", "<|endoftext|>", "<sos/eos>")
LEAST = -700.0
"""Log-probabilities are cut off here, so that no difference of infinities arises; e^-700 is the least float64."""


class Prefixes(Protocol):
    """One prefix for each utterance of a batch, which grows label by label."""

    end: int
    """The class that stands for the end of the text."""

    def log_probs(self) -> Tensor:
        """Of the next label, or the end, behind each prefix: [b v] float64, nats; the exponentials sum to 1."""

    def advance(self, tokens: Tensor) -> None:
        """Write one label more, [b] int64. A row that ended may be told any label but the end."""


class StepPrefixes:
    """Of a decoder with the step interface, such as one with attention: its own conditional distribution."""

    def __init__(self, decoder: Any, encoded: Encoded) -> None:
        begin, self.end = begin_and_end(decoder.vocabulary)
        self._decoder = decoder
        first = torch.full((len(encoded.lengths), 1), begin, dtype=torch.int64, device=encoded.values.device)
        self._next: Tensor
        self._next, self._state = decoder.step(decoder.start(encoded), first)

    def log_probs(self) -> Tensor:
        found: Tensor = self._next[:, 0].double()
        return found

    def advance(self, tokens: Tensor) -> None:
        self._next, self._state = self._decoder.step(self._state, tokens[:, None].to(self._next.device))


class TransducerPrefixes:
    """Of a transducer, summed over all alignments; the blank's place stands for the end.

    With y(t, u, k) the joint's probabilities and a(t, u) the probability of being at frame t behind the prefix, the next
    label is k with probability sum_t a(t, u) y(t, u, k), and the text ends with a(T - 1, u) y(T - 1, u, blank), both
    divided by their sum, the probability of the prefix. Prefixes of length u cost u labels of the prediction network anew.

    **Source**: Graves, arXiv:1211.3711, section 2.4, the forward variable. The sum over frames that makes it synchronous
    with labels is ours.
    """

    def __init__(self, decoder: Any, encoded: Encoded) -> None:
        self.end = int(decoder.vocabulary.blank)
        self._decoder, self._values = decoder, encoded.values
        lengths = encoded.lengths.to(encoded.values.device)
        frames = encoded.values.shape[1]
        self._inside = torch.arange(frames, device=lengths.device) < lengths[:, None]
        self._last = (lengths - 1).clamp_min(0)
        self._silent = lengths == 0
        self._ids = lengths.new_zeros((len(lengths), 0))
        self._row = self._emissions()
        arrivals = self._row.new_full((len(lengths), frames), -torch.inf)
        arrivals[:, :1] = 0.0
        self._alpha = self._walk(arrivals)

    def _emissions(self) -> Tensor:
        predicted = self._decoder.prediction(self._ids)[:, -1:]
        logits: Tensor = self._decoder.joint(self._values, predicted)[:, :, 0]
        return logits.double().log_softmax(-1).clamp_min(LEAST)

    def _walk(self, arrivals: Tensor) -> Tensor:
        """a(t) = arrivals(t) + a(t - 1) blank(t - 1), in the log domain, for all t at once."""
        if not arrivals.shape[1]:
            return arrivals
        blanks = self._row[:, :, self.end].cumsum(1)
        before = torch.cat([torch.zeros_like(blanks[:, :1]), blanks[:, :-1]], dim=1)
        return torch.where(self._inside, before + torch.logcumsumexp(arrivals - before, dim=1), -torch.inf)

    def log_probs(self) -> Tensor:
        if not self._alpha.shape[1]:
            return self._ended()
        scores = (self._alpha[:, :, None] + self._row).logsumexp(1)
        rows = torch.arange(len(scores), device=scores.device)
        scores[:, self.end] = self._alpha[rows, self._last] + self._row[rows, self._last, self.end]
        return torch.where(self._silent[:, None], self._ended(), scores.log_softmax(-1))

    def _ended(self) -> Tensor:
        ended = self._row.new_full((len(self._silent), self._row.shape[2]), -torch.inf)
        ended[:, self.end] = 0.0
        return ended

    def advance(self, tokens: Tensor) -> None:
        tokens = tokens.to(self._row.device)
        emitted = self._row.gather(2, tokens[:, None, None].expand(-1, self._row.shape[1], 1))[:, :, 0]
        arrivals = torch.where(self._inside, self._alpha + emitted, -torch.inf)
        self._ids = torch.cat([self._ids, tokens[:, None]], dim=1)
        self._row = self._emissions()
        self._alpha = self._walk(arrivals)


class CtcPrefixes:
    """Of a CTC model, summed over all alignments; the blank's place stands for the end.

    With n(t) and b(t) the probabilities that the first t frames read as the prefix and end in its last label or in a
    blank, the next label is c with probability sum_t phi(t) p_t(c), phi = b + n, or b alone where c repeats the last label;
    the text ends with n(T) + b(T). Divided by their sum, the probability of the prefix.

    **Source**: Graves, "Supervised sequence labelling with recurrent neural networks", 2012, section 7.5.1; Watanabe et
    al., "Hybrid CTC/attention architecture", 2017, doi:10.1109/JSTSP.2017.2763455, algorithm 2.
    """

    def __init__(self, log_probs: Tensor, lengths: Tensor, blank: int) -> None:
        """`log_probs` [b t v] natural log, `lengths` [b] in frames."""
        self.end = blank
        b, frames = log_probs.shape[:2]
        self._frames = log_probs.double().clamp_min(LEAST)
        lengths = lengths.to(log_probs.device)
        self._lengths = lengths
        self._inside = torch.arange(frames, device=lengths.device) < lengths[:, None]
        none = self._frames.new_full((b, frames + 1), -torch.inf)
        start = torch.zeros_like(none[:, :1])
        self._in_label = none
        self._in_blank = torch.cat([start, self._frames[:, :, blank].cumsum(1)], dim=1)
        self._tail: Tensor | None = None

    @property
    def _rows(self) -> Tensor:
        return torch.arange(len(self._lengths), device=self._lengths.device)

    def _reached(self) -> Tensor:
        """phi(t) for frames t = 0 .. T - 1 [b t], whatever the next label; -inf beyond the end."""
        phi = torch.logaddexp(self._in_label, self._in_blank)[:, :-1]
        return torch.where(self._inside, phi, -torch.inf)

    def log_probs(self) -> Tensor:
        both = torch.logaddexp(self._in_label, self._in_blank)
        end = both[self._rows, self._lengths]
        if not self._frames.shape[1]:
            scores = self._frames.new_full((len(end), self._frames.shape[2]), -torch.inf)
        else:
            scores = (self._reached()[:, :, None] + self._frames).logsumexp(1)
            if self._tail is not None:
                apart = torch.where(self._inside, self._in_blank[:, :-1], -torch.inf)
                repeated = self._frames.gather(2, self._tail[:, None, None].expand(-1, apart.shape[1], 1))[:, :, 0]
                scores[self._rows, self._tail] = (apart + repeated).logsumexp(1)
        scores[:, self.end] = end
        return scores.log_softmax(-1)

    def advance(self, tokens: Tensor) -> None:
        tokens = tokens.to(self._frames.device)
        phi = self._reached()
        if self._tail is not None:
            apart = torch.where(self._inside, self._in_blank[:, :-1], -torch.inf)
            phi = torch.where((tokens == self._tail)[:, None], apart, phi)
        stays = self._frames.gather(2, tokens[:, None, None].expand(-1, phi.shape[1], 1))[:, :, 0]
        self._in_label = _driven(phi + stays, stays)
        blanks = self._frames[:, :, self.end]
        self._in_blank = _driven(self._in_label[:, :-1] + blanks, blanks)
        self._tail = tokens


def _driven(arrivals: Tensor, stays: Tensor) -> Tensor:
    """x(t + 1) = arrivals(t) + x(t) stays(t), x(0) = 0, in the log domain: [b t] to [b t+1]."""
    summed = stays.cumsum(1)
    values = summed + torch.logcumsumexp(arrivals - summed, dim=1)
    return torch.cat([values.new_full((len(values), 1), -torch.inf), values], dim=1)


def begin_and_end(vocabulary: Vocabulary) -> tuple[int, int]:
    """The ids of the labels that begin and end a text; **raises** `VocabularyError` where there are none."""
    found = [next((i for i, label in enumerate(vocabulary.labels) if label in names), None) for names in (BEGINS, ENDS)]
    begin, end = found
    if begin is None or end is None:
        raise VocabularyError(
            f"the vocabulary has no label that {'begins' if begin is None else 'ends'} a text; a decoder with the step interface "
            f"needs one of {', '.join(BEGINS if begin is None else ENDS)} for a vote on tokens"
        )
    return begin, end


def encode(pipeline: Any, values: Sequence[Any]) -> Encoded:
    """The encoder's frames of inputs as `pipeline.read` gives them, in inference mode, without side information.

    **Raises** `PortError` for a pipeline without an encoder.
    """
    if not hasattr(pipeline, "parts") or "encoder" not in pipeline.parts:
        raise PortError(f"a {type(pipeline).__name__} has no encoder; expected a pipeline of an encoder and a decoder")
    encoder = pipeline.parts["encoder"]
    with pipeline.using({}):
        batch = pipeline.batch(values)
        encoded: Encoded = encoder(batch, {}) if callable(encoder) else encoder.forward(batch, {})
    return encoded


def prefixes(pipeline: Any, encoded: Encoded) -> Prefixes:
    """Empty prefixes of a batch, as the pipeline's decoder continues them.

    The step interface where the decoder has it, else a transducer's `prediction` and `joint`, else a CTC head.
    **Raises** `PortError` for other decoders.
    """
    decoder = pipeline.parts.get("decoder")
    if getattr(decoder, "has_steps", False):
        return StepPrefixes(decoder, encoded)
    if all(isinstance(getattr(decoder, name, None), nn.Module) for name in ("prediction", "joint")):
        return TransducerPrefixes(decoder, encoded)
    if isinstance(getattr(decoder, "head", None), nn.Module):
        head = ctc_head(pipeline)
        return CtcPrefixes(ctc.log_probs(head, encoded), encoded.lengths, head.vocabulary.blank)
    raise PortError(
        f"decoder {type(decoder).__name__} says nothing about single tokens; expected the step interface (start, step), a "
        f"transducer (prediction, joint) or a CTC head. Next: query: transcript, which needs n-best lists alone"
    )
