"""The graph of an experiment: what each stage needs, what its grids become, and what is wrong with all that."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from sltcore.errors import SpecError, did_you_mean
from sltcore.spec.document import PathKey
from sltcore.spec.experiments import (
    STAGES,
    DecodeStage,
    ExperimentSpec,
    MeasureStage,
    Stage,
    TransformStage,
)
from sltcore.spec.overrides import Setting, parse_path, replace
from sltcore.spec.problems import Origin, Problem, moved, path_text, problems_of, shown
from sltcore.spec.references import ORDER, outer_problems, references
from sltcore.spec.starts import Base, checked_start, stage_references
from sltcore.spec.training import DataConfig, TrainFields

MAX_COMBINATIONS = 1000
OUTER = ("objective", "auxiliary", "augment", "privacy")


class Need(NamedTuple):
    """That a stage takes what another one left: the place inside the stage that says so, the other's name, and what it
    must leave: a bundle, outputs, or either."""

    path: PathKey
    name: str
    leaves: str


def needs_of(stage: Stage) -> Iterator[Need]:
    """Every stage that a stage names."""
    if not isinstance(stage, MeasureStage):
        if stage.from_ is not None:
            yield Need(("from",), stage.from_, "a bundle")
        for key, value in stage.set.items():
            for path, name in stage_references(value, ("set", key)):
                yield Need((*path, "stage"), name, "a bundle or outputs")
    for path, entry in data_of(stage):
        if entry.stage is not None:
            yield Need((*path, "stage"), entry.stage, "outputs")
    if isinstance(stage, MeasureStage):
        for index, name in enumerate(stage.of):
            yield Need(("of", index), name, "outputs")


def data_of(stage: Stage | TrainFields) -> Iterator[tuple[PathKey, DataConfig]]:
    """Every entry of data in a stage or a training run, with its path."""
    lists: dict[PathKey, list[DataConfig]] = {}
    if isinstance(stage, TrainFields):
        for name in type(stage.data).model_fields:
            lists["data", name] = getattr(stage.data, name)
    if isinstance(stage, DecodeStage):
        lists["data",] = stage.data
    if isinstance(stage, TrainFields | TransformStage):
        lists["calibration",] = stage.calibration
    for path, entries in lists.items():
        yield from (((*path, index), entry) for index, entry in enumerate(entries))


def run_problems(
    run: Any, raw: Mapping[str, Any], prefix: PathKey, context: Mapping[str, Any], start: Base | None = None
) -> tuple[list[Problem], Base | None]:
    """What only the whole of a training run, or of a stage with a pipeline, can get wrong; and the pipeline it works on,
    if that can be known. `raw` is what it was read from, `start` what the stage that it begins `from` left."""
    problems, base = checked_start(run, raw, prefix, context, start)
    if isinstance(run, TrainFields):
        problems += _outer_problems(run, prefix, base)
        problems += _best_problems(run, prefix, base)
    return problems, base


def _outer_problems(run: TrainFields, prefix: PathKey, base: Base | None) -> Iterator[Problem]:
    """References from beside the pipeline must lead into it."""
    stages = base.stages() if base is not None else ORDER
    for name in OUTER:
        yield from outer_problems(getattr(run, name), (*prefix, name), stages)


def _best_problems(run: TrainFields, prefix: PathKey, base: Base | None) -> Iterator[Problem]:
    """The value that decides which weights are best must be one of the pipeline's metrics."""
    metric = run.evaluate.best.partition(".")[0]
    if base is not None and metric not in ("auto", "loss") and metric not in base.metrics():
        has = f"its metrics: {', '.join(base.metrics()) or 'none'}.{did_you_mean(metric, base.metrics())}"
        yield Problem((*prefix, "evaluate", "best"), f"the pipeline measures no '{metric}'; {has}")


def experiment_problems(model: ExperimentSpec, data: Mapping[str, Any], context: Mapping[str, Any]) -> list[Problem]:
    """What only the whole of an experiment can get wrong: names that lead nowhere, circles, stages that do not fit."""
    problems: list[Problem] = []
    for name in model.stages:
        problems += _name_problems(name, model)
    order, circles = _in_order(model)
    problems += circles
    bases: dict[str, Base] = {}
    for name in order:
        problems += _stage_problems(name, model, data, context, bases)
    if problems:
        return problems
    names = names_of(model)
    for name, stage in model.stages.items():
        for need in needs_of(stage):
            problems += _need_problems(need, ("stages", name, *need.path), model, names)
    return [*problems, *_arm_problems(model, names), *_claim_problems(model, names)]


