"""The everyday words of a language, and phrases that are written or said like one of them."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sltcore.errors import DataError

EVERYDAY_WORDS = 5_000
"""So many of the most frequent words are everyday words: a phrase that is one of them misfires."""
NEAR_WORDS = 2_000
"""So many of the most frequent words are compared one label apart, and looked into where labels know no words."""
LONGEST_NEAR = 6
"""Phrases of more labels are not compared one label apart: in a longer one, one label is a small part."""
LONGEST_INSIDE = 12

Key = tuple[Hashable, ...]
_WORD = re.compile(r"[^\W\d_](?:[^\W_]|['’-])*")


class EverydayWords(NamedTuple):
    """Words, the most frequent first, and where they come from; no words and why, where there are none."""

    words: Sequence[str]
    source: str


def of_model(model: Any) -> EverydayWords:
    """The most probable words of an n-gram language model over words, by its 1-grams."""
    ranks = np.argsort(-model.unigram_log_probs(), kind="stable")
    found = (model.words[index] for index in ranks[: 2 * EVERYDAY_WORDS])
    return EverydayWords(_words(found), "the decoder's language model")


def of_english() -> EverydayWords:
    """Those of the English language model that the package pocketsphinx carries."""
    from slt_ctc_personalization.language_model.english import english_lm

    return of_model(english_lm())._replace(source="the English language model of the package pocketsphinx")


def of_file(path: Path) -> EverydayWords:
    """Those of a text file, one a line, the most frequent first. **Raises** `DataError` when there is none in it."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8, one word a line") from None
    words = _words(line.strip() for line in lines)
    if not words:
        raise DataError(f"{path} holds no word; write one a line, the most frequent first")
    return EverydayWords(words, str(path))


def of_language(language: str) -> EverydayWords:
    """Those of a language by its code. **Raises** `DataError` with the remedy where there are none."""
    if language.lower().partition("-")[0] == "en":
        return of_english()
    if find_spec("wordfreq") is None:
        raise DataError(
            f"the frequent words of language '{language}' are not here; pip install wordfreq, or give a file of words, the "
            "most frequent first, with --words"
        )
    import wordfreq

    try:
        words = wordfreq.top_n_list(language, 2 * EVERYDAY_WORDS)
    except LookupError:
        known = ", ".join(sorted(wordfreq.available_languages()))
        raise DataError(f"the package wordfreq has no words of language '{language}'; it has {known}") from None
    return EverydayWords(_words(words), f"the package wordfreq, language {language}")


def _words(found: Iterable[str]) -> list[str]:
    return [word for word in found if _WORD.fullmatch(word)][:EVERYDAY_WORDS]


class EverydayIndex:
    """Frequent words by how they are written or said: a sequence of letters or phones for each way."""

    def __init__(self, keys: Iterable[tuple[str, Sequence[Key]]], *, inside: bool) -> None:
        """`keys` are words with their ways, the most frequent word first; `inside`: labels know no words, so a phrase may
        also stand inside one."""
        self._exact: dict[Key, tuple[int, str]] = {}
        self._shorter: dict[Key, list[tuple[int, str, Key]]] = {}
        self._inside: dict[Key, tuple[int, str]] = {}
        for rank, (word, ways) in enumerate(keys):
            for way in ways:
                self._exact.setdefault(way, (rank, word))
                if rank < NEAR_WORDS and len(way) <= LONGEST_NEAR + 1:
                    for short in {way, *_without_one(way)}:
                        self._shorter.setdefault(short, []).append((rank, word, way))
                if rank < NEAR_WORDS and inside:
                    for part in _parts(way):
                        self._inside.setdefault(part, (rank, word))

    def equal(self, ways: Iterable[Key]) -> str | None:
        """The most frequent word that is written or said like the phrase."""
        return _first(self._exact[way] for way in ways if way in self._exact)

    def holding(self, ways: Iterable[Key]) -> str | None:
        """The most frequent word that the phrase is a part of."""
        return _first(self._inside[way] for way in ways if way in self._inside)

    def near(self, ways: Iterable[Key]) -> str | None:
        """The most frequent word one label away: one more, one less, or another."""
        found = [
            (rank, word)
            for way in ways
            if 1 < len(way) <= LONGEST_NEAR
            for short in {way, *_without_one(way)}
            for rank, word, other in self._shorter.get(short, ())
            if _is_near(way, other)
        ]
        return _first(found)


def _first(found: Iterable[tuple[int, str]]) -> str | None:
    best = min(found, default=None)
    return None if best is None else best[1]


def _without_one(way: Key) -> Iterator[Key]:
    return (way[:place] + way[place + 1 :] for place in range(len(way)))


def _parts(way: Key) -> Iterator[Key]:
    for start in range(len(way)):
        for end in range(start + 1, min(len(way), start + LONGEST_INSIDE) + 1):
            if end - start < len(way):
                yield way[start:end]


def _is_near(one: Key, other: Key) -> bool:
    """Whether exactly one label is added, left out, or replaced. Sequences that share one with a label left out are at
    most two apart."""
    if len(one) == len(other):
        return sum(a != b for a, b in zip(one, other, strict=True)) == 1
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    return len(longer) == len(shorter) + 1 and shorter in set(_without_one(longer))
