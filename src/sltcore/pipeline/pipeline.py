"""A pipeline: built from a spec, called on recordings, batched by length."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sltcore.audio import Recording
from sltcore.context import check_context, is_per_utterance, merge_keys, select
from sltcore.errors import ContextError, PortError, SltError
from sltcore.interfaces import Decoder, Session, Vocoder
from sltcore.pipeline.build import Built
from sltcore.pipeline.inputs import Item, Output, is_single, items_of, length_s, read_item, stream_item
from sltcore.pipeline.streaming import PipelineSession, joined, segments, session_or_none
from sltcore.registry import Registry
from sltcore.spec.load import Spec
from sltcore.types import Encoded, Features, Port, Text, Waveform

LOOK_AHEAD = 8  # batches whose inputs are read before they are sorted by length


class Prepared:
    """Side information whose slow work is done: made by `Pipeline.prepare`, given to any number of calls."""

    def __init__(self, context: Mapping[str, Any]) -> None:
        self.context = dict(context)


class Pipeline:
    """Encoder, decoder, reranker and vocoder of a spec, ready to be called.

        pipeline = sltcore.load("asr.yaml")
        pipeline("call.wav").text
        pipeline(["a.wav", "b.wav"], phrases=["Amazon Queen"])

    One input gives one result, a list or a `datasets.Dataset` a list of results. A result is what the last stage
    produces for one utterance: an `NBest`, a `Recording`, or an array [t d] float32.
    """

    def __init__(self, built: Built, spec: Spec, registry: Registry) -> None:
        self.spec = spec
        self.registry = registry
        self.parts = built.parts
        self.transforms = built.transforms
        self.metrics = built.metrics
        self.model = built.model
        self.scope = built.scope
        owners = [(f"{stage} '{_use(spec, stage)}'", part.context_keys()) for stage, part in self._contextual()]
        owners += [(f"transforms[{i}]", part.context_keys()) for i, part in enumerate(self.transforms)]
        self.context_keys = merge_keys(owners)
        self.model.eval()
        registry.manager.hook.slt_pipeline_built(pipeline=self)

    def _contextual(self) -> Iterator[tuple[str, Any]]:
        yield from self.parts.items()

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

        **Raises** `ContextError` for a key nobody reads, a wrong type, or a phrase that cannot be spelled.
        """
        check_context(context, self.context_keys, batch=None)
        return Prepared(self._prepared(context))

    def _prepared(self, context: Mapping[str, Any]) -> dict[str, Any]:
        shared = {
            k: v
            for k, v in context.items()
            if k not in self.context_keys or not is_per_utterance(v, self.context_keys[k])
        }
        decoder = self.parts.get("decoder")
        if isinstance(decoder, Decoder) and shared:
            shared = dict(decoder.prepare(shared))
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

        With `keep_going` an input that fails becomes an output with `error`; otherwise its error is raised.
        """
        full = {**(prepared.context if prepared else {}), **context}
        if any(is_per_utterance(v, self.context_keys[k]) for k, v in full.items() if k in self.context_keys):
            items = list(items)
            count = len(items)
        check_context(full, self.context_keys, batch=count)
        full = self._prepared(full)
        size = batch_size or self.spec.model.batch.size
        window: list[tuple[int, Item]] = []
        for index, item in enumerate(items):
            window.append((index, item))
            if len(window) >= LOOK_AHEAD * size:
                yield from self._window(window, full, size, keep_going)
                window = []
        yield from self._window(window, full, size, keep_going)

    def _window(
        self, window: Sequence[tuple[int, Item]], context: Mapping[str, Any], size: int, keep_going: bool
    ) -> Iterator[Output]:
        done: dict[int, Output] = {}
        ready: list[tuple[int, Item, Any]] = []
        for index, item in window:
            try:
                if self.consumes.type == "Waveform" and self._is_long(item):
                    done[index] = self._long(item, select(context, self.context_keys, [index]))
                else:
                    ready.append((index, item, self._read(item)))
            except SltError as error:
                if not keep_going:
                    raise
                done[index] = Output(item, None, None, error)
        for batch in self._batches(ready, size):
            done.update(self._batch(batch, context, keep_going))
        for index, _ in window:
            yield done[index]

    def _read(self, item: Item) -> Any:
        if self.consumes.type == "Text":
            if not isinstance(item.source, str):
                raise ContextError(f"input '{item.id}': this pipeline reads text, got a {type(item.source).__name__}")
            return item.source
        if self.consumes.type == "Waveform":
            with self._stage("read", 1):
                return read_item(item, self.sample_rate_hz)
        value = np.asarray(item.source, dtype=np.float32)
        if value.ndim != 2:
            raise ContextError(
                f"input '{item.id}': this pipeline reads {self.consumes}, expected an array [t f], got {value.ndim} axes"
            )
        return value

    def _is_long(self, item: Item) -> bool:
        seconds = length_s(item)
        if seconds is None and isinstance(item.source, Recording):
            seconds = item.source.duration_s
        return seconds is not None and seconds > self.spec.model.segment.above_s and self.produces.type == "Hypotheses"

    def _long(self, item: Item, context: Mapping[str, Any]) -> Output:
        """A recording too long for one batch: streamed where the components can, else cut at pauses."""
        seen = 0

        def blocks() -> Iterator[np.ndarray]:
            nonlocal seen
            for block in stream_item(item, self.sample_rate_hz):
                seen += len(block)
                yield block

        with self._stage("long", 1):
            session = session_or_none(self, _unwrapped(context, self.context_keys))
            if session is not None:
                for block in blocks():
                    session.push(block)
                value = session.finish()
            else:
                segment = self.spec.model.segment
                parts = []
                for start, samples in segments(
                    blocks(), self.sample_rate_hz, longest_s=segment.longest_s, pause_s=segment.pause_s
                ):
                    part = self._batch([(0, item, Recording(samples, self.sample_rate_hz))], context, keep_going=False)
                    parts.append((start, part[0].value))
                value = joined(parts)
        return Output(item, value, seen / self.sample_rate_hz)

    def _batches(self, ready: list[tuple[int, Item, Any]], size: int) -> Iterator[list[tuple[int, Item, Any]]]:
        """Neighbours in length together; a batch holds at most `size` items and `batch.seconds` padded seconds."""
        limit = self.spec.model.batch.seconds * (self.sample_rate_hz if self.consumes.type == "Waveform" else 100)
        batch: list[tuple[int, Item, Any]] = []
        for entry in sorted(ready, key=lambda entry: _size(entry[2])):
            if batch and (len(batch) >= size or _size(entry[2]) * (len(batch) + 1) > limit):
                yield batch
                batch = []
            batch.append(entry)
        if batch:
            yield batch

    def _batch(
        self, batch: list[tuple[int, Item, Any]], context: Mapping[str, Any], keep_going: bool
    ) -> dict[int, Output]:
        chosen = select(context, self.context_keys, [index for index, _, _ in batch])
        try:
            chosen = self._read_signals(chosen)
            values = self.forward([value for _, _, value in batch], chosen)
        except SltError as error:
            if not keep_going:
                raise
            if len(batch) > 1:  # find the one that fails, and keep the others
                results: dict[int, Output] = {}
                for entry in batch:
                    results.update(self._batch([entry], context, keep_going))
                return results
            return {batch[0][0]: Output(batch[0][1], None, _seconds(batch[0][2]), error)}
        return {
            index: Output(item, result, _seconds(value))
            for (index, item, value), result in zip(batch, values, strict=True)
        }

    def _read_signals(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Side information that is sound (a playback reference, say), read at the pipeline's sample rate."""

        def samples(value: Any) -> Any:
            if value is None:
                return None
            item = value if isinstance(value, Item) else Item(str(value)[:80], value)
            return read_item(item, self.sample_rate_hz).samples

        read = dict(context)
        for name, key in self.context_keys.items():
            if key.type == "waveform" and name in read:
                value = read[name]
                read[name] = [samples(v) for v in value] if is_per_utterance(value, key) else samples(value)
        return read

    def forward(self, values: Sequence[Any], context: Mapping[str, Any]) -> list[Any]:
        """All stages on one batch of read inputs; one result for each."""
        with torch.inference_mode(), self.using(context):
            current = self._collate(values, context)
            for stage, part in self.parts.items():
                with self._stage(stage, len(values)):
                    current = _call(stage, part, current, context)
        return _split(current, len(values))

    def _collate(self, values: Sequence[Any], context: Mapping[str, Any]) -> Any:
        if self.consumes.type == "Text":
            return Text(list(values))
        arrays = [value.samples if isinstance(value, Recording) else value for value in values]
        lengths = torch.tensor([len(array) for array in arrays], dtype=torch.int64)
        padded = torch.zeros((len(arrays), int(lengths.max()), *arrays[0].shape[1:]), dtype=torch.float32)
        for row, array in enumerate(arrays):
            padded[row, : len(array)] = torch.from_numpy(np.ascontiguousarray(array))
        padded, lengths = padded.to(self.device), lengths.to(self.device)
        if self.consumes.type == "Waveform":
            return Waveform(padded, lengths, self.sample_rate_hz)
        shift = float(self.consumes.attributes.get("frame_shift_s", 0.01))
        return Features(padded, lengths, shift) if self.consumes.type == "Features" else Encoded(padded, lengths, shift)

    def open(self, context: Mapping[str, Any] | None = None) -> Session:
        """A streaming session for one utterance; **Raises** `StreamError` where a component cannot stream."""
        given = dict(context or {})
        check_context(given, self.context_keys, batch=1)
        return PipelineSession(self, self._prepared(given))

    @contextmanager
    def using(self, context: Mapping[str, Any]) -> Iterator[None]:
        """Let every attached transform read this call's context."""
        with ExitStack() as stack:
            for transform in self.transforms:
                stack.enter_context(transform.use(context))
            yield

    @contextmanager
    def _stage(self, name: str, batch: int) -> Iterator[None]:
        hook = self.registry.manager.hook
        hook.slt_before_stage(stage=name, batch=batch)
        start = time.perf_counter()
        try:
            yield
        except BaseException as error:
            hook.slt_stage_error(stage=name, error=error)
            raise
        hook.slt_after_stage(stage=name, batch=batch, seconds=time.perf_counter() - start)