def _name_problems(name: str, model: ExperimentSpec) -> Iterator[Problem]:
    if "/" in name:
        why = "for that is how those of a grid are numbered"
        yield Problem(("stages", name), f"a stage's name has no '/', {why}")
    for need in needs_of(model.stages[name]):
        if _written(need.name, model) is None:
            yield _unknown(("stages", name, *need.path), need.name, model)


def names_of(model: ExperimentSpec) -> dict[str, list[str]]:
    """What each stage is called once the grids are written out: its name, or STAGE/1, STAGE/2 and so on, one for each
    combination of the stages it begins from and of its own grid."""
    names: dict[str, list[str]] = {}

    def visit(name: str) -> list[str]:
        if name not in names:
            grid = _grid(model.stages[name])
            count = math.prod(len(values) for values in grid.values())
            start = getattr(model.stages[name], "from_", None)
            if start is not None and start in model.stages:
                count *= len(visit(start))
            is_single = count == 1 and not grid
            names[name] = [name] if is_single else [f"{name}/{number}" for number in range(1, count + 1)]
        return names[name]

    for name in model.stages:
        visit(name)
    return names


def _grid(stage: Stage) -> dict[str, list[Any]]:
    return {} if isinstance(stage, MeasureStage) else stage.grid


def _written(name: str, model: ExperimentSpec) -> str | None:
    """The stage of the spec that a name such as `tuned` or `tuned/2` belongs to."""
    return next((each for each in (name, name.partition("/")[0]) if each in model.stages), None)


def _unknown(path: PathKey, name: str, model: ExperimentSpec) -> Problem:
    stages = list(model.stages)
    return Problem(path, f"no stage is named '{name}'; stages: {', '.join(stages)}.{did_you_mean(name, stages)}")


def _in_order(model: ExperimentSpec) -> tuple[list[str], list[Problem]]:
    """The stages, each after those that it needs; and each circle, told at the first place that leads into it."""
    order: list[str] = []
    way: list[str] = []
    problems: list[Problem] = []

    def visit(name: str) -> None:
        way.append(name)
        for need in needs_of(model.stages[name]):
            other = _written(need.name, model)
            if other in way:
                circle = " → ".join([*way[way.index(other) :], other])
                problems.append(Problem(("stages", name, *need.path), f"stages need each other in a circle: {circle}"))
            elif other is not None and other not in order:
                visit(other)
        order.append(way.pop())

    for name in model.stages:
        if name not in order:
            visit(name)
    return order, problems


def _stage_problems(
    name: str, model: ExperimentSpec, data: Mapping[str, Any], context: Mapping[str, Any], bases: dict[str, Base]
) -> Iterator[Problem]:
    """What is wrong with one stage and with those that its grid makes of it; `bases` gains the pipeline it leaves."""
    stage, prefix = model.stages[name], ("stages", name)
    if isinstance(stage, MeasureStage):
        for path, reference in references(stage.metrics, (*prefix, "metrics")):
            yield Problem(path, f"a measure stage has no pipeline, so there is no '{reference.ref}' to refer to")
        return
    start = bases.get(stage.from_ or "")
    raw = data["stages"][name]
    problems, base = run_problems(stage, raw, prefix, context, start)
    yield from problems
    if problems:
        return
    if stage.grid:
        yield from _grid_problems(name, stage.grid, raw, context, start)
    elif base is not None:
        bases[name] = base


def _grid_problems(
    name: str, grid: Mapping[str, list[Any]], raw: Mapping[str, Any], context: Mapping[str, Any], start: Base | None
) -> Iterator[Problem]:
    prefix = ("stages", name, "grid")
    empty = [key for key, values in grid.items() if not values]
    count = math.prod(len(values) for values in grid.values())
    if empty:
        yield Problem((*prefix, empty[0]), "a grid needs at least one value here")
    elif count > MAX_COMBINATIONS:
        yield Problem(prefix, f"{count:,} combinations; at most {MAX_COMBINATIONS:,} stages are made of one")
    else:
        told: dict[Problem, None] = {}
        for chosen in itertools.product(*([(key, i) for i in range(len(grid[key]))] for key in grid)):
            told.update(dict.fromkeys(_combination_problems(name, chosen, grid, raw, context, start)))
        yield from told


