"""Error rates: substitutions, deletions and insertions of words, characters or phones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jiwer
import numpy as np

from slt_speech.metrics.items import Items, Normalization, Rows, check_width, ratio, text_of
from sltcore.interfaces import Metric, Value
from sltcore.types import Port

Unit = Literal["words", "characters", "phones"]
NAMES: Mapping[Unit, str] = {"words": "wer", "characters": "cer", "phones": "per"}
STATISTICS = ("substitutions", "deletions", "insertions", "reference length")


class ErrorRate(Metric):
    """(S + D + I) / N over all items together, of the alignment with the fewest errors.

    Per item: substitutions, deletions, insertions, reference length. Values in percent of the reference length:
    `wer` (or `cer`, `per`), `wer-substitutions`, `wer-deletions`, `wer-insertions`; and `wer-items`, the percentage of
    items with an error. An empty reference is allowed: what is said against it are insertions. Alignments come from
    jiwer. Characters include the single spaces between words; phones are labels separated by spaces.

    **Source**: Levenshtein, Soviet Physics Doklady 10(8), 1966; pooled over items as in NIST's sclite. Deviation: sclite
    weighs a substitution 4 and a gap 3, jiwer each 1, so the split into kinds of error may differ, never below the
    fewest.
    """

    def __init__(self, unit: Unit = "words", *, normalization: Normalization | None = None) -> None:
        self.unit: Unit = unit
        self.name = NAMES[unit]
        self.normalization = normalization or Normalization()
        self._items = Items(len(STATISTICS))

    @property
    def consumes(self) -> Port:
        """N-best lists; the best hypothesis counts. Strings and single hypotheses serve as well."""
        return Port("Hypotheses")

    @property
    def directions(self) -> Mapping[str, str]:
        """Fewer errors are better."""
        kinds = ("", "-substitutions", "-deletions", "-insertions", "-items")
        return {self.name + kind: "lower" for kind in kinds}

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

    def count(self, reference: str, hypothesis: str) -> tuple[int, int, int, int]:
        """Substitutions, deletions, insertions and reference length of one pair, after normalization."""
        reference, hypothesis = self.normalization(reference), self.normalization(hypothesis)
        if self.unit == "characters":
            letters = jiwer.process_characters([reference], [hypothesis])
            return letters.substitutions, letters.deletions, letters.insertions, len(reference)
        words = jiwer.process_words([reference], [hypothesis])
        return words.substitutions, words.deletions, words.insertions, len(reference.split())

    def per_item(self) -> Rows:
        """[n 4] float64: substitutions, deletions, insertions, reference length."""
        return self._items.table()

    def reduce(self, stats: Rows) -> Mapping[str, Value]:
        """Error rates in percent; NaN when the references of a selection are all empty."""
        stats = check_width(stats, STATISTICS)
        substitutions, deletions, insertions, length = (float(total) for total in stats.sum(axis=0))
        wrong = float(np.count_nonzero(stats[:, :3].sum(axis=1)))
        return {
            self.name: Value(ratio(substitutions + deletions + insertions, length), "%"),
            f"{self.name}-substitutions": Value(ratio(substitutions, length), "%"),
            f"{self.name}-deletions": Value(ratio(deletions, length), "%"),
            f"{self.name}-insertions": Value(ratio(insertions, length), "%"),
            f"{self.name}-items": Value(ratio(wrong, len(stats)), "%"),
        }

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
