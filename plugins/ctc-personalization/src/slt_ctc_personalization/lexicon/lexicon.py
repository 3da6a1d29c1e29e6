"""How words are spoken or spelled: dictionaries, letters, and a pronunciation for any word.

Phones are written as IPA labels, the ones that the pretrained recogniser `hama` uses for English (`PHONES`). A
dictionary may be written in them or in ARPAbet, whose stress digits are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sltcore.errors import DataError, did_you_mean

Pronunciations = dict[str, list[list[str]]]

ARPABET = {
    "AA": "ɑ", "AE": "æ", "AH": "ʌ", "AO": "ɔ", "AW": "aʊ", "AY": "aɪ", "B": "b", "CH": "t͡ʃ", "D": "d", "DH": "ð",
    "EH": "ɛ", "ER": "ɝ", "EY": "eɪ", "F": "f", "G": "g", "HH": "h", "IH": "ɪ", "IY": "i", "JH": "d͡ʒ", "K": "k",
    "L": "l", "M": "m", "N": "n", "NG": "ŋ", "OW": "oʊ", "OY": "ɔɪ", "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ",
    "T": "t", "TH": "θ", "UH": "ʊ", "UW": "u", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ",
}  # fmt: skip
PHONES = tuple(sorted(ARPABET.values()))
"""The 39 phones of the CMU dictionary as IPA labels. The dictionary has no ə: it writes AH (ʌ) with or without stress."""

NEAREST = {
    "ə": "ʌ", "ɐ": "ʌ", "ɚ": "ɝ", "ɜ": "ɝ", "a": "ɑ", "ɒ": "ɑ", "e": "ɛ", "o": "oʊ", "ø": "ɝ", "œ": "ɝ", "y": "u",
    "ɨ": "ɪ", "ʉ": "u", "ɯ": "u", "ɤ": "ʌ", "r": "ɹ", "ɾ": "t", "ɡ": "g", "x": "k", "ç": "h", "ɣ": "g", "β": "b",
    "ɲ": "n", "ʎ": "l", "ɫ": "l", "c": "k", "q": "k", "ʔ": "t", "ɕ": "ʃ", "ʑ": "ʒ", "ɸ": "f", "ʁ": "ɹ", "ɟ": "d͡ʒ",
    "kʰ": "k", "pʰ": "p", "tʰ": "t", "t͡s": "s", "t͡ɕ": "t͡ʃ", "d͡ʑ": "d͡ʒ", "i̯": "i", "ɦ": "h", "ʋ": "v",
}  # fmt: skip
"""The English phone for what the pronunciation model writes for names from elsewhere; other signs are left out."""

LETTER_NAMES = {
    "a": "eɪ", "b": "b i", "c": "s i", "d": "d i", "e": "i", "f": "ɛ f", "g": "d͡ʒ i", "h": "eɪ t͡ʃ", "i": "aɪ",
    "j": "d͡ʒ eɪ", "k": "k eɪ", "l": "ɛ l", "m": "ɛ m", "n": "ɛ n", "o": "oʊ", "p": "p i", "q": "k j u", "r": "ɑ ɹ",
    "s": "ɛ s", "t": "t i", "u": "j u", "v": "v i", "w": "d ʌ b ʌ l j u", "x": "ɛ k s", "y": "w aɪ", "z": "z i",
    "0": "z ɪ ɹ oʊ", "1": "w ʌ n", "2": "t u", "3": "θ ɹ i", "4": "f ɔ ɹ", "5": "f aɪ v", "6": "s ɪ k s",
    "7": "s ɛ v ʌ n", "8": "eɪ t", "9": "n aɪ n",
}  # fmt: skip
DICTIONARY_SOURCE = "CMU Pronouncing Dictionary, as the package pocketsphinx carries it (BSD-2-Clause, Carnegie Mellon)"
G2P_SOURCE = "pronunciation model of the package hama 1.7.0 (Apache-2.0)"
_VARIANT = re.compile(r"\(\d+\)$")
_ARPABET_PHONE = re.compile(r"([A-Z]{1,2})[012]?")
_VOWEL_LETTERS = frozenset("aeiouy")


def pocketsphinx_file(name: str) -> Path:
    """A file of the model that the package pocketsphinx carries; `DataError` with the remedy when it is missing."""
    package = find_spec("pocketsphinx")
    for folder in (package.submodule_search_locations or []) if package else []:
        path = Path(folder) / "model" / "en-us" / name
        if path.is_file():
            return path
    raise DataError(
        f"the package pocketsphinx, which carries {name}, is not installed; pip install 'pocketsphinx>=5.1'"
    )


@cache
def cmu_dictionary() -> Mapping[str, list[list[str]]]:
    """126,052 English words in lower case with their pronunciations. Source: `DICTIONARY_SOURCE`."""
    return read_dictionary(pocketsphinx_file("cmudict-en-us.dict"))


def read_dictionary(path: str | Path, *, phones: Sequence[str] = PHONES) -> Pronunciations:
    """Read `word phones...` lines: separated by a tab or blanks, ARPAbet or `phones`, `word(2)` for more variants.

    Lines that begin with `#` or `;;;`, and what follows a `#` after the phones, are comments. Words are taken as they
    stand. Raises `DataError` with file and line for a line without phones or with an unknown one.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text (byte {error.start}); save the dictionary as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read as a dictionary: {error.strerror or error}.") from error
    known = {phone: phone for phone in phones} | {name: phone for name, phone in ARPABET.items() if phone in phones}
    found: Pronunciations = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith(("#", ";;;")):
            continue
        word, separator, rest = line.strip().partition("\t") if "\t" in line.strip() else line.strip().partition(" ")
        names = rest.partition("#")[0].split()
        if not separator or not names:
            raise DataError(f"{file}:{number}: '{word}' has no pronunciation; 'word phones...' is expected.")
        try:
            spoken = [known[name] for name in names]
        except KeyError:
            spoken = [_phone(name, known, f"{file}:{number}: '{word}'") for name in names]
        variants = found.setdefault(_VARIANT.sub("", word), [])
        if spoken not in variants:
            variants.append(spoken)
    if not found:
        raise DataError(f"{file} lists no word; lines like 'word phones...' are expected.")
    return found


