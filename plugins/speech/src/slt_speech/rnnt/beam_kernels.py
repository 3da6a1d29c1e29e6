"""Compiled bookkeeping of the transducer's beam search; importing this module compiles or loads machine code.

Prefixes form a tree for each utterance. A node stands for one label sequence, and its number, counted through all
utterances, is the row in which a search keeps what the prediction network says of it. A path is what led a hypothesis
to its prefix: labels, frames and log-probabilities, as a list linked backwards. Both are renumbered when they are full;
what no hypothesis can reach any more is dropped.
"""
# mypy: disable-error-code="untyped-decorator,no-any-return"

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from sltcore.alignment.compiled import OPTIONS, compile_kernel

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

INNER: dict[str, Any] = {**OPTIONS, "inline": "never"}


class Beams(NamedTuple):
    """The searches of a batch: `k` hypotheses, `a` results of one frame, `n` nodes, `m` arcs of paths.

    `place` [b 6]: frame, labels written in it, hypotheses, results, nodes, arcs. `node`, `path` and `score` [b k] are the
    hypotheses that go on in this frame; `done_*` [b a] those that have left it, merged by node, with the score of their
    best path in `done_best`. Tree [b n]: `parent`, `label`, `child` and `sibling` (first and next, -1 for none), `result`
    (in `done_*`, -1 for none). Paths [b m]: `before`, `arc_label`, `arc_frame`, `arc_score`. `heap_*` [k] is for scratch.
    """

    place: Ints
    node: Ints
    path: Ints
    score: Floats
    done_node: Ints
    done_path: Ints
    done_score: Floats
    done_best: Floats
    parent: Ints
    label: Ints
    child: Ints
    sibling: Ints
    result: Ints
    before: Ints
    arc_label: Ints
    arc_frame: Ints
    arc_score: Floats
    heap_score: Floats
    heap_row: Ints
    heap_label: Ints
    next_node: Ints
    next_path: Ints


class Requests(NamedTuple):
    """What a search wants to know next: `frame` and `node` [b k] rows of hypotheses; `new` nodes with their `parents` and
    `labels`; `counts` [3]: hypotheses, new nodes, and whether room is short."""

    frame: Ints
    node: Ints
    new: Ints
    parents: Ints
    labels: Ints
    counts: Ints


FRAME, WRITTEN, COUNT, DONE, NODES, ARCS = range(6)


@numba.njit(**INNER)
def sift_down(score: Any, row: Any, label: Any, size: int) -> None:
    """Restore the order of a heap, least first, after its first entry was replaced."""
    i = 0
    while True:
        least, left = i, 2 * i + 1
        if left < size and score[left] < score[least]:
            least = left
        if left + 1 < size and score[left + 1] < score[least]:
            least = left + 1
        if least == i:
            return
        score[i], score[least] = score[least], score[i]
        row[i], row[least] = row[least], row[i]
        label[i], label[least] = label[least], label[i]
        i = least


@numba.njit(**INNER)
def push(score: Any, row: Any, label: Any, size: int, value: float, r: int, tag: int) -> int:
    """Put an entry into a heap of the best, dropping the least where it is full; the new size."""
    if size == len(score):
        if not value > score[0]:
            return size
        score[0], row[0], label[0] = value, r, tag
        sift_down(score, row, label, size)
        return size
    i = size
    while i > 0:
        up = (i - 1) // 2
        if not score[up] > value:
            break
        score[i], row[i], label[i] = score[up], row[up], label[up]
        i = up
    score[i], row[i], label[i] = value, r, tag
    return size + 1


@numba.njit(**INNER)
def order(score: Any, row: Any, label: Any, size: int) -> None:
    """Sort a heap, best first."""
    for last in range(size - 1, 0, -1):
        score[0], score[last] = score[last], score[0]
        row[0], row[last] = row[last], row[0]
        label[0], label[last] = label[last], label[0]
        sift_down(score, row, label, last)


@numba.njit(**INNER)
def leave_frame(s: Any, b: int, i: int, score: float) -> None:
    """Hypothesis i ends this frame with a blank; one that reads the same is merged with it."""
    node = s.node[b, i]
    at = s.result[b, node]
    if at < 0:
        at = s.place[b, DONE]
        s.place[b, DONE] += 1
        s.result[b, node] = at
        s.done_node[b, at], s.done_path[b, at] = node, s.path[b, i]
        s.done_score[b, at] = s.done_best[b, at] = score
        return
    old = s.done_score[b, at]
    high, low = max(old, score), min(old, score)
    s.done_score[b, at] = high if low == -np.inf else high + math.log1p(math.exp(low - high))
    if score > s.done_best[b, at]:
        s.done_best[b, at], s.done_path[b, at] = score, s.path[b, i]


@numba.njit(**INNER)
def best_done(s: Any, b: int) -> int:
    """Put the best results of the frame into the heap; how many."""
    size = 0
    for at in range(s.place[b, DONE]):
        size = push(s.heap_score, s.heap_row, s.heap_label, size, s.done_score[b, at], at, 0)
    return size


@numba.njit(**INNER)
def extended(s: Any, b: int, node: int, label: int) -> int:
    """The node of a prefix and one label more; the negative of it, less one, where it is new."""
    found = s.child[b, node]
    while found >= 0:
        if s.label[b, found] == label:
            return found
        found = s.sibling[b, found]
    new = s.place[b, NODES]
    s.place[b, NODES] += 1
    s.parent[b, new], s.label[b, new] = node, label
    s.sibling[b, new], s.child[b, node] = s.child[b, node], new
    s.child[b, new], s.result[b, new] = -1, -1
    return -new - 1


@numba.njit(**INNER)
def write_labels(s: Any, b: int, first: int, log_probs: Any, bonus: Any, past: int, blank: int, wants: Any) -> int:
    """Replace the hypotheses of this frame by the best of those with one label more; how many there are.

    One that is no better than the worst of a full beam of results cannot win and is dropped.
    """
    base = b * s.parent.shape[1]
    k = s.score.shape[1]
    threshold = -np.inf
    if s.place[b, DONE] >= k:
        best_done(s, b)
        threshold = s.heap_score[0]
    size = 0
    for i in range(s.place[b, COUNT]):
        score, row, node = s.score[b, i], first + i, base + s.node[b, i]
        for label in range(log_probs.shape[1]):
            value = score + log_probs[row, label]
            if len(bonus):
                value += bonus[node, label]
            if value > threshold and label != blank:
                size = push(s.heap_score, s.heap_row, s.heap_label, size, value, i, label)
                if size == k:
                    threshold = max(threshold, s.heap_score[0])
    order(s.heap_score, s.heap_row, s.heap_label, size)
    for j in range(size):
        i, label = s.heap_row[j], s.heap_label[j]
        parent = s.node[b, i]
        node = extended(s, b, parent, label)
        if node < 0:
            node = -node - 1
            at = wants.counts[1]
            wants.counts[1] += 1
            wants.new[at], wants.parents[at], wants.labels[at] = base + node, base + parent, label
        arc = s.place[b, ARCS]
        s.place[b, ARCS] += 1
        s.before[b, arc], s.arc_label[b, arc] = s.path[b, i], label
        s.arc_frame[b, arc], s.arc_score[b, arc] = past + s.place[b, FRAME], log_probs[first + i, label]
        s.next_node[j], s.next_path[j] = node, arc
    for j in range(size):
        s.node[b, j], s.path[b, j], s.score[b, j] = s.next_node[j], s.next_path[j], s.heap_score[j]
    return size


@numba.njit(**INNER)
def next_frame(s: Any, b: int) -> None:
    """Begin the next frame with the best results of this one."""
    size = best_done(s, b)
    order(s.heap_score, s.heap_row, s.heap_label, size)
    for at in range(s.place[b, DONE]):
        s.result[b, s.done_node[b, at]] = -1
    for j in range(size):
        at = s.heap_row[j]
        s.node[b, j], s.path[b, j], s.score[b, j] = s.done_node[b, at], s.done_path[b, at], s.heap_score[j]
    s.place[b, COUNT], s.place[b, DONE], s.place[b, WRITTEN] = size, 0, 0
    s.place[b, FRAME] += 1


@numba.njit(**INNER)
def request(s: Any, b: int, frames: int, wants: Any) -> None:
    """Ask for the joint of an utterance's frame with each of its hypotheses, and note whether room gets short."""
    base = b * s.parent.shape[1]
    for i in range(s.place[b, COUNT]):
        at = wants.counts[0]
        wants.counts[0] += 1
        wants.frame[at], wants.node[at] = b * frames + s.place[b, FRAME], base + s.node[b, i]
    k = s.score.shape[1]
    if s.place[b, NODES] + k > s.parent.shape[1] or s.place[b, ARCS] + k > s.before.shape[1]:
        wants.counts[2] = 1


@compile_kernel
def begin(s: Any, lengths: Any, frames: int, wants: Any) -> None:
    """Ask for the first frame of each utterance; `frames` is the width of the batch."""
    wants.counts[:] = 0
    for b in range(len(lengths)):
        s.place[b, FRAME] = 0
        if lengths[b] > 0:
            request(s, b, frames, wants)


@compile_kernel
def advance(
    s: Any,
    log_probs: Any,
    bonus: Any,
    past: Any,
    lengths: Any,
    frames: int,
    blank: int,
    max_symbols: int,
    wants: Any,
) -> None:
    """Read the log-probabilities [rows v] that were asked for, let every search go on, and ask for the next ones.

    `bonus` [nodes v] is added to labels, nothing where it has no rows; `past` [b] are frames of earlier pieces.
    """
    first = 0
    wants.counts[:] = 0
    for b in range(len(lengths)):
        if s.place[b, FRAME] >= lengths[b]:
            continue
        count = s.place[b, COUNT]
        for i in range(count):
            leave_frame(s, b, i, s.score[b, i] + log_probs[first + i, blank])
        left = 0
        if s.place[b, WRITTEN] < max_symbols:
            left = write_labels(s, b, first, log_probs, bonus, past[b], blank, wants)
        if left:
            s.place[b, COUNT] = left
            s.place[b, WRITTEN] += 1
        else:
            next_frame(s, b)
        first += count
        if s.place[b, FRAME] < lengths[b]:
            request(s, b, frames, wants)


@compile_kernel
def compact_nodes(s: Any, b: int, moved: Any, kept: Any, renamed: Any) -> None:
    """Drop the nodes of one utterance that no hypothesis needs; node i is afterwards what node `moved[i]` was.

    Kept are nodes between two that are alive: they may be found again from above, and must then be the same. `kept` and
    `renamed` [n] are for scratch.
    """
    nodes = s.place[b, NODES]
    kept[:nodes] = 0
    for i in range(s.place[b, COUNT]):
        kept[s.node[b, i]] = 1
    for i in range(s.place[b, DONE]):
        kept[s.done_node[b, i]] = 1
    for i in range(nodes):  # a parent stands before its children: is something alive here or above?
        above = s.parent[b, i]
        renamed[i] = 1 if kept[i] or (above >= 0 and renamed[above]) else 0
    for i in range(nodes - 1, -1, -1):  # here or below?
        if kept[i] and s.parent[b, i] >= 0:
            kept[s.parent[b, i]] = 1
    left = 0
    for i in range(nodes):
        if not (kept[i] and renamed[i]):
            renamed[i] = -1
            continue
        above = s.parent[b, i]
        s.parent[b, left] = renamed[above] if above >= 0 else -1
        s.label[b, left], s.result[b, left] = s.label[b, i], s.result[b, i]
        moved[left], renamed[i] = i, left
        left += 1
    s.place[b, NODES] = left
    s.child[b, :left] = -1
    for i in range(left):
        above = s.parent[b, i]
        if above >= 0:
            s.sibling[b, i], s.child[b, above] = s.child[b, above], i
    for i in range(s.place[b, COUNT]):
        s.node[b, i] = renamed[s.node[b, i]]
    for i in range(s.place[b, DONE]):
        s.done_node[b, i] = renamed[s.done_node[b, i]]


@compile_kernel
def compact_paths(s: Any, b: int, kept: Any, renamed: Any) -> None:
    """Drop the arcs of one utterance that are on no hypothesis' path. `kept` and `renamed` [m] are for scratch."""
    arcs = s.place[b, ARCS]
    kept[:arcs] = 0
    for i in range(s.place[b, COUNT]):
        if s.path[b, i] >= 0:
            kept[s.path[b, i]] = 1
    for i in range(s.place[b, DONE]):
        if s.done_path[b, i] >= 0:
            kept[s.done_path[b, i]] = 1
    for i in range(arcs - 1, -1, -1):
        if kept[i] and s.before[b, i] >= 0:
            kept[s.before[b, i]] = 1
    left = 0
    for i in range(arcs):
        if kept[i]:
            earlier = s.before[b, i]
            s.before[b, left] = renamed[earlier] if earlier >= 0 else -1
            s.arc_label[b, left], s.arc_frame[b, left] = s.arc_label[b, i], s.arc_frame[b, i]
            s.arc_score[b, left] = s.arc_score[b, i]
            renamed[i] = left
            left += 1
    s.place[b, ARCS] = left
    for i in range(s.place[b, COUNT]):
        if s.path[b, i] >= 0:
            s.path[b, i] = renamed[s.path[b, i]]
    for i in range(s.place[b, DONE]):
        if s.done_path[b, i] >= 0:
            s.done_path[b, i] = renamed[s.done_path[b, i]]
