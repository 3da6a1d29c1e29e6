"""Windowed adaptive boosting: bonuses that follow what is heard around the frame in which a phrase ends.

The bonus of a phrase depends on the alignment here, so the search runs in the max semiring: the score of a text y is

    max over alignments a of y of [ sum_t ln p(a_t | t) + max over sets S of occurrences that share no label of
        sum_{s in S} bonus(s) (floor + (1 - floor) W[e(s, a), phrase(s)]) ]  + language model and word bonuses of y

with e(s, a) the frame in which a first emits the last label of s, and W[t, k] the most that is heard of phrase k in the
frames `t - window_before ... t + window_after`. What an occurrence is: module `phrases`. Without phrases this is a
Viterbi search over prefixes.

**State.** The bonus is fixed in the frame of the last label, so it is added there, and a hypothesis needs no memory of
it: a node is a label sequence and a claim. Without a claim; with an open claim, which is a place in a phrase entered at a
word start, and dies when the labels leave the phrase; or, where labels know words, with a closed claim, which holds the
bonus and lives on only if the word ends there. Closed claims (open ones that are complete, where labels know no words)
merge by max into the hypothesis without a claim. Every phrase that begins is a claim beside the hypothesis that does
not claim it, so all sets S are searched. Both kinds take a place in the beam each: with phrases that are heard, `beam`
holds fewer texts than it has places. For ranking, an open claim is lent `bonus * gate * labels read / labels` of the
best phrase that is heard now; no score holds that.

**Cost.** A frame takes in only the phrases of its row, and of these only those that are heard otherwise than in the row
before: the length of the list does not matter unless `evidence_floor` is above 0, when every begun phrase may pay.

**Source**: own construction. "Towards Personalization of CTC Speech Recognition Models with Contextual Adapters and
Adaptive Boosting" (Dingliwal et al.) names adaptive boosting; its rule is not public. The max semiring makes a bonus for
each alignment well defined: a log-sum would weigh each alignment by its own bonus.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.beam_search import candidates, windowed_kernel
from slt_ctc_personalization.beam_search.beam_state import BeamState, Clock
from slt_ctc_personalization.beam_search.claims import Claims, Heard, build_claims, nothing_heard
from slt_ctc_personalization.beam_search.label_engine import LabelEngine
from slt_ctc_personalization.beam_search.prefix_tree import FUSED, KEY, PARENT, SIZE
from slt_ctc_personalization.beam_search.settings import PhraseTable, Settings
from slt_ctc_personalization.beam_search.windowed_beam import CLOSED
from slt_ctc_personalization.compiled import first_call, writable
from slt_ctc_personalization.evidence.evidence import Evidence, check_evidence, nothing
from slt_ctc_personalization.lexicon.lexicon_trie import COUNT
from slt_ctc_personalization.phrases.phrases import Phrase, no_phrases
from sltcore.errors import PluginError, VocabularyError
from sltcore.types import Hypothesis

TWIN_ROWS = 2
"""A candidate may need a row of the tree for its label sequence and one for its claim."""


class EvidenceRows(NamedTuple):
    """The rows of evidence of the frames at hand, as the kernel reads them."""

    start: npt.NDArray[np.int64]
    phrase: npt.NDArray[np.int32]
    value: npt.NDArray[np.float32]


class WindowedState(BeamState):
    """A search's state, and what is heard of the phrases of a list."""

    heard: Heard
    _claims: Claims | None = None

    def make_room(self, claims: Claims) -> None:
        """Forget what was heard of another list. (What was heard of the same, the first row of evidence replaces.)"""
        if claims is self._claims:
            return
        sizes = len(claims.rows), len(claims.bonus), int(claims.rows[0, COUNT])
        if self._claims is None:
            self.heard = nothing_heard(*sizes)
        else:
            old = len(self.heard.links), len(self.heard.gate), len(self.heard.label)
            if any(new > size for new, size in zip(sizes, old, strict=True)):
                self.heard = nothing_heard(*map(max, sizes, old))
            else:
                for table in self.heard:
                    table.fill(0)
        self._claims = claims


