"""Decoder `ctc-beam`: prefix beam search with phrase boosting, a language model and a lexicon, behind a CTC head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from slt_ctc_personalization.adapter.attention_supervision import PHRASE_ATTENTION, AttentionSupervision
from slt_ctc_personalization.beam_search.search import BeamSearch, BeamSession, PhraseTable
from slt_ctc_personalization.evidence.phrase_evidence import EvidenceReader, EvidenceStream
from slt_ctc_personalization.phrases.prepared_phrases import PHRASES, PhraseLists
from slt_ctc_personalization.phrases.spelling import Speller
from sltcore import ctc
from sltcore.context import per_utterance
from sltcore.errors import ShapeError, StreamError
from sltcore.interfaces import Decoder, Session
from sltcore.types import ContextKey, Encoded, Hypothesis, NBest, Port, Targets
from sltcore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from slt_ctc_personalization.torch_search.torch_engine import TorchEngine

Frames = npt.NDArray[np.float32]


class CtcBeam(Decoder, nn.Module):
    """The most probable texts of a CTC head's posteriors, with what is known beside the sound.

    `log_probs = log_softmax(head(values))`, mapped to the lexicon's phones where there is a lexicon of phones, searched
    by `slt_ctc_personalization.beam_search.search.BeamSearch`, whose docstring states the score. `phrases` of the context are
    checked and turned into an automaton once for a list and kept for the last few lists; a phrase that cannot be
    spelled is refused by name. An empty list and none give the plain search bit for bit.

    Where boosting is adaptive (`utterance`, `windowed`), `evidence` reads what is heard of each phrase: the attention of
    a contextual adapter, the hits of a word spotter on phones, or both (module `phrase_evidence`).

    The head stays under `self.head`, as in every CTC decoder, so searches are interchangeable on one bundle. The loss is
    CTC over the head's labels, with `attention_supervision` times the loss that teaches an adapter where to look, where
    the encoder gives an attention; lexicon, language model and bonuses take no part in training.

    Where the frames lie on a GPU and the settings allow it, `TorchEngine` searches there, with the same result.

    It streams (on the CPU), with the result of the whole, unless boosting is `utterance`. Evidence from phones holds the frames back
    by the spotter's delay, windowed boosting by `window_after` frames more.

    **Source**: Dingliwal et al., "Towards Personalization of CTC Speech Recognition Models with Contextual Adapters and
    Adaptive Boosting", arXiv:2210.09510. The paper's own rule of adaptive boosting is not public in detail; ours are
    stated in `BeamSearch` and in modules `phrases` and `windowed_engine`. Attention supervision: arXiv:2307.00759.
    """

    def __init__(
        self,
        head: ctc.Head,
        search: BeamSearch,
        *,
        speller: Speller,
        to_frames: Callable[[Frames], Frames] | None = None,
        spell_target: Callable[[str], Sequence[int]] | None = None,
        files: Mapping[str, bytes] | None = None,
        evidence: EvidenceReader | None = None,
        attention_supervision: float = 0.0,
        pronounce: Callable[[str], Sequence[Sequence[str]]] | None = None,
        torch_engine: TorchEngine | None = None,
        always_torch: bool = False,
    ) -> None:
        """`to_frames` maps log-probabilities over the head's labels to those the search reads; None: they are the same.

        `spell_target` writes a text in the head's labels for training; None: the vocabulary does. `evidence` is needed
        where the search's boosting is adaptive, and only there. `attention_supervision` is the weight of that loss,
        `pronounce` says words in the head's labels for it where these are phones; None: English.
        `torch_engine` searches in place of the compiled kernel where frames lie on a GPU; `always_torch`: everywhere.
        """
        super().__init__()
        self.head = head.module
        self.d = head.d
        self._vocabulary = head.vocabulary
        self.search = search
        self.speller = speller
        self.evidence = evidence
        self._to_frames = to_frames
        self._spell_target = spell_target
        self._files = dict(files or {})
        self._torch_engine = torch_engine
        self._always_torch = always_torch
        self._lists = PhraseLists(lambda phrases: search.prepare(speller.phrases(phrases)), search.settings)
        self._attention_supervision = attention_supervision
        self._supervision = AttentionSupervision(head.vocabulary, pronounce=pronounce)

    @property
    def consumes(self) -> Port:
        """Frames as wide as the head."""
        return Port("Encoded", {"d": self.d})

    @property
    def produces(self) -> Port:
        """N-best lists."""
        return Port("Hypotheses")

    @property
    def vocabulary(self) -> Vocabulary:
        """The head's labels."""
        return self._vocabulary

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`phrases`."""
        return (PHRASES,)

    def offers(self) -> Mapping[str, Any]:
        """`head` and `vocabulary`, for another search on the same posteriors."""
        return {"head": self.head, "vocabulary": self._vocabulary}

    def save_files(self) -> Mapping[str, bytes]:
        """The labels, and the language model and lexicon where they came from files."""
        return {**ctc.vocabulary_file(self._vocabulary), **self._files}

    def prepare(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check and build the phrase list once. **Raises** `ContextError` naming every phrase that cannot be spelled."""
        phrases = context.get(PHRASES.name)
        if phrases is None or isinstance(phrases, PhraseTable):
            return context
        phrases = self._lists.attached(phrases)
        if self.evidence is not None and self.evidence.phones is not None and len(phrases):
            phrases = self.evidence.phones.lists.attached(phrases)
        return {**context, PHRASES.name: phrases}

    def table(self, phrases: Any) -> PhraseTable | None:
        """The automaton of one list, kept for the last few lists; a prepared one passes through."""
        found: PhraseTable | None = phrases if isinstance(phrases, PhraseTable) else self._lists.of(phrases)
        return found

    def frames(self, encoded: Encoded) -> Frames:
        """What the search reads: log-probabilities [b t v] float32, natural log."""
        return self._read(ctc.log_probs(self._head, encoded))

    def _read(self, log_probs: Tensor) -> Frames:
        values: Frames = log_probs.detach().cpu().numpy()
        return values if self._to_frames is None else self._to_frames(values)

    @property
    def _head(self) -> ctc.Head:
        return ctc.Head(self.head, self._vocabulary, self.d)

    @torch.no_grad()
    def decode(self, encoded: Encoded, context: Mapping[str, Any]) -> list[NBest]:
        """N-best lists; times in seconds, for words where the search knows words, else for tokens."""
        lists = per_utterance(context, PHRASES, len(encoded.lengths))
        tables = [self.table(phrases) for phrases in lists]
        log_probs = ctc.log_probs(self._head, encoded)
        with_torch = self._torch_engine is not None and (self._always_torch or log_probs.is_cuda)
        frames = log_probs if with_torch else self._read(log_probs)
        heard = None
        if self.evidence is not None:
            counts = [len(table) if table else 0 for table in tables]
            own = frames if isinstance(frames, np.ndarray) else self._read(log_probs)
            heard = self.evidence.read(encoded, own, lists, counts)
        search: Any = self._torch_engine if with_torch else self.search
        found: list[NBest] = search.decode(
            frames,
            encoded.lengths,
            phrases=tables,
            evidence=heard,
            frame_shift_s=encoded.frame_shift_s,
            offset_s=encoded.offset_s,
        )
        return found

    def targets(self, texts: Sequence[str], context: Mapping[str, Any]) -> Targets:
        """The labels of texts: as `spell_target` writes them, else the vocabulary's spelling.

        **Raises** `VocabularyError` for a word that the dictionary lacks.
        """
        if self._spell_target is None:
            return super().targets(texts, context)
        return ctc.pad_labels(self._spell_target(text) for text in texts)

    def frames_needed(self, targets: Targets) -> Tensor:
        """Its labels, and one blank between equal neighbours: [b]."""
        return ctc.frames_needed(targets.ids, targets.lengths)

    def loss(self, encoded: Encoded, targets: Targets, context: Mapping[str, Any]) -> Tensor:
        """CTC loss of each utterance, and the weighted loss of the attention where there is one: [b] float32 in nats; see
        `sltcore.ctc.training_loss` and `attention_supervision.attention_loss`."""
        losses = ctc.training_loss(self._head, encoded, targets)
        attention = encoded.extra.get(PHRASE_ATTENTION)
        if not self._attention_supervision or attention is None:
            return losses
        lists = per_utterance(context, PHRASES, len(encoded.lengths))
        with torch.no_grad():
            log_probs = ctc.log_probs(self._head, encoded)
        looked = self._supervision.loss(attention, log_probs, encoded.lengths, targets, lists)
        return losses + self._attention_supervision * looked

    def open(self, context: Mapping[str, Any]) -> Session:
        """A session over chunks of one utterance's frames. **Raises** `StreamError` where boosting is `utterance`."""
        if self.search.settings.boosting == "utterance":
            raise StreamError(
                "ctc-beam with boosting: utterance weighs phrases by all that will be heard, so it cannot stream; use boosting: "
                "windowed, or decode whole recordings"
            )
        (phrases,) = per_utterance(context, PHRASES, 1)
        table = self.table(phrases)
        stream = self.evidence.open(phrases, len(table)) if self.evidence is not None and table else None
        return CtcBeamSession(self, table, stream)


