"""Attention supervision: teach a contextual adapter where to look, from the frames on which listed phrases are said.

How a decoder calls it (`encoded` from encoder `contextual-adapter`, `log_probs` of the head's own labels):

    supervision = AttentionSupervision(vocabulary)                    # once; vocabulary of the head
    attention = encoded.extra.get(PHRASE_ATTENTION)                   # [b t k+1], absent without phrases
    if weight and attention is not None:
        lists = per_utterance(context, PHRASES, len(encoded.lengths))
        losses = losses + weight * supervision.loss(attention, log_probs, encoded.lengths, targets, lists)
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor

from slt_ctc_personalization.lexicon.lexicon import Pronouncer
from slt_ctc_personalization.phrases.spelling import Entry, LabelSpeller, entries
from sltcore.alignment import forced_alignment
from sltcore.errors import ShapeError, VocabularyError
from sltcore.types import Targets
from sltcore.vocabulary import WORD_MARK, Vocabulary, word_spans

PHRASE_ATTENTION = "phrase_attention"
"""Name of the attention in `Encoded.extra`: [b t k+1], column 0 for no phrase, column i + 1 for phrase i of the list."""

NO_TARGET = -1
LEAST_ATTENTION = 1e-8
MOST_PATHS = 16
KEPT_PHRASES = 200_000

Path = tuple[int, ...]
Paths = Sequence[Sequence[Path]]
"""Label paths of each phrase of a list."""


class AttentionSupervision:
    """`attention_loss` for lists of phrases as calls hold them, in the labels of a head.

    Phrases are spelled as `LabelSpeller` does; in a vocabulary of phones by `pronounce` (word -> phone names, the
    `Pronouncer`'s by default), with the boundary label between words. A phrase without a spelling has no frames. The
    spelling of each text is kept.
    """

    def __init__(
        self, vocabulary: Vocabulary, *, pronounce: Callable[[str], Sequence[Sequence[str]]] | None = None
    ) -> None:
        self.vocabulary = vocabulary
        self._pronounce = pronounce
        self._speller = LabelSpeller(vocabulary, 0.0)
        self._known: dict[tuple[str, tuple[str, ...]], tuple[Path, ...]] = {}

    def loss(
        self, attention: Tensor, log_probs: Tensor, lengths: Tensor, targets: Targets, lists: Sequence[Any]
    ) -> Tensor:
        """The attention loss [b] of utterances with their lists of phrases (None: none); see `attention_loss`."""
        return attention_loss(
            attention, log_probs, lengths, targets, [self.paths(one) for one in lists], vocabulary=self.vocabulary
        )

    def paths(self, phrases: Any) -> list[tuple[Path, ...]]:
        """Label paths of each phrase, in the order of `entries(phrases)`; empty for what has no spelling."""
        return [] if phrases is None else [self._paths(entry) for entry in entries(phrases)]

    def _paths(self, entry: Entry) -> tuple[Path, ...]:
        key = (entry.text, entry.spellings)
        if key not in self._known:
            if len(self._known) >= KEPT_PHRASES:
                self._known.clear()
            found = [path for text in (entry.text, *entry.spellings) for path in self._spelled(text)]
            self._known[key] = tuple(dict.fromkeys(found))
        return self._known[key]

    def _spelled(self, text: str) -> list[Path]:
        if not text.split():
            return []
        if self.vocabulary.kind == "phones":
            return self._pronounced(text)
        try:
            return self._speller.paths(text)
        except VocabularyError:
            return []

    def _pronounced(self, text: str) -> list[Path]:
        if self._pronounce is None:
            self._pronounce = Pronouncer().pronounce
        known = set(self.vocabulary.labels)
        choices = [[sounds for sounds in self._pronounce(word) if known.issuperset(sounds)] for word in text.split()]
        found = []
        for words in islice(product(*choices), MOST_PATHS) if choices else ():
            path: list[int] = []
            for place, sounds in enumerate(words):
                if place and self.vocabulary.boundary is not None:
                    path.append(self.vocabulary.boundary)
                path.extend(self.vocabulary.id(sound) for sound in sounds)
            found.append(tuple(path))
        return [path for path in found if path]


def attention_loss(
    attention: Tensor,
    log_probs: Tensor,
    lengths: Tensor,
    targets: Targets,
    phrase_paths: Sequence[Paths],
    *,
    vocabulary: Vocabulary,
) -> Tensor:
    """`-sum over frames t of ln attention[t, target(t)]` for each utterance: [b] float32, nats, as the CTC loss is a sum.

    The target of a frame is the phrase (column i + 1) that is said there, else column 0; see `frame_targets`.
    Utterances that cannot be aligned, and those without frames, give 0.

    **Shapes**: `attention` [b t k+1], rows sum to 1; `log_probs` [b t v] natural log, whose gradient is not used.
    **Raises** `ShapeError` where a list has more phrases than the attention has columns.
    **Source**: the idea of arXiv:2307.00759 (a supervision loss for contextual adapters) and arXiv:2401.08835 (guided
    attention); taking the targets from a forced alignment of the CTC head is ours.
    """
    longest = max((len(paths) for paths in phrase_paths), default=0)
    if longest >= attention.shape[2]:
        raise ShapeError(
            f"{PHRASE_ATTENTION} has shape {tuple(attention.shape)}, expected (b, t, k + 1) with k = {longest} phrases; "
            f"give the lists that the encoder was called with"
        )
    wanted = frame_targets(log_probs, lengths, targets, phrase_paths, vocabulary=vocabulary)
    counts = wanted != NO_TARGET
    found = attention.gather(2, wanted.clamp_min(0)[..., None])[..., 0]
    found = torch.where(counts, found, 1.0).clamp_min(LEAST_ATTENTION)
    return -found.float().log().sum(dim=1)


@torch.no_grad()
def frame_targets(
    log_probs: Tensor,
    lengths: Tensor,
    targets: Targets,
    phrase_paths: Sequence[Paths],
    *,
    vocabulary: Vocabulary,
) -> Tensor:
    """The attention column that each frame should look at: [b t] int64.

    By forced alignment: i + 1 from the first frame of a phrase's first label to the last frame of its last label, blanks
    between them included; 0 on all other frames; `NO_TARGET` in the padding, and where no alignment exists. A phrase
    stands in the target where its labels do as whole words; from the left, the longest phrase first.
    """
    wanted = torch.full(log_probs.shape[:2], NO_TARGET, dtype=torch.int64)
    frames = lengths.tolist()
    with_list = [row for row, paths in enumerate(phrase_paths) if any(paths)]
    for row in set(range(len(frames))) - set(with_list):
        wanted[row, : frames[row]] = 0
    if with_list:
        rows = torch.tensor(with_list, device=log_probs.device)
        own = Targets(targets.ids[rows.to(targets.ids.device)], targets.lengths[rows.to(targets.lengths.device)])
        aligned = forced_alignment(
            log_probs.detach()[rows], lengths[rows.to(lengths.device)], own, blank=vocabulary.blank, keep_going=True
        )
        for row, alignment in zip(with_list, aligned, strict=True):
            if alignment is None:
                continue
            wanted[row, : frames[row]] = 0
            for first, stop, phrase in occurrences(alignment.labels.tolist(), phrase_paths[row], vocabulary):
                wanted[row, int(alignment.first[first]) : int(alignment.stop[stop - 1])] = phrase + 1
    return wanted.to(log_probs.device)


def occurrences(labels: Sequence[int], paths: Paths, vocabulary: Vocabulary) -> list[tuple[int, int, int]]:
    """Where phrases stand in a label sequence as whole words: (first label, past the last, phrase), not overlapping.

    Words are compared as they stand, then without the punctuation around them.
    """
    places: Mapping[Path, int] = {
        tuple(path): phrase for phrase in range(len(paths) - 1, -1, -1) for path in paths[phrase]
    }
    longest = max(map(len, places), default=0)
    spans = word_spans(labels, vocabulary)
    if spans is None:  # no words are marked, so a phrase may begin and end anywhere
        spans = [(place, place + 1) for place in range(len(labels))]
    bare = [_without_marks(labels, span, vocabulary) for span in spans]
    found: list[tuple[int, int, int]] = []
    word = 0
    while word < len(spans):
        taken = 1
        for end, written in product(range(min(word + longest, len(spans)), word, -1), (spans, bare)):
            first, stop = written[word][0], written[end - 1][1]
            phrase = places.get(tuple(labels[first:stop])) if stop - first <= longest else None
            if phrase is not None:
                found.append((first, stop, phrase))
                taken = end - word
                break
        word += taken
    return found


def _without_marks(labels: Sequence[int], span: tuple[int, int], vocabulary: Vocabulary) -> tuple[int, int]:
    """A word without the punctuation around it, which phrases are mostly written without."""
    first, stop = span
    while first < stop - 1 and _is_mark(vocabulary.labels[labels[first]]):
        first += 1
    while stop - 1 > first and _is_mark(vocabulary.labels[labels[stop - 1]]):
        stop -= 1
    return first, stop


def _is_mark(label: str) -> bool:
    """Whether a label is punctuation; a bare `▁` begins a word, and a vowel sign or an accent is a part of one."""
    signs = label.removeprefix(WORD_MARK)
    return bool(signs) and all(unicodedata.category(sign)[0] in "PS" for sign in signs)
