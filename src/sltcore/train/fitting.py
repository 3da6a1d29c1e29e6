"""`fit`: a training run from its spec, whatever happened to it before."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltcore.bundle.bundle import save_bundle
from sltcore.errors import PluginError, SpecError, TrainError
from sltcore.registry import Registry, default_registry
from sltcore.spec.load import load_spec
from sltcore.train import folder as places
from sltcore.train.history import METRICS
from sltcore.train.progress import Progress, Say
from sltcore.train.result import Trained
from sltcore.train.run import Job, described, train_model
from sltcore.train.start import build_privacy

if TYPE_CHECKING:
    from accelerate import Accelerator

    from sltcore.data.examples import Example

DELTA = 1e-5
"""At which a privacy mechanism's spending is told where it names no delta of its own."""

MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def fit(
    source: str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    overrides: Iterable[str] = (),
    registry: Registry | None = None,
    resume: bool = True,
    quiet: bool = False,
    folder: str | Path | None = None,
    outputs: Mapping[str, Path] | None = None,
    say: Say | None = None,
) -> Trained:
    """Train what a `kind: train` spec describes, in the folder `out`; `source` is its path, or the spec as a dict.

    A run that was interrupted goes on from its newest checkpoint, a finished one is returned as it is; with `resume`
    false what stands in `out` is replaced. Relative paths in a dict begin at `folder`. `outputs` are the folders of the
    decode stages that `data.stage` names. `say` takes each line in place of standard error.

    Under `accelerate launch` each process calls this with the same arguments, and the first one writes.

    **Raises** `SpecError` for a wrong spec, `DataError` for data that cannot be read, and `TrainError` when `out` was
    begun with another spec, cannot be written, or gradients are not finite.
    """
    registry = registry if registry is not None else default_registry()
    overrides = tuple(overrides)
    spec = load_spec(
        source, overrides=overrides, registry=registry, folder=None if folder is None else Path(folder), kind="train"
    )
    accelerator = make_accelerator(spec.model.precision)
    progress = Progress(quiet=quiet, main=accelerator.is_main_process, say=say)
    target = Path(out)
    with places.worked_in(target) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        data = spec.model.data
        with accelerator.main_process_first():  # fetches what the others then find
            dev = _examples(data.dev, outputs, progress)
            calibration = _examples(spec.model.calibration, outputs, progress)
            train = _examples(data.train, outputs, progress)
        job = Job(spec.model, spec.filled(), registry, accelerator, progress, dev, calibration)
        if spec.model.privacy is not None:
            private, public = (_examples(entries, outputs, progress) for entries in (data.private, data.public))
            return _fit_privately(job, private, public, target, resume=resume)
        return train_model(job, train, target, resume=resume)[0]


def _examples(entries: Sequence[Any], outputs: Mapping[str, Path] | None, progress: Progress) -> Sequence[Example]:
    from sltcore.data.examples import read_examples

    return read_examples(entries, outputs=dict(outputs or {}), progress=progress.say) if entries else []


def make_accelerator(precision: str) -> Accelerator:
    """The accelerator of this process, alone or one of several; **Raises** `SpecError` for a precision that the device
    cannot compute in, and `TrainError` where `accelerate launch --cpu` was to start several processes."""
    import torch
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    _refuse_lonely()

    AcceleratorState._reset_state(reset_partial_state=False)  # several runs in one process may differ in precision
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # heads on offer that this loss does not read
    try:
        accelerator = Accelerator(
            mixed_precision=MIXED[precision], kwargs_handlers=[unused], cpu=not torch.accelerator.is_available()
        )
    except ValueError as error:
        raise SpecError(f"precision: {precision} cannot be computed here: {' '.join(str(error).split())}") from None
    if precision != "float32" and not accelerator.native_amp:  # accelerate would go on in float32 without a word
        others = " or ".join(name for name in ("bfloat16", "float32") if name != precision)
        raise SpecError(f"precision: {precision} cannot be computed on {accelerator.device.type}; write {others}")
    return accelerator


def _refuse_lonely() -> None:
    """`accelerate launch --cpu --num_processes 2` sets a meeting point, but starts one process (unless through MPI)."""
    sizes = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    meets = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1") and "MASTER_PORT" in os.environ
    if meets and not any(name in os.environ for name in sizes):
        raise TrainError(
            "accelerate launch --cpu starts one process however many are asked for; for several on CPUs: "
            "accelerate launch --multi_gpu --num_processes 2 -m sltcore.cli train SPEC, or torchrun"
        )


def _fit_privately(
    job: Job, private: Sequence[Example], public: Sequence[Example], target: Path, *, resume: bool
) -> Trained:
    """Let the privacy mechanism train, each of its models in a folder of its own; what it returns is the result.

    A model whose sampling or gradient the mechanism replaced begins anew after a crash, for only steps that are taken are
    accounted for.
    """
    from sltcore.data.examples import fingerprint

    if job.accelerator.num_processes > 1:
        raise TrainError("privacy: a mechanism trains in one process; start it without accelerate launch")
    facts = {"spec": job.filled, "pipeline": {}, "data": fingerprint([*private, *public]), "processes": 1}
    if not resume:
        places.clear(target)
    was = places.finished_facts(target)
    if was is not None:
        places.refuse_changed(target, was, facts)
    done = places.read_result(target, facts)
    if done is not None:  # to train again would spend again
        job.progress.say(f"{target} is finished, after {done.steps} steps; begin anew with --fresh")
        return done
    if was is not None:
        raise TrainError(
            f"{target} is finished, with another budget, evaluation or log; training again would spend privacy again: keep the "
            f"result, choose another --out, or begin anew with --fresh"
        )
    places.write_begun(target, job.filled)
    mechanism = build_privacy(job.spec, job.registry)
    made: list[tuple[Any, Trained]] = []

    def fit_one(data: Sequence[Example], *, sampler: Any = None, gradient: Any = None) -> Any:
        own = sampler is not None or gradient is not None
        place = target / places.MODELS / f"{len(made):02d}"
        job.progress.say(f"model {len(made)}: {len(data)} utterances in {place}")
        trained, pipeline = train_model(
            job, list(data), place, resume=not own, restart=True, sampler=sampler, gradient=gradient
        )
        made.append((pipeline, trained))
        return pipeline

    fit_one.dev = job.dev  # type: ignore[attr-defined]
    fit_one.start = job.spec.pipeline if isinstance(job.spec.pipeline, Path) else None  # type: ignore[attr-defined]
    published = mechanism.train(fit_one, private, public)
    found = [trained for pipeline, trained in made if pipeline is published]
    if not found:
        raise PluginError(
            f"privacy: {type(mechanism).__name__}.train returned a {type(published).__name__}, expected one of the "
            f"{len(made)} models that fit made"
        )
    spent = mechanism.spent(float(getattr(mechanism, "delta", DELTA)))
    result = _published(job, published, found[0], spent._asdict(), target)
    places.write_result(target, result, facts)
    return result


def _published(job: Job, pipeline: Any, trained: Trained, spent: dict[str, Any], target: Path) -> Trained:
    bundle = target / places.BUNDLE
    training = {
        "data": described([*job.spec.data.private, *job.spec.data.public]),
        "steps": trained.steps,
        "values": trained.values,
        "privacy": spent,
    }
    save_bundle(pipeline, bundle, force=True, training=training)
    history = target / METRICS
    history.write_bytes(trained.history.read_bytes())
    return trained._replace(bundle=bundle, last=bundle, history=history, privacy=spent)
