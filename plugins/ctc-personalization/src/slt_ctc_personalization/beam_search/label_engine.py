"""The search without a lexicon: tables of labels, spellings and phrases around the compiled kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.beam_search import candidates, kernel
from slt_ctc_personalization.beam_search.beam_state import BeamState, Clock
from slt_ctc_personalization.beam_search.prefix_tree import FUSED, KEY, LAST, SIZE, START
from slt_ctc_personalization.beam_search.settings import PhraseTable, Settings, int64, no_model, spelled_words
from slt_ctc_personalization.compiled import first_call
from slt_ctc_personalization.lexicon.lexicon_trie import EMPTY_TRIE, TrieTables, build_trie, child_of
from slt_ctc_personalization.phrases.phrase_gates import Holders, gated_spellings, holders
from slt_ctc_personalization.phrases.phrase_states import Earnings, States, build_states, edge_paths, fixed_earnings
from slt_ctc_personalization.phrases.phrases import Phrase, flattened, scaled_earnings, weighed
from sltcore.errors import VocabularyError
from sltcore.types import Hypothesis


class Listing(NamedTuple):
    """What a list is before it is weighed: `held` says which phrases hold each word of the spelling trie `extra`."""

    states: States
    earnings: Earnings
    extra: TrieTables
    held: Holders


class LabelEngine:
    """Hypotheses are label sequences; words, where there are any, are what stands between their borders."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lm = no_model() if settings.lm is None else settings.lm.tables
        self._unit = candidates.NO_LM if settings.lm is None else candidates.WORD_LM
        if settings.lm is not None and (settings.lm_unit == "token" or not settings.knows_words):
            self._unit = candidates.TOKEN_LM
        self._first_lm = int(first_call(kernel.first_lm_state, self.lm)) if settings.lm is not None else 0
        self._edges = candidates.NO_EDGES
        if settings.knows_words:
            self._edges = candidates.MARK_EDGES if settings.word_boundary is None else candidates.BOUNDARY_EDGES
        self.texts = texts = [settings.characters(label) for label in range(len(settings.labels))]
        spoken = [label for index, label in enumerate(settings.labels) if index != settings.blank]
        self._joint = " " if any(len(label) > 1 for label in spoken) else ""
        self._alphabet = {character: index for index, character in enumerate(sorted(set("".join(texts))))}
        self.label_tables = self._describe_labels(texts)
        self.spellings = self._spell_vocabulary() if self._unit == candidates.WORD_LM else EMPTY_TRIE

    def _describe_labels(self, texts: Sequence[str]) -> candidates.LabelTables:
        settings = self.settings
        kind = np.zeros(len(texts), np.int64)
        for label in range(len(texts)):
            kind[label] = candidates.EXCLUDED * (label in settings.excluded)
            kind[label] |= candidates.STARTS_WORD * (settings.marks_words and settings.starts_word(label))
        lm = settings.lm
        use_lm = lm is not None and self._unit == candidates.TOKEN_LM
        return candidates.LabelTables(
            kind,
            int64([0, *np.cumsum([len(text) for text in texts])]),
            int64([self._alphabet[character] for text in texts for character in text]),
            int64([lm.word_id(label) if use_lm and lm is not None else 0 for label in settings.labels]),
        )

    def _spell_vocabulary(self) -> TrieTables:
        lm = self.settings.lm
        assert lm is not None
        paths, words = spelled_words(lm.words[3:], self._alphabet)
        if not paths:
            sample = ", ".join(map(repr, lm.words[3:6]))
            letters = "".join(list(self._alphabet)[:12])
            raise VocabularyError(
                f"beam search: no word of the language model ({sample}, ...) can be written with the labels' characters "
                f"({letters}...); is the case different?"
            )
        ids = np.array(words) + 3
        scores = lm.unigram_log_probs()[ids] if self.settings.look_ahead else None
        return build_trie(paths, ids, scores=scores)

    def prepare(self, phrases: Sequence[Phrase]) -> PhraseTable:
        """The automaton over labels, and the spellings of the phrases' words."""
        for phrase in phrases:
            if not phrase.paths:
                raise VocabularyError(
                    f"phrase {phrase.text!r} has no label paths; give one path or more, or use a lexicon"
                )
        states, earnings = self._earnings(phrases)
        extra, held = self._listed_words(phrases)
        listing = Listing(states, earnings, extra, held)
        return self._table(tuple(phrases), listing, np.ones(len(phrases), np.float32))

    def reweighed(self, table: PhraseTable, gates: npt.NDArray[np.float32]) -> PhraseTable:
        """`table` with each phrase's bonus times its gate; a gate of 0 is as if the phrase were not listed."""
        return self._table(table.phrases, table.listing, gates)

    def _table(self, phrases: tuple[Phrase, ...], listing: Listing, gates: npt.NDArray[np.float32]) -> PhraseTable:
        tables = weighed(listing.states, listing.earnings, gates)
        extra = gated_spellings(listing.extra, listing.held, gates)
        start = max(int(child_of(tables, 0, len(self.settings.labels))), 0) if self._edges else 0
        longest = int(tables.span.max()) + 1
        return PhraseTable(phrases, self.settings, tables, extra, start, longest, self.options(start), listing=listing)

    def _earnings(self, phrases: Sequence[Phrase]) -> tuple[States, Earnings]:
        """The states of the phrases' paths, an edge around each word, and what they earn."""
        settings = self.settings
        paths = [path for phrase in phrases for path in phrase.paths]
        owner = np.repeat(np.arange(len(phrases), dtype=np.int32), [len(phrase.paths) for phrase in phrases])
        flat, lengths = flattened(paths)
        edge, counts = len(settings.labels), self._edges == candidates.BOUNDARY_EDGES
        if settings.knows_words and paths:
            starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            begins = (self.label_tables.kind & candidates.STARTS_WORD).astype(np.int64)
            boundary = -1 if settings.word_boundary is None else settings.word_boundary
            out = np.empty(2 * len(flat) + 2 * len(paths), np.int64)
            flat = out[: int(first_call(edge_paths, flat, starts, boundary, begins, edge, out, lengths))]
        states = build_states(flat, lengths, edge=edge, edge_counts=counts)
        if settings.boosting != "depth-scaled":
            bonus = np.array([phrase.bonus for phrase in phrases], np.float64)
            return states, fixed_earnings(states, owner, bonus[owner])
        labels = (states.span[states.leaf] - int(counts)).astype(np.int32)  # the edge behind the last word is no label
        return states, scaled_earnings(phrases, owner, labels, states.span, settings.depth_scaling)

    def _listed_words(self, phrases: Sequence[Phrase]) -> tuple[TrieTables, Holders]:
        """The spellings of the phrases' words, and for each word the phrases that hold it."""
        holding: dict[str, list[int]] = {}
        if self._unit == candidates.WORD_LM:
            for index, phrase in enumerate(phrases):
                for path in phrase.paths:
                    for text in self._texts(path):
                        holding.setdefault(text, []).append(index)
        words = sorted(holding)
        paths, ids = spelled_words(words, self._alphabet)
        if not paths:
            return EMPTY_TRIE, holders([])
        extra = build_trie(paths, ids)
        return extra, holders([holding[words[word]] for word in extra.words.tolist()])

    def _texts(self, path: Sequence[int]) -> list[str]:
        """The words of a path as they are written."""
        texts, boundary = self.texts, self.settings.word_boundary
        if boundary is not None:
            return "".join([" " if label == boundary else texts[label] for label in path]).split(" ")
        return ["".join([texts[path[place]] for place in group]) for group in self.settings.words(path)]

    def options(self, start: int) -> candidates.Options:
        """The kernel's settings, for phrases that start in a state."""
        settings = self.settings
        return candidates.Options(
            blank=settings.blank,
            boundary=-1 if settings.word_boundary is None else settings.word_boundary,
            edges=self._edges,
            lm_unit=self._unit,
            beam=settings.beam,
            look_ahead=int(settings.look_ahead),
            single=int(settings.n_best == 1),
            start_phrase=start,
            token_min=float(settings.token_min_log_prob),
            prune=float(settings.beam_prune_log_prob),
            lm_weight=float(settings.lm_weight),
            word_bonus=float(settings.word_bonus) if settings.lm is not None else 0.0,
            unknown=float(settings.unknown_word_log_prob),
        )

    def open(self, table: PhraseTable) -> BeamState:
        """The state before the first frame."""
        settings = self.settings
        return BeamState(settings.beam, len(settings.labels), **self._start(table))

    def reset(self, state: BeamState, table: PhraseTable) -> None:
        """Back to the state before the first frame."""
        state.reset(**self._start(table))

    def _start(self, table: PhraseTable) -> dict[str, Any]:
        return {"phrase": table.start, "lm": self._first_lm, "absorbs": self._edges == candidates.BOUNDARY_EDGES}

    def advance(self, state: BeamState, table: PhraseTable, log_probs: npt.NDArray[np.float32]) -> None:
        """Read frames [t v]."""
        state.run(
            kernel.search_labels, log_probs, table.options, self.label_tables, self.spellings, table.extra,
            table.tables, self.lm,
        )  # fmt: skip

    def settle(self, state: BeamState, table: PhraseTable) -> None:
        """Free the shared history."""
        state.settle(table.longest)

    def best(self, state: BeamState, table: PhraseTable, n_best: int, clock: Clock) -> list[Hypothesis]:
        """The best complete hypotheses, best first."""
        nodes, scores = state.scratch.node, state.scratch.score
        count = first_call(
            kernel.finish_labels, table.options, self.label_tables, self.spellings, table.extra, table.tables,
            self.lm, state.beam, nodes, scores,
        )  # fmt: skip
        order = np.argsort(-scores[:count], kind="stable")[:n_best].tolist()
        return [self._hypothesis(state.history(int(nodes[i])), float(scores[i]), clock) for i in order]

    def partial(self, state: BeamState, table: PhraseTable) -> str:
        """The text of the hypothesis that leads now."""
        beam = state.beam
        size = int(beam.control[SIZE])
        scores = beam.total[:size] + beam.numbers[beam.node[:size], FUSED]
        return self._hypothesis(state.history(int(beam.node[int(np.argmax(scores))])), 0.0, Clock(1.0, 0.0)).text

    def _hypothesis(self, rows: npt.NDArray[np.int64], score: float, clock: Clock) -> Hypothesis:
        settings = self.settings
        tokens, first, last = rows[:, (KEY, START, LAST)].T.tolist() if len(rows) else ([], [], [])
        if tokens and tokens[-1] == settings.word_boundary:
            tokens.pop()
        if not settings.knows_words:
            text = self._joint.join([settings.labels[token] for token in tokens])
            return Hypothesis(text, score, tuple(tokens), clock.spans(first, last))
        if settings.word_boundary is not None:  # exactly one boundary between words: no need to look at each label
            borders = np.flatnonzero(rows[: len(tokens), KEY] == settings.word_boundary).tolist()
            begins = [0, *(border + 1 for border in borders)] if tokens else []
            ends = [*(border - 1 for border in borders), len(tokens) - 1] if tokens else []
        else:
            groups = settings.words(tokens)
            begins, ends = [group[0] for group in groups], [group[-1] for group in groups]
        texts = [self.texts[token] for token in tokens]
        words = ["".join(texts[begin : end + 1]) for begin, end in zip(begins, ends, strict=True)]
        times = clock.spans([first[begin] for begin in begins], [last[end] for end in ends])
        return Hypothesis(" ".join(words), score, tuple(tokens), times, {"words": words})
