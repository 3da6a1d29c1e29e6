"""From the phrases of a call to what the search expects: label paths or pronunciations, and a bonus each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice, product
from typing import Any, NamedTuple

from slt_ctc_personalization.phrases import Phrase
from sltcore.errors import ContextError, SltError, VocabularyError, did_you_mean
from sltcore.vocabulary import Vocabulary

MOST_SPELLINGS = 16
SHOWN = 10
FIELDS = ("text", "bonus", "spellings")

Pronounce = Callable[[str], Sequence[Sequence[int]]]


class Entry(NamedTuple):
    """One phrase of a call. `bonus` replaces the decoder's own; `spellings` are further ways it is written or said."""

    text: str
    bonus: float | None = None
    spellings: tuple[str, ...] = ()


def entries(phrases: Any) -> list[Entry]:
    """The phrases of a call, repeated ones once; **Raises** `ContextError` naming what cannot be read as a phrase."""
    if isinstance(phrases, str) or not isinstance(phrases, Iterable):
        raise ContextError(f"phrases: expected a list of texts, got {type(phrases).__name__} {str(phrases)[:40]!r}")
    found: dict[str, Entry] = {}
    for index, phrase in enumerate(phrases):
        entry = _entry(phrase, index)
        found.setdefault(" ".join(entry.text.split()), entry)
    return list(found.values())


def _entry(phrase: Any, index: int) -> Entry:
    if isinstance(phrase, str):
        return Entry(phrase)
    if not isinstance(phrase, Mapping) or not isinstance(phrase.get("text"), str):
        raise ContextError(
            f"phrases[{index}]: expected a text, or a map with a text, got {type(phrase).__name__} {str(phrase)[:40]!r}"
        )
    unknown = [key for key in phrase if key not in FIELDS]
    if unknown:
        raise ContextError(
            f"phrases[{index}]: no field is named {unknown[0]!r}; fields: {', '.join(FIELDS)}.{did_you_mean(str(unknown[0]), FIELDS)}"
        )
    bonus, spellings = phrase.get("bonus"), phrase.get("spellings", ())
    if bonus is not None and (isinstance(bonus, bool) or not isinstance(bonus, int | float) or not 0 <= bonus < 1e6):
        raise ContextError(f"phrases[{index}]: bonus is {bonus!r}, expected a number from 0")
    if isinstance(spellings, str) or not all(isinstance(item, str) for item in spellings):
        raise ContextError(f"phrases[{index}]: spellings is {spellings!r}, expected a list of texts")
    return Entry(phrase["text"], bonus, tuple(spellings))


class Speller(ABC):
    """Turns the phrases of a call into phrases of the search."""

    def __init__(self, bonus: float) -> None:
        """`bonus` is natural-log score for each label of a phrase's first spelling."""
        self.bonus = bonus

    def phrases(self, phrases: Any) -> list[Phrase]:
        """Every phrase with its paths; **Raises** `ContextError` naming each phrase that cannot be spelled, and why."""
        found, problems = [], []
        for entry in entries(phrases):
            try:
                if not entry.text.split():
                    raise VocabularyError(f"phrase {entry.text!r} is empty; give at least one word")
                found.append(self.spell(entry))
            except SltError as error:
                problems.append(str(error))
        if problems:
            more = f" (and {len(problems) - SHOWN} more)" if len(problems) > SHOWN else ""
            raise ContextError(
                f"phrases: {len(problems)} cannot be spelled, so they would have no effect: {'; '.join(problems[:SHOWN])}{more}"
            )
        return found

    @abstractmethod
    def spell(self, entry: Entry) -> Phrase:
        """One phrase; **Raises** `VocabularyError` when it has no spelling."""

    def _bonus(self, entry: Entry, labels: int) -> float:
        return float(entry.bonus) if entry.bonus is not None else self.bonus * labels


