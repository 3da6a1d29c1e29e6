"""How a text may be written in the labels of a vocabulary: in the case and the signs they have, in several segmentations."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

from sltcore.errors import VocabularyError
from sltcore.vocabulary import WORD_MARK, Vocabulary

Path = tuple[int, ...]

KEPT_WORDS = 65_536
WHITE_SPACE = " \t\n\r\x0b\x0c\u00a0\u2007\u202f\u2009\u200a\u3000"
SIGNS = {"’": "'", "‘": "'", "ʼ": "'", "`": "'", "´": "'", "‐": "-", "‑": "-", "–": "-"}
"""Signs that typesetting puts for others: taken as those where the labels lack them."""
LETTERS = {
    "ø": "o", "æ": "ae", "œ": "oe", "ß": "ss", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i", "ħ": "h", "ŧ": "t",
}  # fmt: skip
"""Plain letters for letters that are no letter with an accent; used in advice only."""


class Segmenter:
    """Writes texts in the labels of a vocabulary of characters or sub-words.

    The first path of a word is the vocabulary's own (`Vocabulary.encode`): the fewest labels, the longest first among
    equals. The next ones are the next in that order, so that a model that writes a rare word otherwise than the preferred
    way still meets its phrase.

    A character that the labels lack is written in the other case, composed or decomposed, or as the plain sign that
    `SIGNS` gives, where the labels have that.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        left_out = {vocabulary.blank, vocabulary.boundary, *vocabulary.special}
        self._ids = {label: i for i, label in enumerate(vocabulary.labels) if i not in left_out and label}
        self._longest = max(map(len, self._ids), default=0)
        sizes: dict[str, set[int]] = {}
        for label in self._ids:
            sizes.setdefault(label[:2], set()).add(len(label))
        self._sizes = {begin: tuple(sorted(found, reverse=True)) for begin, found in sizes.items()}
        letters = {letter for label in self._ids if not _is_markup(label) for letter in label}
        self._known = _WithSpaces(letters - {WORD_MARK} if vocabulary.kind == "subwords" else letters)
        self._nearest = _Nearest(self._known)
        cased = {letter.lower() for letter in letters if letter.lower() != letter.upper()}
        self.is_cased = bool(cased) and 2 * sum({c, c.upper()} <= letters for c in cased) > len(cased)
        self._word = lru_cache(KEPT_WORDS)(self._segmented)

    def paths(self, text: str, *, count: int) -> list[Path]:
        """Up to `count` label paths of a text, the vocabulary's own first. **Raises** `VocabularyError` naming what the
        labels lack, and what could be written instead."""
        form = self._fitting(text)
        found = self._phrase(form, count)
        if found:
            return found
        for candidate in _cases(form)[1:]:  # every character is there, but only inside other pieces
            found = self._phrase(candidate, count)
            if found:
                return found
        raise VocabularyError(self._problem(text, form))

    def writings(self, text: str) -> list[str]:
        """The text, and what it is where the labels have both cases and it was given in one: a list in lower or upper case
        says nothing of how the model writes a name. Text in mixed case is taken at its word."""
        if not self.is_cased or not (text.islower() or text.isupper()):
            return [text]
        words = [word[:1].upper() + word[1:].lower() for word in text.split()]
        return list(dict.fromkeys([text, " ".join(words), text.lower()]))

    def _phrase(self, text: str, count: int) -> list[Path]:
        """The paths of all words, the fewest labels first; empty when a word has none."""
        known = self.vocabulary
        mark = WORD_MARK if known.kind == "subwords" else ""
        between: Path = () if mark or known.boundary is None else (known.boundary,)
        choices = [self._word(mark + word, count) for word in text.split()]
        if not all(choices):
            return []
        whole = list(choices[0])
        for found in choices[1:]:
            whole = [head + between + tail for head in whole for tail in found]
            if len(whole) > count:
                whole = sorted(whole, key=len)[:count]
        return whole

    def _segmented(self, word: str, count: int) -> tuple[Path, ...]:
        """Up to `count` segmentations of one word, the fewest labels first, the longest first among equals."""
        ids, size = self._ids, len(word)
        if self._longest == 1:
            path = tuple(ids.get(letter, -1) for letter in word)
            return () if -1 in path else (path,)
        sizes = self._sizes
        tails: list[list[Path]] = [[] for _ in range(size)] + [[()]]
        for start in range(size - 1, -1, -1):
            found: list[Path] = []
            for longer in (*sizes.get(word[start : start + 2], ()), 1) if start + 1 < size else (1,):
                piece = ids.get(word[start : start + longer])
                if piece is not None and start + longer <= size:
                    found += [(piece, *tail) for tail in tails[start + longer]]
            if len(found) > 1:
                found.sort(key=len)
            tails[start] = found[:count]
        return tuple(tails[0])

    def _fitting(self, text: str) -> str:
        """The text in characters that the labels have, as far as they do."""
        form = text.translate(self._nearest)
        if self._known.issuperset(form) or form.isascii():
            return form
        others = (unicodedata.normalize(name, text).translate(self._nearest) for name in ("NFC", "NFD"))
        return min((form, *others), key=lambda other: sum(c not in self._known for c in other))

    def _problem(self, text: str, form: str) -> str:
        missing = list(dict.fromkeys(c for c in form if c not in self._known))
        if not missing:
            word = next(word for word in text.split() if not any(map(self._phrase, _cases(word), [1] * 3)))
            return f"phrase {text!r} cannot be spelled: no labels of the vocabulary join to {word!r}"
        what = f"phrase {text!r} cannot be spelled: the vocabulary has no label for {', '.join(map(repr, missing[:8]))}"
        plain = "".join(self._plain(letter) for letter in form)
        plain = " ".join(plain.split())
        if plain and self._known.issuperset(plain):
            return f"{what}; write {plain!r}, or give that under spellings"
        if any(c.isdigit() for c in missing):
            return f"{what}; write numbers in words, or give the words under spellings"
        if all(unicodedata.category(c)[0] in "PS" for c in missing):
            return f"{what}; write the sign as it is said, or give that under spellings"
        return f"{what}; give how it is written in the letters of the vocabulary under spellings"

    def _plain(self, letter: str) -> str:
        """What could be written for a character that the labels lack; itself where nothing plain is known."""
        if letter in self._known:
            return letter
        if letter in "-‐‑–—_/·.,":
            return " "
        if letter in "\"'’‘“”!?;:()[]{}¿¡«»…™®©":
            return ""
        base = "".join(c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c))
        base = base if base != letter else LETTERS.get(letter.lower(), letter)
        for candidate in _cases(base):
            if candidate and not letter.isdigit() and self._known.issuperset(candidate):
                return candidate
        return letter


class _WithSpaces(frozenset[str]):
    """The characters of the labels, and every white space, which only parts words."""

    def __new__(cls, letters: Iterable[str]) -> _WithSpaces:
        return super().__new__(cls, {*letters, *WHITE_SPACE})


class _Nearest(dict[int, str]):
    """For `str.translate`: a character itself where the labels have it, else the other case, else the plain sign."""

    def __init__(self, known: frozenset[str]) -> None:
        super().__init__()
        self._known = known

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        candidates = (letter, letter.lower(), letter.upper(), SIGNS.get(letter, letter))
        self[code] = next((c for c in candidates if self._known.issuperset(c)), letter)
        return self[code]


def _cases(text: str) -> Sequence[str]:
    return text, text.lower(), text.upper()


def _is_markup(label: str) -> bool:
    return len(label) > 2 and (label[0], label[-1]) in (("<", ">"), ("[", "]"))
