"""A pipeline: built from a spec, called on recordings, batched by length."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from sltcore.audio import Recording
from sltcore.context import SYNCHRONOUS, check_context, check_lengths, is_per_utterance, merge_keys, select
from sltcore.errors import ContextError, PluginError, PortError, SltError
from sltcore.interfaces import Session, Vocoder
from sltcore.pipeline.batches import Entry, by_length, collate, split, units_per_s
from sltcore.pipeline.build import Built
from sltcore.pipeline.inputs import Output, is_single, items_of, opened, read_item
from sltcore.pipeline.long_audio import can_divide, run_long
from sltcore.pipeline.signals import read_signals
from sltcore.pipeline.streaming import PipelineSession
from sltcore.registry import Registry
from sltcore.spec.load import Spec
from sltcore.types import Item, Port, Waveform

LOOK_AHEAD = 8  # batches whose inputs are read before they are sorted by length
LOG = logging.getLogger(__name__)


class Prepared:
    """Side information whose slow work is done: made by `Pipeline.prepare`, given to any number of calls of that pipeline."""

    def __init__(self, pipeline: Pipeline, context: Mapping[str, Any]) -> None:
        self.pipeline = pipeline
        self.context = dict(context)


class Pipeline:
    """Encoder, decoder, reranker and vocoder of a spec, ready to be called.

        pipeline = sltcore.load("asr.yaml")
        pipeline("call.wav").text
        pipeline(["a.wav", "b.wav"], phrases=["Amazon Queen"])

    One input gives one result, a list or a `datasets.Dataset` a list of results. A result is what the last stage
    produces for one utterance: an `NBest`, a `Recording`, or an array [t d] float32.

    Inputs are batched with neighbours in length. Frames in a batch differ from those of an input alone by at most the
    encoder's `padding_tolerance` (matrix products of another shape round differently), so scores may differ in their
    last digits; on one machine the same call gives the same result bit for bit. Recordings above `segment.above_s` are
    streamed where the components can, else cut at pauses, in bounded memory.
    """

    def __init__(self, built: Built, spec: Spec, registry: Registry) -> None:
        self.spec = spec
        self.registry = registry
        self.parts = built.parts
        self.transforms = built.transforms
        self.metrics = built.metrics
        self.model = built.model
        self.scope = built.scope
        owners = [(f"{stage} '{_use(spec, stage)}'", part.context_keys()) for stage, part in self.parts.items()]
        owners += [(f"transforms[{i}]", part.context_keys()) for i, part in enumerate(self.transforms)]
        self.context_keys = merge_keys(owners)
        self.model.eval()
        registry.manager.hook.slt_pipeline_built(pipeline=self)

    @property
    def first(self) -> Any:
        """The first stage."""
        return next(iter(self.parts.values()))

    @property
    def last(self) -> Any:
        """The last stage."""
        return list(self.parts.values())[-1]

    @property
    def consumes(self) -> Port:
        """What the first stage takes."""
        if isinstance(self.first, Vocoder):
            return Port("Waveform", {"sample_rate_hz": self.first.sample_rate_hz})  # copy synthesis
        port: Port = self.first.consumes
        return port

    @property
    def produces(self) -> Port:
        """What the last stage gives."""
        port: Port = self.last.produces
        return port

    @property
    def sample_rate_hz(self) -> int:
        """Of the recordings it works on; others are resampled."""
        rate: int = self.consumes.attributes.get("sample_rate_hz", 16000)
        return rate

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        parameter = next(self.model.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def to(self, device: str | torch.device) -> Pipeline:
        """Move to a device; **Raises** `PortError` when it is not there."""
        try:
            self.model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise PortError(
                f"device '{device}' cannot be used: {' '.join(str(error).split())[:120]}; here there is: {', '.join(_devices())}"
            ) from None
        return self

    def prepare(self, **context: Any) -> Prepared:
        """Do the work of side information once (a long phrase list, say); pass the result as `prepared=`.

        Values that differ from utterance to utterance are prepared one by one. **Raises** `ContextError` for a key
        nobody reads, a wrong type, or a phrase that cannot be spelled.
        """
        check_context(context, self.context_keys, batch=None)
        full = self._prepared(context)
        for name, value in context.items():
            if name in self.context_keys and is_per_utterance(value, self.context_keys[name]):
                full[name] = [None if v is None else self._prepared({name: v}).get(name, v) for v in value]
        return Prepared(self, full)

    def _prepared(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The context with what all utterances share prepared by each stage."""
        keys = self.context_keys
        shared = {k: v for k, v in context.items() if k not in keys or not is_per_utterance(v, keys[k])}
        for part in self.parts.values() if shared else ():
            shared = dict(part.prepare(shared))
        return {**context, **shared}

    def __call__(self, inputs: Any, *, prepared: Prepared | None = None, **context: Any) -> Any:
        """Run on one input (path, bytes, array at the pipeline's sample rate, (array, rate), `Recording`; a text where
        the pipeline consumes Text) or on many (list, `datasets.Dataset`, 2-D array).

        **Raises** `AudioError` for an input that cannot be read, `ContextError` for wrong side information.
        """
        if is_single(inputs):
            return self(_as_list(inputs), prepared=prepared, **context)[0]
        outputs = list(self.run(items_of(inputs), prepared=prepared, count=_count(inputs), **context))
        return [output.value for output in outputs]

    def run(
        self,
        items: Iterable[Item],
        *,
        prepared: Prepared | None = None,
        keep_going: bool = False,
        count: int | None = None,
        batch_size: int | None = None,
        **context: Any,
    ) -> Iterator[Output]:
        """Run on a stream of items and yield outputs in order; memory is bounded however long the stream is.

        At most eight batches of inputs (`batch.size`, `batch.seconds`) are read ahead. With `keep_going` an input that
        fails, whatever the reason, becomes an output with `error`; otherwise its error is raised. `count` is the number
        of items where it is known; values that differ from utterance to utterance are checked against it.
        """
        if prepared is not None and prepared.pipeline is not self:
            raise ContextError(
                "prepared= was made by another pipeline; make it with the prepare of the one that is called"
            )
        ready = prepared.context if prepared is not None else {}
        together = {**ready, **context}
        if count is None and any(
            is_per_utterance(v, self.context_keys[k]) for k, v in together.items() if k in self.context_keys
        ):
            items = list(items)
            count = len(items)
        check_context(context, self.context_keys, batch=count)
        check_lengths(ready, self.context_keys, batch=count)
        full = {**ready, **self._prepared(context)}
        window = _Window(self, full, batch_size or self.spec.model.batch.size, keep_going)
        for index, item in enumerate(items):
            yield from window.add(index, item)
        yield from window.flush()

    def read(self, item: Item) -> Any:
        """What the first stage needs of an item that is not long: a `Recording`, an array [t f] float32, or a text."""
        if self.consumes.type == "Text":
            if not isinstance(item.source, str):
                raise ContextError(f"input '{item.id}': this pipeline reads text, got a {type(item.source).__name__}")
            return item.source
        if self.consumes.type == "Waveform":
            return read_item(item, self.sample_rate_hz)
        value = np.asarray(item.source, dtype=np.float32)
        if value.ndim != 2:
            raise ContextError(
                f"input '{item.id}': this pipeline reads {self.consumes}, expected an array [t f], got {value.ndim} axes"
            )
        return value

    def run_batch(self, values: Sequence[Any], context: Mapping[str, Any]) -> list[Any]:
        """All stages on one batch of read inputs; side information that is sound is read at the pipeline's rate."""
        return self.forward(values, read_signals(context, self.context_keys, self.sample_rate_hz))

    def forward(self, values: Sequence[Any], context: Mapping[str, Any]) -> list[Any]:
        """All stages on one batch of read inputs; one result for each."""
        with torch.inference_mode(), self.using(context):
            current = self.batch(values)
            for stage, part in self.parts.items():
                with self.stage(stage, len(values)):
                    if stage == "reranker":
                        current = self._rerank(part, values, current, context)
                    else:
                        current = _call(stage, part, current, context)
        return split(current, len(values), f"the {next(reversed(self.parts))}")

    def _rerank(self, part: Any, values: Sequence[Any], lists: Sequence[Any], context: Mapping[str, Any]) -> list[Any]:
        """Each list with the side information of its own utterance; the query is the input where that is a text."""
        queries = values if self.consumes.type == "Text" else [None] * len(values)
        contexts = (select(context, self.context_keys, [row]) for row in range(len(values)))
        return [part.rerank(*call) for call in zip(queries, lists, contexts, strict=True)]

    def batch(self, values: Sequence[Any]) -> Any:
        """Read inputs as the value that the first stage consumes, padded, on the pipeline's device."""
        return collate(values, self.consumes, sample_rate_hz=self.sample_rate_hz, device=self.device)

    def open(self, context: Mapping[str, Any] | None = None) -> Session:
        """A streaming session for one utterance; **Raises** `StreamError` where a component cannot stream, and
        `ContextError` for wrong side information. A signal beside the input is pushed together with it."""
        given = dict(context or {})
        check_context(given, self.context_keys, batch=1)
        for name in SYNCHRONOUS:
            if given.get(name) is not None:
                raise ContextError(
                    f"'{name}' runs beside the input: push it with the samples, push(samples, {name}=...)"
                )
        return PipelineSession(self, read_signals(self._prepared(given), self.context_keys, self.sample_rate_hz))

    @contextmanager
    def using(self, context: Mapping[str, Any]) -> Iterator[None]:
        """Let every attached transform read this call's context."""
        with ExitStack() as stack:
            for transform in self.transforms:
                stack.enter_context(transform.use(context))
            yield

    @contextmanager
    def stage(self, name: str, batch: int) -> Iterator[None]:
        """Tell the plugins' hooks and the log about one stage; an error is noted with the stage's name."""
        hook = self.registry.manager.hook
        hook.slt_before_stage(stage=name, batch=batch)
        start = time.perf_counter()
        try:
            yield
        except BaseException as error:
            if not isinstance(error, SltError):
                error.add_note(f"in stage '{name}'")
            hook.slt_stage_error(stage=name, error=error)
            raise
        seconds = time.perf_counter() - start
        LOG.debug("%s: %d in %.3f s", name, batch, seconds)
        hook.slt_after_stage(stage=name, batch=batch, seconds=seconds)


