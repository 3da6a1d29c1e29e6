"""Words and labels: how a text is spelled for a decoder, and which labels make a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sltcore.errors import DataError, VocabularyError
from sltcore.types import Targets
from sltcore.vocabulary import Vocabulary, word_spans


class Word(NamedTuple):
    """A word as it was written, and its labels `first` to `stop - 1` of the spelling."""

    text: str
    first: int
    stop: int


class Spelling(NamedTuple):
    """The labels of a text, and its words; None where nothing tells which labels make a word."""

    ids: list[int]
    words: tuple[Word, ...] | None


class Spellings:
    """Spells transcripts for one decoder; what a word needs is found out once.

    A word that has no spelling as it stands is tried in lower and upper case, and without what is neither letter, digit
    nor apostrophe; signs that stand alone, such as a dash, are left out. The words of the result are those of the text.
    """

    def __init__(self, decoder: Any, context: Mapping[str, Any]) -> None:
        self.decoder = decoder
        self.context = context
        self.vocabulary: Vocabulary = decoder.vocabulary
        self._known: dict[str, tuple[str, list[int]] | None] = {}

    def __call__(self, text: str) -> Spelling:
        """**Raises** `VocabularyError` for a word without a spelling, `DataError` for a text without words."""
        words = [word for word in text.split() if self._word(word) is not None]
        found = [self._word(word) or ("", []) for word in words]
        if not words:
            raise DataError("there is nothing to align in an empty text; give the words that were said")
        (ids,) = self._ids([" ".join(spelled for spelled, _ in found)])
        return Spelling(ids, self._words(words, [part for _, part in found], ids))

    def _word(self, word: str) -> tuple[str, list[int]] | None:
        if word not in self._known:
            self._known[word] = self._found(word)
        return self._known[word]

    def _found(self, word: str) -> tuple[str, list[int]] | None:
        plain = "".join(c for c in word.replace("’", "'") if c.isalnum() or c == "'").strip("'")
        problem: VocabularyError | None = None
        for candidate in dict.fromkeys((word, word.lower(), word.upper(), plain, plain.lower(), plain.upper())):
            try:
                (ids,) = self._ids([candidate])
            except VocabularyError as error:
                problem = problem or error
                continue
            if ids:
                return candidate, ids
        if not plain:
            return None
        raise VocabularyError(f"word {word!r} cannot be spelled: {problem}")

    def _ids(self, texts: list[str]) -> list[list[int]]:
        targets: Targets = self.decoder.targets(texts, self.context)
        rows = zip(targets.ids.tolist(), targets.lengths.tolist(), strict=True)
        return [ids[:length] for ids, length in rows]

    def _words(self, words: list[str], parts: list[list[int]], ids: list[int]) -> tuple[Word, ...] | None:
        """The words' places in `ids`: one spelling after the other, the boundary between them or not."""
        labels, boundary = self.vocabulary.labels, self.vocabulary.boundary
        are_labels = self.vocabulary.kind == "phones" and all(
            len(part) == 1 and labels[part[0]] == word for word, part in zip(words, parts, strict=True)
        )
        if not are_labels:
            for between in ([], [boundary] if boundary is not None else []):
                places, joined = [], list[int]()
                for word, part in zip(words, parts, strict=True):
                    joined += between if joined else []
                    places.append(Word(word, len(joined), len(joined) + len(part)))
                    joined += part
                if joined == ids:
                    return tuple(places)
        spans = word_spans(ids, self.vocabulary)
        if spans is None or (are_labels and boundary not in ids and len(ids) > 1):
            return None
        names = words if len(words) == len(spans) else [self.vocabulary.decode(ids[slice(*span)]) for span in spans]
        return tuple(Word(name, *span) for name, span in zip(names, spans, strict=True))
