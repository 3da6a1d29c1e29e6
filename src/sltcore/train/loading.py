"""The data of a run as steps: drawn, read, changed, put together and divided, ahead of the loop in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sltcore import ctc
from sltcore.audio import Recording
from sltcore.data.examples import Example
from sltcore.errors import DataError, SltError
from sltcore.interfaces import Augmentation, Part
from sltcore.pipeline import Pipeline
from sltcore.pipeline.batches import collate, split
from sltcore.pipeline.signals import read_signals
from sltcore.spec.training import TrainFields
from sltcore.train import sampling
from sltcore.train.augmentation import augmented_input, check_augmentations, check_synchronous, on_input
from sltcore.train.sampling import Drawn, utterance_seed
from sltcore.train.targets import Columns, refuse_nothing, spelled
from sltcore.train.taught import Taught
from sltcore.types import Targets

STEPS_AHEAD = 2
CACHE_BYTES = 2 * 2**30
MOST_EMPTY_EPOCHS = 10_000
CPU = torch.device("cpu")

Sampler = Iterable[Sequence[int]]
"""Batches of a whole step as lists of places in the list of examples, one for each step; a batch may be empty."""


class Batch(NamedTuple):
    """What one call of the model gets.

    `value` is what the pipeline consumes, padded, after the augmentations of the input; `clean` before them (the same
    object where there are none). `targets` [b u] are None where none are needed. `context` has a list with one value for
    each utterance under each key. `seeds` are what `features_augmented` takes. `weights` [b] float32 is 1, or 0 for an
    utterance that only stands in so that no process is without one; `seconds` of sound counts those of weight 1.
    """

    ids: list[str]
    value: Any
    clean: Any
    texts: list[str]
    targets: Targets | None
    context: dict[str, Any]
    seeds: tuple[int, ...]
    weights: Tensor
    seconds: float

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on a device."""
        value = _to(self.value, device)
        clean = value if self.clean is self.value else _to(self.clean, device)
        targets = None if self.targets is None else _to(self.targets, device)
        return self._replace(value=value, clean=clean, targets=targets, weights=self.weights.to(device))


def _to(value: Any, device: torch.device) -> Any:
    return value._replace(**{k: v.to(device) for k, v in value._asdict().items() if isinstance(v, Tensor)})


class Step(NamedTuple):
    """One step of one process: `epoch` counts passes over the data after it, `utterances` those of all processes."""

    number: int
    epoch: float
    batches: list[Batch]
    utterances: int


class _Planned(NamedTuple):
    """One step before anything is read: the parts of this process and whether each only stands in."""

    number: int
    epoch: float
    draw_epoch: int
    parts: list[tuple[list[Drawn], bool]]
    utterances: int


