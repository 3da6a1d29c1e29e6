"""Measured texts: the statistics of each utterance under each arm, list and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from arms import Decoded, Words, list_of
from lists import Task

from slt_ctc_personalization.metrics.listed_words import ListedWords


def metric_of(words: Sequence[str]) -> ListedWords:
    """The metric for a list; without one, for the listed words alone."""
    return ListedWords(words)


def stats_of(task: Task, texts: Sequence[str], words: Words) -> np.ndarray:
    """Sufficient statistics [n 7] of texts, for one list or for a list of each utterance."""
    if isinstance(words[0], str):
        metric = metric_of(list_of(words, 0))
        metric.update(texts, task.texts)
        return metric.per_item()
    pairs = zip(texts, task.texts, strict=True)
    rows = [metric_of(list_of(words, i)).count(meant, said) for i, (said, meant) in enumerate(pairs)]
    return np.array(rows, dtype=np.float64)


def values_of(stats: np.ndarray) -> dict[str, float]:
    """F1, precision, recall and WER of listed words, WER of the others, and of all, in percent."""
    found = {name.replace("-", "_"): value.value for name, value in metric_of(["x"]).reduce(stats).items()}
    hits, extra, _, wrong, listed, other_wrong, other = stats.sum(axis=0)
    found["wer"] = float(100 * (wrong + other_wrong) / (listed + other))
    found["accepts"] = float(hits + extra)
    return {name.removeprefix("listed_"): float(value) for name, value in found.items()}


def summary(task: Task, texts: Sequence[str]) -> dict[str, float]:
    """The values of texts for the task's own listed words."""
    return values_of(stats_of(task, texts, task.words))


@dataclass
class Scores:
    """Statistics by arm, list and seed; `words` are the metric's words of each list."""

    task: Task
    words: Mapping[str, Words]
    rows: dict[tuple[str, str, int], Decoded] = field(default_factory=dict)
    _stats: dict[tuple[str, str, int, str], np.ndarray] = field(default_factory=dict)

    def add(self, arm: str, label: str, seed: int, said: Decoded) -> None:
        """Texts of an arm with a list."""
        self.rows[arm, label, seed] = said

    def stats(self, arm: str, label: str, seeds: Sequence[int]) -> np.ndarray:
        """[s n 7]: of one arm with one list, for each seed that it has; an arm without a list counts with any."""
        found = []
        for seed in seeds:
            place = next((key for key in ((arm, label, seed), (arm, "", seed)) if key in self.rows), None)
            if place is None:
                continue
            key = (*place, label)
            if key not in self._stats:
                self._stats[key] = stats_of(self.task, self.rows[place].texts, self.words[label])
            found.append(self._stats[key])
        return np.stack(found) if found else np.zeros((0, len(self.task.examples), 7))

    def line(self, arm: str, label: str, seed: int) -> dict[str, Any]:
        """The values of one row, rounded, for the log."""
        label_ = label or next(iter(self.words))
        values = values_of(self.stats(arm, label_, [seed])[0])
        return {name: round(values[name], 1) for name in ("f1", "precision", "recall", "b_wer", "u_wer", "wer")}
