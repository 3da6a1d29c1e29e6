"""Phrases as an Aho-Corasick automaton in flat arrays, and the rule by which they add to a hypothesis' score.

**The rule.** A phrase *occurs* in a hypothesis where one of its paths stands in it, beginning at a word start and
ending at a word end where the labels know words, anywhere else. The bonus of a complete hypothesis is

    max over sets S of occurrences that share no label of  sum of bonus(s) for s in S

so a phrase inside another, or two that overlap, are never paid twice, whatever their order: the better choice counts.
During the search a hypothesis also holds credit for the phrase it has begun: `bonus * labels read / labels in all`, or
with depth-scaled boosting what the labels read so far have added to the total, on the same condition (labels of the
begun phrase pay nothing else). Credit is returned when the phrase breaks off and at the end; what a completed phrase
earned stays. Both are sums over the earlier history, so the state that a hypothesis carries is one automaton state, and
two numbers: earned before and after its last label.

**Source**: automaton: Aho and Corasick, "Efficient string matching", 1975. The rule is weighted interval scheduling,
evaluated where an occurrence ends. Deviation from the usual shallow fusion (icefall, NeMo): those pay nested phrases
again or only the longest; here the total is optimal and does not depend on which phrase ended first.
"""

# mypy: disable-error-code="no-any-return"
# (compiled functions return numbers; mypy sees the items of numpy arrays as Any.)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.compiled import first_call, inline_function
from slt_ctc_personalization.lexicon.lexicon_trie import TrieTables, find_child
from slt_ctc_personalization.phrases.phrase_states import (
    HASH_FACTOR,
    Earnings,
    States,
    build_states,
    count_map,
    depth_scaled_earnings,
    fill_map,
    fixed_earnings,
    keep_states,
    pass_on,
    walk_paths,
    weigh_states,
)  # fmt: skip


class Phrase(NamedTuple):
    """One phrase of a list: `bonus` is the natural-log score that all of it earns.

    `per_label` says that nobody gave this total: it is the decoder's own bonus of a label times the phrase's weight, and
    `bonus` is that times the labels. Depth-scaled boosting makes its total of `per_label`; None: `bonus` is the total.
    `paths` are its spellings as label ids (with the word boundary between words), for a search without a lexicon.
    `pronunciations` maps words of `text` to label paths, for a search with one: needed for words that the lexicon
    lacks, welcome for others.
    """

    text: str
    bonus: float
    paths: Sequence[Sequence[int]] = ()
    pronunciations: Mapping[str, Sequence[Sequence[int]]] = {}
    per_label: float | None = None


class PhraseTables(NamedTuple):
    """The automaton; state 0 is the root, `rows` [state, 4] as in `TrieTables`.

    `fail` [state]: the longest proper suffix that is a state. `output` [state]: the nearest complete phrase among the
    state and its suffixes, or -1. `bonus` [state]: what completing earns, `credit` [state]: what reading so far lends.
    `span` [state]: labels (or words) read since the phrase began. `reach` [state]: the largest credit after one more
    step. `symbol` [word]: the automaton's symbol of a lexicon word, or -1. `map_keys`, `map_values`: credit inside a
    word of a lexicon, an open hash table from `state * lexicon nodes + lexicon node`.
    """

    rows: npt.NDArray[np.int32]
    fail: npt.NDArray[np.int32]
    output: npt.NDArray[np.int32]
    bonus: npt.NDArray[np.float64]
    credit: npt.NDArray[np.float64]
    span: npt.NDArray[np.int32]
    reach: npt.NDArray[np.float64]
    symbol: npt.NDArray[np.int32]
    map_keys: npt.NDArray[np.int64]
    map_values: npt.NDArray[np.float64]


def build_automaton(
    patterns: Sequence[Sequence[int]],
    bonuses: npt.ArrayLike,
    *,
    edge: int = -1,
    edge_counts: bool = False,
    symbol: npt.NDArray[np.int32] | None = None,
) -> PhraseTables:
    """The automaton of `patterns` (symbol sequences), each earning its entry of `bonuses`.

    `edge` is the symbol of a word's border: a pattern may begin with it, which counts as no label; elsewhere it counts
    as one where `edge_counts`, that is where the border is a label and no mark on the next one.
    """
    flat, lengths = flattened(patterns)
    states = build_states(flat, lengths, edge=edge, edge_counts=edge_counts)
    owner = np.arange(len(lengths), dtype=np.int32)
    earnings = fixed_earnings(states, owner, np.array(bonuses, np.float64))
    return weighed(states, earnings, np.ones(len(lengths), np.float32), symbol=symbol)


