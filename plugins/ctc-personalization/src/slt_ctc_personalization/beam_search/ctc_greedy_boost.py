"""Decoder `ctc-greedy-boost`: greedy CTC decoding that knows a list of phrases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from slt_ctc_personalization.beam_search.greedy_boost_kernel import (
    FLAGS,
    LAST,
    MEMORY_FLOATS,
    MEMORY_INTS,
    STATE,
    Memory,
    final_bonus,
    largest_step,
    walk,
)  # fmt: skip
from slt_ctc_personalization.beam_search.prefix_tree import ABSORBS
from slt_ctc_personalization.beam_search.search import BeamSearch, PhraseTable
from slt_ctc_personalization.compiled import first_call
from slt_ctc_personalization.evidence.phrase_evidence import in_parallel
from slt_ctc_personalization.phrases.prepared_phrases import PHRASES, PhraseLists
from slt_ctc_personalization.phrases.spelling import Speller
from sltcore import ctc
from sltcore.context import per_utterance
from sltcore.errors import ShapeError, StreamError
from sltcore.interfaces import Decoder, Session
from sltcore.types import ContextKey, Encoded, Hypothesis, NBest, Port, Targets
from sltcore.vocabulary import Vocabulary, word_spans

Path = npt.NDArray[np.int64]
Frames = npt.NDArray[np.float32]


class Run(NamedTuple):
    """A label that stands in the frames `start ... stop - 1`; `score` is its highest log-probability among them."""

    label: int
    start: int
    stop: int
    score: float


class Walk:
    """The greedy path of one utterance, read in pieces of any size."""

    def __init__(self, search: BeamSearch, table: PhraseTable) -> None:
        options = table.options
        self._tables = (options, search.engine.label_tables, table.tables)
        self._most = largest_step(table.tables, options.edges) + 1e-6
        whole, ring = np.zeros(MEMORY_INTS, np.int64), 1 << int(table.longest + 2).bit_length()
        whole[STATE], whole[LAST] = table.start, options.blank
        whole[FLAGS] = ABSORBS if options.boundary >= 0 else 0
        self._memory = Memory(whole, np.zeros(MEMORY_FLOATS), np.zeros(ring))

    def read(self, log_probs: Frames) -> Path:
        """The label of each frame [t] of `log_probs` [t v]."""
        path = np.empty(len(log_probs), np.int64)
        first_call(walk, log_probs, *self._tables, self._memory, self._most, path)
        return path

    @property
    def bonus(self) -> float:
        """What the phrases of the text so far add, were it complete."""
        return float(first_call(final_bonus, *self._tables, self._memory))


def runs_of(path: Path, values: Frames, blank: int) -> list[Run]:
    """The runs of equal labels of a path [t], without the blank's; `values` [t] are their log-probabilities."""
    if not len(path):
        return []
    starts = np.flatnonzero(np.concatenate([[True], path[1:] != path[:-1]]))
    stops = np.append(starts[1:], len(path))
    best = np.maximum.reduceat(values, starts)
    kept = path[starts] != blank
    columns = (path[starts][kept].tolist(), starts[kept].tolist(), stops[kept].tolist(), best[kept].tolist())
    return [Run(*row) for row in zip(*columns, strict=True)]


def reading(
    runs: Sequence[Run], score: float, vocabulary: Vocabulary, *, frame_shift_s: float, offset_s: float
) -> Hypothesis:
    """The hypothesis that runs spell; times and `extra` are those of `ctc-greedy`.

    Frame i covers `offset_s + (i ± 1/2) frame_shift_s`; a token lasts from half a frame before its first frame to half a
    frame after its last. `extra`: `token_times` (seconds), `token_scores` (natural log) and, where labels form words,
    `words`, whose times then are `times`.
    """
    edges = [
        tuple(max(0.0, round(offset_s + (frame - 0.5) * frame_shift_s, 6)) for frame in (run.start, run.stop))
        for run in runs
    ]
    spoken = tuple((begin, end) for begin, end in edges)
    tokens = tuple(run.label for run in runs)
    extra: dict[str, Any] = {"token_times": spoken, "token_scores": tuple(run.score for run in runs)}
    times, spans = spoken, word_spans(tokens, vocabulary)
    if spans is not None:
        extra["words"] = tuple(vocabulary.decode(tokens[first:stop]) for first, stop in spans)
        times = tuple((spoken[first][0], spoken[stop - 1][1]) for first, stop in spans)
    return Hypothesis(vocabulary.decode(tokens), score, tokens, times, extra)