def _combination_problems(
    name: str,
    chosen: tuple[tuple[str, int], ...],
    grid: Mapping[str, list[Any]],
    raw: Mapping[str, Any],
    context: Mapping[str, Any],
    start: Base | None,
) -> Iterator[Problem]:
    """What is wrong with one stage of a grid."""
    stage = {key: copy.deepcopy(value) for key, value in raw.items() if key != "grid"}
    replaced: dict[PathKey, Origin] = {}
    for key, index in chosen:
        origin = ("stages", name, "grid", key)
        try:
            path = parse_path(key)
            if path[0] in ("do", "from", "grid"):
                raise SpecError(f"'{path[0]}' is not for a grid to change")
            replaced[replace(stage, Setting(path, copy.deepcopy(grid[key][index]), origin))] = (*origin, index)
        except SpecError as error:
            yield Problem(origin, str(error))
            return
    cls = STAGES[raw["do"]]
    try:
        problems, _ = run_problems(cls.model_validate(stage, context=dict(context)), stage, (), context, start)
    except ValidationError as error:
        problems = list(problems_of(error, cls, data=stage))
    told = ", ".join(f"{key}: {shown(grid[key][index])}" for key, index in chosen)
    for problem in problems:
        found = moved(problem, replaced, raw)
        if found is problem:
            where = f"{path_text(problem.path)}: " if problem.path else ""
            found = Problem(("stages", name, "grid"), f"{where}{problem.message} (with {told})")
        yield found


def _need_problems(
    need: Need, path: PathKey, model: ExperimentSpec, names: Mapping[str, list[str]]
) -> Iterator[Problem]:
    """What is taken must exist, and be what the other stage leaves."""
    written = str(_written(need.name, model))
    stage = model.stages[written]
    if need.name != written and need.name not in names[written]:
        yield Problem(path, _no_such(need.name, written, names))
        return
    leaves = {"train": "a bundle", "transform": "a bundle", "decode": "outputs", "measure": "values"}[stage.do]
    if leaves not in need.leaves:
        fit = [
            n for n, s in model.stages.items() if (s.do == "decode") == (need.leaves == "outputs") and s.do != "measure"
        ]
        yield Problem(
            path,
            f"'{need.name}' is a {stage.do} stage, which leaves {leaves}; {need.leaves} is wanted here. Stages that leave "
            f"{need.leaves}: {', '.join(fit) or 'none'}",
        )


def _no_such(name: str, written: str, names: Mapping[str, list[str]]) -> str:
    made = names[written]
    listed = ", ".join(made[:5]) + (f" to {made[-1]}" if len(made) > 5 else "")
    return f"there is no '{name}'; '{written}' becomes: {listed}"


def _arm_problems(model: ExperimentSpec, names: Mapping[str, list[str]]) -> Iterator[Problem]:
    for name in model.arms:
        written, path = _written(name, model), ("arms", name)
        if written is None:
            yield _unknown(path, name, model)
        elif model.stages[written].do != "decode":
            yield Problem(path, f"an arm is a decode stage, and '{written}' is a {model.stages[written].do} stage")
        elif name not in names[written]:
            yield Problem(path, _no_such(name, written, names) + "; name those that are compared")


def _claim_problems(model: ExperimentSpec, names: Mapping[str, list[str]]) -> Iterator[Problem]:
    arms = list(model.arms)
    for index, claim in enumerate(model.claims):
        path = ("claims", index)
        for field, name in (("arm", claim.arm), ("versus", claim.versus)):
            if name not in model.arms:
                yield Problem(
                    (*path, field), f"no arm is named '{name}'; arms: {', '.join(arms)}.{did_you_mean(name, arms)}"
                )
        if claim.arm == claim.versus:
            yield Problem((*path, "versus"), f"an arm cannot be compared with itself, got '{claim.versus}' for both")
        measure = model.stages.get(claim.measure)
        if not isinstance(measure, MeasureStage):
            measures = [name for name, stage in model.stages.items() if isinstance(stage, MeasureStage)]
            known = f"measure stages: {', '.join(measures) or 'none'}.{did_you_mean(claim.measure, measures)}"
            yield Problem((*path, "measure"), f"no measure stage is named '{claim.measure}'; {known}")
            continue
        yield from _measure_problems(model, index, measure, names)


def _measure_problems(
    model: ExperimentSpec, index: int, measure: MeasureStage, names: Mapping[str, list[str]]
) -> Iterator[Problem]:
    """A claim's measure must measure both arms, by the metric that the claim names."""
    claim, path = model.claims[index], ("claims", index)
    metrics = [block.use.rpartition("/")[2] for block in measure.metrics]
    metric = claim.value.partition(".")[0]
    if metric not in metrics:
        near = did_you_mean(metric, metrics)
        yield Problem(
            (*path, "value"), f"'{claim.measure}' measures no '{metric}'; it measures: {', '.join(metrics)}.{near}"
        )
    measured = [name for each in measure.of for name in names.get(each, [each])]
    for field, name in (("arm", claim.arm), ("versus", claim.versus)):
        if name in model.arms and name not in measured:
            yield Problem(
                (*path, field), f"'{claim.measure}' does not measure '{name}'; it measures: {', '.join(measured)}"
            )
