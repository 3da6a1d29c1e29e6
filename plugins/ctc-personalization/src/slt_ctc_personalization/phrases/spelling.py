"""From the phrases of a call to what the search expects: label paths or pronunciations, and a bonus each."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice, product
from numbers import Real
from typing import Any, NamedTuple

from slt_ctc_personalization.phrases.phrases import Phrase
from slt_ctc_personalization.phrases.segmentation import Segmenter
from sltcore.errors import ContextError, SltError, VocabularyError, did_you_mean
from sltcore.vocabulary import Vocabulary

MOST_SPELLINGS = 16
SHOWN = 10
FIELDS = ("text", "weight", "bonus", "spellings")
NUMBERS = ("weight", "bonus")
MOST_BONUS = 1e6
AROUND_WORDS = '.,!?;:"()“”„«»…'
APOSTROPHES = str.maketrans("’ʼ", "''")

Pronounce = Callable[[str], Sequence[Sequence[int]]]


class Entry(NamedTuple):
    """One phrase of a call. `weight` multiplies the decoder's own bonus, `bonus` replaces it (natural log, for the whole
    phrase); `spellings` are further ways it is written or said."""

    text: str
    bonus: float | None = None
    spellings: tuple[str, ...] = ()
    weight: float = 1.0


def entries(phrases: Any) -> list[Entry]:
    """The phrases of a call, in their order; the place in this list is the phrase's index everywhere.

    A text that stands there again (spaces aside) is one phrase with the spellings of both. **Raises** `ContextError`
    naming what cannot be read as a phrase, and both places where two give different numbers for one text.
    """
    if isinstance(phrases, str | Mapping) or not isinstance(phrases, Iterable):
        raise ContextError(f"phrases: expected a list of texts, got {type(phrases).__name__} {str(phrases)[:40]!r}")
    places: dict[str, int] = {}
    found: dict[str, Mapping[str, Any]] = {}
    for index, phrase in enumerate(phrases):
        given = {"text": phrase} if isinstance(phrase, str) else _fields(phrase, index)
        key = " ".join(given["text"].split())
        if key in found:
            found[key] = _joined(found[key], given, places[key], index)
        else:
            places[key], found[key] = index, given
    return [
        Entry(
            g["text"],
            float(g["bonus"]) if "bonus" in g else None,
            tuple(g["spellings"]) if "spellings" in g else (),
            float(g.get("weight", 1.0)),
        )
        for g in found.values()
    ]


def _fields(phrase: Any, index: int) -> dict[str, Any]:
    """What a map gives of a phrase, checked; fields that are None are not given."""
    if not isinstance(phrase, Mapping) or not isinstance(phrase.get("text"), str):
        raise ContextError(
            f"phrases[{index}]: expected a text, or a map with a text, got {type(phrase).__name__} {str(phrase)[:40]!r}"
        )
    unknown = [key for key in phrase if key not in FIELDS]
    if unknown:
        raise ContextError(
            f"phrases[{index}]: no field is named {unknown[0]!r}; fields: {', '.join(FIELDS)}.{did_you_mean(str(unknown[0]), FIELDS)}"
        )
    given = {key: value for key, value in phrase.items() if value is not None}
    for name in NUMBERS:
        value = given.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < MOST_BONUS:
            raise ContextError(
                f"phrases[{index}]: {name} is {value!r}, expected a number from 0 and below {MOST_BONUS:,.0f}, for "
                f"{given['text'][:40]!r}"
            )
    _refuse_both(given, f"phrases[{index}]")
    spellings = given.get("spellings", ())
    if not isinstance(spellings, list | tuple) or not all(isinstance(item, str) for item in spellings):
        raise ContextError(f"phrases[{index}]: spellings is {spellings!r}, expected a list of texts")
    return given


def _refuse_both(given: Mapping[str, Any], where: str) -> None:
    if "weight" in given and "bonus" in given:
        raise ContextError(
            f"{where}: {given['text'][:40]!r} has both a weight, which multiplies the decoder's bonus, and a bonus, which "
            "replaces it; give one of them"
        )


def _joined(first: Mapping[str, Any], again: Mapping[str, Any], place: int, index: int) -> dict[str, Any]:
    """Two entries of one text as one."""
    for name in NUMBERS:
        if name in first and name in again and first[name] != again[name]:
            raise ContextError(
                f"phrases[{index}]: {again['text'][:40]!r} has {name} {again[name]}, but {first[name]} at phrases[{place}]; "
                "keep one of them"
            )
    joined = {**again, **first}
    spellings = dict.fromkeys((*first.get("spellings", ()), *again.get("spellings", ())))
    if spellings:
        joined["spellings"] = tuple(spellings)
    _refuse_both(joined, f"phrases[{place}] and phrases[{index}]")
    return joined


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
                found.append(self.phrase(entry))
            except SltError as error:
                problems.append(str(error))
        if problems:
            more = f" (and {len(problems) - SHOWN} more)" if len(problems) > SHOWN else ""
            raise ContextError(
                f"phrases: {len(problems)} cannot be spelled, so they would have no effect: {'; '.join(problems[:SHOWN])}{more}"
            )
        return found

    def phrase(self, entry: Entry) -> Phrase:
        """One phrase with its paths; **raises** `SltError` when it is empty or cannot be spelled."""
        if not entry.text.split():
            raise VocabularyError(f"phrase {entry.text!r} is empty; give at least one word")
        return self.spell(entry)

    @abstractmethod
    def spell(self, entry: Entry) -> Phrase:
        """One phrase; **Raises** `VocabularyError` when it has no spelling."""

    def _phrase(self, entry: Entry, paths: Sequence[Sequence[int]]) -> Phrase:
        """A phrase of label paths, its bonus by the labels of the first."""
        bonus, per_label = self._bonus(entry, len(paths[0]))
        return Phrase(text=entry.text, bonus=bonus, paths=paths, per_label=per_label)

    def _bonus(self, entry: Entry, labels: int) -> tuple[float, float | None]:
        """The bonus of a whole phrase, and of one label where that is the decoder's own."""
        if entry.bonus is not None:
            return float(entry.bonus), None
        return self.bonus * entry.weight * labels, self.bonus * entry.weight