class CtcGreedyBoost(Decoder, nn.Module):
    """Takes in every frame the label that is the most probable with what it does for a phrase of the list.

    `log_probs = log_softmax(head(values))`. Let y be the text before frame t (labels of the path, repeats merged, blanks
    dropped, idle word boundaries left out), and F(y) its bonus while it is read: what its complete phrases earn, or that
    and the credit of a phrase it has begun, whichever is the most (rule and shapes: module `phrases`). Then

        path(t) = argmax_v  ln p(v|t) + (0 if v is the blank, path(t-1), or an idle boundary, else F(y v) - F(y))

    the smaller id of equals. So a bonus comes and goes with new labels only; the increments add up to F, and what a phrase
    lent returns in full where it breaks off. The score of the result is ln P(path) and the bonus of its text as a complete
    one. One pass, compiled; O(v) a frame whatever the length of the list. Without phrases the path is the best path, as
    `ctc-greedy` gives it. The head stays under `self.head`; phrases take no part in training.

    **Source**: greedy decoding with a phrase graph as in NeMo's GPU-PB: Andrusenko et al., "TurboBias: Universal ASR
    Context-Biasing powered by GPU-accelerated Phrase-Boosting Tree", arXiv:2508.07014; best path: Graves et al. 2006,
    doi:10.1145/1143844.1143891. Deviations: complete phrases earn by the rule of `phrases`, never twice for the same
    labels, and words' borders are read.
    """

    def __init__(self, head: ctc.Head, search: BeamSearch, *, speller: Speller, threads: int = 1) -> None:
        """`search` makes the automaton, by its own settings of boosting; nothing is searched with it."""
        super().__init__()
        self.head = head.module
        self.d = head.d
        self._vocabulary = head.vocabulary
        self.search = search
        self.speller = speller
        self._lists = PhraseLists(lambda phrases: search.prepare(speller.phrases(phrases)), search.settings)
        self.threads = threads

    @property
    def consumes(self) -> Port:
        """Frames as wide as the head."""
        return Port("Encoded", {"d": self.d})

    @property
    def produces(self) -> Port:
        """One hypothesis for each utterance."""
        return Port("Hypotheses")

    @property
    def vocabulary(self) -> Vocabulary:
        """The head's labels."""
        return self._vocabulary

    def offers(self) -> Mapping[str, Any]:
        """`head` and `vocabulary`, for another search on the same posteriors."""
        return {"head": self.head, "vocabulary": self._vocabulary}

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`phrases`."""
        return (PHRASES,)

    def save_files(self) -> Mapping[str, bytes]:
        """`vocabulary.json`."""
        return ctc.vocabulary_file(self._vocabulary)

    def prepare(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check and build the phrase list once. **Raises** `ContextError` naming every phrase that cannot be spelled."""
        phrases = context.get(PHRASES.name)
        if phrases is None or isinstance(phrases, PhraseTable):
            return context
        return {**context, PHRASES.name: self._lists.attached(phrases)}

    def table(self, phrases: Any) -> PhraseTable | None:
        """The automaton of one list, kept for the last few lists; a prepared one passes through."""
        found: PhraseTable | None = phrases if isinstance(phrases, PhraseTable) else self._lists.of(phrases)
        return found

    @property
    def _head(self) -> ctc.Head:
        return ctc.Head(self.head, self._vocabulary, self.d)

    def log_probs(self, encoded: Encoded) -> Tensor:
        """Natural-log posteriors [b t v] float32 on the CPU; see `sltcore.ctc.log_probs`."""
        return ctc.log_probs(self._head, encoded).detach().cpu()

    def walk(self, table: PhraseTable | None) -> Walk | None:
        """The walk over one utterance with a list; None where there is no phrase: the best path needs none."""
        return Walk(self.search, table) if table is not None and len(table) else None

    @torch.no_grad()
    def decode(self, encoded: Encoded, context: Mapping[str, Any]) -> list[NBest]:
        """One hypothesis for each utterance; times in seconds, token scores in `extra` (see `reading`)."""
        lists = per_utterance(context, PHRASES, len(encoded.lengths))
        log_probs, lengths = self.log_probs(encoded), encoded.lengths.tolist()
        tables = [self.table(phrases) for phrases in lists]
        paths = log_probs.argmax(dim=-1)
        jobs = [(row, walk) for row, table in enumerate(tables) if (walk := self.walk(table)) is not None]
        boosted = self._walked(log_probs.numpy(), lengths, jobs)
        for (row, _), path in zip(jobs, boosted, strict=True):
            paths[row, : lengths[row]] = torch.from_numpy(path)
        values = log_probs.gather(2, paths[..., None])[..., 0]
        inside = torch.arange(values.shape[1]) < torch.tensor(lengths)[:, None]
        totals = torch.where(inside, values, 0.0).double().sum(dim=1).tolist()
        for row, walk in jobs:
            totals[row] += walk.bonus
        pieces = zip(paths.numpy(), values.numpy(), lengths, totals, strict=True)
        clock = {"frame_shift_s": encoded.frame_shift_s, "offset_s": encoded.offset_s}
        blank = self._vocabulary.blank
        return [
            NBest([reading(runs_of(path[:end], value[:end], blank), total, self._vocabulary, **clock)])
            for path, value, end, total in pieces
        ]

    def _walked(self, log_probs: Frames, lengths: Sequence[int], jobs: Sequence[tuple[int, Walk]]) -> list[Path]:
        def read(job: tuple[int, Walk]) -> Path:
            return job[1].read(np.ascontiguousarray(log_probs[job[0], : lengths[job[0]]]))

        return in_parallel(lambda place: read(jobs[place]), range(len(jobs)), self.threads)

    def frames_needed(self, targets: Targets) -> Tensor:
        """Its labels, and one blank between equal neighbours: [b]."""
        return ctc.frames_needed(targets.ids, targets.lengths)

    def loss(self, encoded: Encoded, targets: Targets, context: Mapping[str, Any]) -> Tensor:
        """CTC loss of each utterance: [b] float32 in nats; see `sltcore.ctc.training_loss`."""
        return ctc.training_loss(self._head, encoded, targets)

    def score(self, encoded: Encoded, hypotheses: Sequence[NBest]) -> Tensor:
        """ln P(text | frames) without any bonus, summed over all paths: [b k]; see `sltcore.ctc.forward_scores`."""
        return ctc.forward_scores(self._head, encoded, hypotheses)

    def open(self, context: Mapping[str, Any]) -> Session:
        """A session over chunks of one utterance's frames; see `GreedyBoostSession`."""
        (phrases,) = per_utterance(context, PHRASES, 1)
        return GreedyBoostSession(self, self.walk(self.table(phrases)))


