"""What a decoder reads of the phrases of a call beside its own posteriors: an adapter's attention, a spotter's hits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.adapter.attention_supervision import PHRASE_ATTENTION
from slt_ctc_personalization.beam_search.search import PhraseTable
from slt_ctc_personalization.evidence.evidence import Evidence, combined, from_attention, from_spans, joined, piece
from slt_ctc_personalization.phrases.prepared_phrases import PhraseLists
from slt_ctc_personalization.spotter.spotter import HitArrays, Spotter, SpotterTable
from sltcore.errors import DataError
from sltcore.types import Encoded

Frames = npt.NDArray[np.float32]
Paths = Sequence[Sequence[Sequence[int]]]

PHONE_LOG_PROBS = "phone_log_probs"
"""Name of the phones' log-probabilities [b t p] in `Encoded.extra`."""
BLOCK_FRAMES = 4
"""A spotter is asked for its hits after each so many frames, in streams and offline alike."""


class PhoneSource:
    """Hits of a word spotter as evidence, in phones of the encoder or in those that the decoder itself reads."""

    def __init__(self, spotter: Spotter, spell: Callable[[Any], Paths], *, own: bool) -> None:
        """`spell` gives the label paths of each phrase of a list; `own`: the decoder's log-probabilities are read, else
        `Encoded.extra["phone_log_probs"]`."""
        self.spotter = spotter
        self.own = own
        self.lists = PhraseLists(lambda phrases: spotter.prepare(spell(phrases)), spotter)

    def table(self, phrases: Any) -> SpotterTable:
        """The spotter's table of a list of phrases. **Raises** `ContextError` naming those that cannot be pronounced."""
        if isinstance(phrases, PhraseTable):
            raise DataError(
                "evidence: phones need the phrases themselves to pronounce them, and got a table of label paths; give the list, "
                "or what pipeline.prepare made of it"
            )
        found: SpotterTable = self.lists.of(phrases)
        return found

    def frames(self, encoded: Encoded, own: Frames) -> Frames:
        """The log-probabilities [b t p] that are spotted in."""
        if self.own:
            return own
        values: Frames = _extra(encoded, PHONE_LOG_PROBS, "phones").detach().cpu().numpy()
        if values.shape[:2] != own.shape[:2]:
            raise DataError(
                f"evidence: Encoded.extra['{PHONE_LOG_PROBS}'] has shape {values.shape}, expected (b, t, p) with b, t = "
                f"{own.shape[:2]}"
            )
        return values

    def hear(self, log_probs: Frames, table: SpotterTable) -> Evidence:
        """The evidence of a whole utterance [t p] of the phrases of a table."""
        rows = HitRows(self.spotter, table)
        return joined([rows.push(log_probs), rows.finish()])


class HitRows:
    """Evidence rows from a spotter's hits, in the order of frames, the same whatever the chunks.

    A hit fills the frames `begin ... end - 1` with its value. It is known some frames late, so row t is given out once
    frame `t + delay` has been heard, `delay` being the spotter's `settle` and one block; a hit that is known later still
    (its border was heard late) fills what is left of its frames, at least the first row that is not out yet.
    """

    def __init__(self, spotter: Spotter, table: SpotterTable) -> None:
        self.delay = spotter.settle + BLOCK_FRAMES
        self._session = spotter.open(table)
        self._waiting = np.zeros((0, len(spotter.labels)), np.float32)
        self._hits: list[Spans] = []
        self._heard = 0
        self._out = 0

    def push(self, log_probs: Frames) -> Evidence:
        """Hear frames [t p]: the rows that are known now."""
        frames = np.concatenate([self._waiting, log_probs]) if len(self._waiting) else log_probs
        whole = len(frames) - len(frames) % BLOCK_FRAMES
        for begin in range(0, whole, BLOCK_FRAMES):
            self._hear(frames[begin : begin + BLOCK_FRAMES])
        self._waiting = frames[whole:].copy()
        return self._rows(max(self._heard - self.delay, self._out))

    def finish(self) -> Evidence:
        """End the utterance: the remaining rows."""
        out = max(self._heard - self.delay, 0)
        self._hear(self._waiting)
        self._keep(self._session.finish_arrays(), out)
        return self._rows(self._heard)

    def _hear(self, block: Frames) -> None:
        if len(block):
            out = max(self._heard - self.delay, 0)
            hits = self._session.push_arrays(block)
            self._heard += len(block)
            self._keep(hits, out)

    def _keep(self, hits: HitArrays, out: int) -> None:
        """Take hits when, read block by block, `out` rows have been given out."""
        begin = np.maximum(hits.begin, out)
        self._hits.append(Spans(hits.phrase, begin, np.maximum(hits.end, begin + 1), hits.value))

    def _rows(self, end: int) -> Evidence:
        first, count = self._out, end - self._out
        held = joined_spans(self._hits)
        inside = held.where(held.begin < end)
        begin, stop = np.maximum(inside.begin - first, 0), np.minimum(inside.end - first, count)
        self._hits = [held.where(held.end > end)]
        self._out = end
        return from_spans(inside.phrase, begin, stop, inside.value, frames=count)


class Spans(NamedTuple):
    """Phrases heard in frames `begin ... end - 1`, as columns [n]."""

    phrase: npt.NDArray[np.int64]
    begin: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]

    def where(self, mask: npt.NDArray[np.bool_]) -> Spans:
        """Some of them."""
        return Spans(self.phrase[mask], self.begin[mask], self.end[mask], self.value[mask])


