"""Forced alignment: the most probable way in which a CTC model wrote a known text, label by label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sltcore.alignment import batched
from sltcore.ctc import frames_needed
from sltcore.errors import DataError, ShapeError, VocabularyError
from sltcore.types import Targets

SMALLEST_BLOCK = 32
WALKED_AGAIN = 8
"""A block is at most an eighth of the states long: the way back then walks no more than a quarter of them again."""
SHARED_ABOVE = 200_000
"""Products of frames and labels in a batch from which threads are worth starting."""


class Alignment(NamedTuple):
    """Where each label of one utterance was written, in the most probable alignment.

    `score` is the sum of the log-probabilities of its frames (nats, blanks included). `labels` [u] are the target's ids;
    label i stands in the frames `first[i]` to `stop[i] - 1`, on which its log-probability is `mean_log_prob[i]` on
    average. Frames between two labels are blank.
    """

    score: float
    labels: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]
    mean_log_prob: npt.NDArray[np.float64]


@overload
def forced_alignment(
    log_probs: Tensor,
    lengths: Tensor,
    targets: Targets,
    *,
    blank: int,
    ids: Sequence[str] | None = None,
    keep_going: Literal[False] = False,
    engine: Literal["compiled", "torch"] | None = None,
) -> list[Alignment]: ...


@overload
def forced_alignment(
    log_probs: Tensor,
    lengths: Tensor,
    targets: Targets,
    *,
    blank: int,
    ids: Sequence[str] | None = None,
    keep_going: Literal[True],
    engine: Literal["compiled", "torch"] | None = None,
) -> list[Alignment | None]: ...


def forced_alignment(
    log_probs: Tensor,
    lengths: Tensor,
    targets: Targets,
    *,
    blank: int,
    ids: Sequence[str] | None = None,
    keep_going: bool = False,
    engine: Literal["compiled", "torch"] | None = None,
) -> list[Alignment] | list[Alignment | None]:
    """The most probable CTC alignment of each utterance with its target.

    `score = max over paths p with B(p) = target of sum_t log_probs[t, p_t]`, where B merges equal neighbours and removes
    blanks. Of equally probable paths the one that leaves a state later is taken, and it ends in a blank.

    **Shapes**: `log_probs` [b t v] float32, natural log; `lengths` [b] in frames; `targets.ids` [b u]; padding is not
    read. The posteriors are not copied where they are float32, contiguous and on the CPU.
    **Engines**: `compiled` works on one utterance in each thread (as many as torch uses), `torch` on the whole batch
    where it is, a GPU for instance; without a choice, `compiled` on the CPU and `torch` elsewhere. The results are equal.
    **Memory** beside the posteriors: `alignment_bytes` for each thread, or b t (2 u + 1) / 4 bytes for `torch`.
    **Raises** `DataError` for a target that cannot be aligned (None in the list instead, with `keep_going`), naming the
    utterance by `ids` or its place, and for NaN; `ShapeError`, `VocabularyError` for axes or labels that do not fit.
    **Source**: Graves et al., "Connectionist temporal classification", ICML 2006, doi:10.1145/1143844.1143891, section 4
    with the maximum in the place of the sum.
    """
    names = _names(ids, len(lengths))
    _check(log_probs, lengths, targets, blank, names)
    frames, labels = lengths.tolist(), targets.lengths.tolist()
    need = frames_needed(targets.ids, targets.lengths).tolist()
    on_cpu = log_probs.device.type == "cpu"
    align = _align_compiled if (engine or ("compiled" if on_cpu else "torch")) == "compiled" else _align_batched
    fits = [least <= most for least, most in zip(need, frames, strict=True)]
    if not keep_going and not all(fits):
        row = fits.index(False)
        raise DataError(
            f"utterance {names[row]}: its {labels[row]} labels need {need[row]} frames, but it has {frames[row]}; "
            f"leave it out, or align it with an encoder of a shorter frame shift"
        )
    found = align(log_probs, lengths, targets, blank=blank, rows=[row for row, fit in enumerate(fits) if fit])
    results: list[Alignment | None] = []
    for row in range(len(frames)):
        alignment = found.get(row)
        if alignment is not None and np.isnan(alignment.score):
            raise DataError(
                f"utterance {names[row]}: its posteriors hold NaN or +infinity; expected log-probabilities, as "
                f"log_softmax gives them"
            )
        possible = alignment is not None and alignment.score > -np.inf
        if not possible and not keep_going:
            raise DataError(
                f"utterance {names[row]}: no alignment of its {labels[row]} labels is possible, each has a frame of "
                f"probability zero; leave it out, or check that text and recording belong together"
            )
        results.append(alignment if possible else None)
    return results


def alignment_bytes(frames: int, labels: int) -> int:
    """Bytes that the compiled search holds for one utterance beside its posteriors.

    A table of backpointers, 2 bits for each state and frame, would take frames (2 labels + 1) / 4 bytes: 5.4 GB for an
    hour of 20 ms frames with 60,000 characters. Instead the sums of every k-th frame are kept, 16 (labels + 1) bytes
    each, and on the way back each block of k frames is walked again, only where the rest of the path can have come
    from: k (k + 2) / 2 bytes of backpointers. For that hour this is 51 MB.
    """
    every = block_frames(frames, labels)
    width = min(every, labels) + 1
    kept = 16 * (labels + 1) * ((max(frames, 1) - 1) // every + 1)
    pointers = every * ((width + 1) // 2)
    working = 16 * (labels + 1) + 40 * (labels + 2) + 32 * (width + 1)
    return kept + pointers + working


def block_frames(frames: int, labels: int) -> int:
    """Frames in a block: what needs least memory, (16 frames labels)^(1/3), but not so long that time is lost."""
    least_memory = round(math.cbrt(16 * frames * (labels + 1)))
    return max(SMALLEST_BLOCK, min(least_memory, 2 * labels // WALKED_AGAIN))


def _align_compiled(
    log_probs: Tensor, lengths: Tensor, targets: Targets, *, blank: int, rows: Sequence[int]
) -> dict[int, Alignment]:
    """Each utterance by the kernel, several at once where that is worth while."""
    posteriors = log_probs.detach().to("cpu", torch.float32).numpy()
    ids = targets.ids.to("cpu", torch.int64).numpy()
    frames, labels = lengths.tolist(), targets.lengths.tolist()

    def align(row: int) -> Alignment:
        return align_one(posteriors[row, : frames[row]], ids[row, : labels[row]], blank=blank)

    work = sum(frames[row] * (labels[row] + 1) for row in rows)
    threads = min(torch.get_num_threads(), len(rows))
    if threads < 2 or work < SHARED_ABOVE:
        return {row: align(row) for row in rows}
    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(rows, pool.map(align, rows), strict=True))


def align_one(log_probs: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], *, blank: int) -> Alignment:
    """The kernel on one utterance [t v] that has frames enough; the score is NaN where the posteriors are unusable."""
    from sltcore.alignment.compiled import first_call
    from sltcore.alignment.kernel import align_utterance, workspace

    labels = np.array(ids, np.int64)
    first, stop, mean = np.zeros_like(labels), np.zeros_like(labels), np.zeros(len(labels))
    if not len(log_probs):
        return Alignment(0.0, labels, first, stop, mean)
    work = workspace(len(log_probs), len(labels), block_frames(len(log_probs), len(labels)))
    score, bad = first_call(align_utterance, log_probs, labels, blank, work, first, stop, mean)
    return Alignment(float("nan") if bad >= 0 else score, labels, first, stop, mean)


def _align_batched(
    log_probs: Tensor, lengths: Tensor, targets: Targets, *, blank: int, rows: Sequence[int]
) -> dict[int, Alignment]:
    """The utterances together, by tensor operations."""
    if not rows:
        return {}
    chosen = torch.tensor(list(rows), device=log_probs.device)
    some = log_probs.detach() if len(rows) == len(lengths) else log_probs.detach()[chosen]
    lengths, targets = lengths[chosen], Targets(targets.ids[chosen], targets.lengths[chosen])
    spans = batched.search(some, lengths, targets, blank=blank)
    columns = [tensor.cpu().numpy() for tensor in (targets.ids, spans.first, spans.stop)]
    scores, means = spans.scores.double().tolist(), spans.mean.double().cpu().numpy()
    found = {}
    for place, (row, count) in enumerate(zip(rows, targets.lengths.tolist(), strict=True)):
        labels, first, stop = (column[place, :count].astype(np.int64) for column in columns)
        found[row] = Alignment(scores[place], labels, first, stop, means[place, :count])
    return found


def _names(ids: Sequence[str] | None, count: int) -> list[str]:
    if ids is None:
        return [str(row) for row in range(count)]
    if len(ids) != count:
        raise ShapeError(f"ids names {len(ids)} utterances, but there are {count}; give one name for each")
    return [f"'{name}'" for name in ids]


def _check(log_probs: Tensor, lengths: Tensor, targets: Targets, blank: int, names: Sequence[str]) -> None:
    """**Raises** `ShapeError` when the axes do not match each other, `VocabularyError` when a label is no label."""
    ids, counts = targets
    batch = len(lengths)
    if log_probs.ndim != 3 or ids.ndim != 2 or not (len(log_probs) == len(ids) == len(counts) == batch):
        raise ShapeError(
            f"log_probs has shape {tuple(log_probs.shape)} with lengths {tuple(lengths.shape)} and targets "
            f"{tuple(ids.shape)}, {tuple(counts.shape)}; expected (b, t, v), (b,), (b, u) and (b,)"
        )
    size = log_probs.shape[2]
    if not 0 <= blank < size:
        raise VocabularyError(f"blank is {blank}, but the posteriors have {size} labels, from 0 to {size - 1}")
    for what, given, most in (("frames", lengths, log_probs.shape[1]), ("labels", counts, ids.shape[1])):
        wrong = ((given < 0) | (given > most)).nonzero()
        if len(wrong):
            row = int(wrong[0])
            raise ShapeError(
                f"utterance {names[row]}: {int(given[row])} {what} are claimed, but at most {most} are given"
            )
    inner = torch.arange(ids.shape[1], device=ids.device) < counts[:, None]
    odd = (((ids < 0) | (ids >= size) | (ids == blank)) & inner).nonzero()
    if len(odd):
        row, place = (int(index) for index in odd[0])
        raise VocabularyError(
            f"utterance {names[row]}: target id {int(ids[row, place])} in place {place} is "
            f"{'the blank' if int(ids[row, place]) == blank else f'no label; the labels run from 0 to {size - 1}'}"
        )