def flattened(paths: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All paths one after another, and their lengths."""
    lengths = np.fromiter(map(len, paths), np.int64, len(paths))
    return np.fromiter(chain.from_iterable(paths), np.int64, int(lengths.sum())), lengths


def weighed(
    states: States,
    earnings: Earnings,
    gates: npt.NDArray[np.float32],
    *,
    symbol: npt.NDArray[np.int32] | None = None,
) -> PhraseTables:
    """The automaton whose phrase k earns `gates[k]` times its own; without the states that only gates of 0 lead to."""
    size = len(states.rows)
    rows, fail, span = states.rows, states.fail, states.span
    bonus, credit = np.zeros(size), np.zeros(size)
    if size > 1:
        place = np.full(size, -1, np.int32)
        kept = int(first_call(weigh_states, states, earnings, gates, bonus, credit, place))
        if kept < size:
            old_bonus, old_credit, live = bonus, credit, np.empty(size, np.int32)
            rows = np.empty((kept, 4), np.int32)
            fail, span = np.empty(kept, np.int32), np.empty(kept, np.int32)
            bonus, credit, size = np.empty(kept), np.empty(kept), kept
            first_call(keep_states, states, place, old_bonus, old_credit, rows, fail, span, bonus, credit, live)
    output, reach = np.full(size, -1, np.int32), np.zeros(size)
    if size > 1:
        first_call(pass_on, rows, fail, bonus, credit, states.silent_edge, output, reach)
    return PhraseTables(
        rows=rows,
        fail=fail,
        output=output,
        bonus=bonus,
        credit=credit,
        span=span,
        reach=reach,
        symbol=np.zeros(0, np.int32) if symbol is None else symbol,
        map_keys=np.full(1, -1, np.int64),
        map_values=np.zeros(1),
    )


def scaled_earnings(
    phrases: Sequence[Phrase],
    owner: npt.NDArray[np.int32],
    labels: npt.NDArray[np.int32],
    read: npt.NDArray[np.int32],
    scaling: float,
) -> Earnings:
    """What patterns of `labels` [pattern] labels earn with depth-scaled boosting; `owner` [pattern] is the phrase."""
    total = np.array([phrase.bonus for phrase in phrases], np.float64)
    own = np.array([np.nan if phrase.per_label is None else phrase.per_label for phrase in phrases], np.float64)
    return depth_scaled_earnings(owner, total[owner], own[owner], labels, read, scaling)


class WordPaths(NamedTuple):
    """The label paths of each symbol that is a word: its paths are `starts[symbol] ... starts[symbol + 1] - 1`.

    Path p goes through the trie nodes `nodes[path_starts[p] : path_starts[p + 1]]`.
    """

    starts: npt.NDArray[np.int64]
    path_starts: npt.NDArray[np.int64]
    nodes: npt.NDArray[np.int64]


def word_paths(paths: Sequence[Sequence[Sequence[int]]], trie: TrieTables) -> WordPaths:
    """`paths[symbol]`, all in `trie`, as arrays."""
    flat, lengths = flattened([path for alternatives in paths for path in alternatives])
    starts = np.concatenate([[0], np.cumsum([len(alternatives) for alternatives in paths], dtype=np.int64)])
    path_starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    nodes = np.zeros(len(flat), np.int64)
    first_call(walk_paths, trie, flat, path_starts, nodes)
    return WordPaths(starts.astype(np.int64), path_starts, nodes)


def with_word_credit(automaton: PhraseTables, paths: WordPaths, trie_size: int) -> PhraseTables:
    """`automaton` over words, with credit inside words.

    Reading d of a path's n labels in state u lends `credit(u) + (credit(u w) - credit(u)) d / n`.
    """
    if len(automaton.rows) == 1:
        return automaton
    count = int(first_call(count_map, automaton.rows, paths.starts, paths.path_starts))
    size = 1 << max(1, (2 * count).bit_length())
    keys, values = np.full(size, -1, np.int64), np.zeros(size)
    first_call(
        fill_map,
        automaton.rows,
        automaton.credit,
        paths.starts,
        paths.path_starts,
        paths.nodes,
        trie_size,
        keys,
        values,
    )
    return automaton._replace(map_keys=keys, map_values=values)


def no_phrases(*, words: int = 0) -> PhraseTables:
    """The automaton of an empty list."""
    return build_automaton([], [], symbol=np.full(words, -1, np.int32))


@inline_function
def go_to(automaton: PhraseTables, state: int, symbol: int) -> int:
    """The state after `symbol`: the longest suffix of what was read that begins a phrase."""
    while True:
        child = find_child(automaton, state, symbol)
        if child >= 0:
            return child
        if state == 0:
            return 0
        state = automaton.fail[state]


@inline_function
def word_credit(automaton: PhraseTables, key: int) -> float:
    """The credit inside a word, 0 when no phrase goes through it."""
    mask = automaton.map_keys.shape[0] - 1
    place = ((key * HASH_FACTOR) >> 20) & mask
    while True:
        found = automaton.map_keys[place]
        if found == key:
            return automaton.map_values[place]
        if found == -1:
            return 0.0
        place = (place + 1) & mask
