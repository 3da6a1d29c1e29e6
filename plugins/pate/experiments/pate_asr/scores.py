"""What the arms heard, as statistics of test items: [seeds items columns], the same items for every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import speech
from study import Study, Unit

from slt_speech.metrics.word_error import ErrorRate
from sltcore.experiment.resampling import Draws, replicated
from sltcore.experiment.statistics import Estimate, level_of
from sltcore.interfaces.metric import Value

Stats = npt.NDArray[np.float64]
METRICS = {"cer": ErrorRate("characters"), "wer": ErrorRate("words")}


def wrong_share(stats: Stats) -> Mapping[str, Value]:
    """The share of items that were heard wrongly, in percent."""
    wrong, said = (float(total) for total in stats.sum(axis=0))
    return {"wrong": Value(100 * wrong / said, "%")}


@dataclass
class Scores:
    """The results of a study, read once."""

    study: Study

    @cached_property
    def references(self) -> list[str]:
        """Texts of the test on real speech."""
        return [str(one.item.text) for one in speech.tested(self.study)]

    def seeds(self, *arms: tuple[str, float | None]) -> list[int]:
        """Seeds for which all these arms of real speech are finished."""
        names = [Unit("arm", arm, 0, epsilon).name.removesuffix("seed-0") for arm, epsilon in arms]
        return [seed for seed in self.study.seeds if all(self.study.has(f"{name}seed-{seed}") for name in names)]

    def found(self, arm: str, epsilon: float | None, seed: int) -> dict[str, Any]:
        """What the unit of an arm left."""
        return self.study.result(Unit("arm", arm, seed, epsilon).name)

    def heard(self, arm: str, epsilon: float | None, seeds: Sequence[int], metric: str) -> Stats:
        """[s n 4]: errors and lengths of the test utterances."""
        count = METRICS[metric].count
        return np.array(
            [
                [count(text, other) for text, other in zip(self.references, self.found(arm, epsilon, seed)["texts"], strict=True)]
                for seed in seeds
            ],
            dtype=np.float64,
        )  # fmt: skip

    def made_up_seeds(self, model: str, people: int) -> list[int]:
        """Seeds for which the arms on so many made-up people are finished."""
        return [seed for seed in self.study.seeds if self.study.has(Unit("crossing", model, seed, number=people).name)]

    def made_up(self, model: str, people: int, arm: str, seeds: Sequence[int]) -> Stats:
        """[s n 2]: which test utterances of made-up people an arm heard wrongly, and ones."""
        rows = [self.study.result(Unit("crossing", model, seed, number=people).name)["wrong"][arm] for seed in seeds]
        return np.array([[[float(one == "x"), 1.0] for one in row] for row in rows])

    def made_up_clusters(self, model: str, people: int, seed: int) -> list[str]:
        """The person of each test utterance."""
        found: list[str] = self.study.result(Unit("crossing", model, seed, number=people).name)["people_of_test"]
        return found


def level(scores: Scores, stats: Stats, reduce: Any, value: str, clusters: Sequence[str]) -> Estimate:
    """A mean over seeds with its interval."""
    draws = Draws(
        stats.shape[1], clusters=clusters, replicates=scores.study.size.replicates, generator=np.random.default_rng(0)
    )
    return level_of(replicated(stats, reduce, draws, names=[value])[value], draws)


def cell(estimate: Estimate, seeds: Sequence[int], digits: int = 2) -> dict[str, Any]:
    """A value with its interval and seeds."""
    low, high = estimate.interval()
    found: dict[str, Any] = {"value": round(estimate.value, digits)}
    if np.isfinite([low, high]).all():
        found |= {"low": round(low, digits), "high": round(high, digits)}
    if len(estimate.seeds) > 1:
        found["seeds"] = [
            {"seed": seed, "value": round(value, digits)} for seed, value in zip(seeds, estimate.seeds, strict=True)
        ]
    return found
