"""The development data: its loss, the metrics of the pipeline, and which evaluation is the best so far."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch

from sltcore.errors import SpecError, TrainError, did_you_mean
from sltcore.train.losses import TrainStep, make_generator
from sltcore.train.randomness import seed_of
from sltcore.types import Hypothesis, NBest

if TYPE_CHECKING:
    from accelerate import Accelerator

    from sltcore.data.examples import Example
    from sltcore.pipeline import Output, Pipeline
    from sltcore.train.loading import Loader, Step

LOSS = "loss"
AUTO = "auto"


class Measure(NamedTuple):
    """What decides which weights are best: the name of a value, and whether less is better."""

    name: str
    lower: bool

    def beats(self, value: float, other: float | None) -> bool:
        """Whether `value` is better than `other`; a value that is not a number beats nothing."""
        if math.isnan(value):
            return False
        if other is None or math.isnan(other):
            return True
        return value < other if self.lower else value > other


def metric_names(pipeline: Pipeline) -> dict[str, bool]:
    """METRIC.VALUE of every value of the pipeline's metrics, and whether less is better. The second metric of one name
    has its place added: `word-error-2.wer`."""
    found: dict[str, bool] = {}
    for prefix, metric in _named(pipeline):
        for value, direction in metric.directions.items():
            found[f"{prefix}.{value}"] = direction == "lower"
    return found


def _named(pipeline: Pipeline) -> list[tuple[str, Any]]:
    named: list[tuple[str, Any]] = []
    for place, metric in enumerate(pipeline.metrics):
        use = getattr(pipeline.spec.model.metrics[place], "use", "metric").rpartition("/")[
            2
        ]  # without its distribution
        taken = sum(name == use or name.startswith(f"{use}-") for name, _ in named)
        named.append((use if not taken else f"{use}-{taken + 1}", metric))
    return named


def choose_measure(best: str, pipeline: Pipeline, *, has_texts: bool = True) -> Measure:
    """The measure that `evaluate.best` names; metrics need development data that `has_texts`.

    **Raises** `SpecError` when there is none of that name.
    """
    names = metric_names(pipeline)
    if not has_texts:
        if best not in (AUTO, LOSS) and names:
            raise SpecError(
                f"evaluate.best: no development utterance has a text for '{best}'; write loss, or give texts"
            )
        names = {}
    if best == AUTO:
        best = next(iter(names), LOSS)
    if best == LOSS:
        return Measure(LOSS, True)
    alone = [name for name in names if name.partition(".")[0] == best]
    if best not in names and len(alone) == 1:
        best = alone[0]
    if best not in names:
        choices = [*names, LOSS]
        raise SpecError(
            f"evaluate.best: nothing is measured as '{best}'; values: {', '.join(choices)}.{did_you_mean(best, choices)}"
        )
    return Measure(best, names[best])


class Evaluation(NamedTuple):
    """The values of one evaluation, their units, and how many utterances gave an error instead of a result."""

    values: dict[str, float]
    units: dict[str, str]
    failed: int

    def line(self, chosen: str = LOSS) -> str:
        """For a person: the loss, the value that decides, and the first value of each metric."""
        first = {name.partition(".")[0]: name for name in reversed(self.values)}
        shown = [name for name in self.values if name in (LOSS, chosen) or first[name.partition(".")[0]] == name]
        parts = [
            f"{name} {self.values[name]:.4g}{'' if self.units.get(name, '1') == '1' else ' ' + self.units[name]}"
            for name in shown
        ]
        return ", ".join(parts) + (f"; {self.failed} failed and count as empty" if self.failed else "")


class Evaluator:
    """Measures a pipeline on development data, shared out over the processes.

    Every process gets the same values. The loss is the mean over utterances of what training minimises, without
    augmentation; metrics see what the pipeline says of each utterance that has a text, in float32. An utterance that the
    pipeline cannot read counts as an empty text.
    """

    def __init__(
        self,
        step: TrainStep,
        loader: Loader,
        examples: Sequence[Example],
        *,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        self.step = step
        self.pipeline = step.pipeline
        self.loader = loader
        self.accelerator = accelerator
        self.seed = seed
        self.examples = [example for example in examples if example.item.text is not None]

    def evaluate(self) -> Evaluation:
        """Measure now; modules are left in evaluation mode. **Raises** `TrainError` when nothing could be read."""
        self.step.eval()
        values = {LOSS: self._loss()}
        units: dict[str, str] = {}
        failed = 0
        if self.pipeline.metrics and self.examples:
            failed = self._run(values, units)
        return Evaluation(values, units, failed)

    def _loss(self) -> float:
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        device = self.accelerator.device
        total = torch.zeros(2, dtype=torch.float64, device=device)
        stop = self.loader.steps_in_epoch(0, processes=processes)
        made = cast("Generator[Step, None, None]", self.loader.steps(stop=stop, rank=rank, processes=processes))
        with torch.no_grad(), closing(made) as steps:
            for step in steps:
                for place, batch in enumerate(step.batches):
                    generator = make_generator(seed_of(self.seed, "dev", step.number, rank, place))
                    with self.accelerator.autocast():
                        losses = self.step(batch, generator)
                    weights = torch.where(
                        losses.isposinf(), 0.0, batch.weights
                    )  # no alignment: a source told a wrong length
                    losses = torch.where(weights > 0, losses, 0.0)
                    total += torch.stack([losses.sum(), weights.sum()]).double()
        loss, count = self.accelerator.reduce(total).tolist()
        return loss / count if count else math.nan

    def _run(self, values: dict[str, float], units: dict[str, str]) -> int:
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        examples = self.examples[rank::processes]
        mine = [example.item for example in examples]
        context = self.loader.columns.context(examples)
        outputs = list(self.pipeline.run(mine, keep_going=True, count=len(mine), **context))
        failed = [output for output in outputs if output.error is not None]
        wrong = int(self._gathered(np.array([[len(failed)]])).sum())
        if wrong == len(self.examples):  # of all processes, so that none waits for one that gave up
            why = failed[0].error if failed else "see the first process"
            raise TrainError(f"none of the {wrong} development utterances could be run: {why}")
        said = [reading(output) for output in outputs]
        for prefix, metric in _named(self.pipeline):
            metric.reset()
            metric.update(said, [item.text for item in mine], ids=[item.id for item in mine])
            rows = self._gathered(metric.per_item())
            metric.reset()
            for name, value in metric.reduce(rows).items():
                values[f"{prefix}.{name}"], units[f"{prefix}.{name}"] = float(value.value), value.unit
        return wrong

    def _gathered(self, rows: np.ndarray) -> np.ndarray:
        if self.accelerator.num_processes == 1:
            return rows
        from accelerate.utils import gather_object

        return np.concatenate([part for part in gather_object([rows]) if len(part)])


def reading(output: Output) -> Any:
    """What is measured of an output; an empty text where there is none."""
    return NBest([Hypothesis("")]) if output.error is not None else output.value


class Standing(NamedTuple):
    """Evaluations so far: the best ones, and how many have gone by without a gain."""

    best: list[dict[str, Any]]
    without_gain: int

    def after(self, step: int, evaluation: Evaluation, measure: Measure, keep: int) -> tuple[Standing, bool]:
        """The standing with one evaluation more, and whether it is among the `keep` best, whose weights are kept."""
        value = evaluation.values[measure.name]
        first = self.best[0]["value"] if self.best else None
        entry = {"step": step, "name": measure.name, "value": value, "values": dict(evaluation.values)}
        place = sum(not measure.beats(value, other["value"]) for other in self.best)
        best = [*self.best[:place], entry, *self.best[place:]][:keep]
        gained = measure.beats(value, first)
        return Standing(best, 0 if gained else self.without_gain + 1), any(one["step"] == step for one in best)
