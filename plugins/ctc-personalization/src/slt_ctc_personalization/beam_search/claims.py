"""Phrases as a trie of label paths that a hypothesis claims, for boosting that follows what is heard frame by frame."""

# mypy: disable-error-code="no-untyped-def"
# (numba takes the types from the call; annotations of tables in every function would say nothing more.)

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.compiled import inline_function
from slt_ctc_personalization.lexicon.lexicon_trie import ABOVE, COUNT, FIRST, LABEL, build_trie


class Claims(NamedTuple):
    """The trie of a list, node 0 its root, without failure links, and what each phrase pays.

    `rows` [node, 4] as in `TrieTables`. `leaf_start` [node + 1], `leaf_phrase`: the phrases that end at a node.
    `path_start` [k + 1], `path_leaf`: the last nodes of the paths of a phrase. `depth` [node]: labels from the root.
    `bonus` [k]: what a phrase pays that is fully heard. `credit` [node]: what the phrases below a node lend when fully
    heard. `most` [node]: the most that any phrase at or below one of its children may add. `floor` [1]: the share of
    these that counts unheard.
    """

    rows: npt.NDArray[np.int32]
    leaf_start: npt.NDArray[np.int64]
    leaf_phrase: npt.NDArray[np.int64]
    path_start: npt.NDArray[np.int64]
    path_leaf: npt.NDArray[np.int64]
    depth: npt.NDArray[np.int64]
    bonus: npt.NDArray[np.float64]
    credit: npt.NDArray[np.float64]
    most: npt.NDArray[np.float64]
    floor: npt.NDArray[np.float64]


class Heard(NamedTuple):
    """What is heard in the frame at hand: entries count where their `stamp` or `since` is the number (from 1) of the
    frame whose row was taken in last.

    `credit` [node]: what heard phrases below the node lend. `first`, `next` [node]: the children that lead to heard
    phrases, as a list. `gate` [k]: the share that phrase k pays.
    """

    credit: npt.NDArray[np.float64]
    stamp: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    next: npt.NDArray[np.int64]
    gate: npt.NDArray[np.float64]
    since: npt.NDArray[np.int64]


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
        credit=credit,
        most=most,
        floor=np.array([floor]),
    )


def nothing_heard(nodes: int, phrases: int) -> Heard:
    """Room for tries up to a size, before the first frame."""
    return Heard(
        credit=np.zeros(nodes),
        stamp=np.zeros(nodes, np.int64),
        first=np.zeros(nodes, np.int64),
        next=np.zeros(nodes, np.int64),
        gate=np.zeros(phrases),
        since=np.zeros(phrases, np.int64),
    )


@inline_function
def listen(claims, heard, evidence, frame, now):
    """Take in row `frame` of evidence: costs the labels of the phrases in it."""
    heard.stamp[0], heard.first[0], heard.credit[0] = now, -1, 0.0
    for place in range(evidence.start[frame], evidence.start[frame + 1]):
        k = evidence.phrase[place]
        gate = claims.floor[0] + (1.0 - claims.floor[0]) * evidence.value[place]
        heard.gate[k], heard.since[k] = gate, now
        for path in range(claims.path_start[k], claims.path_start[k + 1]):
            leaf = claims.path_leaf[path]
            each = claims.bonus[k] * gate / claims.depth[leaf]
            node, below, credit = leaf, -1, 0.0
            while True:
                fresh = heard.stamp[node] != now
                if fresh:
                    heard.stamp[node], heard.first[node], heard.credit[node] = now, -1, 0.0
                if below >= 0:
                    heard.next[below] = heard.first[node]
                    heard.first[node] = below
                if node == 0 or (node != leaf and not fresh and heard.credit[node] >= credit):
                    break  # a path through here that lends more for each label has been everywhere above, too
                heard.credit[node] = max(heard.credit[node], credit)
                below = node if fresh else -1
                node = claims.rows[node, ABOVE]
                credit = each * claims.depth[node]


@inline_function
def same_row(evidence, frame):
    """Whether the same is heard in a frame as in the one before."""
    begin, middle, end = evidence.start[frame - 1], evidence.start[frame], evidence.start[frame + 1]
    if end - middle != middle - begin:
        return False
    for place in range(middle, end):
        before = place - middle + begin
        if evidence.phrase[place] != evidence.phrase[before] or evidence.value[place] != evidence.value[before]:
            return False
    return True


@inline_function
def credit_at(claims, heard, node, now):
    """What the phrases below a trie node lend to an open claim on it."""
    credit = claims.floor[0] * claims.credit[node]
    if heard.stamp[node] == now:
        credit = max(credit, heard.credit[node])
    return credit


@inline_function
def bonus_at(claims, heard, node, now):
    """What the best phrase that ends at a trie node pays when its last label is emitted now; 0 when none ends there."""
    best = 0.0
    for place in range(claims.leaf_start[node], claims.leaf_start[node + 1]):
        k = claims.leaf_phrase[place]
        gate = heard.gate[k] if heard.since[k] == now else claims.floor[0]
        best = max(best, claims.bonus[k] * gate)
    return best


@inline_function
def add_expected(claims, heard, scratch, row, own, state, tokens, trial, now, token_min, least):
    """Append the labels that lead on from trie node `state`, are below the threshold, and could still count.

    Without a floor only children that lead to heard phrases are looked at. Returns the number of labels to try.
    """
    listed = claims.floor[0] > 0.0
    if listed:
        child, stop = claims.rows[state, FIRST], claims.rows[state, FIRST] + claims.rows[state, COUNT]
        if child == stop:
            return tokens
    else:
        child, stop = (heard.first[state] if heard.stamp[state] == now else -1), -1
    while child != stop:
        label = claims.rows[child, LABEL]
        value = row[label]
        if value < token_min and scratch.stamp[label] != trial and not (tokens > 0 and scratch.tokens[0] == label):
            gain = max(credit_at(claims, heard, child, now), bonus_at(claims, heard, child, now))
            if gain > 0.0 and own + value + gain >= least:
                scratch.stamp[label] = trial
                scratch.tokens[tokens] = label
                tokens += 1
        child = child + 1 if listed else heard.next[child]
    return tokens
