"""The rows that every metric collects, and the text they are measured on."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sltcore.errors import DataError, ShapeError
from sltcore.types import Hypothesis, NBest

Rows = npt.NDArray[np.float64]
Punctuation = Literal["keep", "remove"]

APOSTROPHES = "'’ʼ"  # inside a word they are part of it


class Items:
    """Sufficient statistics, ids and groups of the items given so far, in order."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows: list[Sequence[float]] = []
        self.ids: list[str] = []
        self.groups: list[str] = []

    def check(
        self,
        outputs: Sequence[Any],
        references: Sequence[Any],
        ids: Sequence[str] | None,
        groups: Sequence[str] | None,
    ) -> None:
        """**Raises** `ShapeError` when outputs, references, ids or groups differ in number."""
        for what, given in (("references", references), ("ids", ids), ("groups", groups)):
            if given is not None and len(given) != len(outputs):
                raise ShapeError(f"{len(outputs)} outputs were given with {len(given)} {what}; expected one for each")

    def add(self, rows: Sequence[Sequence[float]], ids: Sequence[str] | None, groups: Sequence[str] | None) -> None:
        """Add measured rows; ids default to running numbers, groups to the ids."""
        names = list(ids) if ids is not None else [str(len(self.rows) + i) for i in range(len(rows))]
        self.rows.extend(rows)
        self.ids.extend(names)
        self.groups.extend(groups if groups is not None else names)

    def table(self) -> Rows:
        """[n s] float64."""
        return np.array(self.rows, dtype=np.float64).reshape(len(self.rows), self.width)

    def clear(self) -> None:
        """Forget all items."""
        self.rows.clear()
        self.ids.clear()
        self.groups.clear()


def check_width(stats: Rows, names: Sequence[str]) -> Rows:
    """`stats` [m s] as float64; **raises** `ShapeError` when s is not the number of statistics."""
    found = np.asarray(stats, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != len(names):
        raise ShapeError(f"stats has shape {found.shape}, expected (m, {len(names)}): {', '.join(names)}")
    return found


def ratio(part: float, whole: float) -> float:
    """100 part / whole, NaN of nothing."""
    return 100.0 * part / whole if whole else float("nan")


def text_of(item: Any) -> str:
    """The text of an output or reference: a string, a hypothesis, or the best of an n-best list.

    **Raises** `DataError` for anything else.
    """
    if isinstance(item, str):
        return item
    if isinstance(item, NBest | Hypothesis):
        return item.text
    given = repr(item)[:60]
    raise DataError(f"a text metric compares strings, hypotheses or n-best lists, got {type(item).__name__}: {given}")


@dataclass(frozen=True)
class Normalization:
    """What is done to texts on both sides before they are compared; always: Unicode NFC, white space to one space.

    `punctuation: remove` turns every character of the Unicode categories P and S into a space, apart from apostrophes
    between two letters, which become `'`.

    >>> Normalization(lowercase=True, punctuation="remove")("Don’t press  9, please!")
    "don't press 9 please"
    """

    lowercase: bool = True
    punctuation: Punctuation = "remove"

    def __call__(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text)
        if self.lowercase:
            text = text.lower()
        if self.punctuation == "remove":
            text = "".join(self._spaced(text, place) for place in range(len(text)))
        return " ".join(text.split())

    def __str__(self) -> str:
        case = "lower-cased" if self.lowercase else "case kept"
        marks = "removed" if self.punctuation == "remove" else "kept"
        return f"NFC, {case}, punctuation {marks}, white space collapsed"

    @staticmethod
    def _spaced(text: str, place: int) -> str:
        letter = text[place]
        if letter in APOSTROPHES and text[max(0, place - 1)].isalnum() and text[place + 1 : place + 2].isalnum():
            return "'"
        return " " if unicodedata.category(letter)[0] in "PS" else letter
