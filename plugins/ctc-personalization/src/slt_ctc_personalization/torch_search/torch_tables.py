"""The tables of a label search as tensors, made for many look-ups at once: every step is one binary search.

Failure links are followed when the tables are built, not when they are read: a state's transitions are its own arcs and
those of its suffixes, the longest suffix first, as sorted keys `state * symbols + symbol`. What a suffix without labels
(the root, or the root behind a word's edge) would do stands once in a dense row. The automata, tries and n-grams of all
lists of a batch lie behind one another in the same tensors, so different utterances may read different lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slt_ctc_personalization.beam_search.candidates import BOUNDARY_EDGES, MARK_EDGES, STARTS_WORD, LabelTables
from slt_ctc_personalization.language_model.ngram import BEGIN, END, NgramTables
from slt_ctc_personalization.lexicon.lexicon_trie import COUNT, FIRST, LABEL, TrieTables, child_of
from slt_ctc_personalization.phrases.phrases import PhraseTables

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
FREE_SLOT = -1
LAST_WORD = np.int64(0xFFFFFFFF)


def find(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Places of `wanted` in the sorted `keys`, and whether they stand there; `keys` holds one entry or more."""
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return place, keys[place] == wanted


def _sorted_or_one(keys: Ints) -> Ints:
    return keys if len(keys) else np.full(1, -1, np.int64)


class Trie:
    """Spellings of words; -1 is outside, node 0 the root (of the first trie, where several lie behind one another).

    `word` [node] is the word spelled there, 0 where none (ids of the language model; for the phrases' words any number
    that is not 0), `best` [node] float64 the look-ahead score.
    """

    def __init__(self, tries: Sequence[TrieTables], characters: int, device: torch.device, *, listed: bool) -> None:
        self.width = max(characters, 1)
        keys, children, words, best, offset = [], [], [], [], 0
        self.roots = []
        for trie in tries:
            rows = trie.rows.astype(np.int64)
            parents = np.repeat(np.arange(len(rows)), rows[:, COUNT])
            below = np.arange(1, len(rows))
            if listed:  # nodes that only words of phrases with a gate of 0 lead to are as if they were not there
                open_ = trie.best[1:] >= 0.0
                parents, below = parents[open_], below[open_]
            keys.append((parents + offset) * self.width + rows[below, LABEL])
            children.append(below + offset)
            has = np.diff(trie.word_start) > 0
            has[0] = False
            first = trie.word_start[:-1][has]
            word = np.zeros(len(rows), np.int64)
            word[has] = trie.weights[first] == 0.0 if listed else trie.words[first]
            words.append(word)
            best.append(trie.best.astype(np.float64))
            self.roots.append(offset)
            offset += len(rows)
        to = device
        self.keys = torch.from_numpy(_sorted_or_one(np.concatenate(keys))).to(to)
        self.children = torch.from_numpy(_sorted_or_one(np.concatenate(children))).to(to)
        self.word = torch.from_numpy(np.concatenate(words)).to(to)
        self.best = torch.from_numpy(np.concatenate(best)).to(to)

    def step(self, node: Tensor, character: Tensor) -> Tensor:
        """The node below `node` by a character, -1 where there is none; a character of -1 leaves the node as it is."""
        place, hit = find(self.keys, node * self.width + character)
        below = torch.where(hit & (node >= 0), self.children[place], -1)
        return torch.where(character < 0, node, below)


