"""Small searches and utterances that several tests share."""

from __future__ import annotations

import numpy as np
from beam_references import random_log_probs

from slt_ctc_personalization.beam_search.search import BeamSearch
from slt_ctc_personalization.language_model.build_lm import build_lm
from slt_ctc_personalization.lexicon.lexicon_trie import LexiconTrie

LETTERS = ["-", " ", *"abcdefgh"]
TEXTS = ["abba fed", "bad face", "a bead", "bad abba fed", "cafe bad face", "dead bead", "a cafe"]
LEXICON = {word: [list(word)] for text in TEXTS for word in text.split()}


def make(*, lexicon=False, lm=True, **settings):
    model = build_lm(TEXTS, order=3) if lm else None
    trie = LexiconTrie(LEXICON, LETTERS) if lexicon else None
    return BeamSearch(LETTERS, blank=0, word_boundary=1, lm=model, lexicon=trie, **{"threads": 1, **settings})


def batch(seed=0, size=6, frames=60, spread=3.0):
    rng = np.random.default_rng(seed)
    return np.stack([random_log_probs(rng, frames, len(LETTERS), spread=spread) for _ in range(size)])


def path_of(text):
    return [LETTERS.index(letter) for letter in text]


def peaky(text, frames_each=2, missing=()):
    """Frames that say `text` loudly; the letters at the places `missing` are far below the token threshold."""
    rows = []
    for place, label in enumerate(path_of(text)):
        row = np.full(len(LETTERS), -13.0, np.float32)
        row[LETTERS.index("h") if place in missing else label] = -0.001
        if place in missing:
            row[label] = -9.0
        rows += [row] * frames_each
        blank = np.full(len(LETTERS), -13.0, np.float32)
        blank[0] = -0.001
        rows.append(blank)
    return np.stack(rows)[None]