class CtcBeamSession(Session):
    """The search over one utterance, chunk by chunk, in memory that does not grow with the audio.

    `push` takes an `Encoded` with one utterance and returns the leading text so far, whose end may still change, or None
    while it stays the same; `finish` returns the n-best list of the whole.
    """

    def __init__(self, decoder: CtcBeam, table: PhraseTable | None, stream: EvidenceStream | None = None) -> None:
        self._decoder = decoder
        self._table = table
        self._stream = stream
        self._session: BeamSession | None = None
        self._finished = False
        self._said = ""

    @torch.no_grad()
    def push(self, chunk: Encoded, **streams: Any) -> NBest | None:
        """Hear the next frames. **Raises** `StreamError` after `finish`, `ShapeError` for more than one utterance."""
        if self._finished:
            raise StreamError("this ctc-beam session is finished; open another one")
        if len(chunk.lengths) != 1:
            raise ShapeError(f"a streaming chunk holds one utterance, got {len(chunk.lengths)}")
        if self._session is None:
            self._session = self._open(chunk.frame_shift_s, chunk.offset_s)
        frames = self._decoder.frames(chunk)
        if self._stream is None:
            self._session.push(frames[0, : int(chunk.lengths[0])])
        else:
            self._session.push(*self._stream.push(chunk, frames))
        text = self._session.partial
        if text == self._said:
            return None
        self._said = text
        return NBest([Hypothesis(text)])

    def _open(self, frame_shift_s: float, offset_s: float) -> BeamSession:
        return self._decoder.search.open(phrases=self._table, frame_shift_s=frame_shift_s, offset_s=offset_s)

    def finish(self) -> NBest:
        """End the utterance."""
        if self._finished:
            raise StreamError("this ctc-beam session is finished; open another one")
        self._finished = True
        session = self._session if self._session is not None else self._open(1.0, 0.0)
        held = None if self._stream is None else self._stream.finish()
        if held is not None:
            session.push(*held)
        return session.finish()
