"""Statistics of what was heard: items that are the same for every arm, so that arms can be paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from counting import COLUMNS, Stats, statistics
from study import GENERAL_AT, Study, groups
from words import sets_in, text_of
from work import general_test, key_of

from sltcore.experiment.bootstrap import Stats as Rows
from sltcore.interfaces import Value

NO_SEED = ("base", "beam", "boosting")


class ItemOfSet(NamedTuple):
    """A test utterance as one of a set, whose words are counted in it: an utterance with words of two sets is two items."""

    number: int
    id: str
    text: str


def recall(rows: Rows) -> Mapping[str, Value]:
    """Taught words that are heard at their place, in percent of those said."""
    hits, said = rows[:, COLUMNS.index("hits")].sum(), rows[:, COLUMNS.index("said")].sum()
    return {"recall": Value(float(100 * hits / said) if said else float("nan"), "%")}


def wer(rows: Rows) -> Mapping[str, Value]:
    """Word error rate, and taught words heard in 1,000 words of general audio."""
    sums = dict(zip(COLUMNS, rows.sum(axis=0), strict=True))
    below = sums["words"] or float("nan")
    return {
        "wer": Value(float(100 * sums["errors"] / below), "%"),
        "insertions": Value(float(1000 * sums["insertions"] / below), "per 1,000 words"),
    }


@dataclass
class Scores:
    """What the finished units heard."""

    study: Study
    _texts: dict[tuple[str, int | None], Mapping[str, Mapping[str, str]]] = field(default_factory=dict)

    def unit(self, arm: str, seed: int | None) -> str:
        """The name of the unit that heard an arm; sums and the like of one update are the single ones."""
        return f"hear--{arm}" if arm in NO_SEED else f"hear--{arm}--seed-{seed}"

    def seeds(self, *arms: str) -> list[int]:
        """Seeds of which all of these arms are finished."""
        return [seed for seed in self.study.seeds if all(self.study.has(self.unit(arm, seed)) for arm in arms)]

    def has(self, arm: str) -> bool:
        """Whether anything of an arm is finished."""
        return self.study.has(self.unit(arm, None)) if arm in NO_SEED else bool(self.seeds(arm))

    def texts(self, arm: str, seed: int | None) -> Mapping[str, Mapping[str, str]]:
        """By active sets and id."""
        key = (arm, None if arm in NO_SEED else seed)
        if key not in self._texts:
            self._texts[key] = self.study.result(self.unit(arm, seed))["texts"]
        return self._texts[key]

    @cached_property
    def items(self) -> list[ItemOfSet]:
        """Every test utterance once for each set of which it holds a word."""
        return [
            ItemOfSet(number, example.item.id, text_of(example))
            for example in self.study.data.examples("test")
            for number in (place + 1 for place in sets_in(text_of(example), self.study.sets))
        ]

    @cached_property
    def general(self) -> list[tuple[str, str]]:
        """Ids and texts of general test audio."""
        return [(example.item.id, text_of(example)) for example in general_test(self.study)]

    def active(self, arm: str, count: int, number: int) -> str:
        """The key of the active sets under which an arm is measured on a set, with so many active."""
        if arm in ("base", "beam", "joint"):
            return key_of(self.study.numbers)
        if arm == "sequential" and count > 1:
            return key_of(self.study.numbers[:count])
        return key_of(next(group for group in groups(self.study.numbers, count) if number in group))

    def recall_items(self, arm: str, count: int, numbers: Sequence[int] | None = None) -> list[ItemOfSet]:
        """The items of some sets; of a sequence of fine-tunings those it has come to."""
        known = self.study.numbers if numbers is None else list(numbers)
        if arm == "sequential" and count > 1:
            known = [number for number in known if number <= count]
        return [item for item in self.items if item.number in known]

    def recall_rows(self, arm: str, count: int, seed: int | None, items: Sequence[ItemOfSet]) -> Stats:
        """[n 5]."""
        texts = self.texts(arm, seed)
        rows = [
            statistics(
                [item.text], [texts[self.active(arm, count, item.number)][item.id]], set(self.study.sets[item.number - 1])
            )[0]
            for item in items
        ]  # fmt: skip
        return np.array(rows, dtype=np.float64).reshape(-1, len(COLUMNS))

    def recalls(self, arm: str, count: int, seeds: Sequence[int], items: Sequence[ItemOfSet]) -> Stats:
        """[s n 5]: one seed for an arm that draws nothing."""
        chosen: Sequence[int | None] = [None] if arm in NO_SEED else seeds
        return np.stack([self.recall_rows(arm, count, seed, items) for seed in chosen])

    def starts(self, count: int, *arms: str) -> list[int]:
        """The sets that begin a group whose general audio was heard, for all of these arms."""
        if any(arm in ("joint", "sequential") for arm in arms):
            return [1]
        return [start for start in GENERAL_AT if start <= self.study.size.sets and (start - 1) % count == 0]

    def general_rows(self, arm: str, count: int, seeds: Sequence[int], starts: Sequence[int]) -> Stats:
        """[s n 5]: general audio once for each start, with the words that are active there."""
        chosen: Sequence[int | None] = [None] if arm in NO_SEED else seeds
        return np.stack([self._general(arm, count, seed, starts) for seed in chosen])

    def general_clusters(self, starts: Sequence[int]) -> list[str]:
        """Texts, which stand together."""
        return [text for _ in starts for _, text in self.general]

    def _general(self, arm: str, count: int, seed: int | None, starts: Sequence[int]) -> Stats:
        found = []
        for start in starts:
            heard = self.texts(arm, seed)[self.active(arm, count, start)]
            taught = {word for number in range(start, start + count) for word in self.study.sets[number - 1]}
            found.append(statistics([text for _, text in self.general], [heard[id] for id, _ in self.general], taught))
        return np.concatenate(found)
