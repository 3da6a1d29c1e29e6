"""The settings and labels of a beam search, checked once, and the phrase tables made for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.lexicon.lexicon_trie import TrieTables
from slt_ctc_personalization.phrases.phrases import Phrase, PhraseTables
from sltcore.errors import PluginError, VocabularyError

if TYPE_CHECKING:
    from slt_ctc_personalization.language_model.ngram import NgramModel, NgramTables
    from slt_ctc_personalization.lexicon.lexicon_trie import LexiconTrie

UNKNOWN_WORD_LOG_PROB = -10.0 * math.log(10.0)
"""The penalty of pyctcdecode and its successors: ten powers of ten."""

BOOSTINGS = ("fixed", "depth-scaled", "utterance", "windowed")


@dataclass(frozen=True)
class Settings:
    """What every part of a search reads; `BeamSearch` documents the fields."""

    labels: tuple[str, ...]
    blank: int
    word_boundary: int | None
    word_mark: str | None
    excluded: frozenset[int]
    beam: int
    token_min_log_prob: float
    beam_prune_log_prob: float
    lm: NgramModel | None
    lm_unit: str
    lm_weight: float
    word_bonus: float
    unknown_word_log_prob: float
    look_ahead: bool
    lexicon: LexiconTrie | None
    n_best: int
    boosting: str = "fixed"
    depth_scaling: float = 2.0
    evidence_floor: float = 0.0
    window_before: int = 100
    window_after: int = 10

    def __post_init__(self) -> None:
        size = len(self.labels)
        if size == 0:
            raise VocabularyError("beam search: the labels are empty; give the blank and at least one label")
        ids = [("blank", self.blank), ("word_boundary", self.word_boundary), *(("excluded", i) for i in self.excluded)]
        for name, label in ids:
            if label is not None and not 0 <= label < size:
                raise VocabularyError(f"beam search: {name} is id {label}, but the label ids run from 0 to {size - 1}")
        if self.blank == self.word_boundary:
            raise VocabularyError(f"beam search: blank and word_boundary are both id {self.blank}; they must differ")
        if self.beam < 1:
            raise PluginError(f"beam search: beam is {self.beam}; give at least 1")
        if self.n_best < 1:
            raise PluginError(f"beam search: n_best is {self.n_best}; give at least 1")
        limits = {"token_min_log_prob": self.token_min_log_prob, "beam_prune_log_prob": self.beam_prune_log_prob}
        for name, value in limits.items():
            if not value <= 0.0:
                raise PluginError(
                    f"beam search: {name} is {value}; it is a natural-log limit, 0 or below (-inf for none)"
                )
        if not (0.0 <= self.lm_weight < math.inf and math.isfinite(self.word_bonus)):
            raise PluginError(
                f"beam search: lm_weight is {self.lm_weight} and word_bonus {self.word_bonus}; expected finite, weight >= 0"
            )
        if not -math.inf < self.unknown_word_log_prob <= 0.0:
            raise PluginError(
                f"beam search: unknown_word_log_prob is {self.unknown_word_log_prob}; give a finite number <= 0"
            )
        if self.lm_unit not in ("word", "token"):
            raise PluginError(f"beam search: lm_unit is {self.lm_unit!r}; expected 'word' or 'token'")
        if self.lexicon is not None and self.lm_unit == "token" and self.lm is not None:
            raise PluginError("beam search: a lexicon needs a language model over words; lm_unit is 'token'")
        if self.lexicon is not None and self.lexicon.labels != self.labels:
            raise VocabularyError(
                f"beam search: the lexicon has {len(self.lexicon.labels)} labels and the search {len(self.labels)}, or in "
                "another order; make the LexiconTrie with the labels of the search"
            )
        self._check_boosting()

    def _check_boosting(self) -> None:
        if self.boosting not in BOOSTINGS:
            raise PluginError(
                f"beam search: boosting is {self.boosting!r}; expected one of {', '.join(map(repr, BOOSTINGS))}"
            )
        if self.boosting == "windowed" and self.lexicon is not None:
            raise PluginError(
                "beam search: boosting 'windowed' works without a lexicon only; take 'fixed', 'depth-scaled' or "
                "'utterance', or leave the lexicon out"
            )
        if not 0.0 <= self.depth_scaling < math.inf:
            raise PluginError(f"beam search: depth_scaling is {self.depth_scaling}; give a finite number, 0 or more")
        if not 0.0 <= self.evidence_floor <= 1.0:
            raise PluginError(f"beam search: evidence_floor is {self.evidence_floor}; give a number from 0 to 1")
        for name, frames in (("window_before", self.window_before), ("window_after", self.window_after)):
            if frames < 0:
                raise PluginError(f"beam search: {name} is {frames} frames; give 0 or more")

    @property
    def needs_evidence(self) -> bool:
        """Whether bonuses follow what is heard of each phrase, so that evidence has to come with the frames."""
        return self.boosting in ("utterance", "windowed")

    @cached_property
    def marks_words(self) -> bool:
        """Whether labels begin words with a mark, as SentencePiece's do."""
        return (
            self.word_boundary is None and bool(self.word_mark) and any(map(self.starts_word, range(len(self.labels))))
        )

    @cached_property
    def knows_words(self) -> bool:
        """Whether word borders can be seen in the labels."""
        return self.word_boundary is not None or self.marks_words

    def starts_word(self, label: int) -> bool:
        """Whether a label begins a word by its mark."""
        return self.word_mark is not None and label != self.blank and self.labels[label].startswith(self.word_mark)

    def characters(self, label: int) -> str:
        """What a label writes into the current word."""
        if label in (self.blank, self.word_boundary):
            return ""
        text = self.labels[label]
        return text.removeprefix(self.word_mark) if self.marks_words and self.word_mark else text

    def words(self, tokens: Sequence[int]) -> list[list[int]]:
        """Positions of the tokens of each word; without word borders every token is its own word."""
        found: list[list[int]] = []
        if not self.knows_words:
            return [[position] for position in range(len(tokens))]
        boundary, fresh = self.word_boundary, True
        for position, token in enumerate(tokens):
            if token == boundary:
                fresh = True
            elif fresh or (boundary is None and self.starts_word(token)):
                found.append([position])
                fresh = False
            else:
                found[-1].append(position)
        return found

    def check_phrases(self, phrases: Sequence[Phrase]) -> None:
        """`VocabularyError` naming the first phrase with a bonus or a path that can never count."""
        bonuses = np.array([p.bonus for p in phrases], np.float64)
        per_label = np.array([0.0 if p.per_label is None else p.per_label for p in phrases], np.float64)
        paths = [
            path for phrase in phrases for path in (*phrase.paths, *chain.from_iterable(phrase.pronunciations.values()))
        ]
        lengths = np.fromiter(map(len, paths), np.int64, len(paths))
        flat = np.fromiter(chain.from_iterable(paths), np.int64, int(lengths.sum()))
        allowed = np.ones(len(self.labels) + 1, bool)
        allowed[[self.blank, len(self.labels), *self.excluded]] = False
        inside = np.where((flat >= 0) & (flat < len(self.labels)), flat, len(self.labels))
        heard = np.concatenate([[0], np.cumsum(flat != (-1 if self.word_boundary is None else self.word_boundary))])
        ends = np.cumsum(lengths)
        whole = bool(np.all(heard[ends] > heard[ends - lengths]) and np.all(allowed[inside]))
        if not whole or not all(np.all((given >= 0.0) & (given < np.inf)) for given in (bonuses, per_label)):
            for phrase in phrases:
                self.check_phrase(phrase)

    def check_phrase(self, phrase: Phrase) -> None:
        """`VocabularyError` for a bonus or a path that can never count."""
        for name, value in (("bonus", phrase.bonus), ("per_label", phrase.per_label or 0.0)):
            if not 0.0 <= value < math.inf:
                raise VocabularyError(f"phrase {phrase.text!r}: {name} is {value}; give a finite number, 0 or more")
        for path in [*phrase.paths, *(path for paths in phrase.pronunciations.values() for path in paths)]:
            self._check_path(phrase.text, path)

    def _check_path(self, text: str, path: Sequence[int]) -> None:
        for label in path:
            if not 0 <= label < len(self.labels):
                last = len(self.labels) - 1
                raise VocabularyError(f"phrase {text!r}: label id {label} does not exist; the ids run from 0 to {last}")
            if label == self.blank or label in self.excluded:
                raise VocabularyError(f"phrase {text!r}: label {self.labels[label]!r} (id {label}) is never written")
        if not any(label != self.word_boundary for label in path):
            raise VocabularyError(f"phrase {text!r}: an empty path; give at least one label")


