"""The word spotter: where in an utterance the phrases of a list are heard, by token passing over a trie of label paths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.compiled import first_call
from slt_ctc_personalization.lexicon.lexicon_trie import child_rows, levels
from slt_ctc_personalization.spotter import spotter_kernel as kernel
from slt_ctc_personalization.spotter.spotter_kernel import SpotterRules, SpotterState, SpotterTables
from sltcore.errors import PluginError, ShapeError, StreamError, VocabularyError
from sltcore.vocabulary import WORD_MARK

SPARE = 256
LEAST = -1e300  # stands for no limit, and still refuses what is impossible


class Hit(NamedTuple):
    """A phrase heard in frames `begin` to `end - 1`.

    `phrase` is its place in the list, `path` the place of the label path among the phrase's. `score` is natural log:
    above 0 the phrase, with its context weight, beats the best path of any labels over the same frames. `value` in
    (0, 1] is 1 / (1 + exp(-score / labels)), 0.5 at a score of 0: how surely it was heard.
    """

    phrase: int
    begin: int
    end: int
    score: float
    value: float
    path: int


class HitArrays(NamedTuple):
    """Hits as columns [n], ordered by begin, then end, then phrase; for long lists, of which much is heard a little."""

    phrase: npt.NDArray[np.int64]
    begin: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    score: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    path: npt.NDArray[np.int64]

    def hits(self) -> list[Hit]:
        """One by one."""
        return [Hit(*row) for row in zip(*(column.tolist() for column in self), strict=True)]


class SpotterTable(NamedTuple):
    """Phrases made ready for one spotter by `Spotter.prepare`; `lengths` [path] labels, `place` [path] among the phrase's."""

    tables: SpotterTables
    lengths: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    phrases: int
    owner: Spotter


