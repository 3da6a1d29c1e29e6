"""The phrase automaton equals a slow scan of the text, whatever is nested in or overlaps with what."""

from __future__ import annotations

import numpy as np
import pytest

from slt_ctc_personalization.lexicon.lexicon_trie import EMPTY_TRIE, build_trie, child_of
from slt_ctc_personalization.phrases.phrases import build_automaton, go_to, with_word_credit, word_credit, word_paths


def random_patterns(rng, count, symbols, longest):
    return [[int(s) for s in rng.integers(0, symbols, rng.integers(1, longest + 1))] for _ in range(count)]


@pytest.mark.parametrize("seed", range(20))
def test_state_is_the_longest_suffix_that_begins_a_phrase(seed):
    rng = np.random.default_rng(seed)
    patterns = random_patterns(rng, 12, 3, 5)
    bonuses = rng.uniform(0.5, 2.0, len(patterns))
    automaton = build_automaton(patterns, bonuses)
    begun = {tuple(pattern[:size]) for pattern in patterns for size in range(len(pattern) + 1)}
    state, read = 0, ()
    for symbol in rng.integers(0, 4, 60):
        state, read = go_to(automaton, state, int(symbol)), (*read, int(symbol))
        longest = next(read[start:] for start in range(len(read) + 1) if read[start:] in begun)
        assert automaton.span[state] == len(longest)
        whole = [b for p, b in zip(patterns, bonuses, strict=True) if tuple(p) == longest]
        assert automaton.bonus[state] == pytest.approx(max(whole, default=0.0))
        lent = [
            b * len(longest) / len(p)
            for p, b in zip(patterns, bonuses, strict=True)
            if tuple(p[: len(longest)]) == longest
        ]
        assert automaton.credit[state] == pytest.approx(max(lent) if longest else 0.0)
        ends = [read[start:] for start in range(len(read)) if list(read[start:]) in patterns]
        found, other = [], automaton.output[state]
        while other > 0:
            found.append(automaton.span[other])
            other = automaton.output[automaton.fail[other]]
        assert found == sorted({len(end) for end in ends}, reverse=True)


@pytest.mark.parametrize("seed", range(10))
def test_reach_bounds_the_credit_after_one_more_symbol(seed):
    rng = np.random.default_rng(seed)
    edge = 3
    patterns = [[edge, *pattern, edge] for pattern in random_patterns(rng, 10, 3, 4)]
    for counts in (False, True):
        automaton = build_automaton(patterns, rng.uniform(0.5, 2.0, 10), edge=edge, edge_counts=counts)
        for state in range(len(automaton.fail)):
            for symbol in range(4):
                after = go_to(automaton, state, symbol)
                assert automaton.credit[after] <= automaton.reach[state] + 1e-12
                if not counts and symbol == edge:
                    behind = [automaton.credit[go_to(automaton, after, s)] for s in range(3)]
                    assert max(behind) <= automaton.reach[state] + 1e-12


def test_edges_count_as_labels_only_where_they_are_labels():
    pattern = [9, 1, 2, 9, 3, 9]  # 12 and 3, between borders
    silent = build_automaton([pattern], [6.0], edge=9)
    real = build_automaton([pattern], [6.0], edge=9, edge_counts=True)
    assert silent.span.tolist() == [0, 0, 1, 2, 2, 3, 3]
    assert real.span.tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert silent.credit.tolist() == pytest.approx([0.0, 0.0, 2.0, 4.0, 4.0, 6.0, 6.0])
    assert real.credit.tolist() == pytest.approx([0.0, 0.0, 1.2, 2.4, 3.6, 4.8, 6.0])


@pytest.mark.parametrize("seed", range(5))
def test_trie_holds_exactly_its_paths(seed):
    rng = np.random.default_rng(seed)
    paths = [tuple(int(s) for s in rng.integers(0, 12, rng.integers(1, 6))) for _ in range(300)]
    scores = rng.normal(size=300).astype(np.float32)
    trie = build_trie(paths, np.arange(300), scores=scores)
    prefixes = {path[:size] for path in paths for size in range(len(path) + 1)}
    assert len(trie.rows) == len(prefixes)
    for prefix in prefixes:
        node = 0
        for label in prefix:
            node = child_of(trie, node, label)
        here = trie.words[trie.word_start[node] : trie.word_start[node + 1]].tolist()
        assert here == [index for index, path in enumerate(paths) if path == prefix]
        below = [score for path, score in zip(paths, scores, strict=True) if path[: len(prefix)] == prefix]
        assert trie.best[node] == max(below)
        for label in range(13):
            assert (child_of(trie, node, label) >= 0) == ((*prefix, label) in prefixes)


def test_empty_trie_and_empty_list_have_one_node():
    assert len(EMPTY_TRIE.rows) == 1
    automaton = build_automaton([], [])
    assert (len(automaton.fail), go_to(automaton, 0, 5)) == (1, 0)


def test_credit_inside_words_grows_evenly_along_each_pronunciation():
    patterns, paths = [[0, 1], [1]], [[(1, 2), (3,)], [(1, 4, 5)]]
    trie = build_trie([path for group in paths for path in group], [0, 0, 1])
    size = len(trie.rows)
    automaton = with_word_credit(build_automaton(patterns, [4.0, 3.0]), word_paths(paths, trie), size)

    def at(state, path):
        node = 0
        for label in path:
            node = child_of(trie, node, label)
        return word_credit(automaton, state * size + node)

    first = child_of(automaton, 0, 0)
    assert at(0, (1, 2)) == pytest.approx(2.0)  # one word of two
    assert at(0, (3,)) == pytest.approx(2.0)
    assert at(0, (1,)) == pytest.approx(1.0)  # 2 / 2 labels along one phrase, 3 / 3 along the other
    assert at(first, (1, 4)) == pytest.approx(2.0 + 2.0 * 2 / 3)
    assert at(first, (3,)) == 0.0
