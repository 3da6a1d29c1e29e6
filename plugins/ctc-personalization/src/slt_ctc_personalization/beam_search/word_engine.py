"""The search over a lexicon: pronunciation trie, words and phrases around the compiled kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.beam_search import candidates, kernel, word_kernel
from slt_ctc_personalization.beam_search.beam_state import BeamState, Clock
from slt_ctc_personalization.beam_search.prefix_tree import EXTRA, FUSED, KEY, LAST, SIZE, SPELL, START, WORD_KEY
from slt_ctc_personalization.beam_search.settings import PhraseTable, Settings, int64, no_model
from slt_ctc_personalization.compiled import first_call
from slt_ctc_personalization.lexicon.lexicon_trie import ABOVE, EMPTY_TRIE, LABEL, TrieTables
from slt_ctc_personalization.phrases.phrase_gates import ListedEntries, find_entries, gated_words, holders
from slt_ctc_personalization.phrases.phrase_states import Earnings, States, build_states, fixed_earnings, read_labels
from slt_ctc_personalization.phrases.phrases import (
    Phrase,
    WordPaths,
    flattened,
    scaled_earnings,
    weighed,
    with_word_credit,
    word_paths,
)
from sltcore.errors import VocabularyError
from sltcore.types import Hypothesis


class Lexicon(NamedTuple):
    """The trie and the words' tables for one phrase list."""

    trie: TrieTables
    words: word_kernel.WordTables


class Ahead(NamedTuple):
    """Per word: what its end adds with the list, what it would without, and the penalty without; look-ahead only."""

    score: npt.NDArray[np.float32]
    lost: npt.NDArray[np.float32]
    penalty: npt.NDArray[np.float64]


class Listing(NamedTuple):
    """What a list is before it is weighed: automaton, the listed words' symbols and paths, and the whole lexicon."""

    states: States
    earnings: Earnings
    paths: WordPaths
    symbol: npt.NDArray[np.int32]
    lexicon: Lexicon
    entries: ListedEntries


Path = tuple[int, ...]


