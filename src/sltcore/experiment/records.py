"""What a finished or interrupted experiment left in its folder, read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from sltcore.errors import DataError, SltError, did_you_mean
from sltcore.experiment.bootstrap import Stats
from sltcore.experiment.resampling import Draws, Replicated, replicated
from sltcore.experiment.units import read_unit

if TYPE_CHECKING:
    from sltcore.interfaces import Metric
    from sltcore.registry import Registry

RESULTS, SPEC, STATS, VALUES = "results.json", "experiment.yaml", "stats.npz", "values.json"
SCHEMA = 1
Seed = int | None


@dataclass(frozen=True)
class Records:
    """A folder of results: `results` is results.json, `spec` the experiment as it ran, `text` its YAML."""

    folder: Path
    results: Mapping[str, Any]
    spec: Mapping[str, Any]
    text: str

    @cached_property
    def _rows(self) -> dict[tuple[str, Seed], Mapping[str, Any]]:
        return {(stage, row["seed"]): row for row in self.results.get("units", []) for stage in row["stages"]}

    def stages(self, name: str) -> list[str]:
        """The stages of a grid, or the stage itself."""
        return list(self.results.get("grids", {}).get(name, [name]))

    def settings(self, stage: str) -> Mapping[str, Any]:
        """What a stage of a grid sets."""
        found: Mapping[str, Any] = self.results["stages"].get(stage, {}).get("settings", {})
        return found

    def seeds(self, stage: str) -> list[Seed]:
        """The seeds with which a stage was to run; [None] where nothing is drawn at random."""
        return list(self.results["stages"].get(stage, {}).get("seeds", []))

    def is_drawn(self, stage: str) -> bool:
        """Whether a stage depends on the seed."""
        return self.seeds(stage) != [None]

    def row(self, stage: str, seed: Seed) -> Mapping[str, Any] | None:
        """What became of a stage's unit; None where it was never reached."""
        return self._rows.get((stage, seed if self.is_drawn(stage) else None))

    def place(self, stage: str, seed: Seed) -> Path | None:
        """The folder of a finished unit."""
        row = self.row(stage, seed)
        if row is None or not row.get("folder"):
            return None
        return self.folder / str(row["folder"])

    def facts(self, stage: str, seed: Seed) -> dict[str, Any]:
        """unit.json of a finished unit; empty where there is none."""
        place = self.place(stage, seed)
        return (read_unit(place) if place is not None else None) or {}

    def above(self, stage: str) -> list[str]:
        """Every stage that a stage needs, directly or not, first ones first, and itself."""
        found: list[str] = []

        def visit(name: str) -> None:
            for need in self.results["stages"].get(name, {}).get("needs", []):
                visit(need)
            if name not in found:
                found.append(name)

        visit(stage)
        return found

    def of_kind(self, do: str) -> list[str]:
        """Stages that do this."""
        return [name for name, stage in self.results["stages"].items() if stage["do"] == do]


def read_records(folder: str | Path) -> Records:
    """**Raises** `DataError` when the folder holds no results of an experiment, or those of another version."""
    from sltcore.spec.document import read_document

    folder = Path(folder)
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        text = (folder / SPEC).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}; name a folder that slt reproduce has written"
        ) from None
    except ValueError as error:
        raise DataError(f"{folder / RESULTS} is no JSON: {error}; run the experiment again with this folder") from None
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise DataError(
            f"{folder / RESULTS}: has another schema than {SCHEMA}, which this version of sltcore reads; run the "
            f"experiment again, finished units are reused"
        )
    return Records(folder, results, read_document(folder / SPEC).data, text)


