"""What the stages do: train, transform, decode. `measure` has a module of its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltcore.errors import DataError
from sltcore.experiment.grids import put_references
from sltcore.experiment.keys import digest
from sltcore.experiment.measures import measure
from sltcore.experiment.outputs import OUTPUTS, OutputWriter, columns_of
from sltcore.experiment.units import NAME, Unit, read_unit
from sltcore.spec.overrides import setting_text
from sltcore.spec.training import DataConfig

if TYPE_CHECKING:
    from sltcore.data.examples import Example
    from sltcore.pipeline import Pipeline
    from sltcore.registry import Registry

Places = Mapping[str, Path]
"""Folders of the finished units that a unit needs, by stage."""
NOT_OF_TRAINING = ("do", "from", "grid", "pipeline", "set", "data", "calibration")
BEGUN = "begun"
NOT_OF_RESULTS = ("checkpoints", "best", "last", "models")


def train(unit: Unit, folder: Path, places: Places, registry: Registry | None) -> dict[str, Any]:
    """Train in the unit's own folder, going on from the checkpoint that lies there, unless it was begun with files at
    other places, which training refuses to go on from."""
    from sltcore.train import fit

    fields = {name: value for name, value in unit.fields.items() if name not in NOT_OF_TRAINING}
    data = unit.fields.get("data") or {}
    spec = {
        "slt": 1,
        "kind": "train",
        **fields,
        "pipeline": str(bundle_of(places[unit.fields["from"]])) if unit.fields.get("from") else unit.fields["pipeline"],
        "set": settings_of(unit, places),
        "data": {name: [_entry(entry, places) for entry in entries] for name, entries in data.items()},
        "calibration": [_entry(entry, places) for entry in unit.fields.get("calibration") or []],
        "seed": unit.seed if unit.fields.get("seed") is None else unit.fields["seed"],
    }
    begun, now = folder / BEGUN, digest(spec)
    resume = begun.is_file() and begun.read_text(encoding="ascii") == now
    begun.write_text(now, encoding="ascii")
    trained = fit(spec, out=folder, registry=registry, resume=resume, quiet=True)
    bundle = Path(trained.bundle).resolve().relative_to(folder.resolve())
    return {
        "bundle": bundle.as_posix(),
        "steps": trained.steps,
        "utterances": trained.utterances,
        "minutes": trained.minutes,
        "train_seconds": trained.seconds,
        "values": dict(trained.values),
        "best": dict(trained.best),
        "skipped_utterances": dict(trained.skipped),
        "privacy": dict(trained.privacy),
        "bytes": folder_bytes(folder / bundle),
    }


def tidy(folder: Path, bundle: str) -> None:
    """Remove from a finished train unit what only an unfinished one needs: checkpoints, and further bundles."""
    for name in NOT_OF_RESULTS:
        if Path(bundle).parts[0] != name:
            shutil.rmtree(folder / name, ignore_errors=True)


def _entry(entry: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """A data entry as training reads it: the outputs of a stage are a manifest."""
    if not entry.get("stage"):
        return dict(entry)
    return {**{k: v for k, v in entry.items() if k != "stage"}, "manifest": str(places[entry["stage"]] / OUTPUTS)}


def transform(unit: Unit, folder: Path, places: Places, registry: Registry | None) -> dict[str, Any]:
    """Attach transforms to a pipeline, let them measure, finish them, and keep the bundle."""
    import torch

    from sltcore.bundle import save_bundle
    from sltcore.bundle.open import load_unattached
    from sltcore.data.examples import read_examples
    from sltcore.train.start import calibration_inputs

    entries = [DataConfig.model_validate(_entry(entry, places)) for entry in unit.fields.get("calibration") or []]
    examples = read_examples(entries) if entries else []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(unit.seed if unit.seed is not None else 0)
        source, overrides = source_of(unit, places, seed=unit.seed)
        pipeline, fresh = load_unattached(source, overrides=overrides, registry=registry, fresh=True)
        for added in fresh:
            inputs = calibration_inputs(pipeline, [example.item for example in examples]) if entries else None
            added.attach(pipeline.model, inputs)
        if unit.fields.get("finish", True):
            for added in fresh:
                added.finish()
    save_bundle(pipeline, folder / "bundle")
    return {"bundle": "bundle", "transforms": len(fresh), "bytes": folder_bytes(folder / "bundle")}


def decode(unit: Unit, folder: Path, places: Places, registry: Registry | None) -> dict[str, Any]:
    """Run a pipeline on data and keep what it says, one row for each utterance, and what that cost."""
    from sltcore.bundle import load
    from sltcore.data.examples import read_examples

    entries = [DataConfig.model_validate(dict(entry)) for entry in unit.fields["data"]]
    examples = read_examples(entries, outputs=places)
    source, overrides = source_of(unit, places)
    pipeline = load(source, overrides=overrides, device=device(), registry=registry)
    fixed, beside = _context(unit, pipeline, examples)
    prepared = pipeline.prepare(**fixed)
    items = [example.item for example in examples]
    first = {key: values[:1] for key, values in beside.items()}
    for _ in pipeline.run(items[:1], prepared=prepared, keep_going=True, count=1, **first):
        pass  # what is compiled or allocated on the first call is no cost of the technique
    writer = OutputWriter(
        folder,
        audio=int(unit.fields.get("audio") or 0),
        inputs=bool(unit.more.get("inputs")),
        reads_text=pipeline.consumes.type == "Text",
    )
    outputs = _Timed(pipeline.run(items, prepared=prepared, keep_going=True, count=len(items), **beside))
    with writer:
        for example, output in zip(examples, outputs, strict=True):
            writer.add(example, output)
    if writer.failed and len(writer.failed) == len(items):
        name, why = next(iter(writer.failed.items()))
        raise DataError(f"all {len(items)} utterances failed, the first one, {name}: {why}")
    parameters = sum(parameter.numel() for parameter in pipeline.model.parameters())
    tensors = [*pipeline.model.parameters(), *pipeline.model.buffers()]
    bundle = bundle_of(places[unit.fields["from"]]) if unit.fields.get("from") else None
    return {
        "run_seconds": round(outputs.seconds, 4),
        "run_cpu_seconds": round(outputs.cpu_seconds, 4),
        "audio_seconds": round(sum(example.seconds for example in examples), 3),
        "utterances": len(items),
        "failed": writer.failed,
        "unreadable": dict(getattr(examples, "skipped", {})),
        "audio": writer.kept,
        "parameters": parameters,
        "memory_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "bytes": folder_bytes(bundle) if bundle is not None else None,
        "device": str(pipeline.device),
        "threads": _threads(),
    }


class _Timed(Iterator[Any]):
    """An iterator that knows how long it took to give its values, and not what was done with them."""

    def __init__(self, values: Iterable[Any]) -> None:
        self._values = iter(values)
        self.seconds = 0.0
        self.cpu_seconds = 0.0

    def __next__(self) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return next(self._values)
        finally:
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu


def _context(
    unit: Unit, pipeline: Pipeline, examples: Sequence[Example]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Side information that all share, and what each utterance has of its own: from the columns that the stage names,
    and from those that are called as a key that the pipeline reads."""
    fixed = dict(unit.fields.get("context") or {})
    columns = dict(unit.fields.get("columns") or {})
    rows = [columns_of(example) for example in examples]
    known = {name for row in rows for name in row}
    for key in pipeline.context_keys:
        if key not in fixed and key not in columns and key in known:
            columns[key] = key
    missing = [column for column in columns.values() if column not in known]
    if missing:
        raise DataError(f"columns: the data have no column '{missing[0]}'; there are: {', '.join(sorted(known))}")
    return fixed, {key: [row.get(column) for row in rows] for key, column in columns.items()}


