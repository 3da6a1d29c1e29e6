"""Running an experiment: plan, units one after another or spread out, and a file that says what became of each."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sltcore.data.cache import locked
from sltcore.errors import DataError, SltError, did_you_mean
from sltcore.experiment.plan import Plan, make_plan
from sltcore.experiment.units import Unit, UnitResult, clear_leftovers, find_unit, finished, write_json
from sltcore.spec.document import dump_document
from sltcore.spec.experiments import ExperimentSpec
from sltcore.spec.load import Source, Spec, load_spec

if TYPE_CHECKING:
    from sltcore.registry import Registry

UNITS, SPEC, RESULTS = "units", "experiment.yaml", "results.json"
SCHEMA = 1
ENGINES: Mapping[str, str] = {
    "local": "sltcore.experiment.local:run_units",
    "ray": "sltcore.cluster:run_units",
}
"""Who runs the units. Each is called as (units, folder, workers) and yields a `UnitResult` for each unit; found by
name, because the cluster stands above experiments."""


class Progress(Protocol):
    """What a run tells while it goes on."""

    def say(self, line: str) -> None:
        """A remark."""

    def begin(self, units: Sequence[Unit]) -> None:
        """The units of the run, in order."""

    def started(self, unit: Unit) -> None:
        """A unit begins in this process."""

    def settled(self, unit: Unit, result: UnitResult) -> None:
        """A unit is done, reused, failed or skipped."""

    def end(self) -> None:
        """Nothing follows."""


class Silent:
    """A progress that says nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    def begin(self, units: Sequence[Unit]) -> None:
        """Nothing."""

    def started(self, unit: Unit) -> None:
        """Nothing."""

    def settled(self, unit: Unit, result: UnitResult) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class Results(NamedTuple):
    """What became of a run: its folder, the plan, and each unit's result in the order of the plan."""

    out: Path
    plan: Plan
    units: tuple[tuple[Unit, UnitResult], ...]

    @property
    def failed(self) -> list[tuple[Unit, UnitResult]]:
        """Units that failed, and those that could not run because of them."""
        return [(unit, result) for unit, result in self.units if result.state in ("failed", "skipped")]

    def folder(self, stage: str, seed: int | None = None) -> Path | None:
        """The folder of a stage's unit; None where it is not finished."""
        return find_unit(self.out / UNITS, self.plan.unit(stage, seed).key)


