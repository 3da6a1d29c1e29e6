"""How any word of a language is said, in the phones of a recogniser: dictionaries, rules, and letters one by one."""

from __future__ import annotations

import heapq
import re
import threading
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Literal, Protocol, TypeVar

from slt_ctc_personalization.lexicon.lexicon import (
    LETTER_NAMES,
    PHONES,
    Pronouncer,
    Pronunciations,
    cmu_dictionary,
)
from slt_ctc_personalization.phones.articulation import PhoneMap
from slt_ctc_personalization.phones.espeak import Spoken, has_espeak, load_espeak
from slt_ctc_personalization.phones.written_words import bare, foreign_script, is_short_name, may_be_spelled, readable
from sltcore.errors import DataError, SltError, VocabularyError
from sltcore.vocabulary import Vocabulary

Item = TypeVar("Item")
Say = Callable[[], Sequence[Sequence[str]]]
Guess = Literal["auto", "espeak", "hama"]
ACCENTS: Mapping[str, tuple[str, ...]] = {
    "en": ("en-us", "en-gb"),
    "es": ("es", "es-419"),
    "pt": ("pt", "pt-br"),
    "ca": ("ca", "ca-va"),
    "hy": ("hy", "hyw"),
    "vi": ("vi", "vi-vn-x-south"),
}
"""Voices of espeak-ng that are asked where none are named; other languages have one."""
MOST_PATHS = 16
_SCHWA = "ə"


class Phrase(Protocol):
    """What `phone_paths` reads of a phrase, such as `spelling.Entry`."""

    @property
    def text(self) -> str:
        """The phrase."""

    @property
    def spellings(self) -> Sequence[str]:
        """Further ways it is written or said."""


