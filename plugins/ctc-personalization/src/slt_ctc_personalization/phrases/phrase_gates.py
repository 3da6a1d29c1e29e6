"""Words that are only there because a phrase lists them, and what becomes of them when the phrase's gate is 0."""

# mypy: disable-error-code="no-untyped-def"
# (numba takes the types from the call; annotations of tables in every function would say nothing more.)

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.compiled import compile_kernel, copied_function, first_call
from slt_ctc_personalization.lexicon.lexicon_trie import ABOVE, COUNT, FIRST, TrieTables, find_child

NEVER = -np.inf


class Holders(NamedTuple):
    """The phrases that hold each of some items: item i's are `phrases[starts[i] : starts[i + 1]]`."""

    starts: npt.NDArray[np.int64]
    phrases: npt.NDArray[np.int64]


def holders(groups: Sequence[Iterable[int]]) -> Holders:
    """From one group of phrases for each item."""
    lists = [list(group) for group in groups]
    starts = np.concatenate([[0], np.cumsum([len(group) for group in lists], dtype=np.int64)]).astype(np.int64)
    return Holders(starts, np.fromiter(chain.from_iterable(lists), np.int64, int(starts[-1])))


@copied_function
def is_held(held, item, gates):
    """Whether a phrase with a gate above 0 holds an item."""
    most = 0.0
    for place in range(held.starts[item], held.starts[item + 1]):
        most = max(most, gates[held.phrases[place]])
    return most > 0.0


def gated_spellings(extra: TrieTables, held: Holders, gates: npt.NDArray[np.float32]) -> TrieTables:
    """The trie of the phrases' words where `held` [entry] says which phrases hold each word.

    A word that no phrase with a gate above 0 holds gets the weight -inf; so does `best` of nodes without such words.
    """
    if len(extra.words) == 0 or bool(np.all(gates > 0.0)):
        return extra
    weights, best = np.empty_like(extra.weights), np.full(len(extra.best), NEVER, np.float32)
    nodes = np.repeat(np.arange(len(extra.rows)), np.diff(extra.word_start))
    first_call(gate_spellings, extra.rows, nodes, held, gates, weights, best)
    return extra._replace(weights=weights, best=best)


@compile_kernel
def gate_spellings(rows, nodes, held, gates, weights, best):
    """Write the weight of each entry and mark the nodes above the living ones."""
    for entry in range(weights.shape[0]):
        if not is_held(held, entry, gates):
            weights[entry] = NEVER
            continue
        weights[entry] = 0.0
        node = nodes[entry]
        while node >= 0 and best[node] < 0.0:
            best[node] = 0.0
            node = rows[node, ABOVE]


class ListedEntries(NamedTuple):
    """Entries of a lexicon's trie that change when no phrase holds their word, or gives their path, any more.

    For each entry: its place in the trie's words and its node, its word's symbol, whether the list added it (`added`),
    and its look-ahead scores then (`lost`) and otherwise (`score` of all entries of the trie). For each symbol: `word`,
    and `penalty` of the word when it is unknown again. `listing` [symbol] and `giving` [entry]: the phrases that do.
    """

    entry: npt.NDArray[np.int64]
    node: npt.NDArray[np.int64]
    symbol: npt.NDArray[np.int64]
    added: npt.NDArray[np.int64]
    lost: npt.NDArray[np.float32]
    score: npt.NDArray[np.float32]
    word: npt.NDArray[np.int64]
    penalty: npt.NDArray[np.float64]
    listing: Holders
    giving: Holders


def gated_words(
    trie: TrieTables, penalty: npt.NDArray[np.float64], listed: ListedEntries, gates: npt.NDArray[np.float32]
) -> tuple[TrieTables, npt.NDArray[np.float64]]:
    """The trie and the penalty of each word, where phrases with a gate of 0 are as if not listed."""
    if len(listed.entry) == 0 or bool(np.all(gates > 0.0)):
        return trie, penalty
    weights, best, scores, penalty = trie.weights.copy(), trie.best.copy(), listed.score.copy(), penalty.copy()
    first_call(gate_words, trie.rows, trie.word_start, listed, gates, weights, best, scores, penalty)
    return trie._replace(weights=weights, best=best), penalty


@compile_kernel
def gate_words(rows, word_start, listed, gates, weights, best, scores, penalty):
    """Change the entries whose word is no longer listed, and what is ahead at the nodes above them."""
    for symbol in range(listed.word.shape[0]):
        if listed.penalty[symbol] != 0.0 and not is_held(listed.listing, symbol, gates):
            penalty[listed.word[symbol]] = listed.penalty[symbol]
    for index in range(listed.entry.shape[0]):
        lost = not is_held(listed.listing, listed.symbol[index], gates)
        if listed.added[index] and not lost:
            lost = not is_held(listed.giving, index, gates)
        if lost:
            scores[listed.entry[index]] = listed.lost[index]
            if listed.added[index]:
                weights[listed.entry[index]] = NEVER
    for index in range(listed.entry.shape[0]):
        if scores[listed.entry[index]] == listed.score[listed.entry[index]]:
            continue
        node = listed.node[index]
        while node >= 0:
            ahead = np.float32(NEVER)
            for entry in range(word_start[node], word_start[node + 1]):
                ahead = max(ahead, scores[entry])
            for child in range(rows[node, FIRST], rows[node, FIRST] + rows[node, COUNT]):
                ahead = max(ahead, best[child])
            if ahead == best[node]:
                break
            best[node] = ahead
            node = rows[node, ABOVE]


@compile_kernel
def find_entries(trie, flat, starts, words, entries, nodes):
    """Write the trie entry, and its node, of each concatenated path as a path of its word."""
    for path in range(starts.shape[0] - 1):
        node = 0
        for index in range(starts[path], starts[path + 1]):
            node = find_child(trie, node, flat[index])
        nodes[path] = node
        for entry in range(trie.word_start[node], trie.word_start[node + 1]):
            if trie.words[entry] == words[path]:
                entries[path] = entry
