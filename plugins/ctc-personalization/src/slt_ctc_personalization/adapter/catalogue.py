"""The catalogue: a vector for every phrase of a list, from how it is written or said."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import groupby, islice, product
from typing import Any

import torch
from torch import Tensor, nn

from slt_ctc_personalization.lexicon.lexicon import PHONES, Pronouncer
from slt_ctc_personalization.phrases.spelling import SHOWN, Entry, LabelSpeller, entries
from sltcore.errors import ContextError, SltError, VocabularyError
from sltcore.vocabulary import Vocabulary

MOST_PRONUNCIATIONS = 4
KEPT_SPELLINGS = 200_000
PHRASES_AT_ONCE = 4096

Symbols = tuple[int, ...]
Written = tuple[Symbols, ...]
"""One phrase: its spellings as symbol ids, at least one."""


class Script(ABC):
    """How a catalogue writes phrases: a number of symbols, and the spellings of a text in them. Spellings are kept."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._known: dict[tuple[str, tuple[str, ...]], Written] = {}

    @abstractmethod
    def spell(self, text: str) -> list[Symbols]:
        """The spellings of one text; **raises** `VocabularyError` when it has none."""

    def write(self, entry: Entry) -> Written:
        """The spellings of a phrase and of the further ways it is written; **raises** `VocabularyError` for one of those
        that has none, and where there are none for a text that has none."""
        key = (entry.text, entry.spellings)
        found = self._known.get(key)
        if found is None:
            if not entry.text.split():
                raise VocabularyError(f"phrase {entry.text!r} is empty; give at least one word")
            if not all(text.split() for text in entry.spellings):
                raise VocabularyError(f"phrase {entry.text!r} has an empty spelling; remove it")
            spelled = [symbols for text in entry.spellings for symbols in self.spell(text)]
            try:
                spelled = [*self.spell(entry.text), *spelled]
            except SltError:
                if not spelled:
                    raise
            if len(self._known) >= KEPT_SPELLINGS:
                self._known.clear()
            found = self._known[key] = tuple(dict.fromkeys(spelled))
        return found

    def can_write(self, text: str) -> bool:
        """Whether a text has a spelling."""
        try:
            return bool(self.write(Entry(text)))
        except SltError:
            return False

    def written(self, phrases: Any) -> list[Written]:
        """Every phrase of a list, in the order of `entries(phrases)`.

        **Raises** `ContextError` naming each phrase that cannot be spelled, and why.
        """
        found, problems = [], []
        for entry in entries(phrases):
            try:
                found.append(self.write(entry))
            except SltError as error:
                problems.append(str(error))
        if problems:
            more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            raise ContextError(
                f"contextual-adapter: {len(problems)} phrases cannot be spelled: {'; '.join(problems[:SHOWN])}{more}"
            )
        return found


class LabelScript(Script):
    """Phrases in the labels of a vocabulary: letters, sub-words or words."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(len(vocabulary))
        self._speller = LabelSpeller(vocabulary, 0.0)

    def spell(self, text: str) -> list[Symbols]:
        """The spellings that `LabelSpeller` finds."""
        return self._speller.paths(text)


class ByteScript(Script):
    """Phrases in the UTF-8 bytes of their letters in lower case: any script, and nothing that cannot be written."""

    def __init__(self) -> None:
        super().__init__(256)

    def spell(self, text: str) -> list[Symbols]:
        """One spelling."""
        return [tuple(" ".join(text.lower().split()).encode())]


class PhoneScript(Script):
    """Phrases in phones, the words' pronunciations with a boundary between: at most `MOST_PRONUNCIATIONS` of a text.

    `pronounce` gives the pronunciations of a word in `phones`; by default `Pronouncer`, which speaks English.
    """

    def __init__(
        self, phones: Sequence[str] = PHONES, pronounce: Callable[[str], Sequence[Sequence[str]]] | None = None
    ) -> None:
        super().__init__(len(phones) + 1)
        self._ids = {phone: place for place, phone in enumerate(phones)}
        self._pronounce = pronounce

    def spell(self, text: str) -> list[Symbols]:
        """The combinations of the words' pronunciations; **raises** `VocabularyError` for a word without one."""
        if self._pronounce is None:
            self._pronounce = Pronouncer().pronounce
        choices = []
        for word in text.split():
            known = [sounds for sounds in self._pronounce(word) if sounds and all(p in self._ids for p in sounds)]
            if not known:
                raise VocabularyError(f"{word!r} has no pronunciation: nothing in it can be spoken")
            choices.append(known)
        found = []
        for words in islice(product(*choices), MOST_PRONUNCIATIONS):
            symbols: list[int] = []
            for place, sounds in enumerate(words):
                symbols += [len(self._ids)] if place else []
                symbols += [self._ids[sound] for sound in sounds]
            found.append(tuple(symbols))
        return found


class Catalogue(nn.Module):
    """Vectors of phrases: `c = [last forward state; last backward state]` of an LSTM over the embedded symbols.

    Row 0 is a learned entry for "no phrase". A phrase with several spellings has the mean of their vectors. Spellings
    of one length are read together, `PHRASES_AT_ONCE` at most, so none is padded.

    **Source**: Sathyendra et al., "Contextual Adapters for Personalized Speech Recognition in Neural Transducers",
    arXiv:2205.13660. Layer norm over each vector is ours: it keeps keys of one size as the LSTM learns.
    """

    def __init__(self, symbols: int, embedding: int = 64, *, hidden: int = 64) -> None:
        super().__init__()
        self.width = 2 * hidden
        self.embedding = nn.Embedding(symbols, embedding)
        self.lstm = nn.LSTM(embedding, hidden, bidirectional=True)
        self.norm = nn.LayerNorm(self.width)
        self.no_phrase = nn.Parameter(torch.randn(self.width))

    def forward(self, phrases: Sequence[Written]) -> Tensor:
        """[k+1 c] float32 of k phrases."""
        spellings = [symbols for phrase in phrases for symbols in phrase]
        order = sorted(range(len(spellings)), key=lambda place: -len(spellings[place]))
        states = [
            self._read([spellings[place] for place in order[start : start + PHRASES_AT_ONCE]])
            for start in range(0, len(order), PHRASES_AT_ONCE)
        ]
        if not states:
            return self.no_phrase[None]
        device = self.no_phrase.device
        counts = torch.tensor([len(phrase) for phrase in phrases], device=device)
        owner = torch.repeat_interleave(torch.arange(len(phrases), device=device), counts)
        read = torch.cat(states)
        vectors = read.new_zeros(len(phrases), self.width).index_add(0, owner[torch.tensor(order, device=device)], read)
        return torch.cat([self.no_phrase[None], vectors / counts[:, None]])

    def _read(self, spellings: Sequence[Symbols]) -> Tensor:
        """Vectors [n c] of spellings, longest first; those of one length are read together, so none is padded."""
        states = []
        for _, group in groupby(spellings, key=len):
            symbols = torch.tensor(list(group), device=self.no_phrase.device)
            _, (last, _) = self.lstm(self.embedding(symbols.T))
            states.append(torch.cat([last[0], last[1]], dim=1))
        vectors: Tensor = self.norm(torch.cat(states))
        return vectors
