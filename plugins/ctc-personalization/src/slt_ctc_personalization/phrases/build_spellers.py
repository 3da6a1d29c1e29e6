"""How the phrases of a call are written in the labels of a search: letters, sub-words, or the phones of a language."""

from __future__ import annotations

from collections.abc import Sequence

from slt_ctc_personalization.lexicon.lexicon import PHONES, Pronouncer, Pronunciations, cmu_dictionary
from slt_ctc_personalization.phones.espeak import has_espeak
from slt_ctc_personalization.phones.g2p import Phonemes
from slt_ctc_personalization.phrases.spelling import LabelSpeller, LexiconSpeller, PhoneSpeller, Pronounce, Speller
from sltcore.errors import VocabularyError
from sltcore.vocabulary import Vocabulary


def make_speller(
    vocabulary: Vocabulary,
    bonus: float,
    *,
    names: Sequence[str],
    boundary: int | None,
    pronunciations: Pronunciations | None = None,
    language: str = "en",
    segmentations: int = 1,
) -> Speller:
    """The speller for a head's vocabulary; `names` and `boundary` are the labels that the search reads.

    `pronunciations` are given where the search has a lexicon. **Raises** `DataError` for a language without a voice.
    """
    if vocabulary.kind != "phones":
        if pronunciations is None:
            return LabelSpeller(vocabulary, bonus, segmentations=segmentations)
        return LexiconSpeller(vocabulary.spell, bonus, known=pronunciations)
    sounds: Pronounce = EnglishPaths(names)
    if language.partition("-")[0].lower() != "en":
        others = {vocabulary.labels[index] for index in (vocabulary.blank, *vocabulary.special)}
        excluded = [index for index, name in enumerate(names) if name in others]
        sounds = Phonemes(language, names, boundary=boundary, excluded=excluded)
    if pronunciations is None:
        return PhoneSpeller(sounds, boundary, bonus)
    return LexiconSpeller(sounds, bonus, known=pronunciations)


class EnglishPaths:
    """The English pronunciations of a word as label ids: the dictionary's, else a guess.

    A word in one piece that the dictionary lacks is guessed by espeak-ng where it is installed (0.6 ms), else by the
    pronunciation model of the package hama (36 ms); both miss the CMU dictionary by 7 % of the phones.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._ids = {name: index for index, name in enumerate(names)}
        self._pronouncer = Pronouncer()
        self._guess = Phonemes("en", PHONES, alternatives=2, voices=(), guess="espeak") if has_espeak() else None

    def __call__(self, word: str) -> list[list[int]]:
        """Every pronunciation that the labels can write; **raises** `VocabularyError` when there is none."""
        ids = self._ids
        is_new = word.isalpha() and not {word, word.lower()} & cmu_dictionary().keys()
        guess = self._guess if is_new else None
        found = self._pronouncer.pronounce(word) if guess is None else guess.pronounce(word)
        paths = [[ids[phone] for phone in phones] for phones in found if all(phone in ids for phone in phones)]
        if not paths:
            raise VocabularyError(
                f"{word!r} has no pronunciation: nothing in it can be spoken as English; write how it is said, or leave it out"
            )
        return paths
