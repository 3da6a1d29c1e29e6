"""Texts aligned with recordings, by any pipeline with a CTC decoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sltcore.alignment.posteriors import centres_s, ctc_head, of_batch, of_long
from sltcore.alignment.viterbi import Alignment, forced_alignment
from sltcore.alignment.words import Spelling, Spellings
from sltcore.audio import Recording
from sltcore.context import check_context, select
from sltcore.ctc import pad_labels
from sltcore.errors import DataError, SltError
from sltcore.pipeline import Pipeline
from sltcore.pipeline.batches import Entry, by_length, units_per_s
from sltcore.pipeline.inputs import opened
from sltcore.types import Item

LOOK_AHEAD = 8  # batches whose inputs are read before they are sorted by length


class Unit(NamedTuple):
    """A word or label of a transcript: when it was said, and its log-probability a frame (nats), blanks left out."""

    text: str
    start_s: float
    end_s: float
    score: float


class AlignedText(NamedTuple):
    """One item's transcript in time.

    `score` is the alignment's log-probability (nats) over all `frames`. `labels` are all labels of the spelling, word
    boundaries among them; `words` is None where nothing tells which labels make a word. `error` says why there is none.
    """

    item: Item
    duration_s: float | None = None
    score: float = 0.0
    frames: int = 0
    labels: tuple[Unit, ...] = ()
    words: tuple[Unit, ...] | None = None
    error: SltError | None = None


def align(
    pipeline: Pipeline,
    items: Iterable[Item],
    *,
    keep_going: bool = False,
    batch_size: int | None = None,
    count: int | None = None,
    context: Mapping[str, Any] | None = None,
) -> Iterator[AlignedText]:
    """The words and labels of each item's `text` in time, in the order of the items.

    Frame i covers `offset_s + (i ± 1/2) frame_shift_s`: a unit lasts from half a frame before the first frame that it was
    written in to half a frame after the last, never before zero, and never into the unit before it. CTC models write
    labels late and briefly, so ends are early: what follows a word's last label until the next word is blank.

    Items are batched with neighbours in length. A recording above the pipeline's `segment.above_s` is encoded in
    windows or segments and aligned as a whole, in the memory of its posteriors, 4 v bytes a frame, and
    `alignment_bytes`. With `keep_going` an item that fails has an `error`. **Raises** otherwise: `DataError` without
    text or where no alignment is possible, `VocabularyError` for a word without a spelling, `AudioError`, and
    `PortError` for a pipeline without a CTC head.
    """
    ctc_head(pipeline)
    given = dict(context or {})
    check_context(given, pipeline.context_keys, batch=count)
    aligner = _Aligner(pipeline, given, keep_going=keep_going)
    size = batch_size or pipeline.spec.model.batch.size
    units = units_per_s(pipeline.consumes, pipeline.sample_rate_hz)
    limit = pipeline.spec.model.batch.seconds * units if units else float("inf")
    waiting: list[tuple[int, Item]] = []
    held = 0
    for index, item in enumerate(items):
        waiting.append((index, item))
        held += aligner.read(index, item)
        if len(waiting) >= LOOK_AHEAD * size or held >= LOOK_AHEAD * limit or not aligner.ready:
            yield from aligner.finish(waiting, size, limit)
            waiting, held = [], 0
    yield from aligner.finish(waiting, size, limit)


class _Aligner:
    """Inputs that are read and wait for a batch, and alignments that are done."""

    def __init__(self, pipeline: Pipeline, context: Mapping[str, Any], *, keep_going: bool) -> None:
        self.pipeline = pipeline
        self.context = context
        self.keep_going = keep_going
        self.spell = Spellings(pipeline.parts["decoder"], context)
        self.ready: list[Entry] = []
        self._spellings: dict[int, Spelling] = {}
        self._done: dict[int, AlignedText] = {}

    def read(self, index: int, item: Item) -> int:
        """Spell and read an item, align it at once where it is long; returns how many units of it are held."""
        try:
            self._spellings[index] = self._spelled(item)
            with ExitStack() as stack:
                value = self._opened(stack, item)
                if value is None or isinstance(value, Recording | np.ndarray):
                    self.ready.append(Entry(index, item, self.pipeline.read(item) if value is None else value))
                    return self.ready[-1].size
                posteriors, seconds = of_long(self.pipeline, value, self._chosen([index]))
            whole = posteriors.values[None]
            self._put(index, item, whole, posteriors.centres_s, posteriors.frame_shift_s, duration_s=seconds)
        except SltError as error:
            self._fail(index, item, error)
        return 0

    def _opened(self, stack: ExitStack, item: Item) -> Any:
        if self.pipeline.consumes.type != "Waveform":
            return None
        longest_s = self.pipeline.spec.model.segment.above_s
        return stack.enter_context(opened(item, self.pipeline.sample_rate_hz, longest_s))

    def _spelled(self, item: Item) -> Spelling:
        if item.text is None:
            raise DataError(
                f"input '{item.id}' has no text to align; give --text, a manifest with a column 'text', or a file "
                f"of the same name that ends in .txt"
            )
        try:
            return self.spell(item.text)
        except SltError as error:
            raise type(error)(f"input '{item.id}': {error}") from None

    def finish(self, waiting: Sequence[tuple[int, Item]], size: int, limit: float) -> Iterator[AlignedText]:
        """Work on everything that waits."""
        for batch in by_length(self.ready, most=size, limit=limit):
            self._batch(batch)
        self.ready = []
        for index, _ in waiting:
            self._spellings.pop(index, None)
            yield self._done.pop(index)

    def _batch(self, batch: Sequence[Entry]) -> None:
        try:
            chosen = self._chosen([entry.place for entry in batch])
            values, lengths, encoded = of_batch(self.pipeline, [entry.value for entry in batch], chosen)
        except Exception as error:
            if not self.keep_going:
                raise
            if len(batch) == 1:
                text = " ".join(str(error).split())
                named = error if isinstance(error, SltError) else DataError(f"input '{batch[0].item.id}': {text}")
                self._fail(batch[0].place, batch[0].item, named)
                return
            for entry in batch:  # find the one that fails, and keep the others
                self._batch([entry])
            return
        targets = pad_labels((self._spellings[entry.place].ids for entry in batch), values.device)
        found = forced_alignment(
            values, lengths, targets, blank=self.spell.vocabulary.blank, ids=[e.item.id for e in batch], keep_going=True
        )
        for row, (entry, alignment) in enumerate(zip(batch, found, strict=True)):
            frames = int(lengths[row])
            self._put(
                entry.place,
                entry.item,
                values[row : row + 1, :frames],
                centres_s(frames, encoded),
                encoded.frame_shift_s,
                duration_s=entry.duration_s,
                alignment=alignment,
            )

    def _put(
        self,
        index: int,
        item: Item,
        values: Tensor,
        centres: npt.NDArray[np.float64],
        frame_shift_s: float,
        *,
        duration_s: float | None,
        alignment: Alignment | None = None,
    ) -> None:
        spelling = self._spellings[index]
        try:
            if alignment is None:  # not aligned yet, or impossible: then this says why
                targets = pad_labels([spelling.ids], values.device)
                lengths = targets.lengths.new_tensor([values.shape[1]])
                (alignment,) = forced_alignment(
                    values, lengths, targets, blank=self.spell.vocabulary.blank, ids=[item.id]
                )
        except SltError as error:
            self._fail(index, item, error)
            return
        times = unit_times(alignment, centres, frame_shift_s)
        names = [self.spell.vocabulary.labels[label] for label in spelling.ids]
        labels = [
            Unit(name, *time, round(float(score), 4))
            for name, time, score in zip(names, times, alignment.mean_log_prob, strict=True)
        ]
        words = None
        if spelling.words is not None:
            words = tuple(
                Unit(word.text, labels[word.first].start_s, labels[word.stop - 1].end_s, mean_over(alignment, word))
                for word in spelling.words
            )
        self._done[index] = AlignedText(item, duration_s, alignment.score, len(centres), tuple(labels), words)

    def _chosen(self, rows: Sequence[int]) -> Mapping[str, Any]:
        return select(self.context, self.pipeline.context_keys, list(rows))

    def _fail(self, index: int, item: Item, error: SltError) -> None:
        if not self.keep_going:
            raise error
        self._done[index] = AlignedText(item, error=error)


def unit_times(
    alignment: Alignment, centres: npt.NDArray[np.float64], frame_shift_s: float
) -> list[tuple[float, float]]:
    """Start and end of each label in seconds, to the microsecond, from the centres [t] of the frames."""
    half = frame_shift_s / 2
    times: list[tuple[float, float]] = []
    before = 0.0
    for first, stop in zip(alignment.first, alignment.stop, strict=True):
        start = max(before, round(float(centres[first]) - half, 6))
        before = max(start, round(float(centres[stop - 1]) + half, 6))
        times.append((start, before))
    return times


def mean_over(alignment: Alignment, word: Any) -> float:
    """Log-probability a frame over all frames in which a word's labels were written."""
    part = slice(word.first, word.stop)
    frames = alignment.stop[part] - alignment.first[part]
    return round(float((alignment.mean_log_prob[part] * frames).sum() / frames.sum()), 4)
