"""What goes into a mechanism and what comes out of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slt_pate.events import Charge, Event
from sltcore.errors import PrivacyError

ABSTAINS = -1
"""In a teacher's answers: no vote. In released answers: the threshold test said no."""

MOST_VOTES = 2**24


@dataclass(frozen=True)
class Answer:
    """One release: an index, a vector [v], or None where the threshold test said no; and what it cost."""

    value: int | NDArray[np.float64] | None
    charges: tuple[Charge, ...]


@dataclass(frozen=True)
class Answers:
    """Releases of q queries: `values` int64 [q] (-1: not answered) or float64 [q v]; `answered` bool [q]; what all cost."""

    values: NDArray[Any]
    answered: NDArray[np.bool_]
    charges: tuple[Charge, ...]

    def __len__(self) -> int:
        return len(self.values)


class Mechanism(ABC):
    """A noisy release whose cost is known before data is seen. Noise is drawn anew at each call and never kept."""

    @abstractmethod
    def events(self, queries: int) -> tuple[Charge, ...]:
        """The most that so many queries cost, whatever the data. **Raises** `PrivacyError` for a negative number."""

    @abstractmethod
    def release_batch(self, data: ArrayLike) -> Answers:
        """One release for each query, each with noise of its own. **Raises** `PrivacyError` for malformed data."""

    def release(self, data: ArrayLike) -> Answer:
        """One release for one query, without the leading axis q. **Raises** `PrivacyError` for malformed data."""
        answers = self.release_batch(np.asarray(data)[np.newaxis])
        if not answers.answered[0]:
            return Answer(None, answers.charges)
        value = answers.values[0]
        return Answer(int(value) if np.ndim(value) == 0 else value, answers.charges)


def times(*parts: tuple[Event, int]) -> tuple[Charge, ...]:
    """Charges for events and how often each happens, those that do not happen left out."""
    for event, count in parts:
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 0:
            raise PrivacyError(
                f"{type(event).__name__} is asked for {count!r} queries, expected a whole number from 0 on"
            )
    return tuple(Charge(event, int(count)) for event, count in parts if count)


def check_votes(data: ArrayLike) -> NDArray[np.int64]:
    """Votes int64 [q v]. **Raises** `PrivacyError` for anything but counts from 0 to 2**24."""
    votes = np.asarray(data)
    if votes.ndim != 2 or votes.shape[1] == 0:
        raise PrivacyError(
            f"votes have shape {votes.shape}, expected (v,) for release and (q, v) for release_batch with v > 0 classes"
        )
    if votes.dtype.kind not in "iu":
        raise PrivacyError(
            f"votes have dtype {votes.dtype}, expected integers: how many teachers chose each class. "
            f"Next: count_votes(answers, classes)"
        )
    if votes.size and (votes.min() < 0 or votes.max() > MOST_VOTES):
        raise PrivacyError(f"votes run from {votes.min()} to {votes.max()}, expected counts from 0 to {MOST_VOTES}")
    return votes.astype(np.int64, copy=False)


def count_votes(answers: ArrayLike, classes: int) -> NDArray[np.int64]:
    """How many teachers chose each class: int64 [q v] of `answers` int [q m], where -1 abstains.

    **Raises** `PrivacyError` for an answer that is no class.
    """
    chosen = np.asarray(answers)
    if chosen.ndim != 2 or chosen.dtype.kind not in "iu":
        raise PrivacyError(f"answers have shape {chosen.shape} and dtype {chosen.dtype}, expected integers (q, m)")
    if isinstance(classes, bool) or classes < 1:
        raise PrivacyError(f"classes is {classes!r}, expected a whole number from 1 on")
    if chosen.size and (chosen.min() < ABSTAINS or chosen.max() >= classes):
        raise PrivacyError(
            f"answers run from {chosen.min()} to {chosen.max()}, expected classes from 0 to {classes - 1}, or -1 for none"
        )
    queries = len(chosen)
    places = chosen.astype(np.int64) + np.arange(queries)[:, np.newaxis] * classes
    return np.bincount(places[chosen >= 0], minlength=queries * classes).reshape(queries, classes).astype(np.int64)
