"""Beam search of a transducer over a whole batch: tensors for the networks, compiled bookkeeping for the hypotheses."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slt_speech.ctc_greedy import Run
from slt_speech.rnnt.boosting import Fusion
from slt_speech.rnnt.greedy import Path
from slt_speech.rnnt.joint import Joint
from slt_speech.rnnt.prediction import PredictionNetwork

NODES_PER_HYPOTHESIS = 8
SPARE_NODES = 128


class Beam:
    """The best label sequences of each utterance of a batch, time-synchronously; frames come in pieces.

    In each frame every hypothesis y either leaves it with a blank, or is written on by one label and stays, up to
    `max_symbols` times; the best `beam` of those that stay go on, and of all that have left it the best `beam` begin the
    next frame. Hypotheses that read the same are merged: their probabilities add up, so that a score is
    `ln sum over the alignments that were kept`, at most `ln P(y | frames)`. One that stays though it is no better than the
    worst of a full beam of those that have left cannot win and is dropped.

    What the prediction network says of a prefix is computed once, in whatever frame the prefix is found. Utterances do not
    wait for each other: in one step each is in its own frame. A `fusion` adds what another model says of each label.

    **Source**: time-synchronous decoding of Saon, Tüske, Audhkhasi, "Alignment-length synchronous decoding for RNN
    transducer", ICASSP 2020, doi:10.1109/ICASSP40776.2020.9053040, section 2, as torchaudio's RNNTBeamSearch prunes it.
    """

    def __init__(
        self,
        prediction: PredictionNetwork,
        joint: Joint,
        batch: int,
        *,
        blank: int,
        beam: int,
        max_symbols: int,
        fusion: Fusion | None = None,
    ) -> None:
        from slt_speech.rnnt.beam_kernels import Beams, Requests

        self._prediction, self._joint, self._fusion = prediction, joint, fusion
        self._blank, self._most, self._batch, self._k = blank, max_symbols, batch, beam
        self._device = prediction.embedding.weight.device
        done = beam * (max_symbols + 1)
        nodes = SPARE_NODES + NODES_PER_HYPOTHESIS * beam
        self._s: Any = Beams(
            place=_ints(batch, 6),
            node=_ints(batch, beam),
            path=_ints(batch, beam),
            score=np.zeros((batch, beam)),
            done_node=_ints(batch, done),
            done_path=_ints(batch, done),
            done_score=np.zeros((batch, done)),
            done_best=np.zeros((batch, done)),
            parent=_ints(batch, nodes),
            label=_ints(batch, nodes),
            child=_ints(batch, nodes),
            sibling=_ints(batch, nodes),
            result=_ints(batch, nodes),
            before=_ints(batch, nodes),
            arc_label=_ints(batch, nodes),
            arc_frame=_ints(batch, nodes),
            arc_score=np.zeros((batch, nodes)),
            heap_score=np.zeros(beam),
            heap_row=_ints(beam),
            heap_label=_ints(beam),
            next_node=_ints(beam),
            next_path=_ints(beam),
        )
        self._s.place[:, 2], self._s.place[:, 4] = 1, 1  # one hypothesis: the root of the tree
        for each in (self._s.path, self._s.parent, self._s.child, self._s.sibling, self._s.result):
            each[:] = -1
        self._wants: Any = Requests._make([*(_ints(batch * beam) for _ in range(5)), _ints(3)])
        self._asked = [torch.from_numpy(each) for each in self._wants[:5]]
        self._past = _ints(batch)
        self._make_pools(nodes)

    def _make_pools(self, nodes: int) -> None:
        """Rows for what is known of each node; that of the root is filled in."""
        first = torch.full((self._batch,), self._blank, device=self._device)
        out, state = self._prediction.step(self._prediction.start(self._batch), first)
        roots = [self._joint.project_prediction(out), *state]
        self._pools = [each.new_zeros(self._batch, nodes, *each.shape[1:]) for each in roots]
        for pool, each in zip(self._pools, roots, strict=True):
            pool[:, 0] = each
        self._bonus = np.zeros((0, 1), np.float32)
        if self._fusion is not None:
            self._bonus = self._fusion.begin(self._batch, nodes)

    def push(self, values: Tensor, lengths: Tensor) -> None:
        """Read frames [b t d] of which each utterance has `lengths` [b]."""
        from slt_speech.rnnt.beam_kernels import advance, begin
        from sltcore.alignment.compiled import first_call

        frames = self._joint.project_encoder(values)
        width, ends = values.shape[1], lengths.cpu().numpy()
        flat, wants = frames.flatten(0, 1), self._wants
        first_call(begin, self._s, ends, width, wants)
        while wants.counts[0]:
            if wants.counts[1]:
                self._compute_new(int(wants.counts[1]))
            log_probs = self._log_probs(flat, int(wants.counts[0]))
            if wants.counts[2]:
                self._make_room()
            settings = (self._past, ends, width, self._blank, self._most)
            first_call(advance, self._s, log_probs, self._bonus, *settings, wants)
        self._past += ends

    def _log_probs(self, frames: Tensor, rows: int) -> npt.NDArray[np.float32]:
        """Log-probabilities [rows v] of the next label, for the frames and nodes that were asked for."""
        frame, node = (each[:rows].to(self._device) for each in self._asked[:2])
        near = frames.index_select(0, frame)
        logits = self._joint.combine(near, self._pools[0].flatten(0, 1).index_select(0, node))
        found: npt.NDArray[np.float32] = logits.float().log_softmax(dim=-1).cpu().numpy()
        return found

    def _compute_new(self, rows: int) -> None:
        """Ask the prediction network, and whatever is fused, about prefixes that were not met before."""
        new, parents, labels = (each[:rows].to(self._device) for each in self._asked[2:])
        state = tuple(pool.flatten(0, 1).index_select(0, parents) for pool in self._pools[1:])
        out, state = self._prediction.step(state, labels)
        for pool, each in zip(self._pools, (self._joint.project_prediction(out), *state), strict=True):
            pool.flatten(0, 1).index_copy_(0, new, each)
        if self._fusion is not None:
            self._fusion.extend(*(each[:rows].numpy() for each in self._asked[2:]))

    def _make_room(self) -> None:
        """Drop what no hypothesis needs; where half is needed, double the room."""
        from slt_speech.rnnt.beam_kernels import ARCS, NODES, compact_nodes, compact_paths
        from sltcore.alignment.compiled import first_call

        s = self._s
        nodes, arcs = s.parent.shape[1], s.before.shape[1]
        scratch = [np.zeros(max(nodes, arcs), np.int64) for _ in range(2)]
        moved = np.tile(np.arange(nodes), (self._batch, 1))
        for b in range(self._batch):
            first_call(compact_nodes, s, b, moved[b], *scratch)
            first_call(compact_paths, s, b, *scratch)
        rows = torch.from_numpy(moved).to(self._device)
        more = [nodes, arcs]
        for at, (size, used) in enumerate(zip(more, (NODES, ARCS), strict=True)):
            if int(s.place[:, used].max()) + self._k > size // 2:
                more[at] = 2 * size
        self._pools = [_regrouped(pool, rows, more[0]) for pool in self._pools]
        if self._fusion is not None:
            self._bonus = self._fusion.regroup(moved, more[0])
        grown = {name: _wider(getattr(s, name), more[0]) for name in ("parent", "label", "child", "sibling", "result")}
        grown |= {name: _wider(getattr(s, name), more[1]) for name in s._fields if name.startswith(("before", "arc_"))}
        self._s = s._replace(**grown)

    def found(self) -> list[list[Path]]:
        """The hypotheses of each utterance of all frames so far, best first."""
        lists = []
        for b in range(self._batch):
            paths = [self._path(b, i) for i in range(int(self._s.place[b, 2]))]
            lists.append(sorted(paths, key=lambda path: -path.score))  # stable: equal ones stay in their order
        return lists

    def _path(self, b: int, i: int) -> Path:
        s, runs = self._s, []
        arc = int(s.path[b, i])
        while arc >= 0:
            frame = int(s.arc_frame[b, arc])
            runs.append(Run(int(s.arc_label[b, arc]), frame, frame + 1, float(s.arc_score[b, arc])))
            arc = int(s.before[b, arc])
        score = float(s.score[b, i])
        if self._fusion is not None:
            score += self._fusion.ending(b, int(s.node[b, i]))
        return Path(runs[::-1], score)


def _ints(*shape: int) -> npt.NDArray[np.int64]:
    return np.zeros(shape, np.int64)


def _wider(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """The array with a last axis of `size`, filled with -1."""
    if array.shape[1] == size:
        return array
    found = np.full((len(array), size), -1, array.dtype)
    found[:, : array.shape[1]] = array
    return found


def _regrouped(pool: Tensor, moved: Tensor, size: int) -> Tensor:
    """The pool [b n ..] with row i of each utterance from row `moved[b, i]`, and room for `size` rows."""
    found = pool.new_zeros(pool.shape[0], size, *pool.shape[2:])
    found[:, : pool.shape[1]] = pool[torch.arange(len(pool), device=pool.device)[:, None], moved]
    return found
