"""Whose utterances are whose, and which units a step takes: Poisson sampling from a cryptographic source."""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slt_pate.rows import id_of, unit_of
from sltcore.errors import PrivacyError

WORD = 64


@dataclass(frozen=True)
class Units:
    """Places of rows by unit, and the unit of each id."""

    rows: Mapping[str, tuple[int, ...]]
    unit_of_id: Mapping[str, str]
    unit_of_place: tuple[str, ...]

    @classmethod
    def of(cls, private: Sequence[Any], unit: str) -> Units:
        """Rows grouped by `unit`, a column or 'utterance'.

        **Raises** `DataError` for a row without a unit, `PrivacyError` for an id of two units, whose gradients could not be
        told apart.
        """
        rows: dict[str, list[int]] = {}
        of_id: dict[str, str] = {}
        of_place: list[str] = []
        for place, row in enumerate(private):
            name, own_id = unit_of(row, unit, place), id_of(row, place)
            if of_id.setdefault(own_id, name) != name:
                raise PrivacyError(
                    f"private utterance id '{own_id}' is of the {unit}s '{of_id[own_id]}' and '{name}'; expected ids that name one "
                    f"utterance each, for gradients are told apart by them"
                )
            rows.setdefault(name, []).append(place)
            of_place.append(name)
        return cls({name: tuple(places) for name, places in rows.items()}, of_id, tuple(of_place))


@dataclass(frozen=True)
class Draw:
    """A step's units, and the places of their rows in the order that was handed out."""

    units: frozenset[str]
    places: tuple[int, ...]


class PoissonSampler:
    """Batches as lists of row places, one for each of `steps`: every unit is in a batch with probability `rate`, for
    itself, with all its rows or `most` of them chosen at random.

    A unit is in where 64 bits of the operating system's cryptographic source lie below `floor(rate 2**64)`: who is in a step
    must be as secret as the noise, so nothing here comes from the seed of the run. `draws` holds what was handed out and not
    yet used by a step, for batches are made ahead. No more than `steps` are handed out, however often it is iterated.
    """

    def __init__(self, units: Units, *, rate: float, steps: int, most: int | None = None) -> None:
        self.units, self.rate, self.steps, self.most = units, rate, steps, most
        self.draws: deque[Draw] = deque()
        self._drawn = 0
        self._names = sorted(units.rows)
        self._choice = random.SystemRandom()

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        while self._drawn < self.steps:
            self._drawn += 1
            draw = self.draw()
            self.draws.append(draw)
            yield list(draw.places)

    def draw(self) -> Draw:
        """One step's units."""
        words = np.frombuffer(os.urandom(WORD // 8 * len(self._names)), dtype=np.uint64)
        limit = int(self.rate * 2**WORD)
        taken = np.ones(len(words), dtype=bool) if limit >= 2**WORD else words < np.uint64(limit)
        chosen = [self._names[place] for place in np.flatnonzero(taken)]
        places: list[int] = []
        for name in chosen:
            rows = self.units.rows[name]
            places += rows if self.most is None or len(rows) <= self.most else self._choice.sample(rows, self.most)
        return Draw(frozenset(chosen), tuple(places))