class Spotter:
    """Finds phrases in CTC posteriors without a beam search.

    With `d[t, y] = ln p(y | t) - max_v ln p(v | t)`, never above 0, the score of a phrase's label path y_1 … y_U over the
    frames [begin, end) is

        max over CTC alignments a of  sum_t d[t, a_t]  +  weight * U  +  left border + right border

    An alignment writes y_1 in frame `begin` and y_U in frame `end - 1`; blanks between labels are optional, between equal
    labels needed. The first sum is the path's log-probability less that of the best path of any labels over the same
    frames. `weight` is the context weight, for each label and not for each frame, so a drawn-out sound earns no more.

    **Borders**, where labels know words. With a boundary label, the left border is 0 in the first frame of the utterance
    and after boundary label and blanks; what the frames say against that is counted: `max` over the frame u of the
    boundary label (or over none, when all frames before are blanks) of `d[u, boundary] + sum of d[., blank]` up to
    `begin`. The right border is the same on the other side. With sub-words that mark word starts (`▁`) the path's own
    first label shows the left border, and any other word's first label the right one. A border that is not heard costs
    at most `missed_border`; infinite: it must be heard. Other labels have no borders.

    **Hits.** For each path and last frame the best begin counts; for each phrase and frame in which it is found (`end - 1`,
    or the frame of the border) the best of these that reaches `threshold`. In the order of frames, a hit of the same phrase
    that begins before the held one ends replaces it if it has a higher score (or the same and is wider); a later one
    releases it, and so do `settle` frames without a better one. What begins before the last released hit of its phrase
    ends is dropped. So a hit is known `settle` frames after it was found at the latest, streaming and offline.

    **Pruning**. A token is dropped when it is more than `beam` below the path of any labels: `d` summed so far + `weight` *
    labels so far < -beam (`weight`: the largest of the phrases that go on from there). That is measured against the
    unconstrained path, not against other tokens, so among phrases of one weight the hits of each do not depend on what else
    is in the list. Frames whose blank is more probable than `blank_skip` start none. Neither changes the score of a path
    that survives. `beam=inf, blank_skip=1` switches them off. (Tokens that cannot reach `threshold` any more are dropped
    without any effect.)

    **Source**: NeMo CTC-WS, Andrusenko et al., "Fast context-biasing for CTC and transducer ASR models with CTC-based word
    spotter", arXiv:2406.07096. Deviations: the score is relative to the best path (theirs is compared to it later); the
    context weight is paid once for each label; borders; tokens are compared to the best path instead of to each other.

    Raises `VocabularyError` for labels that do not exist, `PluginError` for numbers out of range.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        blank: int,
        word_boundary: int | None = None,
        context_weight: float = 1.0,
        threshold: float = 1.0,
        beam: float = 4.0,
        blank_skip: float = 0.8,
        missed_border: float = 1.0,
        settle: int = 10,
    ) -> None:
        self.labels = tuple(labels)
        self.blank = blank
        self.word_boundary = word_boundary
        self.context_weight = context_weight
        self.threshold = threshold
        self.beam = beam
        self.settle = settle
        self._check(blank_skip, missed_border)
        border = np.zeros(len(self.labels), np.uint8)
        borders = kernel.NO_BORDERS
        if word_boundary is not None:
            border[word_boundary] = 1
            borders = kernel.BOUNDARY_LABEL
        elif any(name.startswith(WORD_MARK) for index, name in enumerate(self.labels) if index != blank):
            border[:] = [name.startswith(WORD_MARK) and i != blank for i, name in enumerate(self.labels)]
            borders = kernel.WORD_MARKS
        limit = math.log(blank_skip) if blank_skip < 1 else math.inf
        self.rules = SpotterRules(border, borders, blank, float(threshold), float(missed_border), limit, int(settle))

    def _check(self, blank_skip: float, missed_border: float) -> None:
        size = len(self.labels)
        for name, label in (("blank", self.blank), ("word_boundary", self.word_boundary)):
            if label is not None and not 0 <= label < size:
                raise VocabularyError(f"spotter: {name} is id {label}, but the label ids run from 0 to {size - 1}")
        if self.blank == self.word_boundary:
            raise VocabularyError(f"spotter: blank and word_boundary are both id {self.blank}; they must differ")
        if not 0.0 <= self.context_weight < math.inf:
            raise PluginError(f"spotter: context_weight is {self.context_weight}; give a finite number, 0 or more")
        if math.isnan(self.threshold) or self.threshold == math.inf:
            raise PluginError(f"spotter: threshold is {self.threshold}; give a number, or -inf for every hit")
        if not self.beam >= 0.0 or not missed_border >= 0.0:
            raise PluginError(
                f"spotter: beam is {self.beam} and missed_border {missed_border}; give numbers from 0 (inf for no limit)"
            )
        if not 0.0 < blank_skip <= 1.0:
            raise PluginError(f"spotter: blank_skip is {blank_skip}; give a probability above 0, up to 1")
        if self.settle < 0:
            raise PluginError(f"spotter: settle is {self.settle} frames; give 0 or more")

    def prepare(self, paths: Sequence[Sequence[Sequence[int]]], weights: Sequence[float] | None = None) -> SpotterTable:
        """The table of phrases: `paths[phrase]` are the label paths that it is heard as, `weights[phrase]` replace the
        context weight. **Raises** `VocabularyError` for a path that can never be heard."""
        counts = np.fromiter(map(len, paths), np.int64, len(paths))
        every = list(chain.from_iterable(paths))
        lengths = np.fromiter(map(len, every), np.int64, len(every))
        flat = np.fromiter(chain.from_iterable(every), np.int64, int(lengths.sum()))
        phrase = np.repeat(np.arange(len(paths)), counts)
        given = [self.context_weight] * len(paths) if weights is None else weights
        weight = np.asarray(given, np.float64)
        self._check_paths(flat, lengths, counts, phrase, weight)
        gain = weight[phrase] * lengths if len(every) else np.zeros(0)
        parents, labels, depths, leaf = levels(flat, lengths)
        order = np.argsort(leaf, kind="stable")
        tables = SpotterTables(
            rows=child_rows(parents, labels),
            path_start=np.searchsorted(leaf[order], np.arange(len(parents) + 1)).astype(np.int32),
            paths=order.astype(np.int32),
            limit=self._limits(parents, depths, leaf, gain, weight[phrase]),
            phrase=phrase.astype(np.int32),
            gain=gain,
        )
        place = np.arange(len(every)) - np.repeat(np.cumsum(counts) - counts, counts)
        return SpotterTable(tables, lengths, place, len(paths), self)

    def _limits(self, parents: Any, depths: Any, leaf: Any, gain: Any, weight: Any) -> npt.NDArray[np.float64]:
        """What a token of each node must have: within the beam, and able to reach the threshold."""
        best, heaviest = np.full(len(parents), -np.inf), np.zeros(len(parents))
        np.maximum.at(best, leaf, gain)
        np.maximum.at(heaviest, leaf, weight)
        for depth in range(int(depths.max()), 0, -1):
            nodes = slice(*np.searchsorted(depths, (depth, depth + 1)))
            np.maximum.at(best, parents[nodes], best[nodes])
            np.maximum.at(heaviest, parents[nodes], heaviest[nodes])
        with np.errstate(invalid="ignore"):
            limits = np.maximum(-self.beam - heaviest * depths, self.threshold - best)
        return np.maximum(limits, LEAST)

    def _check_paths(self, flat: Any, lengths: Any, counts: Any, phrase: Any, weight: Any) -> None:
        if len(weight) != len(counts):
            raise VocabularyError(f"spotter: {len(weight)} weights for {len(counts)} phrases; give one for each")
        if not (np.isfinite(weight) & (weight >= 0)).all():
            worst = int(np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))[0])
            raise VocabularyError(f"spotter: phrase {worst} has the weight {weight[worst]}; give a number, 0 or more")
        for index in np.flatnonzero(counts == 0)[:1]:
            raise VocabularyError(f"spotter: phrase {index} has no path, so it can never be heard; give at least one")
        for index in np.flatnonzero(lengths == 0)[:1]:
            raise VocabularyError(f"spotter: phrase {phrase[index]} has an empty path; give at least one label")
        for place in np.flatnonzero((flat < 0) | (flat >= len(self.labels)) | (flat == self.blank))[:1]:
            owner = phrase[np.searchsorted(np.cumsum(lengths), place, side="right")]
            raise VocabularyError(
                f"spotter: phrase {owner} has label id {flat[place]}, expected ids from 0 to {len(self.labels) - 1} "
                f"except the blank, {self.blank}"
            )
        if self.word_boundary is not None and len(flat):
            ends = np.cumsum(lengths)
            outer = (flat[ends - lengths] == self.word_boundary) | (flat[ends - 1] == self.word_boundary)
            for index in np.flatnonzero(outer)[:1]:
                raise VocabularyError(
                    f"spotter: a path of phrase {phrase[index]} begins or ends with the word boundary, which is understood; "
                    f"leave it out"
                )

    def spot(self, log_probs: npt.ArrayLike, table: SpotterTable) -> list[Hit]:
        """All hits in an utterance, by begin, then end, then phrase; `log_probs` [t v] natural log.

        **Raises** `ShapeError` when the array is not [t v], holds NaN, or a frame in which nothing is possible;
        `PluginError` for another spotter's table.
        """
        session = self.open(table)
        return sorted([*session.push(log_probs), *session.finish()], key=lambda hit: (hit.begin, hit.end, hit.phrase))

    def open(self, table: SpotterTable) -> SpotterSession:
        """A session over chunks of one utterance; **Raises** `PluginError` for another spotter's table."""
        if table.owner is not self:
            raise PluginError("spotter: the table was made by another spotter; prepare the phrases with this one")
        return SpotterSession(self, table)