class Phonemes:
    """The pronunciations of words in one language as labels, the likeliest first, at most `alternatives`.

    A word of `dictionary` (a lexicon of the user, see `lexicon.read_dictionary`) is said as it says there and in no other
    way; a word of `respelled` is said as its respellings are ("Nguyen": ["win"]). Else, in this order and without repeats:

    1. English: the CMU dictionary; a word that it lacks as `guess` says: espeak-ng (30 µs a word), or the pronunciation
       model of the package hama (40 ms); auto takes espeak-ng where it is installed.
    2. Each of the `voices` of espeak-ng (default: `ACCENTS`; in English only where it is installed; `()` in English:
       none but for `guess`). They read numbers and names of other languages too.
    3. Letter by letter: words in capitals of at most six letters, and what mixes letters with digits. Three capitals, or
       capitals without a vowel, are read so first unless a dictionary knows them.

    IPA becomes labels as `articulation.PhoneMap` says; English goes by the 39 phones of the CMU dictionary where all of
    them are labels. That dictionary writes ə and ʌ alike, so where both are labels a word of several vowels is tried with
    ə first, then with ʌ. Labels need not be those of the language: a recogniser of English phones hears Czech names.

    `boundary` is the id of the label between words, `excluded` ids are no phones. Instances may be shared by threads; each
    answer is kept.

    **Raises** `DataError` when the language needs espeak-ng and its package is missing, or it has no such voice;
    `VocabularyError` when no label is a phone, or `dictionary` writes words in something else.
    """

    def __init__(
        self,
        language: str,
        labels: Sequence[str],
        *,
        boundary: int | None = None,
        excluded: Iterable[int] = (),
        alternatives: int = 4,
        voices: Sequence[str] | None = None,
        dictionary: Mapping[str, Sequence[Sequence[str]]] | None = None,
        respelled: Mapping[str, Sequence[str]] | None = None,
        guess: Guess = "auto",
    ) -> None:
        self.language = language.strip().lower().replace("_", "-")
        self.labels = tuple(labels)
        self.boundary = boundary
        self.alternatives = max(1, alternatives)
        self.dictionary = dict(dictionary or {})
        self.respelled = {word: tuple(others) for word, others in (respelled or {}).items()}
        self._english = self.language.partition("-")[0] == "en"
        self._ids = {label: index for index, label in enumerate(self.labels)}
        left_out = {boundary, *excluded}
        self._check_dictionary(left_out - {boundary})
        phones = [label for index, label in enumerate(self.labels) if index not in left_out]
        as_cmu = self._english and set(PHONES) <= set(phones)
        self._to_phones = PhoneMap(PHONES if self._english else phones)
        self._to_labels = PhoneMap(phones) if self._english and not as_cmu else None
        self._schwa = as_cmu and _SCHWA in phones
        self.guess: Guess = self._chosen_guess(guess)
        self.voices = self._chosen_voices(voices)
        self._pronouncer: Pronouncer | None = None
        self._answers: dict[str, list[list[str]] | SltError] = {}
        self._lock = threading.RLock()

    @classmethod
    def of(
        cls,
        language: str,
        vocabulary: Vocabulary,
        *,
        alternatives: int = 4,
        voices: Sequence[str] | None = None,
        dictionary: Mapping[str, Sequence[Sequence[str]]] | None = None,
        respelled: Mapping[str, Sequence[str]] | None = None,
        guess: Guess = "auto",
    ) -> Phonemes:
        """For the phones of a vocabulary, whose blank and special labels are none."""
        return cls(
            language,
            vocabulary.labels,
            boundary=vocabulary.boundary,
            excluded={vocabulary.blank, *vocabulary.special},
            alternatives=alternatives,
            voices=voices,
            dictionary=dictionary,
            respelled=respelled,
            guess=guess,
        )

    def _check_dictionary(self, left_out: Container[int | None]) -> None:
        for word, choices in self.dictionary.items():
            for label in chain.from_iterable(choices):
                if self._ids.get(label) is None or self._ids[label] in left_out:
                    raise VocabularyError(
                        f"dictionary: {word!r} is said with {label!r}, which is no phone of the labels "
                        f"({' '.join(self.labels[:12])} ...); write it in those"
                    )

    def _chosen_guess(self, guess: Guess) -> Guess:
        if guess == "hama" and not self._english:
            raise DataError(f"guess: hama knows English only, and the language is {self.language!r}; use guess: espeak")
        if guess == "auto":
            return "espeak" if not self._english or has_espeak() else "hama"
        return guess

    def _chosen_voices(self, voices: Sequence[str] | None) -> tuple[str, ...]:
        if voices is None and self._english and self.guess == "hama" and not has_espeak():
            return ()
        if voices is not None and not voices and self._english:
            return ()  # `guess` says what the dictionary lacks
        engine = load_espeak()
        wanted = tuple(voices or ACCENTS.get(self.language, (self.language,)))
        return tuple(dict.fromkeys(engine.voice_of(voice) for voice in wanted))

    def pronounce(self, word: str) -> list[list[str]]:
        """The pronunciations of one word, each a list of labels.

        **Raises** `VocabularyError` when nothing in it can be said, its script is not the language's, or a sound has no
        label.
        """
        answer = self._known([word])[word]
        if isinstance(answer, SltError):
            raise VocabularyError(str(answer))
        return answer

    def pronounce_words(self, words: Iterable[str]) -> tuple[Pronunciations, dict[str, str]]:
        """The pronunciations of many words, and why the others have none: two maps by word."""
        answers = self._known(dict.fromkeys(words))
        said = {word: answer for word, answer in answers.items() if not isinstance(answer, SltError)}
        return said, {word: str(answer) for word, answer in answers.items() if isinstance(answer, SltError)}

    def paths(self, word: str) -> list[tuple[int, ...]]:
        """The pronunciations of one word as label ids; **raises** as `pronounce` does."""
        return [tuple(self._ids[label] for label in labels) for labels in self.pronounce(word)]

    __call__ = paths

    def phone_paths(self, entry: Phrase) -> list[list[int]]:
        """Every way to say a phrase, at most `MOST_PATHS` of each of its spellings: label ids, likeliest first.

        The boundary label stands between words, where there is one; then the same paths without it, as words run together.
        A text that cannot be said may have spellings that can. **Raises** `VocabularyError` when the phrase is empty, or a
        word of a spelling, or of a text without any, cannot be said.
        """
        found: dict[tuple[int, ...], None] = {}
        for text in (entry.text, *entry.spellings):
            words = text.split()
            if not words:
                raise VocabularyError(f"phrase {entry.text!r} has an empty text or spelling; give at least one word")
            try:
                choices = [self.paths(word) for word in words]
            except VocabularyError:
                if text != entry.text or not entry.spellings:
                    raise
                continue
            for said in _ranked(choices, MOST_PATHS):
                between = () if self.boundary is None else (self.boundary,)
                joined = [label for word in said for label in (*between, *word)]
                found[tuple(joined[len(between) :])] = None
        if self.boundary is not None:
            together = [tuple(label for label in path if label != self.boundary) for path in found]
            found.update(dict.fromkeys(together))
        return [list(path) for path in found]

    def target(self, text: str) -> list[int]:
        """A text for training: the first pronunciation of each word, the boundary label after each word.

        **Raises** `VocabularyError` naming a word that cannot be said.
        """
        labels: list[int] = []
        for word in text.split():
            if not bare(word):
                continue  # a dash between words
            labels += self.paths(word)[0]
            if self.boundary is not None:
                labels.append(self.boundary)
        return labels

    def _known(self, words: Iterable[str]) -> dict[str, list[list[str]] | SltError]:
        wanted = list(words)
        with self._lock:
            fresh = [word for word in wanted if word not in self._answers]
            respellings = [text for word in fresh for text in self.respelled.get(word, ()) if text != word]
            parts = [part for text in respellings for part in text.split() if part not in self.respelled]
            for group in (parts, fresh):
                missing = [word for word in dict.fromkeys(group) if word not in self._answers]
                if missing:
                    self._answers.update(self._answered(missing))
            return {word: self._answers[word] for word in wanted}

    def _answered(self, words: Sequence[str]) -> dict[str, list[list[str]] | SltError]:
        plain = {word: bare(unicodedata.normalize("NFC", word)) for word in words}
        asked = [word for word in words if plain[word] and self._listed(word, plain[word]) is None]
        sayable = [word for word in asked if foreign_script(plain[word], self.language) is None]
        voices = self.voices
        if not voices and self.guess == "espeak":  # only what the dictionary lacks
            voices = (load_espeak().voice_of(self.language),)
            sayable = [word for word in sayable if not self._cmu(plain[word])]
        heard = {voice: dict(zip(sayable, self._say(sayable, plain, voice), strict=True)) for voice in voices}
        found: dict[str, list[list[str]] | SltError] = {}
        for word in words:
            try:
                found[word] = self._answer(word, plain[word], {v: said.get(word, []) for v, said in heard.items()})
            except SltError as error:
                found[word] = error
        return found

    def _say(self, words: Sequence[str], plain: Mapping[str, str], voice: str) -> list[Spoken]:
        return load_espeak().say([readable(plain[word]) for word in words], voice)

    def _answer(self, word: str, plain: str, heard: Mapping[str, Spoken]) -> list[list[str]]:
        listed = self._listed(word, plain)
        if listed is not None:
            return listed[: self.alternatives]
        if not plain:
            raise VocabularyError(f"{word!r} has no letter or digit, so it is not said; leave it out")
        foreign = foreign_script(plain, self.language)
        if foreign is not None:
            raise VocabularyError(
                f"{word!r} is written in {foreign.title()} letters, which {self.language!r} does not read; give it a "
                f"spelling in the language's own letters"
            )
        found: dict[tuple[str, ...], None] = {}
        problem: SltError | None = None
        for candidate in self._candidates(plain, heard):
            try:
                found.update((tuple(labels), None) for labels in self._written(candidate()) if labels)
            except VocabularyError as error:
                problem = problem or error
            if len(found) >= self.alternatives:
                break
        if not found:
            reason = str(problem) if problem else f"nothing in it can be said in {self.language!r}; give it a spelling"
            raise VocabularyError(f"{word!r} has no pronunciation: {reason}")
        return [list(labels) for labels in found][: self.alternatives]

    def _listed(self, word: str, plain: str) -> list[list[str]] | None:
        """What the user says about a word; None where nothing is said."""
        for form in (word, plain, plain.lower()):
            if form in self.dictionary:
                return [list(phones) for phones in self.dictionary[form]]
        texts = self.respelled.get(word) or self.respelled.get(plain)
        if texts is None:
            return None
        found: dict[tuple[str, ...], None] = {}
        for text in texts:
            said = [self.pronounce(part) for part in text.split() if part != word]
            for parts in _ranked(said, self.alternatives) if said else ():
                found[tuple(label for part in parts for label in part)] = None
        return [list(labels) for labels in found] or None

    def _candidates(self, plain: str, heard: Mapping[str, Spoken]) -> Iterator[Say]:
        """Ways to say a word, likeliest first, each made when it is asked for."""
        known = self._cmu(plain) if self._english else []
        spelled = partial(self._spelled, plain)
        short = is_short_name(plain)
        for phones in known:
            yield partial(list, [phones])
        if short and not known:
            yield spelled
        if self._english and not known and self.guess == "hama":
            yield partial(self._guessed, plain)
        for said in heard.values():
            yield partial(self._heard, said)
        if (short and known) or may_be_spelled(plain):
            yield spelled

    def _cmu(self, plain: str) -> list[list[str]]:
        lower = plain.lower().replace("’", "'")
        for form in (plain, lower, f"{lower}."):
            if form in cmu_dictionary():
                return cmu_dictionary()[form]
        parts = re.split(r"[-_/]+", lower)
        if len(parts) > 1 and all(part in cmu_dictionary() for part in parts):
            return [[phone for part in parts for phone in cmu_dictionary()[part][0]]]
        return []

    def _heard(self, said: Spoken) -> list[list[str]]:
        if self._english:  # the tap of "city" is no ɹ here
            said = [[group.replace("ɾ", "t") for group in groups] for groups in said]
        return [self._to_phones.labels_of(groups) for groups in said]

    def _guessed(self, plain: str) -> list[list[str]]:
        if self._pronouncer is None:
            self._pronouncer = Pronouncer({})
        return self._pronouncer.pronounce(plain)[:1]

    def _spelled(self, plain: str) -> list[list[str]]:
        letters = [character for character in plain if character.isalnum()]
        if self._english and all(letter.lower() in LETTER_NAMES for letter in letters):
            return [[phone for letter in letters for phone in LETTER_NAMES[letter.lower()].split()]]
        if not self.voices:
            return []
        said = load_espeak().say([letter.upper() for letter in letters], self.voices[0])
        return [[label for groups in spoken for label in self._to_phones.labels_of(groups)] for spoken in said]

    def _written(self, spoken: Sequence[Sequence[str]]) -> list[list[str]]:
        """Spoken words in the labels, joined by the boundary label where numbers are several words."""
        forms: list[list[str]] = [[]]
        for index, phones in enumerate(spoken):
            between = [self.labels[self.boundary]] if index and self.boundary is not None else []
            said = phones if self._to_labels is None else self._to_labels.labels_of(phones)
            forms = [[*form, *between, *variant] for form in forms[:2] for variant in self._with_schwa(said)]
        return [form for form in forms if form]

    def _with_schwa(self, phones: Sequence[str]) -> list[list[str]]:
        vowels = sum(phone[0] in "aeiouæɑɔɛɝɪʊʌ" for phone in phones)
        if self._schwa and vowels > 1 and "ʌ" in phones:
            return [[_SCHWA if phone == "ʌ" else phone for phone in phones], list(phones)]
        return [list(phones)]


def _ranked(choices: Sequence[Sequence[Item]], most: int) -> Iterator[list[Item]]:
    """Combinations of one choice each, in the order of the sum of their ranks; at most `most`."""
    heap: list[tuple[int, tuple[int, ...]]] = [(0, (0,) * len(choices))]
    seen = {heap[0][1]}
    for _ in range(most):
        if not heap:
            return
        total, ranks = heapq.heappop(heap)
        yield [choice[rank] for choice, rank in zip(choices, ranks, strict=True)]
        for place, rank in enumerate(ranks):
            step = (*ranks[:place], rank + 1, *ranks[place + 1 :])
            if rank + 1 < len(choices[place]) and step not in seen:
                seen.add(step)
                heapq.heappush(heap, (total + 1, step))