@dataclass(frozen=True)
class PhraseTable:
    """Phrases made ready for one search; make it once with `BeamSearch.prepare` and use it in any number of calls."""

    phrases: tuple[Phrase, ...]
    owner: Settings
    tables: PhraseTables
    extra: TrieTables
    start: int
    longest: int
    options: Any
    words: tuple[str, ...] = ()
    """A lexicon search's words, those of the phrases added behind."""
    word_tables: Any = None
    listing: Any = None
    """What the engine needs to weigh the phrases anew."""

    def __len__(self) -> int:
        return len(self.phrases)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays made for this list: the automaton, the listed words, what weighs them anew.

        With a lexicon this holds its trie too, which is rebuilt with the phrases' words in it.
        """
        arrays: dict[int, int] = {}
        stack: list[Any] = [self.tables, self.extra, self.word_tables, self.listing]
        while stack:
            item = stack.pop()
            if isinstance(item, np.ndarray):
                arrays[id(item)] = item.nbytes
            elif isinstance(item, tuple):
                stack.extend(item)
        return sum(arrays.values())


def int64(values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """An int64 array of its own."""
    return np.array(values, dtype=np.int64)


def no_model() -> NgramTables:
    """Tables of the same types as a language model's, for a search without one: the kernel is compiled once for both."""
    from slt_ctc_personalization.language_model.ngram_tables import automaton_tables

    whole = np.int64
    return automaton_tables(
        np.zeros(6, whole), np.full(2, -1, whole), np.zeros(3, whole), np.zeros(1, np.float32), np.zeros(1, np.int32)
    )


def spelled_words(words: Sequence[str], alphabet: Mapping[str, int]) -> tuple[list[list[int]], list[int]]:
    """Character ids of every word that the alphabet can write, and the positions of these words."""
    paths: list[list[int]] = []
    kept: list[int] = []
    for index, word in enumerate(words):
        path = [alphabet.get(character, -1) for character in word]
        if path and min(path) >= 0:
            paths.append(path)
            kept.append(index)
    return paths, kept