def source_of(unit: Unit, places: Places, *, seed: int | None = None) -> tuple[Any, list[str]]:
    """What `sltcore.load` takes for the pipeline that a stage works on: its source, and its overrides. `seed` is that of
    weights which no file brings; a bundle brings all."""
    overrides = [setting_text(path, value) for path, value in settings_of(unit, places).items()]
    source: Any = unit.fields.get("pipeline")
    if unit.fields.get("from"):
        source = str(bundle_of(places[unit.fields["from"]]))
    if isinstance(source, Mapping):
        source = {"slt": 1, "kind": "pipeline", **source}
    if seed is not None:
        overrides.append(f"seed={seed}")
    return source, overrides


def settings_of(unit: Unit, places: Places) -> dict[str, Any]:
    """`set` of a stage, what it takes from other stages put in as paths: a bundle, or the folder of outputs."""
    left = {
        stage: str(bundle_of(place) if "bundle" in (read_unit(place) or {}) else place)
        for stage, place in places.items()
    }
    found: dict[str, Any] = put_references(dict(unit.fields.get("set") or {}), left)
    return found


def bundle_of(folder: Path) -> Path:
    """The bundle that a finished unit left."""
    facts = read_unit(folder) or {}
    if "bundle" not in facts:
        raise DataError(f"{folder / NAME} names no bundle; only train and transform stages leave one")
    return folder / str(facts["bundle"])


def device() -> str:
    """Where decoding runs: a GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def folder_bytes(folder: Path) -> int:
    """Of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


STAGES: Mapping[str, Callable[[Unit, Path, Places, Any], dict[str, Any]]] = {
    "train": train,
    "transform": transform,
    "decode": decode,
    "measure": measure,
}
