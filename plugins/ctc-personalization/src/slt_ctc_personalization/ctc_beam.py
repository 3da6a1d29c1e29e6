"""Decoder `ctc-beam`: prefix beam search with phrase boosting, a language model and a lexicon, behind a CTC head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from slt_ctc_personalization.search import BeamSearch, BeamSession, PhraseTable
from slt_ctc_personalization.spelling import Speller
from sltcore import ctc
from sltcore.context import per_utterance
from sltcore.errors import ShapeError, StreamError
from sltcore.interfaces import Decoder, Session
from sltcore.types import ContextKey, Encoded, Hypothesis, NBest, Port, Targets
from sltcore.vocabulary import Vocabulary

PHRASES = ContextKey("phrases", "texts", "phrases to expect: texts, or maps with text, bonus and spellings")
KEPT_LISTS = 8

Frames = npt.NDArray[np.float32]


class PreparedPhrases(tuple[Any, ...]):
    """A list of phrases with the automaton made of it; still a list of phrases to every other stage."""

    table: PhraseTable

    def __new__(cls, phrases: Iterable[Any], table: PhraseTable) -> PreparedPhrases:
        made = super().__new__(cls, phrases)
        made.table = table
        return made


class CtcBeam(Decoder, nn.Module):
    """The most probable texts of a CTC head's posteriors, with what is known beside the sound.

    `log_probs = log_softmax(head(values))`, mapped to the lexicon's phones where there is a lexicon of phones, searched
    by `slt_ctc_personalization.search.BeamSearch`, whose docstring states the score. `phrases` of the context are
    checked and turned into an automaton once for a list and kept for the last few lists; a phrase that cannot be
    spelled is refused by name. An empty list and none give the plain search bit for bit.

    The head stays under `self.head`, as in every CTC decoder, so searches are interchangeable on one bundle. The loss is
    CTC over the head's labels; lexicon, language model and phrases take no part in training.

    **Source**: Dingliwal et al., "Towards Personalization of CTC Speech Recognition Models with Contextual Adapters and
    Adaptive Boosting", arXiv:2210.09510 (decoding side; the paper's own rule is not public in detail, ours is the
    Aho-Corasick form stated in module `phrases`).
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
    ) -> None:
        """`to_frames` maps log-probabilities over the head's labels to those the search reads; None: they are the same.

        `spell_target` writes a text in the head's labels for training; None: the vocabulary does.
        """
        super().__init__()
        self.head = head.module
        self.d = head.d
        self._vocabulary = head.vocabulary
        self.search = search
        self.speller = speller
        self._to_frames = to_frames
        self._spell_target = spell_target
        self._files = dict(files or {})
        self._tables: OrderedDict[Any, PhraseTable] = OrderedDict()

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
        table = self.table(phrases)
        if phrases is None or table is None or isinstance(phrases, PhraseTable):
            return context
        return {**context, PHRASES.name: PreparedPhrases(phrases, table)}

    def table(self, phrases: Any) -> PhraseTable | None:
        """The automaton of one list, kept for the last few lists; a prepared one passes through."""
        if phrases is None or isinstance(phrases, PhraseTable):
            return phrases
        if isinstance(phrases, PreparedPhrases) and phrases.table.owner is self.search.settings:
            return phrases.table
        key = repr(phrases)
        if key not in self._tables:
            self._tables[key] = self.search.prepare(self.speller.phrases(phrases))
            while len(self._tables) > KEPT_LISTS:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return self._tables[key]

    def frames(self, encoded: Encoded) -> Frames:
        """What the search reads: log-probabilities [b t v] float32, natural log."""
        values: Frames = ctc.log_probs(self._head, encoded).detach().cpu().numpy()
        return values if self._to_frames is None else self._to_frames(values)

    @property
    def _head(self) -> ctc.Head:
        return ctc.Head(self.head, self._vocabulary, self.d)

    @torch.no_grad()
    def decode(self, encoded: Encoded, context: Mapping[str, Any]) -> list[NBest]:
        """N-best lists; times in seconds, for words where the search knows words, else for tokens."""
        lists = per_utterance(context, PHRASES, len(encoded.lengths))
        return self.search.decode(
            self.frames(encoded),
            encoded.lengths,
            phrases=[self.table(phrases) for phrases in lists],
            frame_shift_s=encoded.frame_shift_s,
            offset_s=encoded.offset_s,
        )

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
        """CTC loss of each utterance: [b] float32 in nats; see `sltcore.ctc.training_loss`."""
        return ctc.training_loss(self._head, encoded, targets)

    def open(self, context: Mapping[str, Any]) -> Session:
        """A session over chunks of one utterance's frames."""
        (phrases,) = per_utterance(context, PHRASES, 1)
        return CtcBeamSession(self, self.table(phrases))


class CtcBeamSession(Session):
    """The search over one utterance, chunk by chunk, in memory that does not grow with the audio.

    `push` takes an `Encoded` with one utterance and returns the leading text so far, whose end may still change, or None
    while it stays the same; `finish` returns the n-best list of the whole.
    """

    def __init__(self, decoder: CtcBeam, table: PhraseTable | None) -> None:
        self._decoder = decoder
        self._table = table
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
        self._session.push(self._decoder.frames(chunk)[0, : int(chunk.lengths[0])])
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
        return session.finish()