class Ngrams:
    """A back-off model as sorted keys `state << 32 | word`; the same numbers in float32 as the compiled search adds."""

    def __init__(self, tables: NgramTables, order: int, device: torch.device) -> None:
        keys, packed = tables.slots[0::2], tables.slots[1::2]
        used = np.flatnonzero(keys != FREE_SLOT)
        used = used[np.argsort(keys[used], kind="stable")]
        self.backs = order - 1 if len(used) else 0
        self.start = int(tables.unigrams[BEGIN] >> 32)

        def move(values: npt.NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        def score(values: Ints) -> npt.NDArray[np.float32]:
            return (values & LAST_WORD).astype(np.uint32).view(np.float32)

        self.keys = move(_sorted_or_one(keys[used]))
        self.scores, self.states = move(score(packed[used])), move(packed[used] >> 32)
        self.unigram_scores, self.unigram_states = move(score(tables.unigrams)), move(tables.unigrams >> 32)
        self.backoff = move(np.asarray(tables.backoff, np.float32))
        self.suffix = move(np.asarray(tables.suffix, np.int64))

    def step(self, state: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
        """(ln p(word | state) float64, state after the word), elementwise."""
        penalty = torch.zeros(state.shape, dtype=torch.float32, device=state.device)
        score, after = self.unigram_scores[word], self.unigram_states[word]
        found = torch.zeros_like(state, dtype=torch.bool)
        paid = penalty
        for _ in range(self.backs):
            place, hit = find(self.keys, state << 32 | word)
            hit = hit & (state > 0) & ~found
            score = torch.where(hit, self.scores[place], score)
            after = torch.where(hit, self.states[place], after)
            paid = torch.where(hit, penalty, paid)
            found = found | hit
            penalty = penalty + self.backoff[state]
            state = self.suffix[state]
        paid = torch.where(found, paid, penalty)
        return (paid + score).double(), after

    def end(self, state: Tensor) -> Tensor:
        """ln p(</s> | state) float64."""
        return self.step(state, torch.full_like(state, END))[0]


class Labels:
    """Per label: `starts` a word, number of `letters`, its characters [v, longest] padded with -1, its model word."""

    def __init__(self, tables: LabelTables, device: torch.device) -> None:
        counts = np.diff(tables.char_start)
        characters = np.full((len(counts), max(int(counts.max(initial=0)), 1)), -1, np.int64)
        for label, begin in enumerate(tables.char_start[:-1]):
            characters[label, : counts[label]] = tables.chars[begin : begin + counts[label]]
        self.starts = torch.from_numpy((tables.kind & STARTS_WORD) != 0).to(device)
        self.letters = torch.from_numpy(counts.astype(np.int64)).to(device)
        self.characters = torch.from_numpy(characters).to(device)
        self.word = torch.from_numpy(tables.lm_word).to(device)


class Structure(NamedTuple):
    """What an automaton's states and arcs say without their bonuses, failure links followed.

    `keys`, `targets`: transitions of labels and edges, keys `state * symbols + symbol` sorted. `tail` [state]: 0 or 1,
    the row of `dense` [2, symbols] that answers where `keys` does not. `expected_start` [state + 1]: a begun phrase's
    next labels in `expected`, and where each stands in `member_keys`: the same as sorted keys. Member m lends the largest
    credit of the states `arcs[arc_start[m] : arc_start[m + 1]]`. `chain`: the most suffixes with labels that a state has, itself included.
    """

    keys: Ints
    targets: Ints
    tail: Ints
    dense: Ints
    expected_start: Ints
    expected: Ints
    expected_member: Ints
    member_keys: Ints
    arcs: Ints
    arc_start: Ints
    chain: int

    def member_credit(self, credit: Floats) -> Floats:
        """The most that each member lends where the states lend `credit`: [member]."""
        return np.maximum.reduceat(credit[self.arcs], self.arc_start) if len(self.arcs) else credit[:0]


def structure_of(tables: PhraseTables, labels: int, edges: int, boundary: int) -> Structure:
    """The look-up tables of an automaton over `labels` labels and the edge of a word, which is symbol `labels`."""
    rows, fail = tables.rows.astype(np.int64), tables.fail.astype(np.int64)
    spoken = tables.span > 0
    size, symbols = len(rows), labels + 1
    arcs: list[tuple[Ints, Ints]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]  # (key, place)
    expected = list(arcs)
    source = np.flatnonzero(spoken)
    state, chain = source, 0
    while len(source):
        chain += 1
        owner, place = _arcs(rows, source, state)
        symbol = rows[place, LABEL]
        arcs.append((owner * symbols + symbol, place))
        at_edge = symbol == labels
        if edges == BOUNDARY_EDGES:
            expected.append((owner * symbols + np.where(at_edge, boundary, symbol), place))
        else:
            expected.append(((owner * symbols + symbol)[~at_edge], place[~at_edge]))
            if edges == MARK_EDGES:
                owner, place = _arcs(rows, owner[at_edge], place[at_edge])
                expected.append((owner * symbols + rows[place, LABEL], place))
        state = fail[state]
        inside = spoken[state]
        source, state = source[inside], state[inside]
    keys, targets = _joined(arcs)
    keys, first = np.unique(keys, return_index=True)  # the longest suffix comes first
    members, places = _joined(expected)
    member_keys, rank, counts = np.unique(members, return_index=True, return_counts=True)
    order = np.lexsort((rank, member_keys // symbols))  # in the order in which the compiled search tries them
    edge_state = max(int(child_of(tables, 0, labels)), 0)
    return Structure(
        keys,
        targets[first],
        _tails(tables, edge_state),
        _dense(rows, edge_state, symbols),
        np.searchsorted(member_keys // symbols, np.arange(size + 1)),
        member_keys[order] % symbols,
        order,
        member_keys,
        places[np.argsort(members, kind="stable")],
        np.cumsum(counts) - counts,
        chain,
    )


def _arcs(rows: Ints, owners: Ints, states: Ints) -> tuple[Ints, Ints]:
    """For each arc of `states`: the owner that belongs to its state, and the state that it leads to."""
    counts = rows[states, COUNT]
    begins = np.cumsum(counts) - counts
    places = np.repeat(rows[states, FIRST] - begins, counts) + np.arange(int(counts.sum()))
    return np.repeat(owners, counts), places


def _joined(arcs: Sequence[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    return np.concatenate([key for key, _ in arcs]), np.concatenate([place for _, place in arcs])


def _tails(tables: PhraseTables, edge_state: int) -> Ints:
    """1 where the longest suffix without labels is the root behind an edge, 0 where it is the root."""
    state = np.arange(len(tables.rows))
    while np.any(tables.span[state] > 0):
        state = np.where(tables.span[state] > 0, tables.fail[state], state)
    return ((state == edge_state) & (edge_state > 0)).astype(np.int64)


def _dense(rows: Ints, edge_state: int, symbols: int) -> Ints:
    found = np.zeros((2, symbols), np.int64)
    for row, state in ((0, 0), (1, 0), (1, edge_state)):
        places = np.arange(rows[state, FIRST], rows[state, FIRST] + rows[state, COUNT])
        found[row, rows[places, LABEL]] = places
    return found


class Automata:
    """The phrase lists of a batch.

    A state is a number over all structures of the batch; its bonuses are read at `state + shift` of its utterance, so
    lists that differ in their weights alone share one structure. All fields [b]: `start`: state before the first label;
    `shift`; `root`: root of the phrases' words in `words`. `outputs`, `chain`, `spans`: the most complete phrases, begun
    phrases and labels of a phrase that any state has.
    """

    def __init__(
        self,
        tables: Sequence[PhraseTables],
        structures: Sequence[Structure],
        starts: Sequence[int],
        roots: Sequence[int],
        owner: Sequence[int],
        symbols: int,
        device: torch.device,
    ) -> None:
        """`tables` and `structures` [table], `starts` and `roots` [table]; `owner` [b] is each utterance's table."""
        self.symbols = symbols
        offsets: dict[int, int] = {}
        kept: list[tuple[Structure, PhraseTables, int]] = []
        total = 0
        for structure, table in zip(structures, tables, strict=True):
            if id(structure) not in offsets:
                offsets[id(structure)] = total
                kept.append((structure, table, total))
                total += len(structure.tail)
        self.device = device
        self._place_structures(kept)
        self._place_weights(tables, structures, [offsets[id(structure)] for structure in structures])
        first = [offsets[id(structure)] for structure in structures]
        begins = np.cumsum([0, *(len(table.rows) for table in tables)])
        at = np.asarray(owner, np.int64)
        self.shift = self._move((begins[:-1] - first)[at])
        sizes = np.array([len(structure.member_keys) for structure in structures])
        members = [self._first_member[id(structure)] for structure in structures]
        self.member_shift = self._move((np.cumsum(sizes) - sizes - members)[at])
        self.start = self._move((np.asarray(starts) + first)[at])
        self.root = self._move(np.asarray(roots)[at])
        self.chain = max(structure.chain for structure in structures)
        self.spans = max(max(int(table.span.max()) for table in tables), 1)
        self.outputs = max(map(_most_outputs, tables))

    def _move(self, values: npt.ArrayLike, kind: npt.DTypeLike = np.int64) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, kind)).to(self.device)

    def _place_structures(self, kept: Sequence[tuple[Structure, PhraseTables, int]]) -> None:
        symbols = self.symbols

        def joined(parts: Sequence[Ints]) -> Tensor:
            return self._move(_sorted_or_one(np.concatenate(parts)))

        self.keys = joined([s.keys + offset * symbols for s, _, offset in kept])
        self.targets = joined([s.targets + offset for s, _, offset in kept])
        self.tail = joined([s.tail + 2 * place for place, (s, _, _) in enumerate(kept)])
        self.dense = self._move(np.concatenate([(s.dense + offset).ravel() for s, _, offset in kept]))
        self.member_keys = joined([s.member_keys + offset * symbols for s, _, offset in kept])
        begins = np.cumsum([0, *(len(s.expected) for s, _, _ in kept)])
        self._first_member = {id(s): int(begin) for (s, _, _), begin in zip(kept, begins, strict=False)}
        self.expected_member = joined([s.expected_member + self._first_member[id(s)] for s, _, _ in kept])
        starts = [s.expected_start[:-1] + begin for (s, _, _), begin in zip(kept, begins, strict=False)]
        self.expected_start = self._move(np.concatenate([*starts, begins[-1:]]))
        self.expected = joined([s.expected for s, _, _ in kept])
        self.most_expected = max(int(np.diff(s.expected_start).max(initial=0)) for s, _, _ in kept)
        self.span = self._move(np.concatenate([table.span for _, table, _ in kept]))
        self.fail = self._move(np.concatenate([table.fail.astype(np.int64) + offset for _, table, offset in kept]))

    def _place_weights(
        self, tables: Sequence[PhraseTables], structures: Sequence[Structure], offsets: Sequence[int]
    ) -> None:
        credits = [s.member_credit(table.credit) for s, table in zip(structures, tables, strict=True)]
        self.member_credit = self._move(np.concatenate([*credits, np.zeros(1)]), np.float64)
        self.bonus = self._move(np.concatenate([table.bonus for table in tables]), np.float64)
        self.credit = self._move(np.concatenate([table.credit for table in tables]), np.float64)
        self.reach = self._move(np.concatenate([table.reach for table in tables]), np.float64)
        self.output = self._move(
            np.concatenate(
                [
                    np.where(table.output > 0, table.output.astype(np.int64) + offset, -1)
                    for table, offset in zip(tables, offsets, strict=True)
                ]
            )
        )

    def go_to(self, state: Tensor, symbol: Tensor) -> Tensor:
        """The state after `symbol`: the longest suffix of what was read that begins a phrase."""
        place, hit = find(self.keys, state * self.symbols + symbol)
        return torch.where(hit, self.targets[place], self.dense[self.tail[state] * self.symbols + symbol])

    def expected_credit(self, state: Tensor, label: Tensor) -> Tensor:
        """The most that begun phrases lend for a `label` [b k] that they expect, -inf where none does."""
        place, hit = find(self.member_keys, state * self.symbols + label)
        place = torch.where(hit, place + self.member_shift[: len(state), None], 0)
        return torch.where(hit & (label >= 0), self.member_credit[place], -torch.inf)

    def expected_labels(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Labels [b k m] that the phrases begun in `state` [b k] expect, and what they lend for them, -inf behind."""
        begin, end = self.expected_start[state], self.expected_start[state + 1]
        place = begin[..., None] + torch.arange(self.most_expected, device=state.device)
        there = place < end[..., None]
        place = torch.where(there, place, 0)
        member = self.expected_member[place] + self.member_shift[: len(state), None, None]
        credit = self.member_credit[torch.where(there, member, 0)]
        return torch.where(there, self.expected[place], 0), torch.where(there, credit, -torch.inf)


def _most_outputs(tables: PhraseTables) -> int:
    count, state = 0, np.unique(tables.output[tables.output > 0])
    while len(state):
        count += 1
        state = np.unique(tables.output[tables.fail[state]])
        state = state[state > 0]
    return count
