"""Metrics `exact-match`, `execution` and `test-suite`: the share of queries that are right, by a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from slt_sql_rerank.metrics.execution import WIDE, Execution
from slt_sql_rerank.metrics.gold import Databases, Gold, candidate, gold
from slt_sql_rerank.metrics.hardness import LEVELS, hardness
from slt_sql_rerank.metrics.set_match import official_match
from slt_sql_rerank.metrics.strict_match import strict_match
from slt_sql_rerank.sandbox.sandbox import Sandbox
from sltcore.errors import ShapeError
from sltcore.interfaces import Metric, Value
from sltcore.types import Port

Rows = npt.NDArray[np.float64]
Judge = Callable[[str, Gold, str], bool]
"""Whether a candidate is right by a gold query, in the form "official" or "strict"."""
FORMS = ("official", "strict")
MOST_OPEN = 4


class Accuracy(Metric):
    """The share of questions whose candidate is right, in percent, in each form that is asked for.

        accuracy = right / questions

    `NAME` is the official-compatible form, `NAME-strict` the strict one; with `by_hardness` each also for Spider's easy,
    medium, hard and extra gold queries (`NAME-easy`), NaN where there are none. Per item: one for each form, then one for
    each level.

    **Source**: Yu et al., "Spider", EMNLP 2018, arXiv:1809.08887; Zhong, Yu & Klein, EMNLP 2020, arXiv:2010.02840.
    """

    def __init__(
        self, name: str, judge: Judge, databases: Databases, *, forms: Sequence[str] = FORMS, by_hardness: bool = False
    ) -> None:
        self.name, self.judge, self.databases = name, judge, databases
        self.forms = tuple(form for form in FORMS if form in forms)
        self.levels = LEVELS if by_hardness else ()
        self._rows: list[tuple[float, ...]] = []
        self._ids: list[str] = []
        self._groups: list[str] = []

    @property
    def consumes(self) -> Port:
        """N-best lists; the first hypothesis counts. Strings and single hypotheses serve as well."""
        return Port("Hypotheses")

    def _names(self) -> list[tuple[str, int, int | None]]:
        """Names of values, the column of their form, and of their level."""
        found: list[tuple[str, int, int | None]] = []
        for column, form in enumerate(self.forms):
            name = self.name if form == "official" else f"{self.name}-{form}"
            found.append((name, column, None))
            found += [(f"{name}-{level}", column, len(self.forms) + i) for i, level in enumerate(self.levels)]
        return found

    @property
    def directions(self) -> Mapping[str, str]:
        """More is better."""
        return {name: "higher" for name, _, _ in self._names()}

    def update(
        self,
        outputs: Sequence[Any],
        references: Sequence[Any],
        ids: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Add queries; groups are the databases where none are given and the references name them.

        **Raises** `ShapeError` when numbers differ, `DataError` for what is no query, a database that is not there, and a
        gold query that cannot be used.
        """
        for what, given in (("references", references), ("ids", ids), ("groups", groups)):
            if given is not None and len(given) != len(outputs):
                raise ShapeError(f"{len(outputs)} outputs were given with {len(given)} {what}; expected one for each")
        labels = [gold(reference) for reference in references]
        rows = [self._row(candidate(output), label) for output, label in zip(outputs, labels, strict=True)]
        names = list(ids) if ids is not None else [str(len(self._rows) + i) for i in range(len(rows))]
        clusters = [label.database or name for label, name in zip(labels, names, strict=True)]
        self._rows += rows
        self._ids += names
        self._groups += clusters if groups is None else list(groups)

    def _row(self, text: str, label: Gold) -> tuple[float, ...]:
        right = [float(self.judge(text, label, form)) for form in self.forms]
        if not self.levels:
            return tuple(right)
        level = hardness(label.query, self.databases.schema(self.databases.name(label)))
        return (*right, *(float(level == entry) for entry in self.levels))

    def per_item(self) -> Rows:
        """[n s] float64: 1 where right, for each form; then 1 at the level of its gold query."""
        return np.array(self._rows, dtype=np.float64).reshape(len(self._rows), len(self.forms) + len(self.levels))

    def reduce(self, stats: Rows) -> Mapping[str, Value]:
        """All in percent; NaN where a selection says nothing."""
        found = np.asarray(stats, dtype=np.float64)
        width = len(self.forms) + len(self.levels)
        if found.ndim != 2 or found.shape[1] != width:
            raise ShapeError(f"stats has shape {found.shape}, expected (m, {width})")
        values: dict[str, Value] = {}
        for name, column, level in self._names():
            weights = np.ones(len(found)) if level is None else found[:, level]
            total = float(weights.sum())
            values[name] = Value(100.0 * float(found[:, column] @ weights) / total if total else float("nan"), "%")
        return values

    def reset(self) -> None:
        """Forget all items."""
        self._rows.clear()
        self._ids.clear()
        self._groups.clear()

    @property
    def ids(self) -> Sequence[str]:
        """The id of each row."""
        return tuple(self._ids)

    @property
    def groups(self) -> Sequence[str]:
        """The cluster of each row."""
        return tuple(self._groups)


class SetMatches:
    """Judges by exact set match."""

    def __init__(self, databases: Databases) -> None:
        self.databases = databases

    def __call__(self, text: str, label: Gold, form: str) -> bool:
        schema = self.databases.schema(self.databases.name(label))
        return (official_match if form == "official" else strict_match)(text, label.query, schema)


class SameRows:
    """Judges by the rows that both queries give in a sandbox, on one file or on every file of a suite."""

    def __init__(self, databases: Databases, *, suite: bool, seconds: float) -> None:
        self.databases, self.suite, self.seconds = databases, suite, seconds
        self._executions: dict[str, tuple[Execution, tuple[str, ...]]] = {}

    def __call__(self, text: str, label: Gold, form: str) -> bool:
        execution, files = self._of(self.databases.name(label))
        return (execution.official if form == "official" else execution.strict)(text, label.query, files)

    def _of(self, name: str) -> tuple[Execution, tuple[str, ...]]:
        if name not in self._executions:
            files = {file.stem: file for file in self.databases.suite(name)[: None if self.suite else 1]}
            while len(self._executions) >= MOST_OPEN:
                oldest, _ = self._executions.pop(next(iter(self._executions)))
                oldest.close()
            execution = Execution(Sandbox(files, WIDE), seconds=self.seconds)
            self._executions[name] = execution, tuple(files)
        return self._executions[name]