def _spelled(entry: Entry, spell: Callable[[str], Iterable[tuple[int, ...]]]) -> tuple[tuple[int, ...], ...]:
    """The paths of a phrase's text, then of its further spellings. A text that the labels cannot write (7-Eleven, say) may
    have spellings that they can; a further spelling that they cannot is an error."""
    if not entry.spellings:
        return tuple(dict.fromkeys(spell(entry.text)))
    paths: dict[tuple[int, ...], None] = {}
    with suppress(SltError):
        paths.update(dict.fromkeys(spell(entry.text)))
    for text in entry.spellings:
        if not text.split():
            raise VocabularyError(f"a spelling of {entry.text!r} is empty; give at least one word, or leave it out")
        paths.update(dict.fromkeys(spell(text)))
    return tuple(paths)


class LabelSpeller(Speller):
    """Phrases in the labels of a vocabulary: characters or sub-words.

    Text is written in the case and signs that the labels have (`Segmenter`). A phrase in sub-words gets up to
    `segmentations` paths for each way it is written, the vocabulary's own first.
    """

    def __init__(self, vocabulary: Vocabulary, bonus: float, *, segmentations: int = 1) -> None:
        super().__init__(bonus)
        self.vocabulary = vocabulary
        self.segmentations = segmentations
        self._segmenter = Segmenter(vocabulary) if vocabulary.kind in ("characters", "subwords") else None

    def spell(self, entry: Entry) -> Phrase:
        """The spellings of the text and of its further spellings."""
        return self._phrase(entry, _spelled(entry, self.paths))

    def paths(self, text: str) -> list[tuple[int, ...]]:
        """The label paths of one text, preferred first; **raises** `VocabularyError` when it has none."""
        if self._segmenter is None or type(self.vocabulary) is not Vocabulary:  # a vocabulary with rules of its own
            return [tuple(path) for path in self.vocabulary.spell(text)]
        writings = self._segmenter.writings(text)
        return [path for writing in writings for path in self._segmenter.paths(writing, count=self.segmentations)]


