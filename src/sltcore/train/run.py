"""One model, from its spec and its examples to its bundle."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from sltcore.bundle.bundle import read_bundle, save_bundle
from sltcore.errors import BundleError, TrainError
from sltcore.spec.filled import fill
from sltcore.spec.training import DataConfig, TrainSpec
from sltcore.train import folder as places
from sltcore.train.checkpoint import FOLDER, Checkpoint, newest_checkpoint, step_name, steps_in
from sltcore.train.evaluation import Evaluator, choose_measure
from sltcore.train.history import METRICS, History
from sltcore.train.loading import Loader
from sltcore.train.loop import BEST, Gradient, Loop
from sltcore.train.losses import TrainStep
from sltcore.train.optimizer import groups, make_optimizer
from sltcore.train.progress import Progress
from sltcore.train.randomness import fixed_threads, kept_random_state
from sltcore.train.result import Trained
from sltcore.train.start import Parts, begin, build_parts, calibration_inputs, parameters_of

if TYPE_CHECKING:
    from accelerate import Accelerator

    from sltcore.data.examples import Example
    from sltcore.pipeline import Pipeline
    from sltcore.registry import Registry

MOST_NAMED = 10


class Job(NamedTuple):
    """What all models of a run share. `spec` is validated, `filled` its plain data; `calibration` holds examples."""

    spec: TrainSpec
    filled: dict[str, Any]
    registry: Registry
    accelerator: Accelerator
    progress: Progress
    dev: Sequence[Example]
    calibration: Sequence[Example]


def train_model(
    job: Job,
    examples: Sequence[Example],
    folder: Path,
    *,
    resume: bool = True,
    restart: bool = False,
    sampler: Any = None,
    gradient: Gradient | None = None,
) -> tuple[Trained, Pipeline]:
    """Train one pipeline in `folder` and return what it left, and the pipeline of its result, transforms finished.

    With `resume` it goes on from the newest checkpoint; where that was begun otherwise, `restart` says whether to begin
    anew instead of raising. **Raises** what building, reading and training raise.
    """
    from sltcore.data.examples import fingerprint

    if not resume and job.accelerator.is_main_process:
        places.clear(folder)
    job.accelerator.wait_for_everyone()
    checkpoint, remarks = newest_checkpoint(folder / FOLDER) if resume else (None, [])
    for remark in remarks:
        job.progress.say(remark)
    facts = {"spec": job.filled, "data": fingerprint(examples), "processes": job.accelerator.num_processes}
    threads = torch.get_num_threads() if checkpoint is None else int(checkpoint.facts["threads"])
    if threads != torch.get_num_threads():
        job.progress.say(f"{threads} threads for computing, as the run was begun with, not {torch.get_num_threads()}")
    with fixed_threads(threads), kept_random_state():
        work = Work(job, examples, folder, facts={**facts, "threads": threads}, checkpoint=checkpoint)
        if checkpoint is not None:
            changed = places.differences(checkpoint.facts, work.facts)
            if changed and restart:
                job.progress.say(f"{folder} was begun otherwise ({changed[0]}), so this model begins anew")
                return train_model(job, examples, folder, resume=False, sampler=sampler, gradient=gradient)
            places.refuse_changed(folder, checkpoint.facts, work.facts)
        done = places.read_result(folder, work.facts) if resume else None
        if done is not None:
            job.progress.say(f"{folder} is finished, after {done.steps} steps; begin anew with --fresh")
            pipeline = read_bundle(done.bundle, registry=job.registry)[0]
            pipeline.to(job.accelerator.device)
            return done, pipeline
        return work.train(sampler, gradient)


class Work:
    """One model on its way."""

    def __init__(
        self,
        job: Job,
        examples: Sequence[Example],
        folder: Path,
        *,
        facts: Mapping[str, Any],
        checkpoint: Checkpoint | None,
    ) -> None:
        spec = job.spec
        self.job = job
        self.folder = folder
        self.examples = examples
        self.checkpoint = checkpoint
        items = [example.item for example in job.calibration]
        start = begin(
            spec,
            registry=job.registry,
            device=job.accelerator.device,
            calibration=lambda pipeline: calibration_inputs(pipeline, items) if items else None,
            checkpoint=checkpoint,
        )
        self.pipeline = start.pipeline
        self.base = start.base
        self.remarks = start.remarks
        self.parts: Parts = build_parts(spec, self.pipeline, job.registry)
        training = {
            "data": described([*spec.data.train, *spec.data.private]),
            "fingerprint": facts["data"],
            "spec": fill(spec, portable=True),
        }
        self.facts = {
            **facts,
            "pipeline": fill(self.pipeline.spec.model),
            "versions": versions(),
            "training": training,
        }

    def train(self, sampler: Any = None, gradient: Gradient | None = None) -> tuple[Trained, Pipeline]:
        """All steps that are left, then the result."""
        loop = self.loop(sampler, gradient)
        if self.checkpoint is not None:
            loop.restore(self.checkpoint)
            self._compare_versions(loop.step)
        self._introduce(loop)
        main = self.job.accelerator.is_main_process
        tensorboard = self.job.spec.log.tensorboard
        history = History(self.folder, start=loop.step, tensorboard=tensorboard) if main else None
        try:
            if main:
                places.write_begun(self.folder, self.job.filled)
            loop.run(history)
        finally:
            if history is not None:
                history.close()
        return self._result(loop)

    def loop(self, sampler: Any = None, gradient: Gradient | None = None) -> Loop:
        """The loop, ready to take its first step. **Raises** what is wrong with data, parameters and measure."""
        job, spec = self.job, self.job.spec
        own = [dict(group) for transform in self.pipeline.transforms for group in transform.parameter_groups()]
        module = TrainStep(
            self.pipeline,
            objective=self.parts.objective,
            auxiliary=self.parts.auxiliary,
            augment=self.parts.augment,
            further=[parameter for group in own for parameter in group["params"]],
        )
        named = parameters_of(module, self.base)
        optimizer: Any = make_optimizer(groups(named, spec.optimizer, own), spec.optimizer)
        for transform in self.pipeline.transforms:
            optimizer = transform.wrap_optimizer(optimizer)
        loader = self._loader(self.examples, augment=self.parts.augment)
        spoken = not job.dev or any(example.item.text is not None for example in job.dev)
        measure = choose_measure(spec.evaluate.best, self.pipeline, has_texts=spoken)
        evaluator = None
        if job.dev:
            dev = self._loader(job.dev, augment=(), learned_from=False)
            evaluator = Evaluator(module, dev, job.dev, seed=spec.seed, accelerator=job.accelerator)
        return Loop(
            module,
            optimizer,
            loader=loader,
            evaluator=evaluator,
            measure=measure,
            fields=spec,
            seed=spec.seed,
            total=self._total(loader, sampler),
            folder=self.folder,
            accelerator=job.accelerator,
            progress=job.progress,
            facts=self.facts,
            sampler=sampler,
            gradient=gradient,
        )

    def _loader(self, examples: Sequence[Example], augment: Sequence[Any], *, learned_from: bool = True) -> Loader:
        objectives = [part for part in (self.parts.objective, *(one for one, _ in self.parts.auxiliary)) if part]
        return Loader(
            self.pipeline,
            examples,
            self.job.spec,
            seed=self.job.spec.seed,
            augment=augment,
            needs_targets=self.parts.objective is None,
            also=objectives,
            learned_from=learned_from,
        )

    def _total(self, loader: Loader, sampler: Any) -> int:
        budget = self.job.spec.budget
        if budget.steps is not None:
            steps = budget.steps
        else:
            assert budget.epochs is not None  # one of the two, says the spec
            steps = loader.steps_of(budget.epochs, processes=self.job.accelerator.num_processes)
        return min(steps, len(sampler)) if hasattr(sampler, "__len__") else steps

    def _compare_versions(self, step: int) -> None:
        assert self.checkpoint is not None
        self.job.progress.say(f"going on from step {step}")
        for name, version in self.checkpoint.facts["versions"].items():
            if self.facts["versions"].get(name) != version:
                self.job.progress.say(
                    f"begun with {name} {version}, here is {self.facts['versions'].get(name)}: the result may differ in "
                    f"its last digits"
                )

    def _introduce(self, loop: Loop) -> None:
        """Say what is trained, on what, and what is left out."""
        accelerator, say, loader = loop.accelerator, self.job.progress.say, loop.loader
        dev = None if loop.evaluator is None else loop.evaluator.loader
        for remark in self.remarks:
            say(remark)
        trained = sum(p.numel() for group in loop.optimizer.param_groups for p in group["params"])
        every = {id(p): p.numel() for p in [*loop.bare.parameters(), *loop.pipeline.model.parameters()]}
        heard = f", {loader.seconds / 60:.1f} min" if loader.seconds else ""
        looked_at = f"; {len(self.job.dev):,} for evaluation" if dev is not None else "; nothing for evaluation"
        say(f"{trained:,} of {sum(every.values()):,} parameters are trained")
        say(f"{len(loader.examples):,} utterances{heard}{looked_at}")
        where = f"{accelerator.num_processes} processes on {accelerator.device.type}"
        where = where if accelerator.num_processes > 1 else str(accelerator.device)
        say(f"{loop.total:,} steps on {where}, {self.job.spec.precision}")
        left_out = (
            ("training utterances are left out", loader.skipped),
            ("development utterances are left out of the loss", {} if dev is None else dev.skipped),
        )
        for what, skipped in left_out:
            if skipped:
                say(f"{len(skipped)} {what}:")
            for name, reason in list(skipped.items())[:MOST_NAMED]:
                say(f"  {name}: {reason}")
            if len(skipped) > MOST_NAMED:
                say(f"  and {len(skipped) - MOST_NAMED} more")

    def _result(self, loop: Loop) -> tuple[Trained, Pipeline]:
        """Write the bundles of the result and of the last weights."""
        best = dict(loop.standing.best[0]) if loop.standing.best else {}
        if best and math.isnan(best["value"]):
            best = {}
        is_last = not best or best["step"] == loop.step
        trained = Trained(
            bundle=self.folder / places.BUNDLE,
            last=self.folder / (places.BUNDLE if is_last else places.LAST),
            steps=loop.step,
            seconds=loop.seconds,
            values=dict(loop.values),
            best=best,
            skipped=dict(loop.loader.skipped),
            history=self.folder / METRICS,
            utterances=len(loop.loader.examples),
            minutes=loop.loader.seconds / 60,
        )
        chosen = loop.pipeline
        if not is_last:
            chosen = read_bundle(self.folder / BEST / step_name(best["step"]), registry=self.job.registry)[0]
            chosen.to(loop.pipeline.device)
        for pipeline in {id(chosen): chosen, id(loop.pipeline): loop.pipeline}.values():
            pipeline.model.eval()
            for transform in pipeline.transforms:
                transform.finish()
        if self.job.accelerator.is_main_process:
            training = {**self.facts["training"], "steps": best.get("step", loop.step)}
            self._save(chosen, trained.bundle, {**training, "values": best.get("values", trained.values)})
            if not is_last:
                self._save(loop.pipeline, trained.last, {**training, "steps": loop.step, "values": trained.values})
            places.write_result(self.folder, trained, self.facts)
        self.job.accelerator.wait_for_everyone()
        return trained, chosen

    def _save(self, pipeline: Pipeline, target: Path, training: Mapping[str, Any]) -> None:
        try:
            save_bundle(pipeline, target, force=True, training=training)
        except BundleError as error:
            whole = steps_in(self.folder / FOLDER)
            raise TrainError(
                f"{error}; the checkpoint of step {whole[-1]} is whole: make room and run again, which only writes the rest"
            ) from None


def described(entries: Sequence[DataConfig]) -> str:
    """The sources of a run in a few words, without paths."""
    return ", ".join(_described(entry) for entry in entries)


def _described(entry: DataConfig) -> str:
    if entry.corpus is not None:
        source = f"corpus {entry.corpus}"
    elif entry.manifest is not None:
        source = f"manifest {Path(entry.manifest).name}"
    elif entry.dataset is not None:
        source = f"data set {Path(entry.dataset).name}"
    else:
        source = f"stage {entry.stage}"
    return source + (f" ({entry.split})" if entry.split is not None else "")


def versions() -> dict[str, str]:
    """What decides the last digits of a result."""
    try:
        own = metadata.version("sltcore-lib")
    except metadata.PackageNotFoundError:  # run from a source tree
        own = "unknown"
    return {"sltcore-lib": own, "torch": str(torch.__version__), "python": platform.python_version()}