class LabelSpeller(Speller):
    """Phrases in the labels of a vocabulary: characters or sub-words."""

    def __init__(self, vocabulary: Vocabulary, bonus: float) -> None:
        super().__init__(bonus)
        self.vocabulary = vocabulary

    def spell(self, entry: Entry) -> Phrase:
        """The vocabulary's spellings of the text and of its further spellings."""
        paths = [tuple(path) for text in (entry.text, *entry.spellings) for path in self.vocabulary.spell(text)]
        return Phrase(entry.text, self._bonus(entry, len(paths[0])), tuple(dict.fromkeys(paths)))


class PhoneSpeller(Speller):
    """Phrases in phones, for a search without a lexicon: the pronunciations of their words, joined."""

    def __init__(self, pronounce: Pronounce, boundary: int | None, bonus: float) -> None:
        super().__init__(bonus)
        self.pronounce = pronounce
        self.boundary = boundary

    def spell(self, entry: Entry) -> Phrase:
        """Every combination of its words' pronunciations, at most `MOST_SPELLINGS`."""
        paths: dict[tuple[int, ...], None] = {}
        for text in (entry.text, *entry.spellings):
            choices = [self.pronounce(word) for word in text.split()]
            for combination in islice(product(*choices), MOST_SPELLINGS):
                paths[self._joined(combination)] = None
        first = next(iter(paths))
        return Phrase(entry.text, self._bonus(entry, len(first)), tuple(paths))

    def _joined(self, words: Sequence[Sequence[int]]) -> tuple[int, ...]:
        path: list[int] = []
        for index, word in enumerate(words):
            if index and self.boundary is not None:
                path.append(self.boundary)
            path.extend(word)
        return tuple(path)


class LexiconSpeller(Speller):
    """Phrases as words with pronunciations, for a search with a lexicon."""

    def __init__(self, pronounce: Pronounce, bonus: float) -> None:
        super().__init__(bonus)
        self.pronounce = pronounce

    def spell(self, entry: Entry) -> Phrase:
        """The words in lower case and without punctuation around them, each with its pronunciations; further spellings say how the whole is said, word by
        word. **Raises** `VocabularyError` when a further spelling has another number of words."""
        words = entry.text.split()
        keys = [_key(word) for word in words]
        sounds: dict[str, list[Sequence[int]]] = {
            key: list(self.pronounce(word)) for key, word in zip(keys, words, strict=True)
        }
        for spelling in entry.spellings:
            said = spelling.split()
            if len(said) != len(words):
                raise VocabularyError(
                    f"spelling {spelling!r} of {entry.text!r} has {len(said)} words, expected {len(words)}; join words that are one with a hyphen"
                )
            for key, sound in zip(keys, said, strict=True):
                sounds[key].extend(self.pronounce(sound))
        labels = sum(len(sounds[key][0]) for key in keys)
        return Phrase(
            " ".join(keys),
            self._bonus(entry, labels),
            (),
            {key: tuple(dict.fromkeys(map(tuple, paths))) for key, paths in sounds.items()},
        )


class TargetSpeller:
    """A text in phones for training: each word's first pronunciation, and the boundary label after it."""

    def __init__(self, dictionary: Mapping[str, Sequence[Sequence[str]]], vocabulary: Vocabulary) -> None:
        self.dictionary = dictionary
        self.vocabulary = vocabulary

    def __call__(self, text: str) -> list[int]:
        """The label ids of a text; **raises** `VocabularyError` naming a word that the dictionary lacks, or one of its
        phones that the vocabulary lacks."""
        labels: list[int] = []
        for word in text.split():
            labels += [self.vocabulary.id(phone) for phone in self._first(word)]
            if self.vocabulary.boundary is not None:
                labels.append(self.vocabulary.boundary)
        return labels

    def _first(self, word: str) -> Sequence[str]:
        for form in (word, _key(word), f"{_key(word)}."):  # the dictionary writes initials with a dot
            found = self.dictionary.get(form)
            if found:
                return found[0]
        raise VocabularyError(f"the word {word!r} is not in the dictionary, so it has no pronunciation to learn")


def _key(word: str) -> str:
    """A word as a lexicon writes it: lower case, without the punctuation around it."""
    return word.lower().strip('.,!?;:"()') or word.lower()