def _call(stage: str, part: Any, current: Any, context: Mapping[str, Any]) -> Any:
    if stage == "encoder":
        return part(current, context) if callable(part) else part.forward(current, context)
    if stage == "decoder":
        return part.decode(current, context)
    if stage == "reranker":
        return [part.rerank(None, nbest, context) for nbest in current]
    return part.synthesize(part.analyze(current) if isinstance(current, Waveform) else current)


def _split(value: Any, count: int) -> list[Any]:
    """One result for each utterance, without padding."""
    if isinstance(value, list):
        return value
    if isinstance(value, Text):
        return list(value.texts)
    tensor: Tensor = value.samples if isinstance(value, Waveform) else value.values
    rows = [tensor[row, : int(value.lengths[row])].cpu().numpy() for row in range(count)]
    return [Recording(row, value.sample_rate_hz) for row in rows] if isinstance(value, Waveform) else rows


def _unwrapped(context: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value[0] if name in keys and is_per_utterance(value, keys[name]) else value
        for name, value in context.items()
    }


def _as_list(source: Any) -> list[Any]:
    if isinstance(source, np.ndarray) and source.ndim == 2:
        source = source.reshape(-1)
    return [source]


def _count(inputs: Any) -> int | None:
    try:
        return len(inputs)
    except TypeError:
        return None


def _size(value: Any) -> int:
    return len(value.samples) if isinstance(value, Recording) else len(value)


def _seconds(value: Any) -> float | None:
    return value.duration_s if isinstance(value, Recording) else None


def _use(spec: Spec, stage: str) -> str:
    return getattr(getattr(spec.model, stage, None), "use", stage)


def _devices() -> list[str]:
    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found