class Loader:
    """Examples as steps of training, the same on any number of processes.

    A step's utterances are chosen for all processes and all accumulated batches together and then divided, so one process
    with twice the batch, two processes, and `accumulate: 2` do the same work. An epoch has every utterance once (or by
    its weight); see `sltcore.train.sampling`. Each batch keeps `batch.size`; a step keeps `batch.seconds` with padding,
    times processes and accumulated batches, and each of its batches is at most one utterance above its share. An
    utterance that is longer than the limit alone makes a step.

    `skipped` maps the ids of what is left out to the reason: nothing to read, no text, no spelling, or fewer frames than
    the text needs. Sound is decoded once and kept, exactly, up to `cache_bytes`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        examples: Sequence[Example],
        spec: TrainFields,
        *,
        seed: int,
        augment: Sequence[Augmentation] = (),
        needs_targets: bool = True,
        also: Sequence[Part] = (),
        learned_from: bool = True,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """`also` are further components that read the context (objectives); components are told the texts only where the
        examples are `learned_from`.

        **Raises** `DataError` when nothing is left, `SpecError` when `context` or `augment` do not fit the pipeline,
        `ContextError` when a column's value has the wrong type.
        """
        check_augmentations(pipeline, augment)
        self.pipeline = pipeline
        self.seed = seed
        self.batch = spec.batch
        self.augment = on_input(pipeline, augment)
        self.needs_targets = needs_targets
        self.columns = Columns(pipeline, examples, spec.context, [*augment, *also])
        check_synchronous(self.augment, list(self.columns.columns))
        ids, reasons = spelled(pipeline, examples, self.columns, needs_targets=needs_targets)
        self.skipped: dict[str, str] = dict(getattr(examples, "skipped", {}))
        self.skipped.update({examples[place].item.id: reason for place, reason in reasons.items()})
        if not ids:
            refuse_nothing(len(examples) + len(getattr(examples, "skipped", {})), self.skipped)
        places = sorted(ids)
        self.examples = [examples[place] for place in places]
        self._labels = [ids[place] for place in places]
        self.taught = Taught(pipeline, also)
        if learned_from:
            self.taught.learn_texts([example.item.text or "" for example in self.examples])
        self._index = {place: index for index, place in enumerate(places)}  # of the list that was given
        self._reader = _Reader(pipeline, cache_bytes)
        self._plans: dict[tuple[int, int], list[list[Drawn]]] = {}

    @property
    def seconds(self) -> float:
        """Seconds of all usable utterances."""
        return sum(example.seconds for example in self.examples)

    def steps_in_epoch(self, epoch: int, *, processes: int = 1) -> int:
        """Steps of one pass over the data."""
        return len(self._plan(epoch, processes))

    def steps_of(self, epochs: float, *, processes: int = 1) -> int:
        """Steps of so many passes, at least one."""
        whole = int(epochs)
        steps = sum(self.steps_in_epoch(epoch, processes=processes) for epoch in range(whole))
        if epochs > whole:
            steps += round((epochs - whole) * self.steps_in_epoch(whole, processes=processes))
        return max(1, steps)

    def steps(
        self, *, start: int = 0, stop: int, rank: int = 0, processes: int = 1, sampler: Sampler | None = None
    ) -> Iterator[Step]:
        """The steps [start, stop) of process `rank`, with tensors on the pipeline's device; `steps(start=k)` gives what
        `steps(start=0)` gives from step k on.

        They are read ahead in a thread, which ends with the iterator. With a `sampler` it chooses the utterances, and a
        step has as many batches as they need. **Raises** what reading an utterance raised, with the utterance's name.
        """
        planned = (
            self._planned(processes, start, stop) if sampler is None else self._sampled(sampler, processes, start, stop)
        )
        made = (self._step(step) for step in (self._own(plan, rank, processes) for plan in planned))
        for step in _ahead(made):
            device = self.pipeline.device
            yield step if device == CPU else step._replace(batches=[batch.to(device) for batch in step.batches])

    def _plan(self, epoch: int, processes: int) -> list[list[Drawn]]:
        key = (epoch, processes)
        if key not in self._plans:
            drawn = sampling.draw(
                [example.item.id for example in self.examples],
                [example.seconds for example in self.examples],
                [example.weight for example in self.examples],
                seed=self.seed,
                epoch=epoch,
            )
            share = processes * self.batch.accumulate
            plan = sampling.batches(
                drawn,
                size=self.batch.size * share,
                seconds=self.batch.seconds * share,
                bucket=self.batch.bucket,
                seed=self.seed,
                epoch=epoch,
            )
            while len(self._plans) >= 4:  # the loop asks for this one and the next
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = plan
        return self._plans[key]

    def _planned(self, processes: int, start: int, stop: int) -> Iterator[_Planned]:
        first, epoch, empty = 0, 0, 0
        parts = processes * self.batch.accumulate
        while first < stop:
            plan = self._plan(epoch, processes)
            empty = 0 if plan else empty + 1
            if empty > MOST_EMPTY_EPOCHS:
                raise DataError(
                    f"{empty} epochs without an utterance: the weights of the data are too small; raise them"
                )
            for place in range(max(start - first, 0), min(len(plan), stop - first)):
                divided = sampling.divide(plan[place], parts, size=self.batch.size)
                yield _Planned(
                    first + place,
                    epoch + (place + 1) / len(plan),
                    epoch,
                    _standing_in(divided, plan[place]),
                    len(plan[place]),
                )
            first += len(plan)
            epoch += 1

    def _sampled(self, sampler: Sampler, processes: int, start: int, stop: int) -> Iterator[_Planned]:
        drawn_before = 0
        for number, chosen in enumerate(islice(sampler, stop)):
            drawn_before += len(chosen)
            if number < start:
                continue
            places = [self._index[place] for place in map(int, chosen) if place in self._index]
            batch = [Drawn(place, self.examples[place].item.id, self.examples[place].seconds) for place in places]
            parts = processes * sampling.rounds(batch, processes, size=self.batch.size, seconds=self.batch.seconds)
            divided = sampling.divide(batch, parts, size=self.batch.size)
            shortest = min(range(len(self.examples)), key=lambda place: self.examples[place].seconds)
            spare = Drawn(shortest, self.examples[shortest].item.id, self.examples[shortest].seconds)
            epoch = drawn_before / max(1, len(self.examples))
            yield _Planned(number, epoch, number, _standing_in(divided, batch or [spare]), len(batch))

    def _own(self, plan: _Planned, rank: int, processes: int) -> _Planned:
        return plan._replace(parts=plan.parts[rank::processes])

    def _step(self, plan: _Planned) -> Step:
        batches = [self._batch(drawn, plan.draw_epoch, stands_in=spare) for drawn, spare in plan.parts]
        return Step(plan.number, plan.epoch, batches, plan.utterances)

    @torch.no_grad()
    def _batch(self, drawn: Sequence[Drawn], epoch: int, *, stands_in: bool) -> Batch:
        examples = [self.examples[one.place] for one in drawn]
        seeds = tuple(utterance_seed(self.seed, epoch, one.key) for one in drawn)
        context = self._signals(examples)
        context |= self.taught.context([example.item.text or "" for example in examples], context, seeds)
        clean = [self._reader.read(one.place, self.examples[one.place]) for one in drawn]
        values = clean
        if self.augment:
            values = [self._augmented(*entry) for entry in zip(examples, clean, seeds, strict=True)]
        value = self._collated(values)
        targets = ctc.pad_labels(self._labels[one.place] for one in drawn) if self.needs_targets else None
        return Batch(
            ids=[example.item.id for example in examples],
            value=value,
            clean=self._collated(clean) if self.augment else value,
            texts=[example.item.text or "" for example in examples],
            targets=targets,
            context=context,
            seeds=seeds,
            weights=torch.full((len(drawn),), 0.0 if stands_in else 1.0),
            seconds=0.0 if stands_in else sum(example.seconds for example in examples),
        )

    def _collated(self, values: Sequence[Any]) -> Any:
        return collate(values, self.pipeline.consumes, sample_rate_hz=self.pipeline.sample_rate_hz, device=CPU)

    def _signals(self, examples: Sequence[Example]) -> dict[str, Any]:
        context = self.columns.context(examples)
        try:
            return read_signals(context, self.columns.keys, self.pipeline.sample_rate_hz)
        except SltError as error:
            names = ", ".join(f"'{example.item.id}'" for example in examples[:3])
            raise type(error)(f"side information of one of the utterances {names}…: {error}") from error

    def _augmented(self, example: Example, value: Any, seed: int) -> Any:
        changed = augmented_input(self._collated([value]), self.augment, self._signals([example]), seed)
        return split(changed, 1, f"augment of utterance '{example.item.id}'")[0]


def _standing_in(divided: list[list[Drawn]], batch: Sequence[Drawn]) -> list[tuple[list[Drawn], bool]]:
    """The parts; one that is empty gets the shortest utterance to stand in."""
    spare = min(batch, key=lambda one: (one.seconds, one.key))
    return [(part, False) if part else ([spare], True) for part in divided]


class _Reader:
    """Reads utterances, and keeps sound up to a number of bytes: as int16 where that is exact, else as float32."""

    def __init__(self, pipeline: Pipeline, most_bytes: int) -> None:
        self.pipeline = pipeline
        self.most_bytes = most_bytes
        self.held_bytes = 0
        self._held: dict[int, np.ndarray[Any, Any]] = {}

    def read(self, place: int, example: Example) -> Any:
        """What the pipeline's first stage needs of the example at a place in the list, for ids may repeat there (private
        and public data); **raises** what reading raises, with the utterance's name."""
        item = example.item
        held = self._held.get(place)
        if held is not None:
            samples = held.astype(np.float32)
            if held.dtype == np.int16:
                samples /= np.float32(32768)
            return Recording(samples, self.pipeline.sample_rate_hz)
        try:
            value = self.pipeline.read(item)
        except SltError as error:
            raise type(error)(f"utterance '{item.id}': {error}") from error
        except Exception as error:
            error.add_note(f"while utterance '{item.id}' was read")
            raise
        if isinstance(value, Recording):
            self._keep(place, value.samples)
        return value

    def _keep(self, place: int, samples: np.ndarray[Any, Any]) -> None:
        scaled = samples * np.float32(32768)
        whole = scaled.astype(np.int32)
        exact = bool(np.all(whole == scaled)) and whole.size > 0 and -32768 <= whole.min() <= whole.max() <= 32767
        kept = whole.astype(np.int16) if exact else samples
        if self.held_bytes + kept.nbytes <= self.most_bytes:
            self._held[place] = kept
            self.held_bytes += kept.nbytes


class _Failure(NamedTuple):
    error: BaseException


_END = object()


def _ahead(steps: Iterator[Step]) -> Iterator[Step]:
    """The same steps, made in a thread up to `STEPS_AHEAD` before they are asked for; its errors are raised here."""
    waiting: queue.Queue[Any] = queue.Queue(maxsize=STEPS_AHEAD)
    stopped = threading.Event()

    def put(entry: Any) -> None:
        while not stopped.is_set():
            try:
                waiting.put(entry, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in steps:
                put(step)
                if stopped.is_set():
                    return
        except BaseException as error:  # whatever it is, it belongs to whoever waits for the step
            put(_Failure(error))
        else:
            put(_END)

    thread = threading.Thread(target=work, name="sltcore-loader", daemon=True)
    thread.start()
    try:
        while (entry := waiting.get()) is not _END:
            if isinstance(entry, _Failure):
                raise entry.error
            yield entry
    finally:
        stopped.set()
        thread.join()


__all__ = ["CACHE_BYTES", "Batch", "Loader", "Sampler", "Step"]
