"""How well given words and phrases are recognised: precision, recall and F1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jiwer

from slt_speech.metrics.items import Items, Normalization, Rows, check_width, ratio, text_of
from sltcore.errors import DataError
from sltcore.interfaces import Metric, Value
from sltcore.types import Port

Matching = Literal["aligned", "counts"]
KEYWORDS_FILE = "keywords.txt"
STATISTICS = ("true positives", "false positives", "false negatives")


class Occurrence(NamedTuple):
    """A keyword's words at positions `start` to `stop` of a text."""

    keyword: tuple[str, ...]
    start: int
    stop: int


class KeywordF1(Metric):
    """Entity-level F1 = 2 TP / (2 TP + FP + FN) over the occurrences of listed keywords and phrases.

    Occurrences in a text are found left to right, the longest phrase first, without overlap. `aligned`: an occurrence
    in the reference is a true positive when, in the word alignment with the fewest errors (jiwer), each of its words
    is aligned with an equal word and those words are an occurrence of the same phrase in the output. `counts`: the
    true positives of a phrase are the smaller of its two numbers of occurrences, wherever they stand. Occurrences left
    over in the output are false positives, in the reference false negatives. Per item: TP, FP, FN.

    **Source**: van Rijsbergen, Information Retrieval, 1979, chapter 7, with equal weights. Deviation: where several
    alignments have the fewest errors, jiwer's choice counts.
    """

    def __init__(
        self, keywords: Sequence[str], *, matching: Matching = "aligned", normalization: Normalization | None = None
    ) -> None:
        """**Raises** `DataError` when there is no keyword, or one is empty after normalization."""
        self.normalization = normalization or Normalization()
        self.matching: Matching = matching
        found = [(keyword, tuple(self.normalization(keyword).split())) for keyword in keywords]
        for keyword, words in found:
            if not words:
                raise DataError(f"keyword {keyword!r} is empty after normalization ({self.normalization}); remove it")
        if not found:
            raise DataError("metric 'keyword-f1' has no keywords; list them in 'keywords' or 'keywords_file'")
        self._given = tuple(keywords)
        self._keywords = {words for _, words in found}
        self._longest = max(map(len, self._keywords))
        self._items = Items(len(STATISTICS))

    @property
    def consumes(self) -> Port:
        """N-best lists; the best hypothesis counts. Strings and single hypotheses serve as well."""
        return Port("Hypotheses")

    @property
    def directions(self) -> Mapping[str, str]:
        """More is better."""
        return dict.fromkeys(("keyword-f1", "keyword-precision", "keyword-recall"), "higher")

    def update(
        self,
        outputs: Sequence[Any],
        references: Sequence[Any],
        ids: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Add texts. **Raises** `ShapeError` when numbers differ, `DataError` for what is no text."""
        self._items.check(outputs, references, ids, groups)
        pairs = zip(outputs, references, strict=True)
        self._items.add([self.count(text_of(reference), text_of(output)) for output, reference in pairs], ids, groups)

    def count(self, reference: str, hypothesis: str) -> tuple[int, int, int]:
        """True positives, false positives and false negatives of one pair."""
        reference, hypothesis = self.normalization(reference), self.normalization(hypothesis)
        wanted, said = self.occurrences(reference.split()), self.occurrences(hypothesis.split())
        if self.matching == "counts":
            counts = Counter(o.keyword for o in wanted) & Counter(o.keyword for o in said)
            hits = counts.total()
        else:
            equal = _aligned_words(reference, hypothesis) if wanted and said else {}
            spans = {(o.start, o.stop) for o in said}
            hits = sum(_lands_on(occurrence, equal, spans) for occurrence in wanted)
        return hits, len(said) - hits, len(wanted) - hits

    def occurrences(self, words: Sequence[str]) -> list[Occurrence]:
        """Where the keywords stand in a text's words: leftmost, longest first, without overlap."""
        found: list[Occurrence] = []
        start = 0
        while start < len(words):
            for stop in range(min(len(words), start + self._longest), start, -1):
                if tuple(words[start:stop]) in self._keywords:
                    found.append(Occurrence(tuple(words[start:stop]), start, stop))
                    start = stop
                    break
            else:
                start += 1
        return found

    def per_item(self) -> Rows:
        """[n 3] float64: true positives, false positives, false negatives."""
        return self._items.table()

    def reduce(self, stats: Rows) -> Mapping[str, Value]:
        """F1, precision and recall in percent; NaN where nothing was said or nothing was to be said."""
        hits, extra, missed = (float(total) for total in check_width(stats, STATISTICS).sum(axis=0))
        return {
            "keyword-f1": Value(ratio(2 * hits, 2 * hits + extra + missed), "%"),
            "keyword-precision": Value(ratio(hits, hits + extra), "%"),
            "keyword-recall": Value(ratio(hits, hits + missed), "%"),
        }

    def save_files(self) -> Mapping[str, bytes]:
        """`keywords.txt`, one a line."""
        return {KEYWORDS_FILE: "".join(f"{keyword}\n" for keyword in self._given).encode()}

    def reset(self) -> None:
        """Forget all items."""
        self._items.clear()

    @property
    def ids(self) -> Sequence[str]:
        """The id of each row."""
        return tuple(self._items.ids)

    @property
    def groups(self) -> Sequence[str]:
        """The cluster of each row."""
        return tuple(self._items.groups)


def _aligned_words(reference: str, hypothesis: str) -> dict[int, int]:
    """Positions in the reference whose word is aligned with an equal one, and where that stands."""
    chunks = jiwer.process_words([reference], [hypothesis]).alignments[0]
    return {
        chunk.ref_start_idx + i: chunk.hyp_start_idx + i
        for chunk in chunks
        if chunk.type == "equal"
        for i in range(chunk.ref_end_idx - chunk.ref_start_idx)
    }


def _lands_on(occurrence: Occurrence, equal: Mapping[int, int], spans: set[tuple[int, int]]) -> bool:
    """Whether all words of an occurrence are aligned with the words of one occurrence of the output."""
    places = [equal.get(position) for position in range(occurrence.start, occurrence.stop)]
    first, last = places[0], places[-1]
    if first is None or last is None or None in places:
        return False
    return last - first == len(places) - 1 and (first, last + 1) in spans
