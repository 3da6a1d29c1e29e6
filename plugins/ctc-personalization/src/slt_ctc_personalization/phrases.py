"""Phrases as an Aho-Corasick automaton in flat arrays, and the rule by which they add to a hypothesis' score.

**The rule.** A phrase *occurs* in a hypothesis where one of its paths stands in it, beginning at a word start and
ending at a word end where the labels know words, anywhere else. The bonus of a complete hypothesis is

    max over sets S of occurrences that share no label of  sum of bonus(s) for s in S

so a phrase inside another, or two that overlap, are never paid twice, whatever their order: the better choice counts.
During the search a hypothesis also holds credit for the phrase it has begun: `bonus * labels read / labels in all`, on
the same condition (labels of the begun phrase pay nothing else). Credit is returned when the phrase breaks off and at
the end; what a completed phrase earned stays. Both are sums over the earlier history, so the state that a hypothesis
carries is one automaton state, and two numbers: earned before and after its last label.

**Source**: automaton: Aho and Corasick, "Efficient string matching", 1975. The rule is weighted interval scheduling,
evaluated where an occurrence ends. Deviation from the usual shallow fusion (icefall, NeMo): those pay nested phrases
again or only the longest; here the total is optimal and does not depend on which phrase ended first.
"""

# mypy: disable-error-code="no-any-return"
# (compiled functions return numbers; mypy sees the items of numpy arrays as Any.)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.compiled import inline_function
from slt_ctc_personalization.lexicon_trie import TrieTables, child_of, child_rows, find_child, levels

HASH_FACTOR = 0x9E3779B97F4A7C15 >> 1  # Fibonacci hashing, kept below 2^63


class Phrase(NamedTuple):
    """One phrase of a list: `bonus` is the natural-log score that all of it earns.

    `paths` are its spellings as label ids (with the word boundary between words), for a search without a lexicon.
    `pronunciations` maps words of `text` to label paths, for a search with one: needed for words that the lexicon
    lacks, welcome for others.
    """

    text: str
    bonus: float
    paths: Sequence[Sequence[int]] = ()
    pronunciations: Mapping[str, Sequence[Sequence[int]]] = {}


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
    lengths = np.fromiter((len(p) for p in patterns), np.int64, len(patterns))
    flat = np.fromiter((s for p in patterns for s in p), np.int64, int(lengths.sum()))
    parents, labels, depths, leaf = levels(flat, lengths)
    size = len(parents)
    counted = np.ones(size, np.int64)
    counted[labels == edge] = int(edge_counts)
    counted[(labels == edge) & (depths == 1)] = 0
    counted[0] = 0
    span = counted.copy()
    for nodes in _by_depth(depths):
        span[nodes] += span[parents[nodes]]
    paid = np.asarray(bonuses, np.float64)
    bonus, credit = np.zeros(size), np.zeros(size)
    np.maximum.at(bonus, leaf, paid)
    node, total = leaf.copy(), np.maximum(span[leaf], 1)
    while np.any(node > 0):
        np.maximum.at(credit, node, paid * span[node] / total)
        node = np.where(node > 0, parents[node], 0)
    credit[0] = 0.0
    fail = _failures(parents, labels, depths)
    return PhraseTables(
        rows=child_rows(parents, labels),
        fail=fail.astype(np.int32),
        output=_outputs(bonus, fail, depths).astype(np.int32),
        bonus=bonus,
        credit=credit,
        span=span.astype(np.int32),
        reach=_reach(parents, labels, depths, fail, credit, -1 if edge_counts else edge),
        symbol=np.zeros(0, np.int32) if symbol is None else symbol,
        map_keys=np.full(1, -1, np.int64),
        map_values=np.zeros(1),
    )


def _by_depth(depths: npt.NDArray[np.int64]) -> list[slice]:
    borders = np.searchsorted(depths, np.arange(1, int(depths.max()) + 2))
    return [slice(int(low), int(high)) for low, high in pairwise(borders)]


