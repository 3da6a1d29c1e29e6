"""The units of the experiment: what is trained and heard, in the order of their use to the claims."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from data import Data, prepare
from settings import COUNTS, SIZES, Size

FUSED = ("sum", "average", "stack")
LEARNED = ("attention", "gate")
GENERAL_AT = (1, 5)
"""General audio is heard with the groups of updates that begin with one of these sets."""


@dataclass(frozen=True)
class Unit:
    """One piece of work: `kind` says which function does it. `needs`: names of units that come before."""

    kind: str
    arm: str
    seed: int | None = None
    number: int = 0
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its file."""
        seed = "" if self.seed is None else f"--seed-{self.seed}"
        return f"{self.kind}--{self.arm}{f'-{self.number}' if self.number else ''}{seed}"


@dataclass(frozen=True)
class Study:
    """One run: its base, its folder and its size."""

    base: Path
    out: Path
    size_name: str
    seeds: tuple[int, ...] = field(default=())

    @property
    def size(self) -> Size:
        """The numbers of the size."""
        return SIZES[self.size_name]

    @cached_property
    def data(self) -> Data:
        """Manifests in the folder."""
        return prepare(self.out / "data", smoke=self.size_name == "smoke")

    @property
    def sets(self) -> Sequence[Sequence[str]]:
        """The words of the sets that are taught."""
        return self.data.sets[: self.size.sets]

    @property
    def numbers(self) -> list[int]:
        """The sets, counted from 1."""
        return list(range(1, self.size.sets + 1))

    @property
    def counts(self) -> list[int]:
        """How many updates are active at a time."""
        return [count for count in COUNTS if count <= self.size.sets]

    def file(self, name: str) -> Path:
        """The result of a unit."""
        return self.out / "units" / f"{name}.json"

    def result(self, name: str) -> dict[str, Any]:
        """What a finished unit left."""
        found: dict[str, Any] = json.loads(self.file(name).read_text(encoding="utf-8"))
        return found

    def has(self, name: str) -> bool:
        """Whether a unit is finished."""
        return self.file(name).exists()


def groups(numbers: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Neighbouring sets, `count` together.

    >>> groups([1, 2, 3, 4], 2)
    [(1, 2), (3, 4)]
    """
    return [tuple(numbers[begin : begin + count]) for begin in range(0, len(numbers), count)]


def units(study: Study) -> list[Unit]:
    """All of them: first what every seed needs for the claims, then the other arms, seed by seed."""
    found = [Unit("hear", "base"), *boosted()]
    for seed in study.seeds:
        found += [*_updates(study, "adapter", seed, ("single", "sum", "average")), *_sequence(study, seed)]
    for seed in study.seeds:
        found += list(_others(study, seed))
    found += [Unit("hear", "sum-boosting", seed, needs=(Unit("hear", "sum", seed).name,)) for seed in study.seeds]
    return found


def boosted() -> Iterator[Unit]:
    """The base with a beam, and with phrases at decoding time."""
    yield Unit("hear", "beam")
    yield Unit("hear", "boosting")


def _updates(study: Study, method: str, seed: int, arms: Sequence[str]) -> Iterator[Unit]:
    """An update for each set, and the arms that use them as they are."""
    made = [Unit("train", method, seed, number) for number in study.numbers]
    yield from made
    for arm in arms:
        yield Unit("hear", arm, seed, needs=tuple(unit.name for unit in made))
    if "sum" in arms:
        yield Unit("check", "sum", seed, needs=(Unit("hear", "sum", seed).name,))


def _sequence(study: Study, seed: int) -> Iterator[Unit]:
    before: tuple[str, ...] = ()
    for number in study.numbers:
        unit = Unit("train", "sequential", seed, number, before)
        yield unit
        before = (unit.name,)
    names = tuple(Unit("train", "sequential", seed, number).name for number in study.numbers)
    yield Unit("hear", "sequential", seed, needs=names)


def _others(study: Study, seed: int) -> Iterator[Unit]:
    adapters = tuple(Unit("train", "adapter", seed, number).name for number in study.numbers)
    yield Unit("hear", "stack", seed, needs=adapters)
    for arm in LEARNED:
        made = Unit("train", arm, seed, needs=adapters)
        yield from (made, Unit("hear", arm, seed, needs=(made.name,)))
    joint = Unit("train", "joint", seed)
    yield from (joint, Unit("hear", "joint", seed, needs=(joint.name,)))
    yield from _updates(study, "lora", seed, ("lora",))
    first = Unit("train", "sequential", seed, 1).name
    full = [Unit("train", "full", seed, number) for number in study.numbers if number > 1]
    yield from full
    yield Unit("hear", "full", seed, needs=(first, *(unit.name for unit in full)))
