"""The states of a phrase automaton and what its patterns earn, as flat arrays, and the compiled passes over them.

States are numbered breadth first, so a parent and a failure link always have a smaller number than the state, and one
pass in the order of the numbers settles what depends on them.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba takes the types from the call; annotations of tables in every function would say nothing more.)

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.compiled import compile_kernel, first_call
from slt_ctc_personalization.lexicon.lexicon_trie import ABOVE, COUNT, FIRST, LABEL, child_rows, find_child, levels

HASH_FACTOR = 0x9E3779B97F4A7C15 >> 1  # Fibonacci hashing, kept below 2^63


class States(NamedTuple):
    """What an automaton is before anything is paid; arrays as in `PhraseTables`, `leaf` [pattern] its last state."""

    rows: npt.NDArray[np.int32]
    fail: npt.NDArray[np.int32]
    span: npt.NDArray[np.int32]
    leaf: npt.NDArray[np.int64]
    silent_edge: int
    """The symbol of a word border that is no label, or -1."""


class Earnings(NamedTuple):
    """What patterns earn, one entry for each pattern, and `read` [state], the labels read so far.

    Fixed (`scaling` < 0): pattern p earns `base[p]`, and lends it in proportion to the span. Depth-scaled: with
    i = min(read, labels[p]) it lends, and at its end earns, `base[p] (1 + (i - 1) scaling) + curve[p] ln i!`.
    `phrase` [pattern]: the place in the list of the phrase that it spells. `factorial` [i]: ln i!.
    """

    phrase: npt.NDArray[np.int32]
    base: npt.NDArray[np.float64]
    curve: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int32]
    read: npt.NDArray[np.int32]
    factorial: npt.NDArray[np.float64]
    scaling: float


def fixed_earnings(states: States, phrase: npt.NDArray[np.int32], bonus: npt.NDArray[np.float64]) -> Earnings:
    """Patterns that earn `bonus` [pattern], lent evenly along the span."""
    size = len(bonus)
    return Earnings(phrase, bonus, np.zeros(size), np.zeros(size, np.int32), states.span, np.zeros(1), -1.0)


def depth_scaled_earnings(
    phrase: npt.NDArray[np.int32],
    total: npt.NDArray[np.float64],
    per_label: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int32],
    read: npt.NDArray[np.int32],
    scaling: float,
) -> Earnings:
    """Patterns whose label i earns `b (1 if i == 1 else scaling) + ln i`, b being `per_label`; nothing where b is 0.

    Where `per_label` is nan the pattern earns `total`, shared out in the proportions of b = 1. All arrays: [pattern].

    **Source**: NeMo's GPU phrase boosting (`depth_scaling`, and the logarithm of the depth).
    """
    longest = max(int(labels.max(initial=0)), int(read.max(initial=0)))
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, longest + 1.0)))])
    given = np.isnan(per_label)
    share = total / np.maximum(1.0 + (labels - 1.0) * scaling + factorial[labels], 1e-300)
    base = np.where(given, share, per_label)
    curve = np.where(given, share, (per_label > 0.0).astype(np.float64))
    return Earnings(phrase, base, curve, labels, read, factorial, float(scaling))


def build_states(
    flat: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], *, edge: int, edge_counts: bool
) -> States:
    """The states of concatenated patterns; a border (`edge`) counts as no label at a pattern's start, elsewhere it
    does where `edge_counts`."""
    parents, labels, _, leaf = levels(flat, lengths)
    size = len(parents)
    states = States(
        child_rows(parents, labels),
        np.zeros(size, np.int32),
        np.zeros(size, np.int32),
        leaf,
        -1 if edge_counts else edge,
    )
    if size > 1:
        first_call(link_states, states, edge, int(edge_counts))
    return states


@compile_kernel
def link_states(states, edge, edge_counts):
    """Write failure links and spans."""
    rows, fail, span = states.rows, states.fail, states.span
    for state in range(1, rows.shape[0]):
        parent, label = rows[state, ABOVE], rows[state, LABEL]
        counted = 1
        if label == edge:
            counted = 0 if parent == 0 else edge_counts
        span[state] = span[parent] + counted
        if parent == 0:
            continue
        suffix = fail[parent]
        while True:
            child = find_child(states, suffix, label)
            if child >= 0:
                fail[state] = child
                break
            if suffix == 0:
                break
            suffix = fail[suffix]


@compile_kernel
def weigh_states(states, earnings, gates, bonus, credit, place):
    """Write what each state earns and lends, and into `place` the number of each state that a gate above 0 leads to.

    Returns how many of these there are, the root included; `place` is -1 for the others.
    """
    rows, span = states.rows, states.span
    place[0] = 0
    for pattern in range(states.leaf.shape[0]):
        gate = gates[earnings.phrase[pattern]]
        if gate <= 0.0:
            continue
        leaf = states.leaf[pattern]
        base, last = earnings.base[pattern] * gate, earnings.labels[pattern]
        curve = earnings.curve[pattern] * gate
        if earnings.scaling < 0.0:
            bonus[leaf] = max(bonus[leaf], base)
        else:
            paid = base * (1.0 + (last - 1) * earnings.scaling) + curve * earnings.factorial[last]
            bonus[leaf] = max(bonus[leaf], paid)
        total = max(span[leaf], 1)
        node = leaf
        while node > 0:
            place[node] = 0
            if earnings.scaling < 0.0:
                lent = base * span[node] / total
            else:
                read = min(earnings.read[node], last)
                lent = 0.0
                if read > 0:
                    lent = base * (1.0 + (read - 1) * earnings.scaling) + curve * earnings.factorial[read]
            credit[node] = max(credit[node], lent)
            node = rows[node, ABOVE]
    count = 0
    for node in range(rows.shape[0]):
        if place[node] >= 0:
            place[node] = count
            count += 1
    return count


@compile_kernel
def keep_states(states, place, bonus, credit, kept_rows, kept_fail, kept_span, kept_bonus, kept_credit, live):
    """Copy the states with a `place` to it: the automaton of the patterns that lead to them, as if built of them alone.

    `live` [state] is scratch: the longest suffix, the state itself included, that is kept.
    """
    rows = states.rows
    live[0] = 0
    for state in range(rows.shape[0]):
        if state > 0:
            live[state] = state if place[state] >= 0 else live[states.fail[state]]
        here = place[state]
        if here < 0:
            continue
        first, count = 0, 0
        for child in range(rows[state, FIRST], rows[state, FIRST] + rows[state, COUNT]):
            if place[child] >= 0:
                if count == 0:
                    first = place[child]
                count += 1
        kept_rows[here, FIRST], kept_rows[here, COUNT], kept_rows[here, LABEL] = first, count, rows[state, LABEL]
        kept_rows[here, ABOVE] = place[rows[state, ABOVE]] if state > 0 else rows[state, ABOVE]
        kept_fail[here] = place[live[states.fail[state]]]
        kept_span[here], kept_bonus[here], kept_credit[here] = states.span[state], bonus[state], credit[state]


@compile_kernel
def pass_on(rows, fail, bonus, credit, silent_edge, output, reach):
    """Write for each state the nearest complete phrase among its suffixes, and the largest credit one step ahead.

    The step may be any suffix's; a border that is no label is stepped over.
    """
    size = rows.shape[0]
    for state in range(size - 1, 0, -1):
        parent = rows[state, ABOVE]
        reach[parent] = max(reach[parent], credit[state])
        if rows[state, LABEL] == silent_edge:
            reach[parent] = max(reach[parent], reach[state])
    for state in range(1, size):
        output[state] = state if bonus[state] > 0.0 else output[fail[state]]
        reach[state] = max(reach[state], reach[fail[state]])


@compile_kernel
def fill_map(rows, credit, starts, path_starts, nodes, trie_size, keys, values):
    """Write the credit inside words: an open hash table from `state * trie_size + trie node`.

    `starts` [symbol + 1]: the paths of a symbol; `path_starts` [path + 1]: the trie `nodes` of a path.
    """
    mask = keys.shape[0] - 1
    for state in range(1, rows.shape[0]):
        before, symbol = rows[state, ABOVE], rows[state, LABEL]
        low, high = credit[before], credit[state]
        for path in range(starts[symbol], starts[symbol + 1]):
            begin, end = path_starts[path], path_starts[path + 1]
            for index in range(begin, end):
                key = before * trie_size + nodes[index]
                lent = low + (high - low) * (index - begin + 1) / (end - begin)
                place = ((key * HASH_FACTOR) >> 20) & mask
                while keys[place] != -1 and keys[place] != key:
                    place = (place + 1) & mask
                keys[place] = key
                values[place] = max(values[place], lent)


@compile_kernel
def count_map(rows, starts, path_starts):
    """How many entries `fill_map` writes, repeated ones included."""
    count = 0
    for state in range(1, rows.shape[0]):
        symbol = rows[state, LABEL]
        count += path_starts[starts[symbol + 1]] - path_starts[starts[symbol]]
    return count


@compile_kernel
def read_labels(rows, labels_of, read):
    """Write the labels read at each state, `labels_of` [symbol] being those of a symbol."""
    for state in range(1, rows.shape[0]):
        read[state] = read[rows[state, ABOVE]] + labels_of[rows[state, LABEL]]


@compile_kernel
def walk_paths(trie, flat, starts, nodes):
    """Write the trie node after each label of concatenated paths that the trie holds."""
    for path in range(starts.shape[0] - 1):
        node = 0
        for index in range(starts[path], starts[path + 1]):
            node = find_child(trie, node, flat[index])
            nodes[index] = node


@compile_kernel
def edge_paths(flat, starts, boundary, begins, edge, out, lengths):
    """Write the patterns of concatenated label paths: an edge around each word; returns how many symbols there are.

    Words stand between labels `boundary`, or begin with labels that `begins` [label] marks.
    """
    size = 0
    for path in range(starts.shape[0] - 1):
        first, inside = size, False
        out[size] = edge
        size += 1
        for index in range(starts[path], starts[path + 1]):
            label = flat[index]
            if inside and (label == boundary or begins[label]):
                out[size] = edge
                size += 1
                inside = False
            if label != boundary:
                out[size] = label
                size += 1
                inside = True
        if inside:
            out[size] = edge
            size += 1
        lengths[path] = size - first
    return size