def _failures(
    parents: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], depths: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Failure links, all states of one depth at once; keys are sorted because states are numbered breadth first."""
    width = int(labels.max()) + 2
    keys = parents[1:] * width + labels[1:]
    fail = np.zeros(len(parents), np.int64)
    for nodes in _by_depth(depths)[1:]:
        index = np.arange(nodes.start, nodes.stop)
        state = fail[parents[index]]
        while len(index):
            wanted = state * width + labels[index]
            place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            hit = keys[place] == wanted
            fail[index[hit]] = place[hit] + 1
            open_ = ~hit & (state > 0)
            index, state = index[open_], fail[state[open_]]
    return fail


def _outputs(
    bonus: npt.NDArray[np.float64], fail: npt.NDArray[np.int64], depths: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    output = np.full(len(bonus), -1, np.int64)
    for nodes in _by_depth(depths):
        index = np.arange(nodes.start, nodes.stop)
        output[nodes] = np.where(bonus[nodes] > 0, index, output[fail[nodes]])
    return output


def _reach(
    parents: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    depths: npt.NDArray[np.int64],
    fail: npt.NDArray[np.int64],
    credit: npt.NDArray[np.float64],
    silent_edge: int,
) -> npt.NDArray[np.float64]:
    """Largest credit one step ahead, over the failure chain; a border that is no label is stepped over."""
    reach = np.zeros(len(parents))
    np.maximum.at(reach, parents[1:], credit[1:])
    if silent_edge >= 0:
        edges = np.flatnonzero(labels == silent_edge)[::-1]
        np.maximum.at(reach, parents[edges], reach[edges])
    for nodes in _by_depth(depths):
        reach[nodes] = np.maximum(reach[nodes], reach[fail[nodes]])
    return reach


def with_word_credit(
    automaton: PhraseTables,
    patterns: Sequence[Sequence[int]],
    paths: Sequence[Sequence[Sequence[int]]],
    trie: TrieTables,
) -> PhraseTables:
    """`automaton` over words, with credit inside words: `paths[symbol]` are the label paths of a word.

    Reading d of a path's n labels in state u lends `credit(u) + (credit(u w) - credit(u)) d / n`.
    """
    found: dict[int, float] = {}
    nodes_of = [[_trie_nodes(trie, path) for path in alternatives] for alternatives in paths]
    size = len(trie.rows)
    seen: set[int] = set()
    for pattern in patterns:
        state = 0
        for symbol in pattern:
            target = int(child_of(automaton, state, symbol))
            if target not in seen:
                seen.add(target)
                low, high = float(automaton.credit[state]), float(automaton.credit[target])
                for nodes in nodes_of[symbol]:
                    for depth, node in enumerate(nodes, 1):
                        key = state * size + node
                        found[key] = max(found.get(key, 0.0), low + (high - low) * depth / len(nodes))
            state = target
    keys, values = _hash_table(found)
    return automaton._replace(map_keys=keys, map_values=values)


def _trie_nodes(trie: TrieTables, path: Sequence[int]) -> list[int]:
    nodes, node = [], 0
    for label in path:
        node = int(child_of(trie, node, label))
        nodes.append(node)
    return nodes


def _hash_table(found: Mapping[int, float]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    size = 1 << max(1, (2 * len(found)).bit_length())
    keys, values = np.full(size, -1, np.int64), np.zeros(size)
    pending = np.fromiter(found, np.int64, len(found))
    credits = np.fromiter(found.values(), np.float64, len(found))
    place = _hash(pending, size)
    while len(pending):
        free = keys[place] == -1
        chosen = np.zeros(len(pending), bool)
        _, winners = np.unique(place[free], return_index=True)
        chosen[np.flatnonzero(free)[winners]] = True
        keys[place[chosen]], values[place[chosen]] = pending[chosen], credits[chosen]
        pending, credits, place = pending[~chosen], credits[~chosen], (place[~chosen] + 1) & (size - 1)
    return keys, values


def _hash(keys: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    with np.errstate(over="ignore"):
        mixed: npt.NDArray[np.int64] = ((keys * np.int64(HASH_FACTOR)) >> np.int64(20)) & np.int64(size - 1)
    return mixed


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
