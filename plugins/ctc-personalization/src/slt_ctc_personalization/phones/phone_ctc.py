"""Objective `phone-ctc`: an encoder's phones against the pronunciation of what was said."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slt_ctc_personalization.phones.g2p import Phonemes
from slt_ctc_personalization.phones.phone_head import (
    PHONE_LOG_PROBS,
    PhoneReader,
    phone_language_of,
    phone_vocabulary_of,
)
from sltcore import ctc
from sltcore.context import per_utterance
from sltcore.errors import ContextError, DataError, PortError, SltError, VocabularyError
from sltcore.interfaces import Encoder, Objective
from sltcore.types import ContextKey, Encoded, Port
from sltcore.vocabulary import Vocabulary

log = logging.getLogger("slt_ctc_personalization")
TRANSCRIPT = ContextKey("transcript", "text", "what is said; in a train spec: context: {transcript: text}")
FED = "in a train spec write context: {transcript: text}"
SHOWN = 5

MakePhonemes = Callable[[Vocabulary, str], Phonemes]
"""Pronunciations in the labels of a vocabulary, for a language."""


class PhoneCtc(Objective, nn.Module):
    """-ln P(pronunciation of the transcript | frames) by CTC: [b] float32, nats.

    The target is the first pronunciation of each word with the boundary label after it (`Phonemes.target`), which is a
    function of the text alone. The phones are those of an encoder such as `phone-head` (`extra["phone_log_probs"]`); with
    `reader` and `vocabulary` the objective has a head of its own on any encoder's output, as an auxiliary loss wants it.

    An utterance is no part of the loss, 0 with zero gradient, when it has no transcript, a word of it cannot be said, or
    its phones need more frames than it has. Those that cannot be said are named once before training begins.

    **Source**: Graves et al., 2006, doi:10.1145/1143844.1143891; phones as an auxiliary CTC task: Fernández et al., 2007
    (hierarchical CTC), at one depth only here.
    """

    def __init__(
        self, phonemes: MakePhonemes, *, reader: PhoneReader | None = None, vocabulary: Vocabulary | None = None
    ) -> None:
        """**Raises** `PortError` when only one of `reader` and `vocabulary` is given."""
        super().__init__()
        if (reader is None) != (vocabulary is None):
            raise PortError("phone-ctc: a head of its own needs its phones, and phones need a head; give both or none")
        self.phone_head = reader
        self.vocabulary = vocabulary
        self._make = phonemes
        self._known: tuple[Vocabulary, Phonemes] | None = None
        self._texts: list[str] = []

    @property
    def consumes(self) -> Port:
        """What the encoder consumes: sound or features."""
        return Port("Waveform")

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`transcript`."""
        return (TRANSCRIPT,)

    def check(self, encoder: Encoder) -> None:
        """**Raises** `PortError` when the encoder reads no sound, or has no phones where the objective has no head."""
        who = type(encoder).__name__
        if encoder.consumes.type not in ("Waveform", "Features", "Encoded"):
            raise PortError(
                f"phone-ctc cannot train {who}, which consumes {encoder.consumes}; it reads phones of sound"
            )
        if self.phone_head is not None:
            d = encoder.produces.attributes.get("d", self.phone_head.linear.in_features)
            if d != self.phone_head.linear.in_features:
                raise PortError(
                    f"phone-ctc cannot train {who}, whose output is {d} wide; its own head reads "
                    f"{self.phone_head.linear.in_features}"
                )
        elif phone_vocabulary_of(encoder) is None:
            raise PortError(
                f"phone-ctc cannot train {who}, which offers no phone_vocabulary; wrap it as encoder: {{use: phone-head, "
                f"encoder: ...}}, or give the objective a head of its own with phones: cmu"
            )
        self._report(self._phonemes(encoder))

    def learn_texts(self, texts: Sequence[str]) -> None:
        """Pronounce the words of all transcripts at once, and name those that cannot be said.

        **Raises** `DataError` when none of the texts can be said.
        """
        self._texts = list(texts)
        if self._known is not None:
            self._report(self._known[1])

    def loss(self, encoder: Encoder, batch: Any, context: Mapping[str, Any]) -> Tensor:
        """Losses [b]. **Raises** `ContextError` without `transcript`, `PortError` for an encoder without phones."""
        if context.get(TRANSCRIPT.name) is None:
            raise ContextError(f"phone-ctc reads context '{TRANSCRIPT.name}' and got none; {FED}")
        run: Any = encoder  # as a module, with its hooks
        encoded: Encoded = run(batch, context) if callable(run) else run.forward(batch, context)
        phonemes = self._phonemes(encoder)
        vocabulary = self._vocabulary(encoder)
        frames = self._frames(encoded, type(encoder).__name__)
        texts = per_utterance(context, TRANSCRIPT, len(encoded.lengths))
        targets = [_target(phonemes, text) for text in texts]
        labels = ctc.pad_labels((target or [] for target in targets), frames.device)
        losses = ctc.ctc_loss(frames, encoded.lengths, labels, blank=vocabulary.blank)
        counts = torch.tensor([bool(target) for target in targets], device=losses.device) & ~losses.isinf()
        return torch.where(counts, losses, 0.0).clamp_min(0.0)

    def _frames(self, encoded: Encoded, who: str) -> Tensor:
        if self.phone_head is not None:
            inside = torch.arange(encoded.values.shape[1], device=encoded.values.device) < encoded.lengths[:, None]
            logits: Tensor = self.phone_head([torch.where(inside[..., None], encoded.values, 0.0)])
            return logits.float().log_softmax(dim=-1)
        if PHONE_LOG_PROBS not in encoded.extra:
            raise PortError(
                f"phone-ctc cannot train {who}: its output has no '{PHONE_LOG_PROBS}'; wrap it in phone-head"
            )
        return encoded.extra[PHONE_LOG_PROBS]

    def _vocabulary(self, encoder: Encoder) -> Vocabulary:
        found = self.vocabulary if self.vocabulary is not None else phone_vocabulary_of(encoder)
        if found is None:
            raise PortError(f"phone-ctc cannot train {type(encoder).__name__}, which offers no phone_vocabulary")
        return found

    def _phonemes(self, encoder: Encoder) -> Phonemes:
        vocabulary = self._vocabulary(encoder)
        if self._known is None or self._known[0] is not vocabulary:
            self._known = (vocabulary, self._make(vocabulary, phone_language_of(encoder) or "en"))
        return self._known[1]

    def _report(self, phonemes: Phonemes) -> None:
        """Warm the cache with all words of the texts, and say once what cannot be said."""
        texts, self._texts = self._texts, []
        if not texts:
            return
        _, problems = phonemes.pronounce_words({word for text in texts for word in text.split()})
        silent = [text for text in texts if text.strip() and _target(phonemes, text) is None]
        if silent and len(silent) == sum(bool(text.strip()) for text in texts):
            raise DataError(
                f"phone-ctc: none of {len(silent)} transcripts can be pronounced, so nothing would be learned: "
                f"{next(iter(problems.values()), 'they are empty')}"
            )
        if silent:
            shown = "; ".join(list(problems.values())[:SHOWN])
            log.warning("phone-ctc: %d of %d transcripts are no part of the loss: %s", len(silent), len(texts), shown)


def _target(phonemes: Phonemes, text: str | None) -> list[int] | None:
    try:
        return phonemes.target(text) if text else None
    except VocabularyError:
        return None
    except SltError as error:
        raise ContextError(f"phone-ctc: transcript {str(text)[:60]!r}: {error}") from error
