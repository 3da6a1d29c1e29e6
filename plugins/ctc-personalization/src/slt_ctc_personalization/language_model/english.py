"""What the decoder needs for English, from packages that are installed anyway: a language model and a word list."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

from slt_ctc_personalization.language_model.ngram import NgramModel, load_lm
from slt_ctc_personalization.language_model.unknown_words import with_unknown_words
from slt_ctc_personalization.lexicon.lexicon import Pronunciations, cmu_dictionary, pocketsphinx_file
from sltcore.errors import DataError

LM_FILE = "en-us.lm.bin"
LM_SOURCE = "US English generic trigram model of CMU Sphinx, as the package pocketsphinx carries it (BSD-2-Clause)"
DEFAULT_WORDS = 20_000


@cache
def english_lm() -> NgramModel:
    """The default language model: 72,548 words, trigrams; initials such as `b.` are written without the dot.

    The file knows no unknown words; they are as probable here as its least probable word, so that the names of a phrase
    list can be written at all.

    Read once from the package pocketsphinx (4 s), then from the cache (0.1 s). Source and licence: `LM_SOURCE`.
    """
    model = with_unknown_words(load_lm(pocketsphinx_file(LM_FILE)))
    listed = set(model.words)
    words = [word[0] if len(word) == 2 and word[1] == "." and word[0] not in listed else word for word in model.words]
    return NgramModel(words, model.order, model.tables, source=LM_SOURCE)


def frequent_words(
    model: NgramModel, dictionary: Mapping[str, list[list[str]]], *, size: int = DEFAULT_WORDS
) -> list[str]:
    """The `size` most probable words of a language model (by 1-grams) that the dictionary can pronounce.

    Raises `DataError` when not a single word is in both.
    """
    ranks = np.argsort(-model.unigram_log_probs(), kind="stable")
    words = (model.words[index] for index in ranks)
    found = [word for word in words if word in dictionary or (f"{word}." in dictionary and len(word) == 1)]
    if not found:
        raise DataError("no word of the language model is in the dictionary; check their spelling (upper, lower case).")
    return found[:size]


def english_lexicon(*, size: int = DEFAULT_WORDS) -> Pronunciations:
    """The most probable words of `english_lm` with the pronunciations of `cmu_dictionary`, likeliest word first.

    >>> len(english_lexicon(size=100))
    100
    """
    dictionary = cmu_dictionary()
    return {
        word: dictionary[word] if word in dictionary else dictionary[f"{word}."]
        for word in frequent_words(english_lm(), dictionary, size=size)
    }
