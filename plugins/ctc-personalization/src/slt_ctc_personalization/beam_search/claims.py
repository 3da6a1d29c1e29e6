"""Phrases as a trie of label paths that a hypothesis claims, for boosting that follows what is heard frame by frame."""

# mypy: disable-error-code="no-untyped-def"
# (numba takes the types from the call; annotations of tables in every function would say nothing more.)

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.compiled import copied_function, inline_function
from slt_ctc_personalization.lexicon.lexicon_trie import ABOVE, COUNT, FIRST, LABEL, build_trie


class Claims(NamedTuple):
    """The trie of a list, node 0 its root, without failure links, and what each phrase pays.

    `rows` [node, 4] as in `TrieTables`. `leaf_start` [node + 1], `leaf_phrase`: the phrases that end at a node.
    `path_start` [k + 1], `path_leaf`: the last nodes of the paths of a phrase. `depth` [node]: labels from the root.
    `bonus` [k]: what a phrase pays that is fully heard. `paid`, `credit` [node]: what the best phrase that ends at a node
    pays, and what those below it lend, when fully heard. `most` [node]: the most that any phrase at or below one of its
    children may add. `floor` [1]: the share of these that counts unheard.
    """

    rows: npt.NDArray[np.int32]
    leaf_start: npt.NDArray[np.int64]
    leaf_phrase: npt.NDArray[np.int64]
    path_start: npt.NDArray[np.int64]
    path_leaf: npt.NDArray[np.int64]
    depth: npt.NDArray[np.int64]
    bonus: npt.NDArray[np.float64]
    paid: npt.NDArray[np.float64]
    credit: npt.NDArray[np.float64]
    most: npt.NDArray[np.float64]
    floor: npt.NDArray[np.float64]


PAID, EACH, CREDIT, AMOUNTS = range(4)
"""Columns of `Heard.amounts`, of heard phrases only. PAID: what the best that ends at a node pays. EACH: the most for each
label of a phrase that ends there or below. CREDIT: what those that end below lend to a claim on the node."""

HEARD, AFTER, ENDS, RANK, LINKS = range(5)
"""Columns of `Heard.links`, 0 for none. HEARD: the first child that leads to a heard phrase. AFTER: the next child of the
same parent that does. ENDS, RANK: number, counted from the end of `path_leaf`, of the first heard path that ends at the
node, and of the first that ends there or below; children are in the order of RANK."""

ROWS, SIZE, COUNTERS = range(3)
"""Rows of evidence taken in so far, and phrases in the last of them."""


class Heard(NamedTuple):
    """What is heard in the frame at hand: kept from frame to frame, so that a frame costs what has changed. It depends on
    the row that was taken in last alone, not on those before.

    `amounts` [node, 3], `links` [node, 4]: see their columns. `gate` [k]: the share that phrase k pays, 0 unheard.
    `phrase` [k]: those in the last row. `row` [k]: the last row that named a phrase. `counter`: see its columns.
    `label`, `gain` [v]: what may begin a phrase in this frame though it is below the threshold, see `list_openings`.
    """

    amounts: npt.NDArray[np.float64]
    links: npt.NDArray[np.int64]
    gate: npt.NDArray[np.float64]
    phrase: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    counter: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    gain: npt.NDArray[np.float64]