class SpotterSession:
    """The spotter over one utterance, chunk by chunk, in memory that does not grow with the audio.

    What all pushes and `finish` return together are the hits of `Spotter.spot`.
    """

    def __init__(self, spotter: Spotter, table: SpotterTable) -> None:
        self._spotter = spotter
        self._table = table
        self._state = _empty_state(len(table.tables.rows), table.phrases)
        self._finished = False

    @property
    def frames(self) -> int:
        """Frames heard so far."""
        return int(self._state.clock[kernel.FRAME])

    @property
    def settled(self) -> bool:
        """Whether no hit is held back at present."""
        return int(self._state.clock[kernel.HELD]) == 0

    def push(self, log_probs: npt.ArrayLike) -> list[Hit]:
        """Hear frames [t v]: the hits that became final, by begin. **Raises** `StreamError` after `finish`, `ShapeError`
        as `Spotter.spot`."""
        return self.push_arrays(log_probs).hits()

    def finish(self) -> list[Hit]:
        """End the utterance: the remaining hits. **Raises** `StreamError` when called twice."""
        return self.finish_arrays().hits()

    def push_arrays(self, log_probs: npt.ArrayLike) -> HitArrays:
        """As `push`, in columns."""
        if self._finished:
            raise StreamError("this spotter session is finished; open another one")
        frames = self._checked(log_probs)
        found = []
        while len(frames):
            heard = first_call(kernel.hear_frames, frames, self._table.tables, self._spotter.rules, self._state)
            found.append(self._released())
            frames = frames[heard:]
        return self._columns(found)

    def finish_arrays(self) -> HitArrays:
        """As `finish`, in columns."""
        if self._finished:
            raise StreamError("this spotter session is finished; open another one")
        self._finished = True
        first_call(kernel.end_frames, self._table.tables, self._spotter.rules, self._state)
        return self._columns([self._released()])

    def _checked(self, log_probs: npt.ArrayLike) -> npt.NDArray[np.float32]:
        frames = np.array(log_probs, np.float32, order="C")  # a copy: a read-only array would compile again
        labels = len(self._spotter.labels)
        if frames.ndim != 2 or frames.shape[1] != labels:
            raise ShapeError(f"spotter: log_probs has shape {frames.shape}, expected (t, v) with v = {labels} labels")
        wrong = ~np.isfinite(frames.max(axis=1))  # NaN is the maximum of a frame that holds one
        if wrong.any():
            place = self.frames + int(np.flatnonzero(wrong)[0])
            raise ShapeError(
                f"spotter: frame {place} holds NaN, or no label that is possible; give finite log-probabilities"
            )
        return frames

    def _released(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        state = self._state
        count = int(state.clock[kernel.RELEASED])
        state.clock[kernel.RELEASED] = 0
        return state.out_place[:count].astype(np.int64), state.out_score[:count].copy()

    def _columns(self, found: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]) -> HitArrays:
        rows = np.concatenate([rows for rows, _ in found]) if found else np.zeros((0, 4), np.int64)
        scores = np.concatenate([scores for _, scores in found]) if found else np.zeros(0)
        phrase, begin, end, path = rows.T
        value = squashed(scores / self._table.lengths[path])
        order = np.lexsort((phrase, end, begin))
        place = self._table.place[path]
        return HitArrays(phrase[order], begin[order], end[order], scores[order], value[order], place[order])


def squashed(score_per_label: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """1 / (1 + exp(-x)), kept above 0."""
    found: npt.NDArray[np.float64] = np.maximum(1.0 / (1.0 + np.exp(-np.maximum(score_per_label, -80.0))), 1e-30)
    return found


def _empty_state(nodes: int, phrases: int) -> SpotterState:
    room = 2 * phrases + SPARE
    return SpotterState(
        clock=np.zeros(kernel.CLOCKS, np.int64),
        counts=np.zeros(2, np.int64),
        border=np.zeros(1, np.float64),
        score=np.empty((2, nodes, 2), np.float64),
        place=np.zeros((2, nodes, 4), np.int32),
        active=np.empty((2, nodes), np.int32),
        found=np.empty(phrases, np.int32),
        found_score=np.empty(phrases, np.float64),
        found_place=np.zeros((phrases, 5), np.int32),
        held=np.empty(phrases, np.int32),
        held_score=np.empty(phrases, np.float64),
        held_place=np.zeros((phrases, 5), np.int32),
        taken=np.zeros(phrases, np.int32),
        out_score=np.empty(room, np.float64),
        out_place=np.empty((room, 4), np.int32),
    )
