"""What is heard of each phrase of a list, frame by frame: sparse rows that the search, the adapter and the spotter share.

Nearly all phrases of a list are silent in nearly all frames, so a row holds only those that are heard. All operations
are maxima, so they are exact: whatever is done to an utterance in pieces equals the same for the whole bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sltcore.errors import DataError, ShapeError

if TYPE_CHECKING:
    from slt_ctc_personalization.spotter.spotter import Hit

BLOCK_FRAMES = 512
"""Frames that `windowed` lays out densely at a time: bounds its memory, whatever the length of the audio."""


class Evidence(NamedTuple):
    """Row t is `phrase[start[t] : start[t + 1]]` and the same places of `value`.

    `start` [t + 1] int64; `phrase` [n] int32, indices into the phrases of the call, rising within a row; `value` [n]
    float32 in (0, 1], how surely the phrase is heard. What a row does not name is 0.
    """

    start: npt.NDArray[np.int64]
    phrase: npt.NDArray[np.int32]
    value: npt.NDArray[np.float32]

    @property
    def frames(self) -> int:
        """The number of rows."""
        return len(self.start) - 1


def nothing(frames: int) -> Evidence:
    """Rows in which no phrase is heard."""
    return Evidence(np.zeros(frames + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def from_attention(attention: Any, *, least: float = 0.05) -> Evidence:
    """An adapter's attention as evidence: all entries from `least` on.

    `attention` [t k], array or tensor, the column of phrase i is i (the no-bias column is not part of it). Each row
    of an attention sums to at most 1, so at most `1 / least` phrases are kept in a frame; values above 1 count as 1.

    **Raises** `ShapeError` for another shape, `DataError` for NaN or a `least` outside (0, 1].
    """
    if not 0.0 < least <= 1.0:
        raise DataError(f"evidence: least is {least}; give a number above 0, at most 1")
    values = attention.detach().float().cpu().numpy() if hasattr(attention, "detach") else np.asarray(attention)
    if values.ndim != 2:
        raise ShapeError(f"evidence: the attention has shape {tuple(values.shape)}, expected (t, k)")
    if np.isnan(values).any():
        frame, column = (int(i) for i in np.argwhere(np.isnan(values))[0])
        raise DataError(
            f"evidence: the attention is nan at frame {frame}, phrase {column}; expected numbers from 0 to 1"
        )
    return _sparse(values, values >= least, np.arange(values.shape[1]))


def from_hits(hits: Sequence[Hit], frames: int) -> Evidence:
    """A spotter's hits as evidence: a hit fills its frames `begin ... end - 1` with its `value`; where hits of a phrase
    overlap, the larger one counts.

    **Raises** `DataError` for a hit outside the `frames` of the utterance or with a value outside [0, 1].
    """
    for hit in hits:
        if hit.phrase < 0 or not 0 <= hit.begin <= hit.end <= frames:
            raise DataError(
                f"evidence: a hit of phrase {hit.phrase} covers frames {hit.begin} to {hit.end}, but there are {frames}"
            )
        if not 0.0 <= hit.value <= 1.0:
            raise DataError(f"evidence: a hit of phrase {hit.phrase} has the value {hit.value}; expected 0 to 1")
    heard = [hit for hit in hits if hit.value > 0.0]
    lengths = np.array([hit.end - hit.begin for hit in heard], np.int64)
    ends = np.cumsum(lengths)
    frame = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
    frame += np.repeat(np.array([hit.begin for hit in heard], np.int64), lengths)
    phrase = np.repeat(np.array([hit.phrase for hit in heard], np.int64), lengths)
    return _gathered(frames, frame, phrase, np.repeat(np.array([hit.value for hit in heard], np.float32), lengths))


def combined(a: Evidence, b: Evidence) -> Evidence:
    """The larger value of both for each frame and phrase. **Raises** `ShapeError` when the frames differ."""
    if a.frames != b.frames:
        raise ShapeError(
            f"evidence: {a.frames} frames cannot be combined with {b.frames}; both must hear the same audio"
        )
    frame = np.concatenate([_frame_of(a), _frame_of(b)])
    phrase = np.concatenate([a.phrase, b.phrase]).astype(np.int64)
    return _gathered(a.frames, frame, phrase, np.concatenate([a.value, b.value]))


def windowed(evidence: Evidence, *, before: int, after: int) -> Evidence:
    """Row t holds the largest values of the rows `t - before ... t + after`, as far as there are such rows.

    Costs frames x phrases heard within `BLOCK_FRAMES` x doublings of the window: 5 ms for 500 frames, 1,000 phrases that
    are heard somewhere in them, and a window of 111.
    """
    blocks = [
        _window(evidence, begin, min(begin + BLOCK_FRAMES, evidence.frames), before, after)
        for begin in range(0, evidence.frames, BLOCK_FRAMES)
    ]
    return joined(blocks) if blocks else nothing(0)


def _window(evidence: Evidence, begin: int, end: int, before: int, after: int) -> Evidence:
    low, high = max(begin - before, 0), min(end + after, evidence.frames)
    part = piece(evidence, low, high)
    names, column = np.unique(part.phrase, return_inverse=True)
    if not len(names):
        return nothing(end - begin)
    width = before + after + 1
    dense = np.zeros((end - begin + width - 1, len(names)), np.float32)  # row r is frame begin - before + r
    dense[_frame_of(part) + (low - begin + before), column] = part.value
    span = 1
    while span < width:  # row r covers rows r ... r + span - 1
        step = min(span, width - span)
        dense = np.maximum(dense[:-step], dense[step:])
        span += step
    return _sparse(dense, dense > 0.0, names)


def of_utterance(evidence: Evidence, phrases: int) -> npt.NDArray[np.float32]:
    """The largest value of each of so many phrases over all frames: [k] float32, 0 where a phrase is never heard."""
    found = np.zeros(phrases, np.float32)
    np.maximum.at(found, evidence.phrase, evidence.value)
    return found


def piece(evidence: Evidence, begin: int, end: int) -> Evidence:
    """The rows `begin ... end - 1`."""
    low, high = int(evidence.start[begin]), int(evidence.start[end])
    return Evidence(evidence.start[begin : end + 1] - low, evidence.phrase[low:high], evidence.value[low:high])


def joined(pieces: Iterable[Evidence]) -> Evidence:
    """The rows of several pieces, one after another."""
    parts = list(pieces)
    if len(parts) == 1:
        return parts[0]
    counts = [np.diff(part.start) for part in parts]
    return Evidence(
        np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([np.zeros(0, np.int64), *counts]))]),
        np.concatenate([np.zeros(0, np.int32), *(part.phrase for part in parts)]),
        np.concatenate([np.zeros(0, np.float32), *(part.value for part in parts)]),
    )


def check_evidence(evidence: Evidence, frames: int, phrases: int, what: str = "evidence") -> None:
    """**Raises** `ShapeError` unless there are `frames` rows, `DataError` unless they name only phrases below `phrases`,
    each with a value in (0, 1]."""
    if evidence.frames != frames or evidence.start[-1] != len(evidence.phrase):
        raise ShapeError(f"{what} has {evidence.frames} frames, but there are {frames} frames of log-probabilities")
    if len(evidence.phrase) == 0:
        return
    low, high = int(evidence.phrase.min()), int(evidence.phrase.max())
    if low < 0 or high >= phrases:
        raise DataError(f"{what} names phrase {low if low < 0 else high}, but the list has {phrases} phrases")
    if not (evidence.value.min() > 0.0 and evidence.value.max() <= 1.0):
        raise DataError(
            f"{what} has values from {evidence.value.min()} to {evidence.value.max()}; expected above 0, at most 1"
        )


def _frame_of(evidence: Evidence) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(evidence.frames), np.diff(evidence.start))


def _sparse(dense: npt.NDArray[Any], heard: npt.NDArray[np.bool_], names: npt.NDArray[Any]) -> Evidence:
    """Evidence from the places `heard` of [t k], columns named by rising phrase indices."""
    start = np.concatenate([np.zeros(1, np.int64), np.cumsum(heard.sum(axis=1))])
    column = np.nonzero(heard)[1]
    value = np.minimum(dense[heard], 1.0).astype(np.float32)
    return Evidence(start.astype(np.int64), names[column].astype(np.int32), value)


def _gathered(
    frames: int, frame: npt.NDArray[np.int64], phrase: npt.NDArray[np.int64], value: npt.NDArray[np.float32]
) -> Evidence:
    """Evidence from entries in any order; the largest of several for one place counts."""
    width = int(phrase.max()) + 1 if len(phrase) else 1
    places, index = np.unique(frame * width + phrase, return_inverse=True)
    largest = np.zeros(len(places), np.float32)
    np.maximum.at(largest, index, value)
    start = np.searchsorted(places, np.arange(frames + 1) * width).astype(np.int64)
    return Evidence(start, (places % width).astype(np.int32), largest)