def _phone(name: str, known: dict[str, str], where: str) -> str:
    match = _ARPABET_PHONE.fullmatch(name)
    plain = match.group(1) if match else name
    if plain not in known:
        raise DataError(
            f"{where} is spoken with '{name}', which is no phone.{did_you_mean(name, known)} Known are ARPAbet and "
            f"{' '.join(sorted(set(known.values())))}."
        )
    return known[plain]


def spell(word: str, labels: Iterable[str]) -> list[str] | None:
    """The word as labels, longest first from the left; None when a character cannot be written."""
    choices = sorted((label for label in labels if label), key=len, reverse=True)
    return _spell(word, choices)


def _spell(word: str, choices: Sequence[str]) -> list[str] | None:
    written, place = [], 0
    while place < len(word):
        label = next((choice for choice in choices if word.startswith(choice, place)), None)
        if label is None:
            return None
        written.append(label)
        place += len(label)
    return written or None


def spelling_lexicon(words: Iterable[str], labels: Iterable[str]) -> Pronunciations:
    """Each word as written in `labels` (letters, say); words that cannot be written are left out."""
    choices = sorted((label for label in labels if label), key=len, reverse=True)
    return {word: [written] for word in words if (written := _spell(word, choices)) is not None}


class Pronouncer:
    """A pronunciation for any word: the dictionary's, else the pronunciation model's, else its letters' names.

    `dictionary` defaults to `cmu_dictionary`. Words are looked up as written, then in lower case. Source of the model:
    `G2P_SOURCE`; its phones that English lacks become the nearest (`NEAREST`). It is loaded when a word needs it
    (0.5 s), and each answer is kept.
    """

    def __init__(self, dictionary: Mapping[str, list[list[str]]] | None = None) -> None:
        self._dictionary = cmu_dictionary() if dictionary is None else dictionary
        self._answers: dict[str, list[list[str]]] = {}
        self._model: Any = None

    def pronounce(self, word: str) -> list[list[str]]:
        """The pronunciations of one word, each a list of `PHONES`; empty when nothing in it can be spoken."""
        if word not in self._answers:
            self._answers[word] = self._pronounce(word)
        return self._answers[word]

    def pronounce_words(self, words: Iterable[str]) -> Pronunciations:
        """The pronunciations of each word that can be spoken."""
        return {word: found for word in words if (found := self.pronounce(word))}

    def _pronounce(self, word: str) -> list[list[str]]:
        for form in (word, word.lower(), word.lower().replace("’", "'")):
            if form in self._dictionary:
                return list(self._dictionary[form])
        parts = [part for part in re.split(r"[\s\-_/]+", word) if part]
        if len(parts) > 1:
            first = [found[0] for part in parts if (found := self.pronounce(part))]
            return [[phone for phones in first for phone in phones]] if first else []
        spelled = letters_spoken(word)
        plain = "".join(character for character in word.lower() if character.isalpha())
        if word.isupper() or not plain or (not _VOWEL_LETTERS & set(plain) and plain.isascii()):
            guesses = [spelled] if spelled else []  # abbreviations are read letter by letter
            return guesses + ([guess] if word.isupper() and len(plain) > 3 and (guess := self._guess(plain)) else [])
        guess = self._guess(word.lower())
        return [guess] if guess else [spelled] if spelled else []

    def _guess(self, word: str) -> list[str] | None:
        if self._model is None:
            try:
                from hama import G2PModel
            except ImportError as error:
                raise DataError(
                    f"'{word}' is not in the dictionary, and the package hama, which guesses, is missing; "
                    "pip install 'hama>=1.7'"
                ) from error
            self._model = G2PModel()
        signs = [alignment.phoneme for alignment in self._model.predict(word).alignments]
        return nearest_phones(signs) or None


def nearest_phones(signs: Iterable[str]) -> list[str]:
    """`PHONES` for the IPA signs of any language: the same, the nearest, or nothing."""
    spoken: list[str] = []
    for sign in signs:
        plain = sign.strip()
        phone = plain if plain in PHONES else NEAREST.get(plain)
        if phone is not None:
            spoken.append(phone)
    return spoken


def letters_spoken(word: str) -> list[str]:
    """The names of a word's letters and digits, in `PHONES`; other characters are left out."""
    names = [LETTER_NAMES.get(character, "") for character in word.lower()]
    return [phone for name in names for phone in name.split()]
