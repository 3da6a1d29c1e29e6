"""Metric `listed-words`: how well the words of a list are recognised, and what the list does to the others."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jiwer
import numpy as np
import numpy.typing as npt

from sltcore.errors import DataError, ShapeError
from sltcore.interfaces import Metric, Value
from sltcore.types import Hypothesis, NBest, Port

Rows = npt.NDArray[np.float64]

LIST_FILE = "listed-words.txt"
STATISTICS = (
    "true positives",
    "false positives",
    "false negatives",
    "errors on listed words",
    "listed words",
    "errors on other words",
    "other words",
)
APOSTROPHES = "'’ʼ"


class Occurrence(NamedTuple):
    """A phrase's words at the positions `start ... stop - 1` of a text."""

    phrase: tuple[str, ...]
    start: int
    stop: int


class ListedWords(Metric):
    """Precision, recall and F1 of listed phrases, and word error rates on listed and on other words.

    Hypothesis and reference are aligned word by word with the fewest errors (jiwer). Occurrences of listed phrases in a
    text are found left to right, the longest first, without overlap; a phrase of several words is one unit. An occurrence
    in the reference is right (TP) when each of its words is aligned with an equal word and these are an occurrence in the
    hypothesis; otherwise it is missed (FN). One in the hypothesis that is no TP is a false accept (FP).

        listed-precision = TP / (TP + FP),  listed-recall = TP / (TP + FN),  listed-f1 = 2 TP / (2 TP + FP + FN)
        b-wer = (substitutions and deletions of listed reference words + insertions of listed words) / listed words
        u-wer = (all other errors) / other words of the references

    An inserted word is listed where it is part of an occurrence in the hypothesis. b-wer and u-wer, weighted by their
    numbers of words, add up to the word error rate. Texts are compared in NFC with single spaces, on request in lower
    case and without punctuation (apostrophes inside words stay). Per item: the seven counts of `STATISTICS`.

    **Source**: b-wer, u-wer: Le et al., "Contextualized Streaming End-to-End Speech Recognition with Trie-Based Deep
    Biasing and Shallow Fusion", Interspeech 2021, arXiv:2104.02194. Deviation: listed are the words that stand in an
    occurrence of a listed phrase, not words that are part of a phrase anywhere.
    """

    def __init__(self, phrases: Iterable[str], *, lowercase: bool = True, punctuation: bool = False) -> None:
        """`punctuation` keeps it. **Raises** `DataError` when there is no phrase, or one is empty."""
        self.lowercase, self.punctuation = lowercase, punctuation
        self._given = tuple(dict.fromkeys(" ".join(phrase.split()) for phrase in phrases))
        self._phrases: set[tuple[str, ...]] = set()
        for phrase in self._given:
            words = tuple(self.words(phrase))
            if not words:
                raise DataError(f"metric 'listed-words': phrase {phrase!r} holds no word to compare; remove it")
            self._phrases.add(words)
        if not self._given:
            raise DataError("metric 'listed-words' has no list; give 'phrases' or 'words_file'")
        self._longest: dict[str, int] = {}  # by first word, so that texts are searched in their own length
        for words in self._phrases:
            self._longest[words[0]] = max(self._longest.get(words[0], 0), len(words))
        self._rows: list[tuple[int, ...]] = []
        self._ids: list[str] = []
        self._groups: list[str] = []

    @property
    def consumes(self) -> Port:
        """N-best lists; the best hypothesis counts. Strings and single hypotheses serve as well."""
        return Port("Hypotheses")

    @property
    def directions(self) -> Mapping[str, str]:
        """More hits are better, and fewer errors."""
        hits = dict.fromkeys(("listed-f1", "listed-precision", "listed-recall"), "higher")
        return {**hits, "b-wer": "lower", "u-wer": "lower"}

    def words(self, text: str) -> list[str]:
        """The words of a text as they are compared."""
        text = unicodedata.normalize("NFC", text)
        if self.lowercase:
            text = text.lower()
        return (text if self.punctuation else "".join(map(_letter, f" {text}", text, f"{text[1:]} "))).split()

    def occurrences(self, words: Sequence[str]) -> list[Occurrence]:
        """Where listed phrases stand in a text: leftmost, longest first, without overlap."""
        found: list[Occurrence] = []
        start = 0
        while start < len(words):
            longest = min(self._longest.get(words[start], 0), len(words) - start)
            stop = next(
                (end for end in range(start + longest, start, -1) if tuple(words[start:end]) in self._phrases), None
            )
            if stop is not None:
                found.append(Occurrence(tuple(words[start:stop]), start, stop))
            start = start + 1 if stop is None else stop
        return found

    def update(
        self,
        outputs: Sequence[Any],
        references: Sequence[Any],
        ids: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Add texts. **Raises** `ShapeError` when numbers differ, `DataError` for what is no text."""
        for what, given in (("references", references), ("ids", ids), ("groups", groups)):
            if given is not None and len(given) != len(outputs):
                raise ShapeError(f"{len(outputs)} outputs were given with {len(given)} {what}; expected one for each")
        rows = [self.count(_text(meant), _text(said)) for said, meant in zip(outputs, references, strict=True)]
        names = list(ids) if ids is not None else [str(len(self._rows) + i) for i in range(len(rows))]
        self._rows += rows
        self._ids += names
        self._groups += names if groups is None else list(groups)

    def count(self, reference: str, hypothesis: str) -> tuple[int, int, int, int, int, int, int]:
        """The statistics of one pair."""
        meant, said = self.words(reference), self.words(hypothesis)
        wanted, found = self.occurrences(meant), self.occurrences(said)
        listed = {place for one in wanted for place in range(one.start, one.stop)}
        claimed = {place for one in found for place in range(one.start, one.stop)}
        partner: dict[int, int] = {}
        errors = [0, 0]  # of other words, of listed ones
        for kind, place, other in _aligned(meant, said):
            if kind == "equal":
                partner[place] = other
            else:
                errors[other in claimed if kind == "insert" else place in listed] += 1
        spans = {(one.start, one.stop) for one in found}
        hits = sum(_lands_on(one, partner, spans) for one in wanted)
        return (
            hits,
            len(found) - hits,
            len(wanted) - hits,
            errors[1],
            len(listed),
            errors[0],
            len(meant) - len(listed),
        )

    def per_item(self) -> Rows:
        """[n 7] float64: see `STATISTICS`."""
        return np.array(self._rows, dtype=np.float64).reshape(len(self._rows), len(STATISTICS))

    def reduce(self, stats: Rows) -> Mapping[str, Value]:
        """All in percent; NaN where a selection says nothing."""
        found = np.asarray(stats, dtype=np.float64)
        if found.ndim != 2 or found.shape[1] != len(STATISTICS):
            raise ShapeError(f"stats has shape {found.shape}, expected (m, {len(STATISTICS)}): {', '.join(STATISTICS)}")
        hits, extra, missed, wrong, listed, other_wrong, other = (float(total) for total in found.sum(axis=0))
        return {
            "listed-f1": _percent(2 * hits, 2 * hits + extra + missed),
            "listed-precision": _percent(hits, hits + extra),
            "listed-recall": _percent(hits, hits + missed),
            "b-wer": _percent(wrong, listed),
            "u-wer": _percent(other_wrong, other),
        }

    def save_files(self) -> Mapping[str, bytes]:
        """`listed-words.txt`, one phrase a line."""
        return {LIST_FILE: "".join(f"{phrase}\n" for phrase in self._given).encode()}

    def reset(self) -> None:
        """Forget all items."""
        self._rows.clear()
        self._ids.clear()
        self._groups.clear()

    @property
    def ids(self) -> Sequence[str]:
        """The id of each row."""
        return tuple(self._ids)

    @property
    def groups(self) -> Sequence[str]:
        """The cluster of each row."""
        return tuple(self._groups)


def _percent(part: float, whole: float) -> Value:
    return Value(100.0 * part / whole if whole else float("nan"), "%")


def _letter(before: str, letter: str, behind: str) -> str:
    """A character, or a space for punctuation."""
    if letter in APOSTROPHES and before.isalnum() and behind.isalnum():
        return "'"
    return " " if unicodedata.category(letter)[0] in "PS" else letter


def _text(item: Any) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, NBest | Hypothesis):
        return item.text
    given = repr(item)[:60]
    raise DataError(
        f"metric 'listed-words' compares strings, hypotheses or n-best lists, got {type(item).__name__}: {given}"
    )


def _aligned(meant: Sequence[str], said: Sequence[str]) -> list[tuple[str, int, int]]:
    """The steps of the alignment: its kind, and the places in the reference and in the hypothesis."""
    chunks = jiwer.process_words([" ".join(meant)], [" ".join(said)]).alignments[0]
    return [
        (chunk.type, chunk.ref_start_idx + step, chunk.hyp_start_idx + step)
        for chunk in chunks
        for step in range(max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx))
    ]


def _lands_on(one: Occurrence, partner: Mapping[int, int], spans: set[tuple[int, int]]) -> bool:
    """Whether the words of an occurrence are aligned with the words of an occurrence in the hypothesis."""
    places = [partner.get(place, -1) for place in range(one.start, one.stop)]
    first = places[0]
    return first >= 0 and places == list(range(first, first + len(places))) and (first, first + len(places)) in spans