def build_claims(paths: Sequence[Sequence[Sequence[int]]], bonuses: npt.ArrayLike, *, floor: float) -> Claims:
    """The trie of the alternative label paths of each phrase, and a bonus for each phrase."""
    flat = [path for alternatives in paths for path in alternatives]
    counts = np.fromiter((len(alternatives) for alternatives in paths), np.int64, len(paths))
    trie = build_trie(flat, np.repeat(np.arange(len(paths)), counts))
    parents = np.maximum(trie.rows[:, ABOVE], 0).astype(np.int64)  # the root is its own parent here
    size = len(parents)
    depth = np.zeros(size, np.int64)
    begin, end = 0, 1
    while end > begin:  # numbered breadth first: the children of a depth's nodes are neighbours
        depth[begin:end] = depth[parents[begin]] + 1 if begin else 0
        begin, end = end, int(np.searchsorted(parents[1:], end)) + 1
    bonus = np.array(bonuses, np.float64).reshape(len(paths))
    # The places of `words` in the order of their phrases: which node each of them belongs to.
    at_node = np.repeat(np.arange(size), np.diff(trie.word_start))
    order = np.argsort(trie.words, kind="stable")
    leaf, paid = at_node[order], bonus[trie.words[order]]
    highest = np.zeros(size)
    np.maximum.at(highest, leaf, paid)
    most = np.zeros(size)
    credit = np.zeros(size)
    node, each = leaf, paid / np.maximum(depth[leaf], 1)
    while np.any(node > 0):
        node = parents[node]
        np.maximum.at(most, node, paid)
        np.maximum.at(credit, node, each * depth[node])
    return Claims(
        rows=trie.rows,
        leaf_start=trie.word_start.astype(np.int64),
        leaf_phrase=trie.words.astype(np.int64),
        path_start=np.searchsorted(trie.words[order], np.arange(len(paths) + 1)).astype(np.int64),
        path_leaf=leaf.astype(np.int64),
        depth=depth,
        bonus=bonus,
        paid=highest,
        credit=credit,
        most=most,
        floor=np.array([floor]),
    )


def nothing_heard(nodes: int, phrases: int, openings: int) -> Heard:
    """Room for tries up to a size, before the first frame; `openings`: children of the root."""
    return Heard(
        amounts=np.zeros((nodes, AMOUNTS)),
        links=np.zeros((nodes, LINKS), np.int64),
        gate=np.zeros(phrases),
        phrase=np.zeros(phrases, np.int64),
        row=np.zeros(phrases, np.int64),
        counter=np.zeros(COUNTERS, np.int64),
        label=np.zeros(openings, np.int64),
        gain=np.zeros(openings),
    )


@inline_function
def listen(claims, heard, evidence, frame):
    """Take in row `frame` of evidence: costs the labels of the phrases that are heard anew, otherwise, or no more."""
    heard.counter[ROWS] += 1
    row, size = heard.counter[ROWS], heard.counter[SIZE]
    begin, end = evidence.start[frame], evidence.start[frame + 1]
    for place in range(begin, end):
        heard.row[evidence.phrase[place]] = row
    for place in range(size):
        if heard.row[heard.phrase[place]] != row:
            weigh(claims, heard, heard.phrase[place], 0.0)
    for place in range(begin, end):
        k = evidence.phrase[place]
        heard.phrase[place - begin] = k
        weigh(claims, heard, k, claims.floor[0] + (1.0 - claims.floor[0]) * evidence.value[place])
    heard.counter[SIZE] = end - begin


@inline_function
def weigh(claims, heard, k, gate):
    """Let phrase k pay the share `gate`; 0: it is heard no more."""
    if heard.gate[k] == gate:
        return
    heard.gate[k] = gate
    for path in range(claims.path_start[k], claims.path_start[k + 1]):
        leaf, paid, rank = claims.path_leaf[path], 0.0, 0
        for place in range(claims.leaf_start[leaf], claims.leaf_start[leaf + 1]):
            other = claims.leaf_phrase[place]
            if heard.gate[other] > 0.0:
                paid = max(paid, claims.bonus[other] * heard.gate[other])
                rank = max(rank, rank_of_path(claims, other, leaf))
        heard.amounts[leaf, PAID], heard.links[leaf, ENDS] = paid, rank
        weigh_above(claims, heard, leaf)


@inline_function
def rank_of_path(claims, k, leaf):
    """The number, counted from the end of `path_leaf`, of the path of phrase k that ends at `leaf`."""
    path = claims.path_start[k]
    while claims.path_leaf[path] != leaf:
        path += 1
    return claims.path_leaf.shape[0] - path


@inline_function
def weigh_above(claims, heard, node):
    """Bring the amounts and links of `node` and of the nodes above it up to date, as far as they change."""
    while node > 0:
        below, rank, child = 0.0, heard.links[node, ENDS], heard.links[node, HEARD]
        while child > 0:
            below = max(below, heard.amounts[child, EACH])
            rank = max(rank, heard.links[child, RANK])
            child = heard.links[child, AFTER]
        each = max(below, heard.amounts[node, PAID] / claims.depth[node])
        heard.amounts[node, CREDIT] = below * claims.depth[node]
        moved = rank != heard.links[node, RANK]
        if each == heard.amounts[node, EACH] and not moved:
            return
        heard.amounts[node, EACH] = each
        parent = claims.rows[node, ABOVE]
        if moved:
            move(heard.links, parent, node, rank)
        node = parent


