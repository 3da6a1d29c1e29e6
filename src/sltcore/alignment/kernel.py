"""The compiled Viterbi search of one utterance: a forward pass that keeps few frames, and a way back by blocks.

State 2i is the blank before label i, state 2i + 1 is label i. Sums that end in a blank stand in `blanks[i]`, those that
end in a label in `marks[i + 1]`; `marks[0]` is impossible, so that the first label needs no case of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sltcore.alignment.compiled import compile_kernel

STAY, FROM_BLANK, FROM_LABEL = 0, 1, 2
"""Backpointers, two bits each: from the same state, from the blank before a label, from the label before."""


class Workspace(NamedTuple):
    """Arrays that a search works in, made by the caller: a kernel that allocates none needs no reference counts, which
    would cost as much as the search of a short text."""

    labelled: Any  # [u+1] int64: the labels, and one more that is never on the way back
    skip: Any  # [u+1]: 0 where a label may follow the one before at once, else -inf
    rows: Any  # [5 u+2]: sums that end in blanks and in labels, twice, and a frame's posteriors
    kept: Any  # [blocks 2 u+1]: the sums of every so manyth frame
    pointers: Any  # [block (w+1)/2] uint8: backpointers of a block
    near: Any  # [2 2 w+1]: sums within a block


def workspace(frames: int, labels: int, every: int) -> Workspace:
    """The arrays for an utterance of `frames` and `labels` in blocks of `every` frames."""
    width = min(every, labels) + 1
    return Workspace(
        np.empty(labels + 1, np.int64),
        np.empty(labels + 1),
        np.empty((5, labels + 2)),
        np.empty(((frames - 1) // every + 1, 2, labels + 1)),
        np.empty((every, (width + 1) // 2), np.uint8),
        np.empty((2, 2, width + 1)),
    )


@compile_kernel
def align_utterance(log_probs: Any, ids: Any, blank: int, work: Any, first: Any, stop: Any, mean: Any) -> Any:
    """Write the spans of the best alignment; returns its score (-inf: none is possible) and a bad frame or -1.

    `log_probs` [t v] float32 with t >= 1, `ids` [u] int64; `first`, `stop` [u] int64 and `mean` [u] float64 are written.
    """
    frames, labels, every = log_probs.shape[0], ids.shape[0], work.pointers.shape[0]
    labelled, skip, kept = work.labelled, work.skip, work.kept
    for i in range(labels):
        labelled[i] = ids[i]
        stop[i], mean[i] = 0, 0.0
        skip[i] = 0.0 if i > 0 and ids[i] != ids[i - 1] else -np.inf
    labelled[labels], skip[labels] = blank, -np.inf
    score, bad, on_label = walk(log_probs, labelled, skip, blank, every, work.rows, kept)
    if bad >= 0 or score == -np.inf:
        return score, bad
    place, t = labels - 1 if on_label else labels, frames - 1
    while t > 0:
        begin = (t - 1) // every * every
        steps = t - begin
        part = log_probs[begin + 1 : t + 1]
        bottom = max(0, place - steps)
        point_back(part, labelled, skip, blank, kept[begin // every], bottom, place, work.pointers, work.near)
        place, on_label = follow(part, labelled, begin + 1, bottom, place, on_label, work.pointers, first, stop, mean)
        t = begin
    if on_label:
        stop[place], first[place] = max(stop[place], 1), 0
        mean[place] += log_probs[0, labelled[place]]
    for i in range(labels):
        mean[i] /= stop[i] - first[i]
    return score, -1


@compile_kernel
def walk(log_probs: Any, labelled: Any, skip: Any, blank: int, every: int, rows: Any, kept: Any) -> Any:
    """The best sum over all alignments, a bad frame or -1, and whether the best one ends in a label.

    Every `every`th frame's sums go to `kept` [blocks 2 u+1]. Only pairs of states that can be reached, and from which
    the end can be, are worked on: at frame t those with u - frames + t <= i <= t.
    """
    frames, labels = log_probs.shape[0], labelled.shape[0] - 1
    for k in range(4):
        for i in range(labels + 2):
            rows[k, i] = -np.inf
    blanks, new_blanks, marks, new_marks, emitted = rows[0], rows[1], rows[2], rows[3], rows[4]
    for t in range(frames):
        row = log_probs[t]
        silent = float(row[blank])
        usable = silent < np.inf
        low, high = max(0, labels - frames + t), min(labels - 1, t)
        for i in range(low, high + 1):
            value = row[labelled[i]]
            usable &= value < np.inf
            emitted[i] = value
        if not usable:
            return 0.0, t, False
        if t == 0:
            blanks[0] = silent
            if labels > 0:
                marks[1] = emitted[0]
        else:
            # Parts of equal length from their first element on, and choices without `max`: so it becomes vector code.
            count = max(high - low + 1, 0)
            here, before, mine = blanks[low : low + count], marks[low : low + count], marks[low + 1 : low + 1 + count]
            new_here, new_mine = new_blanks[low : low + count], new_marks[low + 1 : low + 1 + count]
            jump, here_emitted = skip[low : low + count], emitted[low : low + count]
            for i in range(count):
                last = before[i] if before[i] > here[i] else here[i]
                best = here[i] if here[i] > mine[i] else mine[i]
                over = before[i] + jump[i]
                new_here[i] = last + silent
                new_mine[i] = (over if over > best else best) + here_emitted[i]
            if t >= labels:
                new_blanks[labels] = max(blanks[labels], marks[labels]) + silent
            blanks, new_blanks = new_blanks, blanks
            marks, new_marks = new_marks, marks
        if t % every == 0:
            for i in range(labels + 1):
                kept[t // every, 0, i] = blanks[i]
                kept[t // every, 1, i] = marks[i]
    return max(blanks[labels], marks[labels]), -1, marks[labels] > blanks[labels]


@compile_kernel
def point_back(
    part: Any, labelled: Any, skip: Any, blank: int, kept: Any, bottom: int, top: int, pointers: Any, sums: Any
) -> None:
    """Walk the frames of a block again from the sums `kept` before it, with backpointers, two pairs of them a byte.

    Of all states only those are walked from which state pair `top` can still be reached at the block's end.
    """
    steps = part.shape[0]
    for k in range(top - bottom + 1):
        sums[0, 0, k], sums[0, 1, k] = kept[0, bottom + k], kept[1, bottom + k]
    sums[0, 1, top - bottom + 1] = kept[1, top + 1] if top + 1 < labelled.shape[0] else -np.inf
    sums[1, 1, 0] = sums[0, 1, 0]
    for m in range(steps):
        old, new = sums[m & 1], sums[1 - (m & 1)]
        silent = float(part[m, blank])
        for i in range(max(bottom, top - (steps - 1 - m)), top + 1):
            k = i - bottom
            here, before, best = old[0, k], old[1, k], old[1, k + 1]
            over = before + skip[i]
            code = FROM_BLANK if here > best else STAY
            best = here if here > best else best
            code = FROM_LABEL if over > best else code
            best = over if over > best else best
            code = (code << 2) | (FROM_LABEL if before > here else STAY)
            new[0, k] = (before if before > here else here) + silent
            new[1, k + 1] = best + part[m, labelled[i]]
            held = pointers[m, k >> 1] & 15
            pointers[m, k >> 1] = (held | (code << 4)) if k & 1 else code


@compile_kernel
def follow(
    part: Any,
    labelled: Any,
    begin: int,
    bottom: int,
    place: int,
    on_label: bool,
    pointers: Any,
    first: Any,
    stop: Any,
    mean: Any,
) -> Any:
    """Follow a block's backpointers from its last state; returns the state before it. `mean` gathers sums."""
    for m in range(part.shape[0] - 1, -1, -1):
        code = pointers[m, (place - bottom) >> 1] >> (4 * ((place - bottom) & 1))
        if on_label:
            stop[place], first[place] = max(stop[place], begin + m + 1), begin + m
            mean[place] += part[m, labelled[place]]
            code >>= 2
        code &= 3
        if code == FROM_BLANK:
            on_label = False
        elif code == FROM_LABEL:
            on_label = True
            place -= 1
    return place, on_label
