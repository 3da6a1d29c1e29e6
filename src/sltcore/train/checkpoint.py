"""The whole state of a run on disk: complete or not there, whatever happens while it is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from sltcore.bundle import provenance
from sltcore.bundle.weights import read_weights, save_weights
from sltcore.errors import BundleError, TrainError
from sltcore.train.packing import pack, unpack

FORMAT = 1
FOLDER = "checkpoints"
STATE = "state.json"
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
STEP = "step-"


class Checkpoint(NamedTuple):
    """A run after `step` steps: tensors of the model and of attached transforms, the optimizer's state, and `facts`,
    plain data that the loop keeps."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    facts: dict[str, Any]


def step_name(step: int) -> str:
    """The folder of a step; names sort as numbers."""
    return f"{STEP}{step:07d}"


def steps_in(folder: Path) -> list[int]:
    """Steps that have a folder of their own below `folder`, ascending."""
    if not folder.is_dir():
        return []
    names = [path.name.removeprefix(STEP) for path in folder.iterdir() if path.name.startswith(STEP)]
    return sorted(int(name) for name in names if name.isdecimal())


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint below `folder` and leave the `keep` newest.

    It is written to a folder of another name, synchronised with the disk, and renamed. **Raises** `TrainError` when it
    cannot be written; the ones before it are untouched.
    """
    target = folder / step_name(checkpoint.step)
    work = folder / f".{target.name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        _write(work, checkpoint)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(work, target)
        _synchronise(folder)
    except (OSError, BundleError) as error:
        shutil.rmtree(work, ignore_errors=True)
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise TrainError(f"checkpoint {target} cannot be written: {reason}; {_what_is_left(folder)}") from None
    steps = steps_in(folder)  # a later one is damaged: it was left out when the run went on from an older one
    kept = [step for step in steps if step <= checkpoint.step][-keep:]
    for step in steps:
        if step not in kept:
            shutil.rmtree(folder / step_name(step), ignore_errors=True)
    return target


def _what_is_left(folder: Path) -> str:
    whole = steps_in(folder)
    if not whole:
        return "there is none before it; make room, or choose another --out"
    return f"the one of step {whole[-1]} is whole: make room and run again, which goes on from there"


def _write(work: Path, checkpoint: Checkpoint) -> None:
    tensors: dict[str, Tensor] = {}
    optimizer = pack(checkpoint.optimizer, tensors, "optimizer")
    aliases = save_weights(work / WEIGHTS, checkpoint.weights)
    shared = save_weights(work / OPTIMIZER, tensors)
    data = {
        "checkpoint": FORMAT,
        "step": checkpoint.step,
        "facts": checkpoint.facts,
        "optimizer": optimizer,
        "aliases": aliases,
        "optimizer_aliases": shared,
        "sha256": {name: provenance.digest(work / name) for name in (WEIGHTS, OPTIMIZER)},
    }
    (work / STATE).write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for path in work.iterdir():
        _synchronise(path)
    _synchronise(work)


def _synchronise(path: Path) -> None:
    """Wait until a file or folder has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a line for each newer one that is not; leftovers of a crash are removed.

    **Raises** `TrainError` when a checkpoint is of another format.
    """
    for left in folder.glob(f".{STEP}*") if folder.is_dir() else ():
        shutil.rmtree(left, ignore_errors=True)
    remarks: list[str] = []
    for step in reversed(steps_in(folder)):
        place = folder / step_name(step)
        try:
            return _read(place), remarks
        except (OSError, ValueError, KeyError, TypeError, BundleError) as error:
            remarks.append(f"{place} is damaged and left out: {' '.join(str(error).split())}")
    return None, remarks


def _read(place: Path) -> Checkpoint:
    data = json.loads((place / STATE).read_bytes())
    if data["checkpoint"] != FORMAT:
        raise TrainError(
            f"{place}: format {data['checkpoint']} is not {FORMAT}, which this sltcore reads; begin anew with --fresh"
        )
    for name, expected in data["sha256"].items():
        if provenance.digest(place / name) != expected:
            raise ValueError(f"{name} does not match {STATE}")
    weights = _with_aliases(read_weights(place / WEIGHTS), data["aliases"])
    tensors = _with_aliases(read_weights(place / OPTIMIZER), data["optimizer_aliases"])
    return Checkpoint(data["step"], weights, unpack(data["optimizer"], tensors), data["facts"])


def _with_aliases(tensors: dict[str, Tensor], aliases: Mapping[str, str]) -> dict[str, Tensor]:
    return {**tensors, **{alias: tensors[name] for alias, name in aliases.items()}}


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Plain data, complete or not there. **Raises** `TrainError` when it cannot be written."""
    beside = path.with_name(f".{path.name}")
    try:
        beside.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        _synchronise(beside)
        os.replace(beside, path)
    except OSError as error:
        raise TrainError(
            f"{path} cannot be written: {error.strerror or error}; make room, or choose another --out"
        ) from None