@dataclass
class Measured:
    """What one measure stage holds of all arms, for its finished seeds.

    `stats` by arm and metric are [s n k], s being 1 for arms in which nothing is drawn at random.
    """

    stage: str
    ids: list[str]
    columns: Mapping[str, list[str]]
    clusters: str | None
    seeds: tuple[Seed, ...]
    drawn: frozenset[str]
    metrics: Mapping[str, Metric]
    stats: Mapping[tuple[str, str], Stats]
    values: Mapping[Seed, Mapping[str, Any]]
    replicates: int
    _draws: dict[str | None, Draws] = field(default_factory=dict)
    _found: dict[tuple[str, str, str | None], dict[str, Replicated]] = field(default_factory=dict)

    def draws(self, clusters: str | None) -> Draws:
        """The same draws of clusters for all arms. **Raises** `DataError` for a column that the data lack."""
        if clusters not in self._draws:
            labels = None if clusters is None else self._labels(clusters)
            self._draws[clusters] = Draws(
                len(self.ids), clusters=labels, replicates=self.replicates, generator=np.random.default_rng(0)
            )
        return self._draws[clusters]

    def _labels(self, name: str) -> list[str]:
        """The values of a column; an utterance without one is resampled alone."""
        if name == "id":
            return self.ids
        if name not in self.columns:
            known = sorted(self.columns)
            raise DataError(
                f"the data have no column '{name}' for clusters; there are: {', '.join(known)}."
                f"{did_you_mean(name, known)}"
            )
        return [value or f"\0{own}" for value, own in zip(self.columns[name], self.ids, strict=True)]

    def names(self, metric: str) -> list[str]:
        """The values that a metric gives, the first one first."""
        arm = next(arm for arm, label in self.stats if label == metric)
        return list(self.metrics[metric].reduce(self.stats[arm, metric][0]))

    def direction(self, metric: str, name: str) -> str:
        """Which way a value improves."""
        return self.metrics[metric].directions.get(name, "")

    def system(self, arm: str, metric: str, clusters: str | None) -> dict[str, Replicated]:
        """Every value of an arm with its replicates. **Raises** `DataError` where the stage did not measure it."""
        key = (arm, metric, clusters)
        if (arm, metric) not in self.stats:
            if metric not in self.metrics:
                raise DataError(f"'{self.stage}' has no metric '{metric}'; it has: {', '.join(self.metrics)}")
            raise DataError(f"'{self.stage}' does not measure '{arm}'")
        if key not in self._found:
            self._found[key] = replicated(self.stats[arm, metric], self.metrics[metric].reduce, self.draws(clusters))
        return self._found[key]

    def seeds_of(self, arm: str) -> tuple[Seed, ...]:
        """The seeds of an arm's values."""
        return self.seeds if arm in self.drawn else (None,)


def read_measured(records: Records, stage: str, *, registry: Registry | None, problems: list[str]) -> Measured | None:
    """What a measure stage left; None where no seed of it is finished. Utterances that some seeds lack count in none.

    What is missing is said in `problems`.
    """
    from sltcore.experiment.measures import make_metric

    there = {seed: place for seed in records.seeds(stage) if (place := records.place(stage, seed)) is not None}
    if not there:
        return None
    values = {seed: _values(place / VALUES) for seed, place in there.items()}
    metrics: dict[str, Metric] = {}
    for label, block in next(iter(values.values()))["metrics"].items():
        try:
            metrics[label] = make_metric(block, registry)
        except SltError as error:
            problems.append(f"{stage}: the metric {label} cannot be built, so its values are not shown: {error}")
    files = {seed: _arrays(place / STATS) for seed, place in there.items()}
    first = next(iter(files.values()))
    ids = [str(entry) for entry in first["ids"]]
    shared = set(ids).intersection(*(map(str, found["ids"]) for found in files.values()))
    most = max(len(found["ids"]) for found in files.values())
    if len(shared) < most:
        problems.append(f"{stage}: {most - len(shared)} utterances are not there for all seeds, and count for none")
    ids = [entry for entry in ids if entry in shared]
    rows = {seed: _places(found["ids"], ids) for seed, found in files.items()}
    arms = list(next(iter(values.values()))["arms"])
    drawn = frozenset(arm for arm in arms if records.is_drawn(arm))
    stats = {
        (arm, label): np.stack(
            [
                found[f"stats:{arm}:{label}"][rows[seed]]
                for seed, found in list(files.items())[: None if arm in drawn else 1]
            ]
        )
        for arm in arms
        for label in metrics
    }
    keep = rows[next(iter(files))]
    columns = {
        name.partition(":")[2]: [str(entry) for entry in array[keep]]
        for name, array in first.items()
        if name.startswith("column:")
    }
    return Measured(
        stage=stage,
        ids=ids,
        columns=columns,
        clusters=next(iter(values.values()))["clusters"]["column"],
        seeds=tuple(there),
        drawn=drawn,
        metrics=metrics,
        stats=stats,
        values=values,
        replicates=int(records.spec.get("replicates", 10_000)),
    )


def _values(path: Path) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return found


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read: {error}; delete its folder and run the experiment again")


def _arrays(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as found:
            return dict(found)
    except (OSError, ValueError, BadZipFile) as error:
        raise _unreadable(path, error) from None


def _places(known: Any, wanted: Sequence[str]) -> list[int]:
    where = {str(entry): place for place, entry in enumerate(known)}
    return [where[entry] for entry in wanted]