class PhoneSpeller(Speller):
    """Phrases in phones, for a search without a lexicon: the pronunciations of their words, joined."""

    def __init__(self, pronounce: Pronounce, boundary: int | None, bonus: float) -> None:
        super().__init__(bonus)
        self.pronounce = pronounce
        self.boundary = boundary

    def spell(self, entry: Entry) -> Phrase:
        """Every combination of its words' pronunciations, at most `MOST_SPELLINGS` of each spelling."""
        return self._phrase(entry, _spelled(entry, self.paths))

    def paths(self, text: str) -> list[tuple[int, ...]]:
        """The label paths of one text; **raises** `VocabularyError` when a word has no pronunciation."""
        choices = [self.pronounce(word) for word in text.split()]
        return [self._whole(combination) for combination in islice(product(*choices), MOST_SPELLINGS)]

    def _whole(self, words: Sequence[Sequence[int]]) -> tuple[int, ...]:
        path: list[int] = []
        for index, word in enumerate(words):
            if index and self.boundary is not None:
                path.append(self.boundary)
            path.extend(word)
        return tuple(path)


class LexiconSpeller(Speller):
    """Phrases as words with pronunciations, for a search with a lexicon."""

    def __init__(self, pronounce: Pronounce, bonus: float, *, known: Collection[str] = ()) -> None:
        """`known` are the words of the lexicon, in its case; a word that it has in no case is written in the case of all."""
        super().__init__(bonus)
        self.pronounce = pronounce
        self._known = known
        self._is_upper = bool(known) and not any(map(str.islower, known))

    def spell(self, entry: Entry) -> Phrase:
        """The words as the lexicon writes them and without punctuation around them, each with its pronunciations; further
        spellings say how the whole is said, word by word. **Raises** `VocabularyError` when a further spelling has
        another number of words."""
        words = entry.text.split()
        keys = [self._written(word) for word in words]
        sounds: dict[str, list[Sequence[int]]] = {key: [] for key in keys}
        for key, word in zip(keys, words, strict=True):
            try:
                sounds[key].extend(self.pronounce(word))
            except SltError:
                if not entry.spellings:  # which say it otherwise
                    raise
        for spelling in entry.spellings:
            said = spelling.split()
            if len(said) != len(words):
                raise VocabularyError(
                    f"spelling {spelling!r} of {entry.text!r} has {len(said)} words, expected {len(words)}; join words that are one with a hyphen"
                )
            for key, sound in zip(keys, said, strict=True):
                sounds[key].extend(self.pronounce(sound))
        labels = sum(len(sounds[key][0]) for key in keys)
        bonus, per_label = self._bonus(entry, labels)
        return Phrase(
            text=" ".join(keys),
            bonus=bonus,
            pronunciations={key: tuple(dict.fromkeys(map(tuple, paths))) for key, paths in sounds.items()},
            per_label=per_label,
        )

    def _written(self, word: str) -> str:
        """A word as the lexicon has it: another case would be another word, which the language model does not know."""
        bare = _bare(word)
        forms = (bare, bare.lower(), bare.upper(), bare.capitalize())
        otherwise = bare.upper() if self._is_upper else bare.lower()
        return next((form for form in forms if form in self._known), otherwise)


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
    """A word as most lexicons write it: lower case, without the punctuation around it."""
    return _bare(word).lower()


def _bare(word: str) -> str:
    """A word without the punctuation around it, with composed accents and the plain apostrophe that lexicons have."""
    plain = unicodedata.normalize("NFC", word).translate(APOSTROPHES)
    return plain.strip(AROUND_WORDS) or plain
