"""The labels that `ctc_beam.py` decodes: 32 characters, or 500 sub-words trained on the synthetic language."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.phrases.segmentation import Segmenter
from sltcore.vocabulary import WORD_MARK, Vocabulary

LETTERS = [*"abcdefghijklmnopqrstuvwxyz'-", "é", "ü"]
OTHER_SEGMENTATION = 0.1
"""How often the speaker's model writes a word in other sub-words than the preferred ones."""
SEGMENTATIONS = 4  # the default of decoder `ctc-beam`


@dataclass(frozen=True)
class Alphabet:
    """Labels, the blank first; `space` is the word boundary where that is a label of its own."""

    name: str
    labels: tuple[str, ...]
    space: int | None
    frames_per_s: int
    error: float

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The same labels as the library takes them."""
        kind = "characters" if self.space is not None else "subwords"
        return Vocabulary(["<blank>", *self.labels[1:]], kind=kind, blank=0, boundary=self.space)

    @cached_property
    def confusions(self) -> npt.NDArray[np.int64]:
        """Four labels [v 4] that each label may be heard as; those that begin a word stay apart from the others."""
        size = len(self.labels)
        found = np.zeros((size, 4), np.int64)
        for begins in (False, True):
            group = [i for i in range(1, size) if i != self.space and self.labels[i].startswith(WORD_MARK) == begins]
            for place, label in enumerate(group):
                found[label] = [group[(place * 7 + 1 + step) % len(group)] for step in range(4)]
        if self.space is not None:
            found[self.space] = [i for i in range(1, size) if i != self.space][:4]
        return found

    def written(self, text: str, rng: np.random.Generator) -> list[list[int]]:
        """Label ids of each word of a text, with the boundary behind all but the last."""
        words = text.split()
        if self.space is not None:
            ids = [self.vocabulary.encode(word) for word in words]
            return [[*word, self.space] for word in ids[:-1]] + ids[-1:]
        choices = [self._segmenter.paths(word, count=SEGMENTATIONS) for word in words]
        picks = [int(rng.integers(len(paths))) * int(rng.random() < OTHER_SEGMENTATION) for paths in choices]
        return [list(paths[pick]) for paths, pick in zip(choices, picks, strict=True)]

    @cached_property
    def _segmenter(self) -> Segmenter:
        return Segmenter(self.vocabulary)

    def text(self, ids: npt.NDArray[np.int64]) -> str:
        """The text of label ids without blanks."""
        return " ".join("".join(self.labels[i] for i in ids).replace(WORD_MARK, " ").split())


def characters() -> Alphabet:
    """Blank, space and 30 letters, 50 frames/s."""
    return Alphabet("characters", ("", " ", *LETTERS), space=1, frames_per_s=50, error=0.08)


def subwords(counts: Mapping[str, int], size: int = 500) -> Alphabet:
    """Blank and byte-pair labels with the SentencePiece mark, 25 frames/s.

    Every letter is a label, alone and behind the mark, so that all words can be written; the mark alone is none.
    """
    return Alphabet(f"bpe-{size}", ("", *_merged(counts, size - 1)), space=None, frames_per_s=25, error=0.15)


def _merged(counts: Mapping[str, int], size: int) -> list[str]:
    """Byte-pair encoding: again and again the most frequent pair of neighbours becomes a label (ties: by text).

    **Source**: Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016.
    """
    words = [[f"{WORD_MARK}{word[0]}", *word[1:]] for word in counts]
    weights = list(counts.values())
    labels = [*LETTERS, *(f"{WORD_MARK}{letter}" for letter in LETTERS)]
    pairs: Counter[tuple[str, str]] = Counter()
    holders: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for pair in itertools.pairwise(word):
            pairs[pair] += weights[index]
            holders[pair].add(index)
    while len(labels) < size:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        labels.append("".join(best))
        for index in sorted(holders[best]):
            word = words[index]
            for pair in itertools.pairwise(word):
                pairs[pair] -= weights[index]
            merged: list[str] = []
            for piece in word:
                if merged and (merged[-1], piece) == best:
                    merged[-1] += piece
                else:
                    merged.append(piece)
            words[index] = merged
            for pair in itertools.pairwise(merged):
                pairs[pair] += weights[index]
                holders[pair].add(index)
        del pairs[best], holders[best]
    return labels