class GreedyBoostSession(Session):
    """Greedy decoding with phrases of one utterance, chunk by chunk, in memory that grows with the text only.

    `push` takes an `Encoded` with one utterance and returns the n-best list of everything heard so far, or None while
    the text is unchanged; `finish` returns the list that `decode` gives on the whole.
    """

    def __init__(self, decoder: CtcGreedyBoost, walk: Walk | None) -> None:
        self._decoder = decoder
        self._walk = walk
        self._runs: list[Run] = []
        self._total = 0.0
        self._frames = 0
        self._last = decoder.vocabulary.blank
        self._timing: tuple[float, float] | None = None
        self._said: tuple[int, ...] = ()
        self._finished = False

    @torch.no_grad()
    def push(self, chunk: Encoded, **streams: Any) -> NBest | None:
        """Hear the next frames. **Raises** `StreamError` after `finish`, `ShapeError` for more than one utterance."""
        if self._finished:
            raise StreamError("this ctc-greedy-boost session is finished; open another one")
        if len(chunk.lengths) != 1:
            raise ShapeError(f"a streaming chunk holds one utterance, got {len(chunk.lengths)}")
        if self._timing is None:
            self._timing = (chunk.frame_shift_s, chunk.offset_s)
        rows = self._decoder.log_probs(chunk)[0, : int(chunk.lengths[0])]
        if not len(rows):
            return None
        frames = np.ascontiguousarray(rows.numpy())
        path = rows.argmax(dim=-1).numpy() if self._walk is None else self._walk.read(frames)
        values = frames[np.arange(len(path)), path]
        self._add(runs_of(path, values, self._decoder.vocabulary.blank))
        self._total += float(values.sum(dtype=np.float64))
        self._frames += len(path)
        self._last = int(path[-1])
        tokens = tuple(run.label for run in self._runs)
        if tokens == self._said:
            return None
        self._said = tokens
        return self._nbest()

    def _add(self, runs: Sequence[Run]) -> None:
        shifted = [run._replace(start=run.start + self._frames, stop=run.stop + self._frames) for run in runs]
        if shifted and shifted[0].start == self._frames and shifted[0].label == self._last:
            before = self._runs.pop()
            now = shifted[0]
            shifted[0] = before._replace(stop=now.stop, score=max(before.score, now.score))
        self._runs += shifted

    def finish(self) -> NBest:
        """The n-best list of the whole. **Raises** `StreamError` when called twice."""
        if self._finished:
            raise StreamError("this ctc-greedy-boost session is finished already; open another one")
        self._finished = True
        return self._nbest()

    def _nbest(self) -> NBest:
        shift, offset = self._timing or (0.0, 0.0)
        score = self._total + (0.0 if self._walk is None else self._walk.bonus)
        found = reading(self._runs, score, self._decoder.vocabulary, frame_shift_s=shift, offset_s=offset)
        return NBest([found])