def joined_spans(parts: Sequence[Spans]) -> Spans:
    """All of them, in their order."""
    none = np.zeros(0, np.int64)
    return Spans(
        np.concatenate([none, *(part.phrase for part in parts)]),
        np.concatenate([none, *(part.begin for part in parts)]),
        np.concatenate([none, *(part.end for part in parts)]),
        np.concatenate([np.zeros(0), *(part.value for part in parts)]),
    )


class EvidenceReader:
    """The evidence of a batch, from the attention, from phones, or the larger of both.

    Attention is read from `Encoded.extra["phrase_attention"]` [b t k+1] without column 0, which is for no phrase.
    """

    def __init__(self, *, attention: bool, phones: PhoneSource | None, threads: int = 1) -> None:
        """`attention` and `phones` say what is read; at least one of them."""
        self.attention = attention
        self.phones = phones
        self.threads = threads

    def read(self, encoded: Encoded, own: Frames, lists: Sequence[Any], counts: Sequence[int]) -> list[Evidence | None]:
        """For each utterance what is heard of its phrases, None where it has none.

        `own` [b t v] are the decoder's log-probabilities, `lists` the phrases, `counts` their numbers. **Raises**
        `DataError` where `extra` lacks what is to be read, or the attention has columns for another number of phrases.
        """
        listed = [row for row, count in enumerate(counts) if count]
        found: list[Evidence | None] = [None] * len(counts)
        if not listed:
            return found
        attention = self._attention(encoded, max(counts)) if self.attention else None
        phones = None if self.phones is None else self.phones.frames(encoded, own)
        lengths = encoded.lengths.tolist()
        # Made here, not in the threads: what is kept of lists is not locked, and a batch may hold more lists than are kept.
        tables = {} if self.phones is None else {row: self.phones.table(lists[row]) for row in listed}

        def heard(row: int) -> Evidence:
            sources = []
            if attention is not None:
                sources.append(from_attention(attention[row, : lengths[row], 1 : counts[row] + 1]))
            if phones is not None and self.phones is not None:
                sources.append(self.phones.hear(phones[row, : lengths[row]], tables[row]))
            return sources[0] if len(sources) == 1 else combined(*sources)

        for row, evidence in zip(listed, in_parallel(heard, listed, self.threads), strict=True):
            found[row] = evidence
        return found

    def open(self, phrases: Any, count: int) -> EvidenceStream:
        """The evidence of one utterance, chunk by chunk."""
        return EvidenceStream(self, phrases, count)

    def _attention(self, encoded: Encoded, count: int) -> Any:
        attention = _extra(encoded, PHRASE_ATTENTION, "attention")
        if attention.shape[2] != count + 1:
            raise DataError(
                f"evidence: {count} phrases are decoded with, but Encoded.extra['{PHRASE_ATTENTION}'] has columns for "
                f"{attention.shape[2] - 1}; give encoder and decoder the same lists"
            )
        return attention


class EvidenceStream:
    """Frames and evidence of one utterance, handed on as soon as their rows are known; the rows are those of the whole."""

    def __init__(self, reader: EvidenceReader, phrases: Any, count: int) -> None:
        self._reader = reader
        self._count = count
        self._hits: HitRows | None = None
        if reader.phones is not None:
            self._hits = HitRows(reader.phones.spotter, reader.phones.table(phrases))
        self._frames: list[Frames] = []
        self._rows: list[Evidence] = []

    def push(self, encoded: Encoded, own: Frames) -> tuple[Frames, Evidence]:
        """Take a chunk of one utterance, `own` [1 t v]: the frames [t v] whose rows are known now, and these."""
        length = int(encoded.lengths[0])
        rows: Evidence | None = None
        if self._reader.attention:
            attention = self._reader._attention(encoded, self._count)
            rows = from_attention(attention[0, :length, 1 : self._count + 1])
        if self._hits is None or self._reader.phones is None:
            assert rows is not None
            return own[0, :length], rows
        self._frames.append(own[0, :length])
        if rows is not None:
            self._rows.append(rows)
        return self._known(self._hits.push(self._reader.phones.frames(encoded, own)[0, :length]))

    def finish(self) -> tuple[Frames, Evidence] | None:
        """The frames held back, or None where none is."""
        return None if self._hits is None or not self._frames else self._known(self._hits.finish())

    def _known(self, heard: Evidence) -> tuple[Frames, Evidence]:
        frames, count = np.concatenate(self._frames), heard.frames
        self._frames = [frames[count:].copy()]
        if self._reader.attention:
            rows = joined(self._rows)
            self._rows = [piece(rows, count, rows.frames)]
            heard = combined(heard, piece(rows, 0, count))
        return frames[:count], heard


def in_parallel(work: Callable[[int], Any], rows: Sequence[int], threads: int) -> list[Any]:
    """`work` of each row; the first one alone, for it may compile what the others use."""
    workers = min(threads, len(rows) - 1)
    if workers <= 1:
        return [work(row) for row in rows]
    first = work(rows[0])
    with ThreadPoolExecutor(workers) as pool:
        return [first, *pool.map(work, rows[1:])]


def _extra(encoded: Encoded, name: str, source: str) -> Any:
    found = encoded.extra.get(name)
    if found is None:
        there = ", ".join(sorted(encoded.extra)) or "nothing"
        raise DataError(
            f"evidence: {source} is read from Encoded.extra['{name}'], but the encoder wrote {there}; give the phrases to the "
            f"encoder too, or choose another evidence"
        )
    return found