class _Window:
    """Inputs that are read and wait until enough are there to be sorted by length; outputs leave in order."""

    def __init__(self, pipeline: Pipeline, context: Mapping[str, Any], size: int, keep_going: bool) -> None:
        self.pipeline = pipeline
        self.context = context
        self.size = size
        self.keep_going = keep_going
        units = units_per_s(pipeline.consumes, pipeline.sample_rate_hz)
        self.limit = pipeline.spec.model.batch.seconds * units if units else float("inf")
        self.divides = can_divide(pipeline)
        self._order: list[int] = []
        self._ready: list[Entry] = []
        self._done: dict[int, Output] = {}
        self._held = 0

    def add(self, index: int, item: Item) -> Iterator[Output]:
        """Read an item; outputs come when the window is full or a long recording is done."""
        self._order.append(index)
        try:
            self._read(index, item)
        except Exception as error:
            if not self.keep_going:
                raise
            self._done[index] = Output(item, None, None, _failure(item, error))
        full = len(self._order) >= LOOK_AHEAD * self.size or self._held >= LOOK_AHEAD * self.limit
        if full or (index in self._done and not self._ready):
            yield from self.flush()

    def flush(self) -> Iterator[Output]:
        """Work on everything that waits."""
        for batch in by_length(self._ready, most=self.size, limit=self.limit):
            self._done.update(self._batch(batch))
        order, done = self._order, self._done
        self._order, self._ready, self._done, self._held = [], [], {}, 0
        for index in order:
            yield done.pop(index)

    def _read(self, index: int, item: Item) -> None:
        pipeline = self.pipeline
        longest_s = pipeline.spec.model.segment.above_s
        with ExitStack() as stack:
            with pipeline.stage("read", 1):
                value = (
                    stack.enter_context(opened(item, pipeline.sample_rate_hz, longest_s))
                    if self.divides
                    else pipeline.read(item)
                )
            if self.divides and not isinstance(value, Recording):
                with pipeline.stage("long", 1):
                    result, seconds = run_long(
                        pipeline, item, value, select(self.context, pipeline.context_keys, [index])
                    )
                self._done[index] = Output(item, result, seconds)
                return
        self._ready.append(Entry(index, item, value))
        self._held += self._ready[-1].size

    def _batch(self, batch: list[Entry]) -> dict[int, Output]:
        chosen = select(self.context, self.pipeline.context_keys, [entry.place for entry in batch])
        try:
            values = self.pipeline.run_batch([entry.value for entry in batch], chosen)
            LOG.info("%d inputs, the longest of %d units", len(batch), batch[-1].size)
        except Exception as error:
            if not self.keep_going:
                raise
            if len(batch) == 1:
                entry = batch[0]
                return {entry.place: Output(entry.item, None, entry.duration_s, _failure(entry.item, error))}
        else:
            return {
                entry.place: Output(entry.item, value, entry.duration_s)
                for entry, value in zip(batch, values, strict=True)
            }
        results: dict[int, Output] = {}
        for entry in batch:  # find the one that fails, and keep the others
            results.update(self._batch([entry]))
        return results


def _failure(item: Item, error: Exception) -> SltError:
    """Why an input has no result; an error that no component foresaw keeps its traceback as the cause."""
    if isinstance(error, SltError):
        return error
    where = " ".join(getattr(error, "__notes__", [])[:1])
    text = " ".join(str(error).split())[:300]
    failure = PluginError(f"input '{item.id}': {type(error).__name__}{f' {where}' if where else ''}: {text}")
    failure.__cause__ = error
    return failure


def _call(stage: str, part: Any, current: Any, context: Mapping[str, Any]) -> Any:
    if stage == "encoder":
        return part(current, context) if callable(part) else part.forward(current, context)
    if stage == "decoder":
        return part.decode(current, context)
    return part.synthesize(part.analyze(current) if isinstance(current, Waveform) else current)


def _as_list(source: Any) -> list[Any]:
    if isinstance(source, np.ndarray) and source.ndim == 2:
        source = source.reshape(-1)
    return [source]


def _count(inputs: Any) -> int | None:
    try:
        return len(inputs)
    except TypeError:
        return None


def _use(spec: Spec, stage: str) -> str:
    return getattr(getattr(spec.model, stage, None), "use", stage)


def _devices() -> list[str]:
    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found
