"""From an experiment's spec to the units of work, in an order in which each stands after those that it needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter

from sltcore.errors import SltError, SpecError
from sltcore.experiment.grids import Grid, data_entries, is_reference, needs_of
from sltcore.experiment.keys import code_versions, content_digest, digest, recording_digest, unit_key
from sltcore.experiment.measures import AUDIO
from sltcore.experiment.units import Unit, one_line
from sltcore.spec.experiments import ExperimentSpec, Stage
from sltcore.spec.filled import fill, pipeline_source
from sltcore.spec.grammar import PipelineSpec
from sltcore.spec.load import Spec, load_spec
from sltcore.spec.overrides import setting_text
from sltcore.spec.slots import Block
from sltcore.spec.training import DataConfig

if TYPE_CHECKING:
    from sltcore.registry import Entry, Registry

LATER = "/left by a stage that has not run"  # stands for a path that is not known before the run
REPLICATES = 2000  # of the interval of each value; claims take the experiment's own number
_STAGE: TypeAdapter[Any] = TypeAdapter(Stage)
Fingerprint = Callable[[DataConfig], str]


def quiet(line: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage as it runs, its grid spread out. `seeded` tells whether its result differs from seed to seed; `entries`
    are the components it uses, `files` what its own fields and its pipeline read; `settings` say what it is within its
    grid."""

    name: str
    model: Any
    fields: Mapping[str, Any]
    needs: tuple[str, ...]
    seeded: bool
    entries: tuple[Entry, ...]
    files: tuple[Path, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """All stages and units of an experiment, in order. `names` maps a stage of the spec to the stages of its grid."""

    spec: Spec[ExperimentSpec]
    stages: Mapping[str, PlannedStage]
    names: Mapping[str, Sequence[str]]
    units: tuple[Unit, ...]

    def seeds(self, stage: str) -> list[int | None]:
        """The seeds with which a stage runs."""
        return _seeds(self.spec.model, self.stages[stage])

    def unit(self, stage: str, seed: int | None) -> Unit:
        """The unit of a stage for a seed; one without seed serves every seed."""
        own = seed if self.stages[stage].seeded else None
        return next(unit for unit in self.units if stage in unit.stages and unit.seed == own)


def make_plan(
    spec: Spec[ExperimentSpec],
    *,
    registry: Registry | None = None,
    fingerprint: Fingerprint | None = None,
    progress: Callable[[str], None] = quiet,
) -> Plan:
    """Spread grids, order stages, and key every unit. `fingerprint` says what a data entry holds, by default from
    `read_examples`; data that cannot be read are the problem of the units that need them, not of the plan.

    **Raises** `SpecError` for stages that do not fit together and for settings that no pipeline takes.
    """
    model, folder = spec.model, spec.folder
    written = {name: fill(stage) for name, stage in model.stages.items()}
    grid = Grid(written)
    stages: dict[str, PlannedStage] = {}
    pipelines: dict[str, dict[str, Any]] = {}
    for name, fields in grid.spread.items():
        fields = _with_paths(fields, folder)
        stage = _STAGE.validate_python(fields, context={"registry": registry, "folder": folder})
        needs = tuple(needs_of(fields))
        parts: list[Any] = [stage]
        if fields["do"] != "measure":
            pipeline = _pipeline(name, stage, pipelines, registry, folder)
            pipelines[name] = pipeline.filled()
            parts.append(pipeline.model)
        entries = tuple(block.entry for part in parts for block in _blocks(part))
        files = tuple(sorted({path for part in parts for path in paths_of(part)}))
        seeded = _draws(stage) or any(stages[need].seeded for need in needs)
        stages[name] = PlannedStage(name, stage, fields, needs, seeded, entries, files, grid.settings[name])
    read = fingerprint if fingerprint is not None else _reader(progress)
    return Plan(spec, stages, grid.names, tuple(_units(model, stages, read)))


def _with_paths(fields: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Texts in `set` that name a file beside the spec become its path: overrides know no folder."""
    settings = {path: _with_path(value, folder) for path, value in fields.get("set", {}).items()}
    return {**fields, "set": settings} if settings else dict(fields)


def _with_path(value: Any, folder: Path | None) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_path(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_path(item, folder) for item in value]
    if isinstance(value, str) and folder is not None and _is_path(value) and (folder / value).exists():
        return os.path.abspath(folder / value)
    return value


def _is_path(value: str) -> bool:
    return ("/" in value or "." in value[1:]) and "\0" not in value and len(value) < 1024


def _draws(stage: Any) -> bool:
    """Whether a stage itself draws anew for each seed: training does that names no seed, and transforms on weights that
    no file brings."""
    if stage.do == "transform":
        return stage.pipeline is not None and not (isinstance(stage.pipeline, Path) and stage.pipeline.is_dir())
    return bool(stage.do == "train" and stage.seed is None)


def _blocks(config: Any) -> Iterator[Block]:
    """Every component in a config and in whatever it holds."""
    if isinstance(config, Block):
        yield config
        yield from _blocks(config.config)
    elif isinstance(config, BaseModel):
        for name in type(config).model_fields:
            yield from _blocks(getattr(config, name))
    elif isinstance(config, list | tuple):
        for item in config:
            yield from _blocks(item)


def _pipeline(
    name: str,
    stage: Any,
    pipelines: Mapping[str, dict[str, Any]],
    registry: Registry | None,
    folder: Path | None,
) -> Spec[PipelineSpec]:
    """The pipeline that a stage works on. **Raises** `SpecError` naming the stage."""
    overrides = [setting_text(path, _placeholder(value)) for path, value in stage.set.items()]
    source: Any
    if stage.from_ is not None:
        source = pipelines[stage.from_]
    else:
        source, _ = pipeline_source(stage.pipeline)
        if isinstance(source, str) and Path(source).is_dir():
            source = str(Path(source) / "spec.yaml")
    try:
        return load_spec(source, overrides=overrides, registry=registry, folder=folder, kind="pipeline")
    except SltError as error:
        raise SpecError(f"stages.{name}: {error}") from None


def _placeholder(value: Any) -> Any:
    """A value with some path wherever it names what another stage will leave."""
    if is_reference(value):
        return LATER
    if isinstance(value, Mapping):
        return {key: _placeholder(item) for key, item in value.items()}
    return [_placeholder(item) for item in value] if isinstance(value, list) else value


def _reader(progress: Callable[[str], None]) -> Fingerprint:
    def read(entry: DataConfig) -> str:
        from sltcore.data.examples import fingerprint, read_examples

        examples = read_examples([entry], progress=progress)
        found = fingerprint(examples)
        if entry.manifest is None:
            return found  # corpora and data sets tell their versions
        return digest([found, sorted([e.item.id, recording_digest(e.item.source)] for e in examples)])

    return read


def _seeds(model: ExperimentSpec, stage: PlannedStage) -> list[int | None]:
    return list(dict.fromkeys(model.seeds)) if stage.seeded else [None]


def _units(model: ExperimentSpec, stages: Mapping[str, PlannedStage], read: Fingerprint) -> list[Unit]:
    """Units in order; stages that would do the same work share one."""
    found: dict[str, Unit] = {}
    keys: dict[tuple[str, int | None], str] = {}
    known: dict[str, str] = {}
    inputs = {need for stage in stages.values() for need in _listened_to(stage.fields)}
    for name, stage in stages.items():
        data, problem = _data(stage, read, known)
        files = {str(path): content_digest(path) for path in stage.files if str(path) != LATER}
        files |= {text: content_digest(Path(text)) for text in _absolute(stage.fields.get("set", {}))}
        more = _more(model, stage, keep_inputs=name in inputs)
        code = code_versions(stage.entries)
        for seed in _seeds(model, stage):
            needs = {need: keys[need, seed if stages[need].seeded else None] for need in stage.needs}
            key = unit_key(stage.fields, needs=needs, files=files, data=data, code=code, seed=seed, more=more)
            keys[name, seed] = key
            if key in found:
                found[key] = replace(found[key], stages=(*found[key].stages, name))
            else:
                found[key] = Unit((name,), seed, key, stage.fields, needs, more, problem)
    return list(found.values())


def _listened_to(fields: Mapping[str, Any]) -> Iterator[str]:
    """Decode stages whose recordings another stage reads again."""
    if fields["do"] == "measure" and fields.get("reference") == AUDIO:
        yield from fields["of"]
    for entry in data_entries(fields):
        if entry.get("stage"):
            yield entry["stage"]


def _data(stage: PlannedStage, read: Fingerprint, known: dict[str, str]) -> tuple[list[str], str]:
    """Fingerprints of a stage's data, those of other stages left out, and why they cannot be read."""
    found = []
    for fields in data_entries(stage.fields):
        if fields.get("stage"):
            continue
        entry = DataConfig.model_validate(dict(fields))
        name = entry.model_dump_json()
        try:
            if name not in known:
                known[name] = read(entry)
        except SltError as error:
            return [], one_line(error)
        found.append(known[name])
    return found, ""


def paths_of(config: Any) -> Iterator[Path]:
    """Every file that a config, and whatever it holds, names."""
    if isinstance(config, Path):
        yield config
    elif isinstance(config, Block):
        yield from paths_of(config.config)
    elif isinstance(config, BaseModel):
        for name in type(config).model_fields:
            yield from paths_of(getattr(config, name))
    elif isinstance(config, Mapping):
        for item in config.values():
            yield from paths_of(item)
    elif isinstance(config, list | tuple):
        for item in config:
            yield from paths_of(item)


def _absolute(value: Any) -> Iterator[str]:
    """Paths of existing files among the values that a stage sets."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _absolute(item)
    elif isinstance(value, list):
        for item in value:
            yield from _absolute(item)
    elif isinstance(value, str) and len(value) < 1024 and os.path.isabs(value) and os.path.exists(value):
        yield value


def _more(model: ExperimentSpec, stage: PlannedStage, *, keep_inputs: bool) -> dict[str, Any]:
    """What decides a stage's result beside its own fields."""
    if stage.fields["do"] == "decode":
        return {"inputs": True} if keep_inputs else {}
    if stage.fields["do"] == "measure":
        named = [claim.clusters for claim in model.claims if claim.clusters and claim.measure == stage.name]
        return {"clusters": next(iter(named), None), "replicates": REPLICATES}
    return {}