def run_experiment(
    source: Source,
    *,
    out: str | Path,
    size: str | None = None,
    seeds: int | None = None,
    engine: str = "local",
    workers: int | None = None,
    overrides: Iterable[str] = (),
    registry: Registry | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Results:
    """Run every unit of an experiment that is not finished in `out`, and say what became of each.

    `size` is one of the spec's sizes, `seeds` takes the first so many, 0 to seeds - 1. A unit that fails is a row with
    its error, those that need it are skipped, and the rest goes on. A run that was killed is continued by the same call.

    **Raises** `SpecError` for a wrong spec, and `DataError` when `out` belongs to another experiment or cannot be written.
    """
    out = Path(out)
    told: Progress = progress if progress is not None else Silent()
    if engine not in ENGINES:
        raise SltError(f"engine is '{engine}', expected one of: {', '.join(ENGINES)}.{did_you_mean(engine, ENGINES)}")
    if workers is not None and workers < 1:
        raise SltError(f"workers is {workers}, expected at least 1")
    settings = [*overrides]
    if seeds is not None:
        if seeds < 1:
            raise SltError(f"seeds is {seeds}, expected at least 1")
        settings.append(f"seeds={list(range(seeds))}")
    spec = load_spec(source, overrides=settings, registry=registry, kind="experiment", size=size)
    folder = _own_folder(out, spec)
    with locked(out / ".lock", told.say):
        clear_leftovers(folder)
        plan = make_plan(spec, registry=registry, progress=told.say)
        with _writing(out / SPEC):
            (out / SPEC).write_text(dump_document(spec.filled()), encoding="utf-8")
        ledger = _Ledger(out, plan, {"size": size, "engine": engine, "command": command or shown_command()})
        told.begin(plan.units)
        try:
            for unit, result in _results(plan, folder, engine, workers, registry, told):
                ledger.note(unit, result)
                told.settled(unit, result)
        finally:
            told.end()
    return Results(out, plan, ledger.rows())


def _results(
    plan: Plan, folder: Path, engine: str, workers: int | None, registry: Registry | None, told: Progress
) -> Iterator[tuple[Unit, UnitResult]]:
    """What is finished comes first, so that results.json soon holds it again, and costs no process."""
    left = {unit.key: unit for unit in plan.units}
    for unit in plan.units:
        reused = finished(unit, folder)
        if reused is not None:
            yield left.pop(unit.key), reused
    module, _, name = ENGINES[engine].partition(":")
    run: Callable[..., Iterator[UnitResult]] = getattr(import_module(module), name)
    more: dict[str, Any] = {"registry": registry, "started": told.started} if engine == "local" else {}
    for result in run(list(left.values()), folder, workers, **more):
        yield left[result.key], result


def _own_folder(out: Path, spec: Spec[ExperimentSpec]) -> Path:
    """The folder of the units, made; **Raises** `DataError` when `out` holds something else or cannot be written."""
    from sltcore.spec.document import read_document

    try:
        (out / UNITS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {out} cannot be written: {error.strerror}; choose another folder") from None
    if (out / SPEC).exists():
        other = read_document(out / SPEC).data
        name = other.get("name") if isinstance(other, dict) else None
        if name != spec.model.name:
            raise DataError(
                f"--out {out} holds the experiment '{name}', this one is '{spec.model.name}'; choose another folder"
            )
    return out / UNITS


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """**Raises** `DataError` where a full disk or a lack of leave stops the block."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}; finished units are kept, mend it and run the same "
            f"command again"
        ) from None


class _Ledger:
    """results.json, rewritten after each unit."""

    def __init__(self, out: Path, plan: Plan, about: Mapping[str, Any]) -> None:
        self.path = out / RESULTS
        self.plan = plan
        self.results: dict[str, UnitResult] = {}
        self.folders: dict[str, str | None] = {}
        self.head = {
            "schema": SCHEMA,
            "experiment": plan.spec.model.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **about,
            "versions": versions(plan),
            "machine": machine(),
            "seeds": list(plan.spec.model.seeds),
            "stages": {
                name: {
                    "do": stage.fields["do"],
                    "seeds": plan.seeds(name),
                    "needs": list(stage.needs),
                    "settings": dict(stage.settings),
                }
                for name, stage in plan.stages.items()
            },
            "grids": {name: list(found) for name, found in plan.names.items() if list(found) != [name]},
        }

    def note(self, unit: Unit, result: UnitResult) -> None:
        self.results[unit.key] = result
        folder = find_unit(self.path.parent / UNITS, unit.key) if result.state in ("done", "reused") else None
        self.folders[unit.key] = f"{UNITS}/{folder.name}" if folder is not None else None
        rows = [
            {
                "stage": known.stage,
                "stages": list(known.stages),
                "seed": known.seed,
                "do": known.do,
                "key": known.key,
                "state": found.state,
                "seconds": round(found.seconds, 3),
                "host": found.host,
                "error": found.error,
                "folder": self.folders[known.key],
            }
            for known, found in self.rows()
        ]
        with _writing(self.path):
            write_json(self.path, {**self.head, "units": rows})

    def rows(self) -> tuple[tuple[Unit, UnitResult], ...]:
        return tuple((unit, self.results[unit.key]) for unit in self.plan.units if unit.key in self.results)


def shown_command() -> str:
    """The command line of this process, as one would type it."""
    import shlex

    words = list(sys.argv)
    if words:
        words[0] = os.path.basename(words[0])
    return shlex.join(words)


def versions(plan: Plan) -> dict[str, str]:
    """What runs: Python, torch, numpy, the core, and the distributions of all components."""
    found = {"python": platform.python_version()}
    names = {entry.distribution for stage in plan.stages.values() for entry in stage.entries}
    for name in sorted({"torch", "numpy", "sltcore-lib"} | names):
        with suppress(metadata.PackageNotFoundError, ValueError):  # a component that no distribution brought
            found[name] = metadata.version(name)
    return found


def machine() -> dict[str, Any]:
    """Where it ran."""
    import torch

    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }
