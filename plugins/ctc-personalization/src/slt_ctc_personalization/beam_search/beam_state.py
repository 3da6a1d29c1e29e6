"""The state of one utterance's search, kept between calls of the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.beam_search.candidates import Beam, Scratch
from slt_ctc_personalization.beam_search.prefix_tree import (
    CHILD,
    CONTROL_INTS,
    FLAGS,
    FRAME,
    FREE,
    KEY,
    LEFT,
    LM,
    NEXT,
    NODE_FLOATS,
    NODE_INTS,
    PARENT,
    PHRASE,
    PREVIOUS,
    ROOT_KEY,
    SIZE,
    USED,
    move_root,
)  # fmt: skip
from slt_ctc_personalization.compiled import compile_kernel, first_call
from sltcore.errors import DataError

COMMIT_ROWS = 4096
"""Nodes freed at most in one go; more wait for the next."""


class Clock(NamedTuple):
    """Where frame i lies in time: it begins at `offset_s + i * frame_shift_s`."""

    frame_shift_s: float
    offset_s: float

    def spans(self, first: Sequence[int], last: Sequence[int]) -> tuple[tuple[float, float], ...]:
        """Start and end in seconds of units that were emitted in the frames `first ... last`.

        A unit ends where the next begins: late repeats of its last label may come from another reading.
        """
        offset, shift = self.offset_s, self.frame_shift_s
        limits = [*first[1:], last[-1] + 1] if last else []
        return tuple(
            [
                (offset + begin * shift, offset + max(min(end + 1, limit), begin + 1) * shift)
                for begin, end, limit in zip(first, last, limits, strict=True)
            ]
        )


@compile_kernel
def trace_rows(nodes: npt.NDArray[np.int64], node: int, out: npt.NDArray[np.int64]) -> int:
    """Rows from `node` up to the root, newest first; returns how many there are, also when `out` is shorter."""
    count = 0
    while node >= 0:
        if count < out.shape[0]:
            out[count] = node
        count += 1
        node = nodes[node, PARENT]
    return count


class BeamState:
    """Hypotheses, their tree, and the settled beginning of the transcript that has left the tree."""

    def __init__(
        self, beam: int, labels: int, *, phrase: int, lm: int, absorbs: bool, rows_per_candidate: int = 1
    ) -> None:
        candidates = 3 * beam + 8
        rows = 4 * candidates * rows_per_candidate
        masses = np.full((3, beam), -np.inf)
        self.beam = Beam(
            np.zeros((rows, NODE_INTS), np.int64),
            np.zeros((rows, NODE_FLOATS)),
            np.zeros(CONTROL_INTS, np.int64),
            np.zeros(beam, np.int64),
            *masses,
        )
        self.scratch = Scratch(
            node=np.zeros(candidates, np.int64),
            blank=np.zeros(candidates),
            label=np.zeros(candidates),
            total=np.zeros(candidates),
            score=np.zeros(candidates),
            copy=np.zeros(candidates),
            tokens=np.zeros(labels, np.int64),
            seen=np.zeros(4 << (2 * beam).bit_length(), np.int64),
            stamp=np.full(labels, -1, np.int64),
        )
        self._out = np.zeros(COMMIT_ROWS, np.int64)
        self.reset(phrase=phrase, lm=lm, absorbs=absorbs)

    def reset(self, *, phrase: int, lm: int, absorbs: bool) -> None:
        """Back to before the first frame, keeping the memory."""
        beam = self.beam
        beam.control[:] = 0
        beam.control[FREE], beam.control[USED], beam.control[LEFT], beam.control[SIZE] = -1, 1, len(beam.nodes) - 1, 1
        root = beam.nodes[0]
        root[:] = 0
        root[PARENT] = root[CHILD] = root[NEXT] = root[PREVIOUS] = root[KEY] = -1
        root[PHRASE], root[LM], root[FLAGS] = phrase, lm, int(absorbs)
        beam.numbers[0] = 0.0
        beam.node[0] = 0
        beam.blank[0], beam.label[0], beam.total[0] = 0.0, -np.inf, 0.0
        self.scratch.seen[:] = 0
        self.scratch.stamp[:] = -1
        self.settled: list[npt.NDArray[np.int64]] = []

    @property
    def frames(self) -> int:
        """Frames read so far."""
        return int(self.beam.control[FRAME])

    @property
    def rows(self) -> int:
        """Rows of the tree that are allocated."""
        return len(self.beam.nodes)

    def run(self, kernel: Any, log_probs: npt.NDArray[np.float32], *tables: Any) -> None:
        """Read all of `log_probs` [t v], enlarging the tree where it is short."""
        frame, end = 0, len(log_probs)
        while frame < end:
            reached = first_call(kernel, log_probs, frame, end, *tables, self.beam, self.scratch)
            if reached < 0:
                number = self.frames
                raise DataError(
                    f"beam search: frame {number} gives no label any probability (all -inf); check the log-probabilities"
                )
            frame = int(reached)
            if frame < end:
                self._grow()

    def settle(self, keep: int, *, words: bool = False) -> None:
        """Move what all hypotheses share, but the last `keep` nodes, out of the tree, so that it stays small."""
        count = COMMIT_ROWS
        while count == COMMIT_ROWS:
            count = int(move_root(self.beam.nodes, self.beam.control, keep, int(words), self._out))
            if count:
                rows = self.beam.nodes[self._out[:count]]
                self.settled.append(rows[rows[:, KEY] != ROOT_KEY])

    def history(self, node: int) -> npt.NDArray[np.int64]:
        """The rows of all nodes from the beginning to `node`, settled ones included."""
        out = np.empty(1024, np.int64)
        count = int(trace_rows(self.beam.nodes, node, out))
        if count > len(out):
            out = np.empty(count, np.int64)
            trace_rows(self.beam.nodes, node, out)
        rows = self.beam.nodes[out[:count][::-1]]
        living = rows[rows[:, KEY] != ROOT_KEY]
        return np.concatenate([*self.settled, living]) if self.settled else living

    def _grow(self) -> None:
        nodes, numbers = self.beam.nodes, self.beam.numbers
        added = len(nodes)
        self.beam.control[LEFT] += added
        self.beam = self.beam._replace(
            nodes=np.concatenate([nodes, np.zeros_like(nodes)]),
            numbers=np.concatenate([numbers, np.zeros_like(numbers)]),
        )
