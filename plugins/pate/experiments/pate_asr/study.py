"""The units of work of the experiment, in an order in which a cut run tells most."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data import Data, prepare
from settings import AUDITED, EPSILONS, MODELS, SIZES, TRIALS, Size, budget_name

BUDGETS = (*EPSILONS, math.inf)
PRIVATE_ARMS = ("transcript", "slot", "dp-sgd")
PLAIN_ARMS = ("public", "self-taught", "private")


@dataclass(frozen=True)
class Unit:
    """One piece of work: `kind` says which function does it. `needs`: names of units that come before."""

    kind: str
    arm: str = ""
    seed: int | None = None
    epsilon: float | None = None
    number: int = 0
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its file."""
        parts = [self.kind, self.arm, "" if self.epsilon is None else f"epsilon-{budget_name(self.epsilon)}"]
        parts += [str(self.number) if self.number else "", "" if self.seed is None else f"seed-{self.seed}"]
        return "--".join(part for part in parts if part)


@dataclass(frozen=True)
class Study:
    """One run: its folder, its size and its seeds."""

    out: Path
    size_name: str
    seeds: tuple[int, ...]
    part: str = "all"

    @property
    def size(self) -> Size:
        """The numbers of the size."""
        return SIZES[self.size_name]

    @cached_property
    def data(self) -> Data:
        """Manifests in the folder."""
        return prepare(self.out / "data", smoke=self.size_name == "smoke")

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

    def bundle(self, name: str) -> Path:
        """The bundle that a unit left, which lies in the study's folder."""
        return self.out / str(self.result(name)["bundle"])


def units(study: Study) -> list[Unit]:
    """All of them, of the part that is asked for."""
    parts = {"speech": speech, "synthetic": synthetic}
    chosen = parts.values() if study.part == "all" else [parts[study.part]]
    return [unit for part in chosen for unit in part(study)]


def speech(study: Study) -> Iterator[Unit]:
    """Public start, choice of settings, then seed by seed the arms, and shadow models of the attack."""
    start = Unit("start")
    yield start
    tuned = []
    for arm, trials in TRIALS.items():
        made = [Unit("trial", arm, number=number, needs=(start.name,)) for number in range(1, len(trials) + 1)]
        yield from made
        tuned += [unit.name for unit in made]
    for seed in study.seeds:
        for arm in PLAIN_ARMS:
            yield Unit("arm", arm, seed, needs=(start.name,))
        for arm in PRIVATE_ARMS:
            for epsilon in BUDGETS:
                yield Unit("arm", arm, seed, epsilon, needs=(start.name, *tuned))
    yield Unit("teacher", seed=study.seeds[0], needs=(start.name,))
    for number in range(1, study.size.shadows + 1):
        yield Unit("shadow", number=number, needs=(start.name,))


def synthetic(study: Study) -> Iterator[Unit]:
    """For each model and number of protected people settings from made-up ones that nobody protects, then the arms; audits."""
    for people in study.size.populations:
        for model in MODELS:
            chosen = Unit("choice", model, number=people)
            yield chosen
            for seed in study.seeds:
                yield Unit("crossing", model, seed, number=people, needs=(chosen.name,))
        if people == AUDITED:
            for arm in ("private", "pate", "dp-sgd"):
                yield Unit("audit", arm, needs=(Unit("choice", "large", number=people).name,))