class WordEngine:
    """Hypotheses are word sequences of a lexicon; labels are only how the words sound, or are spelled."""

    def __init__(self, settings: Settings) -> None:
        assert settings.lexicon is not None
        self.settings = settings
        self.lexicon = settings.lexicon
        self.lm = no_model() if settings.lm is None else settings.lm.tables
        self._first_lm = int(first_call(kernel.first_lm_state, self.lm)) if settings.lm is not None else 0
        self._unigrams = None if settings.lm is None else settings.lm.unigram_log_probs()
        kinds = [candidates.EXCLUDED * (label in settings.excluded) for label in range(len(settings.labels))]
        zeros = np.zeros(len(kinds), np.int64)
        self.label_tables = candidates.LabelTables(int64(kinds), int64([0, *zeros]), int64([]), zeros)

    def prepare(self, phrases: Sequence[Phrase]) -> PhraseTable:
        """The automaton over words, credit inside words, and a trie that holds the phrases' words too."""
        listed = {word: index for index, word in enumerate(dict.fromkeys(w for p in phrases for w in p.text.split()))}
        known = [word for word in listed if word not in self.lexicon]
        words = (*self.lexicon.words, *known)
        ids = {word: len(self.lexicon) + index for index, word in enumerate(known)}
        numbers = [ids[word] if word in ids else self.lexicon.index(word) for word in listed]
        added, heard = self._pronunciations(phrases, listed, numbers)
        lexicon, ahead = self._tables(words, numbers, added)
        symbol = np.full(len(words), -1, np.int32)
        symbol[numbers] = np.arange(len(numbers))
        patterns = [[listed[word] for word in phrase.text.split()] for phrase in phrases]
        for phrase, pattern in zip(phrases, patterns, strict=True):
            if not pattern:
                raise VocabularyError(f"phrase {phrase.text!r} is empty; give at least one word")
        states, earnings = self._earnings(phrases, patterns, [len(paths[0]) for paths in heard])
        entries = _listed_entries(phrases, listed, numbers, heard, set(added), lexicon.trie, ahead)
        if not self.settings.look_ahead:
            lost = np.where(entries.added > 0, -np.inf, 0.0).astype(np.float32)
            entries = entries._replace(score=np.zeros_like(entries.score), lost=lost)
        listing = Listing(states, earnings, word_paths(heard, lexicon.trie), symbol, lexicon, entries)
        return self._table(tuple(phrases), listing, words, np.ones(len(phrases), np.float32))

    def reweighed(self, table: PhraseTable, gates: npt.NDArray[np.float32]) -> PhraseTable:
        """`table` with each phrase's bonus times its gate; a gate of 0 is as if the phrase were not listed."""
        return self._table(table.phrases, table.listing, table.words, gates)

    def _table(
        self, phrases: tuple[Phrase, ...], listing: Listing, words: tuple[str, ...], gates: npt.NDArray[np.float32]
    ) -> PhraseTable:
        automaton = weighed(listing.states, listing.earnings, gates, symbol=listing.symbol)
        trie, tables = listing.lexicon
        automaton = with_word_credit(automaton, listing.paths, len(trie.rows))
        trie, penalty = gated_words(trie, tables.penalty, listing.entries, gates)
        lexicon = Lexicon(trie, tables._replace(penalty=penalty))
        longest = int(automaton.span.max()) + 2
        return PhraseTable(
            phrases, self.settings, automaton, EMPTY_TRIE, 0, longest, self.options(0), words, lexicon, listing
        )

    def _earnings(
        self, phrases: Sequence[Phrase], patterns: Sequence[Sequence[int]], labels_of: Sequence[int]
    ) -> tuple[States, Earnings]:
        """The states of the phrases' words, and what they earn; `labels_of` [symbol] the labels of a word."""
        settings = self.settings
        flat, lengths = flattened(patterns)
        states = build_states(flat, lengths, edge=-1, edge_counts=False)
        owner = np.arange(len(phrases), dtype=np.int32)
        if settings.boosting != "depth-scaled":
            return states, fixed_earnings(states, owner, np.array([p.bonus for p in phrases], np.float64))
        read = np.zeros(len(states.rows), np.int32)
        if len(phrases):
            first_call(read_labels, states.rows, np.array(labels_of, np.int32), read)
        return states, scaled_earnings(phrases, owner, read[states.leaf], read, settings.depth_scaling)

    def _pronunciations(
        self, phrases: Sequence[Phrase], listed: Mapping[str, int], numbers: Sequence[int]
    ) -> tuple[list[tuple[int, Path]], list[list[Path]]]:
        """Paths that the lexicon lacks, by word id; and all paths of each listed word, by its symbol."""
        given: dict[str, list[Path]] = {word: [] for word in listed}
        for phrase in phrases:
            for word, paths in phrase.pronunciations.items():
                if word in given:
                    given[word] += [tuple(path) for path in paths]
        added: list[tuple[int, Path]] = []
        heard: list[list[Path]] = []
        for word, number in zip(listed, numbers, strict=True):
            present = self.lexicon.paths(word)
            fresh = [path for path in dict.fromkeys(given[word]) if path not in present]
            if not present and not fresh:
                raise VocabularyError(
                    f"phrase word {word!r} is not in the lexicon; give its pronunciation with the phrase"
                )
            added += [(number, path) for path in fresh]
            heard.append([*present, *fresh])
        return added, heard

    def _tables(
        self, words: Sequence[str], listed: Sequence[int], added: Sequence[tuple[int, Path]]
    ) -> tuple[Lexicon, Ahead]:
        """The trie and the words' tables where the words `listed` are, and what would be ahead if they were not."""
        settings, lm = self.settings, self.settings.lm
        size = len(words)
        score = lost = np.zeros(size, np.float32)
        lm_words, penalty, unlisted = np.zeros(size, np.int64), np.zeros(size), np.zeros(size)
        if lm is not None and self._unigrams is not None:
            lm_words[:] = [lm.word_id(word) for word in words]
            strange = np.array([not lm.in_vocabulary(word) for word in words])
            letters = np.array([len(word) for word in words]) / candidates.LETTERS_OF_A_WORD
            unlisted[strange] = settings.lm_weight * settings.unknown_word_log_prob * np.maximum(letters, 1.0)[strange]
            penalty[:] = unlisted
            penalty[listed] = 0.0
            known = settings.lm_weight * self._unigrams[lm_words] + settings.word_bonus
            score, lost = (known + penalty).astype(np.float32), (known + unlisted).astype(np.float32)
        trie = self.lexicon.tables(score, added)
        if not settings.look_ahead:
            trie = trie._replace(best=np.zeros_like(trie.best))
            score = lost = np.zeros(size, np.float32)
        return Lexicon(trie, word_kernel.WordTables(lm_words, penalty)), Ahead(score, lost, unlisted)

    def options(self, start: int) -> candidates.Options:
        """The kernel's settings."""
        settings = self.settings
        return candidates.Options(
            blank=settings.blank,
            boundary=-1 if settings.word_boundary is None else settings.word_boundary,
            edges=candidates.BOUNDARY_EDGES,
            lm_unit=candidates.NO_LM if settings.lm is None else candidates.WORD_LM,
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
        return BeamState(
            settings.beam, len(settings.labels), phrase=0, lm=self._first_lm, absorbs=True, rows_per_candidate=2
        )

    def reset(self, state: BeamState, table: PhraseTable) -> None:
        """Back to the state before the first frame."""
        state.reset(phrase=0, lm=self._first_lm, absorbs=True)

    def advance(self, state: BeamState, table: PhraseTable, log_probs: npt.NDArray[np.float32]) -> None:
        """Read frames [t v]."""
        trie, words = table.word_tables
        state.run(
            word_kernel.search_words, log_probs, table.options, self.label_tables, trie, words, table.tables, self.lm
        )

    def settle(self, state: BeamState, table: PhraseTable) -> None:
        """Free the shared history."""
        state.settle(table.longest, words=True)

    def best(self, state: BeamState, table: PhraseTable, n_best: int, clock: Clock) -> list[Hypothesis]:
        """The best complete hypotheses, best first; where no last word is complete, it is left out."""
        trie, words = table.word_tables
        size, count, whole = 4 * self.settings.beam, -1, 1
        while count <= 0:
            owner, key, node = (np.empty(size, np.int64) for _ in range(3))
            scores = np.empty(size)
            count = first_call(
                word_kernel.finish_words, table.options, trie, words, table.tables, self.lm, state.beam, whole,
                owner, key, node, scores,
            )  # fmt: skip
            if count == 0 and whole == 0:
                return []
            size, whole = (2 * size, whole) if count < 0 else (size, 0)
        order = np.argsort(-scores[:count], kind="stable")[:n_best]
        return [self._hypothesis(state, table, int(node[i]), int(key[i]), float(scores[i]), clock) for i in order]

    def partial(self, state: BeamState, table: PhraseTable) -> str:
        """The complete words of the hypothesis that leads now."""
        beam = state.beam
        size = int(beam.control[SIZE])
        node = int(beam.node[int(np.argmax(beam.total[:size] + beam.numbers[beam.node[:size], FUSED]))])
        rows = state.history(node)
        return " ".join(table.words[WORD_KEY - key] for key in rows[rows[:, KEY] <= WORD_KEY, KEY].tolist())

    def _hypothesis(
        self, state: BeamState, table: PhraseTable, node: int, key: int, score: float, clock: Clock
    ) -> Hypothesis:
        rows = state.history(node)
        done = rows[rows[:, KEY] <= WORD_KEY]
        heard = [
            (table.words[WORD_KEY - row[KEY]], int(row[START]), int(row[LAST]), int(row[EXTRA]))
            for row in done.tolist()
        ]
        if len(rows) and rows[-1, KEY] >= 0 and key <= WORD_KEY:
            last = rows[-1].tolist()
            start = last[START] if last[EXTRA] < 0 else last[EXTRA]
            heard.append((table.words[WORD_KEY - key], start, last[LAST], last[SPELL]))
        trie = table.word_tables.trie
        tokens = tuple(label for _, _, _, leaf in heard for label in _path_to(trie, leaf))
        words = [word for word, _, _, _ in heard]
        times = clock.spans([first for _, first, _, _ in heard], [last for _, _, last, _ in heard])
        return Hypothesis(" ".join(words), score, tokens, times, {"words": words})


def _path_to(trie: TrieTables, leaf: int) -> list[int]:
    path: list[int] = []
    while leaf > 0:
        path.append(int(trie.rows[leaf, LABEL]))
        leaf = int(trie.rows[leaf, ABOVE])
    return path[::-1]


def _listed_entries(
    phrases: Sequence[Phrase],
    listed: Mapping[str, int],
    numbers: Sequence[int],
    heard: Sequence[Sequence[Path]],
    added: set[tuple[int, Path]],
    trie: TrieTables,
    ahead: Ahead,
) -> ListedEntries:
    """The trie's entries that hang on the list: added paths, and words that are unknown without it."""
    listing: list[list[int]] = [[] for _ in listed]
    giving: dict[tuple[int, Path], list[int]] = {}
    for index, phrase in enumerate(phrases):
        for word in dict.fromkeys(phrase.text.split()):
            listing[listed[word]].append(index)
        for word, paths in phrase.pronunciations.items():
            if word in listed:
                for path in dict.fromkeys(map(tuple, paths)):
                    giving.setdefault((numbers[listed[word]], path), []).append(index)
    changing = [
        (symbol, (number, path))
        for symbol, number in enumerate(numbers)
        for path in heard[symbol]
        if (number, path) in added or ahead.penalty[number] != 0.0
    ]
    flat, lengths = flattened([path for _, (_, path) in changing])
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    words = np.array([number for _, (number, _) in changing], np.int64)
    entry, node = np.zeros(len(changing), np.int64), np.zeros(len(changing), np.int64)
    if changing:
        first_call(find_entries, trie, flat, starts, words, entry, node)
    fresh = np.array([place in added for _, place in changing], np.int64)
    return ListedEntries(
        entry=entry,
        node=node,
        symbol=np.array([symbol for symbol, _ in changing], np.int64),
        added=fresh,
        lost=np.where(fresh > 0, -np.inf, ahead.lost[words] + trie.weights[entry]).astype(np.float32),
        score=ahead.score[trie.words] + trie.weights,
        word=np.array(numbers, np.int64),
        penalty=ahead.penalty[numbers] if numbers else np.zeros(0),
        listing=holders(listing),
        giving=holders([giving.get(place, ()) for _, place in changing]),
    )
