"""The loop of a training run: steps, evaluations, checkpoints."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from sltcore.bundle.bundle import save_bundle
from sltcore.errors import BundleError, TrainError
from sltcore.spec.training import TrainFields
from sltcore.train.checkpoint import FOLDER, Checkpoint, step_name, steps_in, write_checkpoint
from sltcore.train.evaluation import LOSS, Evaluator, Measure, Standing
from sltcore.train.history import History
from sltcore.train.losses import TrainStep, make_generator, refuse_frozen, set_training
from sltcore.train.optimizer import set_rates, trained_in
from sltcore.train.progress import Progress
from sltcore.train.randomness import seed_of

if TYPE_CHECKING:
    from accelerate import Accelerator

    from sltcore.train.loading import Loader, Step

BEST = "best"
MOST_SKIPPED = 20  # steps in a row without a finite gradient; loss scaling of float16 settles within a few
MOST_NAMED = 5
Gradient = Callable[[nn.Module, Tensor], None]


class Sums(NamedTuple):
    """Since the last line of the history: `utterances` of all processes; losses, seconds of sound, seconds of learning,
    and the names of utterances without a finite loss, of this process."""

    loss: float = 0.0
    utterances: int = 0
    audio_s: float = 0.0
    seconds: float = 0.0
    lost: Sequence[str] = ()


class Loop:
    """Takes the steps of one run, from wherever it stands.

    The loss of a step is the sum over all its utterances, of every process and every accumulated batch, divided by their
    number; since gradients are averaged over processes, each multiplies its part by the number of processes. Nothing
    random survives a step: torch's generators are seeded from (seed, step, process) before each.
    """

    def __init__(
        self,
        module: TrainStep,
        optimizer: torch.optim.Optimizer,
        *,
        loader: Loader,
        evaluator: Evaluator | None,
        measure: Measure,
        fields: TrainFields,
        seed: int,
        total: int,
        folder: Path,
        accelerator: Accelerator,
        progress: Progress,
        facts: Mapping[str, Any],
        sampler: Any = None,
        gradient: Gradient | None = None,
    ) -> None:
        self.bare = module
        self.pipeline = module.pipeline
        self.accelerator = accelerator
        self.module: Any
        self.optimizer: Any
        self.module, self.optimizer = accelerator.prepare(module, optimizer)
        self.loader = loader
        self.evaluator = evaluator
        self.measure = measure
        self.fields = fields
        self.seed = seed
        self.total = total
        self.folder = folder
        self.progress = progress
        self.facts = dict(facts)
        self.sampler = sampler
        self.gradient = gradient
        self.step = 0
        self.epoch = 0.0
        self.seconds = 0.0
        self.skipped_steps = 0
        self.skipped_in_row = 0
        self.skipped_utterances = 0
        self.sums = Sums()
        self.standing = Standing([], 0)
        self.values: dict[str, float] = {}

    # State

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where the checkpoint was written; transforms are restored before, when the pipeline is built."""
        weights = {k.removeprefix("step."): v for k, v in checkpoint.weights.items() if k.startswith("step.")}
        self.bare.load_state_dict(weights, strict=True)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        loop = checkpoint.facts["loop"]
        self.step, self.epoch, self.seconds = checkpoint.step, loop["epoch"], loop["seconds"]
        self.skipped_steps, self.skipped_in_row = loop["skipped_steps"], loop["skipped_in_row"]
        self.skipped_utterances = loop.get("skipped_utterances", 0)
        whole = Sums(*loop["sums"])  # of all processes, so that the others begin with nothing
        self.sums = whole if self.accelerator.is_main_process else Sums(utterances=whole.utterances)
        self.standing = Standing(list(loop["best"]), loop["without_gain"])
        self.values = dict(loop["values"])
        if self.accelerator.scaler is not None and loop["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(loop["scaler"])

    def _checkpoint(self, sums: Sums) -> Checkpoint:
        weights = {f"step.{name}": tensor for name, tensor in self.bare.state_dict().items()}
        for index, transform in enumerate(self.pipeline.transforms):
            weights.update({f"transforms.{index}.{name}": tensor for name, tensor in transform.state().items()})
        scaler = self.accelerator.scaler
        loop = {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "skipped_steps": self.skipped_steps,
            "skipped_in_row": self.skipped_in_row,
            "skipped_utterances": self.skipped_utterances,
            "sums": list(sums),
            "best": self.standing.best,
            "without_gain": self.standing.without_gain,
            "values": self.values,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        return Checkpoint(self.step, weights, self.optimizer.state_dict(), {**self.facts, "loop": loop})

    # The run

    @property
    def stopped(self) -> bool:
        """Whether the budget or the patience is used up."""
        patience = self.fields.evaluate.patience
        return self.step >= self.total or (patience is not None and self.standing.without_gain >= patience)

    def run(self, history: History | None) -> None:
        """Go on to the end. **Raises** `TrainError` when too many gradients in a row are not finite, or when something
        cannot be written; the last checkpoint is whole then."""
        with self.progress.steps(self.total, self.step), closing(self.each(history)) as steps:
            for _ in steps:
                pass

    def each(self, history: History | None) -> Generator[int, None, None]:
        """As `run`, step by step: the number of steps taken so far, after each."""
        began = time.perf_counter() - self.seconds
        with closing(self._steps()) as steps:
            paused = time.perf_counter()
            for step in steps:
                figures = self._learn(step)
                # With the wait for data, without what is done between steps.
                self.sums = self.sums._replace(seconds=self.sums.seconds + time.perf_counter() - paused)
                self.step, self.epoch = step.number + 1, step.epoch
                self.seconds = time.perf_counter() - began
                self.progress.step(self.step)
                last = self.step >= self.total
                if self.step % self.fields.log.every_steps == 0 or last:
                    self._log(history, figures)
                if self.evaluator is not None and (self.step % self.fields.evaluate.every_steps == 0 or last):
                    self._evaluate(history)
                if self.step % self.fields.checkpoint.every_steps == 0 or self.stopped:
                    self._write()
                yield self.step
                if self.stopped:
                    break
                paused = time.perf_counter()
        if not self.stopped:  # a sampler that came to its end before the budget did
            self.total = self.step
            if self.evaluator is not None and self.step % self.fields.evaluate.every_steps:
                self._evaluate(history)
            self._write()

    def _steps(self) -> Generator[Step, None, None]:
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        stop = self.step if self.stopped else self.total
        more = {} if self.sampler is None else {"sampler": self.sampler}
        yield from self.loader.steps(start=self.step, stop=stop, rank=rank, processes=processes, **more)

    def _learn(self, step: Step) -> dict[str, float]:
        """One step; what it used for a line of the history."""
        accelerator = self.accelerator
        number, rank = step.number, accelerator.process_index
        torch.manual_seed(seed_of(self.seed, "step", number, rank))
        generator = make_generator(seed_of(self.seed, "objective", number, rank))
        set_training(self.bare)
        for transform in self.pipeline.transforms:
            transform.step(number / (self.total - 1) if self.total > 1 else 1.0)
        rate = set_rates(self.optimizer, self.fields.schedule, number, self.total)
        batches = step.batches
        losses = (
            self._backward(batches, step.utterances, generator)
            if self.gradient is None
            else self._replaced(self.gradient, batches, generator)
        )
        norm = self._clipped()
        finite = bool(torch.isfinite(norm))
        if finite or accelerator.scaler is not None:
            self.optimizer.step()  # a scaler sees for itself that a gradient is not finite, and lowers its scale
        self.optimizer.zero_grad()
        if finite:
            self.skipped_in_row = 0
            self._count(step, losses)
        else:
            self._skipped(number, losses)
        return {"learning_rate": rate, "gradient_norm": float(norm)}

    def _backward(
        self, batches: Sequence[Any], utterances: int, generator: torch.Generator
    ) -> list[tuple[Tensor, Any]]:
        """Gradients of the mean over the step's utterances, left in `.grad`, averaged over processes."""
        scale = self.accelerator.num_processes / max(1, utterances)
        found = []
        for place, batch in enumerate(batches):
            waits = place + 1 < len(batches)
            with self.accelerator.no_sync(self.module) if waits else nullcontext():
                losses = self.module(batch, generator)
                refuse_frozen(trained_in(self.optimizer), losses)
                self.accelerator.backward((losses * batch.weights).sum() * scale)
            found.append((losses.detach(), batch))
        return found

    def _replaced(
        self, gradient: Gradient, batches: Sequence[Any], generator: torch.Generator
    ) -> list[tuple[Tensor, Any]]:
        """A privacy mechanism's own gradient of all utterances of the step at once, so that noise is added once."""
        found = [(self.module(batch, generator), batch) for batch in batches if len(batch.ids)]
        kept = [torch.where(losses.isposinf(), 0.0, losses)[batch.weights > 0] for losses, batch in found]
        gradient(self.bare, torch.cat(kept) if kept else torch.zeros(0, device=self.accelerator.device))
        return [(losses.detach(), batch) for losses, batch in found]

    def _clipped(self) -> Tensor:
        """The norm of the whole gradient, which is scaled down to `clip_norm` where that is less."""
        parameters = trained_in(self.optimizer)
        self.accelerator.unscale_gradients(self.optimizer)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        largest = self.fields.optimizer.clip_norm
        if largest is not None:
            nn.utils.clip_grads_with_norm_(parameters, largest, norm)
        return norm

    def _count(self, step: Step, losses: Sequence[tuple[Tensor, Any]]) -> None:
        """Add a step to the sums. Where the gradient is finite and a loss is not, as where speed perturbation left an
        utterance fewer frames than its text needs, that utterance gave no gradient and is named instead of summed."""
        total = float(sum(((one * batch.weights).sum() for one, batch in losses), torch.zeros(())))
        lost: list[str] = []
        if not math.isfinite(total):
            lost = [name for one, batch in losses for name in _without_loss(one, batch)]
            total = sum(
                float((torch.where(torch.isfinite(one), one, 0.0) * batch.weights).sum()) for one, batch in losses
            )
        sums = self.sums
        self.sums = sums._replace(
            loss=sums.loss + total,
            utterances=sums.utterances + step.utterances,
            audio_s=sums.audio_s + sum(batch.seconds for batch in step.batches),
            lost=[*sums.lost, *lost],
        )

    def _skipped(self, number: int, losses: Sequence[tuple[Tensor, Any]]) -> None:
        self.skipped_steps += 1
        self.skipped_in_row += 1
        ids = [name for one, batch in losses for name in _without_loss(one, batch)]
        named = f"; no finite loss for: {_few(ids)}" if ids else ""
        self.progress.say(
            f"step {number + 1}: the gradient is not finite, so the step is skipped ({self.skipped_steps} so far){named}"
        )
        if self.skipped_in_row >= MOST_SKIPPED:
            raise TrainError(
                f"step {number + 1}: the gradient was not finite {self.skipped_in_row} times in a row{named}; lower "
                f"optimizer.learning_rate or optimizer.clip_norm, or leave out the utterances that cause it"
            )

    def _whole(self) -> Sums:
        """The sums of all processes together, the same in each; seconds are those of this one."""
        sums = self.sums
        if self.accelerator.num_processes == 1:
            return sums
        from accelerate.utils import gather_object

        parts = [Sums(*part) for part in gather_object([tuple(sums)])]
        return sums._replace(
            loss=sum(part.loss for part in parts),
            audio_s=sum(part.audio_s for part in parts),
            lost=[name for part in parts for name in part.lost],
        )

    def _log(self, history: History | None, figures: Mapping[str, float]) -> None:
        sums = self._whole()
        self.sums = Sums()
        learned_from = sums.utterances - len(sums.lost)
        loss = sums.loss / learned_from if learned_from > 0 else float("nan")
        speed = sums.utterances / sums.seconds
        if sums.lost:
            self.skipped_utterances += len(sums.lost)
            self.progress.say(
                f"step {self.step}: nothing was learned from {_few(sums.lost)} ({self.skipped_utterances} so far): the loss "
                f"is not finite, as where an augmentation leaves a text too few frames"
            )
        line = {"step": self.step, "epoch": round(self.epoch, 6), LOSS: loss, **figures}
        line |= {"seconds": round(self.seconds, 3), "utterances_per_s": round(speed, 3)}
        line |= {"audio_s_per_s": round(sums.audio_s / sums.seconds, 3), "skipped_steps": self.skipped_steps}
        line["skipped_utterances"] = self.skipped_utterances
        if history is not None:
            history.write(line)
        self.progress.measured(self.step, self.total, epoch=self.epoch, loss=loss, utterances_per_s=speed)

    def _evaluate(self, history: History | None) -> None:
        assert self.evaluator is not None
        found = self.evaluator.evaluate()
        self.standing, kept = self.standing.after(self.step, found, self.measure, self.fields.evaluate.keep)
        self.values = found.values
        if self.accelerator.is_main_process:
            if kept:
                save_weights_of(self, self.folder / BEST / step_name(self.step), found.values)
            if history is not None:
                history.write({"step": self.step, "epoch": round(self.epoch, 6), "dev": found.values})
            self.progress.evaluated(
                self.step, self.measure.name, found.values[self.measure.name], found.line(self.measure.name)
            )
        self.accelerator.wait_for_everyone()

    def _write(self) -> None:
        """A checkpoint; only then are bundles removed that are no longer among the best, for a run that goes on from an
        older checkpoint may still count on them."""
        sums = self._whole()
        if self.accelerator.is_main_process:
            write_checkpoint(self.folder / FOLDER, self._checkpoint(sums), keep=self.fields.checkpoint.keep)
            remove_beaten(self.folder / BEST, self.standing)
        self.accelerator.wait_for_everyone()


def _without_loss(losses: Tensor, batch: Any) -> list[str]:
    """The names of utterances that count but have no finite loss."""
    lost = (~torch.isfinite(losses) & (batch.weights > 0)).tolist()
    return [name for name, is_lost in zip(batch.ids, lost, strict=True) if is_lost]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (" …" if len(names) > MOST_NAMED else "")


def save_weights_of(loop: Loop, folder: Path, values: Mapping[str, float]) -> Path:
    """The pipeline as it is now, as a bundle. **Raises** `TrainError` when it cannot be written."""
    training = {**loop.facts["training"], "steps": loop.step, "values": dict(values)}
    try:
        return save_bundle(loop.pipeline, folder, force=True, training=training)
    except BundleError as error:
        whole = steps_in(loop.folder / FOLDER)
        kept = f"the checkpoint of step {whole[-1]} is whole, make room and run again" if whole else "make room"
        raise TrainError(f"{error}; {kept}") from None


def remove_beaten(folder: Path, standing: Standing) -> None:
    """Remove bundles that are not among the best."""
    keep = {entry["step"] for entry in standing.best}
    for step in steps_in(folder):
        if step not in keep:
            shutil.rmtree(folder / step_name(step), ignore_errors=True)