@inline_function
def move(links, parent, node, rank):
    """Give `node` another rank, and its place by that among the children of `parent` that lead to heard phrases."""
    if links[node, RANK] > 0:
        last, child = -1, links[parent, HEARD]
        while child != node:
            last, child = child, links[child, AFTER]
        follow(links, parent, last, links[node, AFTER])
    links[node, RANK] = rank
    if rank > 0:
        last, child = -1, links[parent, HEARD]
        while child > 0 and links[child, RANK] < rank:
            last, child = child, links[child, AFTER]
        links[node, AFTER] = child
        follow(links, parent, last, node)


@inline_function
def follow(links, parent, last, child):
    """Let `child` follow `last` among the children of `parent`; -1: let it be the first."""
    if last < 0:
        links[parent, HEARD] = child
    else:
        links[last, AFTER] = child


@copied_function
def credit_at(claims, heard, node):
    """What the phrases below a trie node lend to an open claim on it."""
    credit = heard.amounts[node, CREDIT]
    if claims.floor[0] > 0.0:
        credit = max(credit, claims.floor[0] * claims.credit[node])
    return credit


@copied_function
def bonus_at(claims, heard, node):
    """What the best phrase that ends at a trie node pays when its last label is emitted now; 0 when none ends there."""
    paid = heard.amounts[node, PAID]
    if claims.floor[0] > 0.0:
        paid = max(paid, claims.floor[0] * claims.paid[node])
    return paid


@inline_function
def children_to_try(claims, heard, node):
    """The first child of a trie node that may add something now, and where its siblings end; see `sibling_to_try`.

    Without a floor these are the children that lead to heard phrases.
    """
    child, stop = heard.links[node, HEARD], 0
    if claims.floor[0] > 0.0:
        child = claims.rows[node, FIRST]
        stop = child + claims.rows[node, COUNT]
    return child, stop


@inline_function
def sibling_to_try(claims, heard, child):
    """The child behind `child` of the same parent, as `children_to_try` counts them."""
    return child + 1 if claims.floor[0] > 0.0 else heard.links[child, AFTER]


@inline_function
def add_expected(claims, heard, scratch, row, own, state, tokens, trial, token_min, least):
    """Append the labels that lead on from trie node `state`, are below the threshold, and could still count.

    Returns the number of labels to try.
    """
    child, stop = children_to_try(claims, heard, state)
    while child != stop:
        label = claims.rows[child, LABEL]
        value = row[label]
        if value < token_min and scratch.stamp[label] != trial and not (tokens > 0 and scratch.tokens[0] == label):
            gain = max(credit_at(claims, heard, child), bonus_at(claims, heard, child))
            if gain > 0.0 and own + value + gain >= least:
                scratch.stamp[label] = trial
                scratch.tokens[tokens] = label
                tokens += 1
        child = sibling_to_try(claims, heard, child)
    return tokens


@inline_function
def list_openings(claims, heard, scratch, row, own, tokens, token_min, least):
    """List in `heard.label` and `heard.gain` what `add_expected` would append behind the root for some hypothesis, none of
    which has more than `own`: once for all of a frame. Returns the number of labels."""
    count = 0
    child, stop = children_to_try(claims, heard, 0)
    while child != stop:
        label = claims.rows[child, LABEL]
        value = row[label]
        if value < token_min and not (tokens > 0 and scratch.tokens[0] == label):
            gain = max(credit_at(claims, heard, child), bonus_at(claims, heard, child))
            if gain > 0.0 and own + value + gain >= least:
                heard.label[count], heard.gain[count] = label, gain
                count += 1
        child = sibling_to_try(claims, heard, child)
    return count


@inline_function
def add_openings(heard, openings, scratch, row, own, tokens, trial, least):
    """As `add_expected` behind the root, from the `openings` labels listed for the frame."""
    for place in range(openings):
        label = heard.label[place]
        if scratch.stamp[label] != trial and own + row[label] + heard.gain[place] >= least:
            scratch.stamp[label] = trial
            scratch.tokens[tokens] = label
            tokens += 1
    return tokens