class WindowedEngine(LabelEngine):
    """Hypotheses are label sequences, each with or without a claim on a phrase; see the module for the score.

    `advance` takes evidence that is windowed already (`evidence.windowed`, or frame by frame in a session).
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._automaton = no_phrases()

    def prepare(self, phrases: Sequence[Phrase]) -> PhraseTable:
        """The trie of the phrases' label paths, and the spellings of their words."""
        settings = self.settings
        paths: list[list[tuple[int, ...]]] = []
        for phrase in phrases:
            if not phrase.paths:
                raise VocabularyError(f"phrase {phrase.text!r} has no label paths; give one path or more")
            paths.append(list(dict.fromkeys(self._between_edges(path) for path in phrase.paths)))
        claims = build_claims(paths, [phrase.bonus for phrase in phrases], floor=settings.evidence_floor)
        extra = self._listed_words(phrases)[0]
        return PhraseTable(
            tuple(phrases), settings, self._automaton, extra, 0, int(claims.depth.max()) + 1, self.options(0),
            word_tables=claims,
        )  # fmt: skip

    def _between_edges(self, path: Sequence[int]) -> tuple[int, ...]:
        """A path without boundaries around it, and with one between words."""
        boundary = self.settings.word_boundary
        found: list[int] = []
        for label in path:
            if label != boundary or (found and found[-1] != boundary):
                found.append(label)
        return tuple(found[:-1] if found[-1] == boundary else found)

    def reweighed(self, table: PhraseTable, gates: npt.NDArray[np.float32]) -> PhraseTable:
        """Not for this search, which weighs each phrase in each frame."""
        raise PluginError("reweighed: boosting 'windowed' weighs phrases frame by frame; give evidence instead")

    def open(self, table: PhraseTable) -> WindowedState:
        """The state before the first frame."""
        settings = self.settings
        state = WindowedState(settings.beam, len(settings.labels), rows_per_candidate=TWIN_ROWS, **self._start(table))
        state.make_room(table.word_tables)
        return state

    def reset(self, state: BeamState, table: PhraseTable) -> None:
        """Back to the state before the first frame, with room for another list."""
        assert isinstance(state, WindowedState)
        state.reset(**self._start(table))
        state.make_room(table.word_tables)

    def advance(
        self,
        state: BeamState,
        table: PhraseTable,
        log_probs: npt.NDArray[np.float32],
        evidence: Evidence | None = None,
    ) -> None:
        """Read frames [t v], and for each of them what is heard around it of each phrase of the list."""
        assert isinstance(state, WindowedState)
        around = nothing(len(log_probs)) if evidence is None else evidence
        check_evidence(around, len(log_probs), len(table))
        rows = EvidenceRows(*(writable(part) for part in around))
        state.run(
            windowed_kernel.search_windowed, log_probs, table.options, self.label_tables, self.spellings, table.extra,
            self._automaton, self.lm, table.word_tables, state.heard, rows,
        )  # fmt: skip

    def best(self, state: BeamState, table: PhraseTable, n_best: int, clock: Clock) -> list[Hypothesis]:
        """The best complete hypotheses, best first."""
        nodes, scores = state.scratch.node, state.scratch.score
        count = first_call(
            windowed_kernel.finish_windowed, table.options, self.label_tables, self.spellings, table.extra, self.lm,
            state.beam, nodes, scores,
        )  # fmt: skip
        order = np.argsort(-scores[:count], kind="stable")[:n_best].tolist()
        return [self._hypothesis(state.history(int(nodes[i])), float(scores[i]), clock) for i in order]

    def partial(self, state: BeamState, table: PhraseTable) -> str:
        """The text of the hypothesis that leads now, without credit for phrases that have begun."""
        beam = state.beam
        node = beam.node[: int(beam.control[SIZE])]
        best = int(node[int(np.argmax(beam.total[: len(node)] + beam.numbers[node, FUSED]))])
        if beam.nodes[best, KEY] <= CLOSED:
            best = int(beam.nodes[best, PARENT])
        return self._hypothesis(state.history(best), 0.0, Clock(1.0, 0.0)).text

    def _start(self, table: PhraseTable) -> dict[str, Any]:
        return {"phrase": 0, "lm": self._first_lm, "absorbs": self._edges == candidates.BOUNDARY_EDGES}
