"""One frame of a search, common to both kernels: which labels are tried, what the candidates weigh, which survive."""

# mypy: disable-error-code="no-untyped-def"
# (numba takes the types from the call; annotations of tables in every function would say nothing more.)

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.beam_search.prefix_tree import (
    ABSORBS,
    BASE,
    CHILD,
    DONE,
    EARNED,
    EXTRA,
    FLAGS,
    FRAME,
    FUSED,
    KEY,
    LAST,
    LM,
    OUTSIDE,
    OWNER,
    PARENT,
    PHRASE,
    SIZE,
    SLOT,
    SPELL,
    START,
    base_of,
    kth_largest,
    log_add,
    release,
)  # fmt: skip
from slt_ctc_personalization.compiled import copied_function, inline_function

NO_LM, WORD_LM, TOKEN_LM = 0, 1, 2
NO_EDGES, BOUNDARY_EDGES, MARK_EDGES = 0, 1, 2
EXCLUDED, STARTS_WORD = 1, 2
INFINITY = np.inf

LETTERS_OF_A_WORD = 6.0
"""An unknown word pays once for each so many characters, but at least once: what the peers take for a usual word."""


class Options(NamedTuple):
    """Settings as plain numbers: ids, sizes, and natural-log weights."""

    blank: int
    boundary: int
    edges: int
    lm_unit: int
    beam: int
    look_ahead: int
    single: int
    start_phrase: int
    token_min: float
    prune: float
    lm_weight: float
    word_bonus: float
    unknown: float


class LabelTables(NamedTuple):
    """Per label: `kind` flags, characters `chars[char_start[v] : char_start[v + 1]]`, word id in a model over labels."""

    kind: npt.NDArray[np.int64]
    char_start: npt.NDArray[np.int64]
    chars: npt.NDArray[np.int64]
    lm_word: npt.NDArray[np.int64]


class Beam(NamedTuple):
    """The living hypotheses: tree (`nodes`, `numbers`, `control`) and, for each, its node and its two masses.

    `blank`, `label`, `total` [k]: ln of the probability of all alignments that end in blank, in a label, in either.
    """

    nodes: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.float64]
    control: npt.NDArray[np.int64]
    node: npt.NDArray[np.int64]
    blank: npt.NDArray[np.float64]
    label: npt.NDArray[np.float64]
    total: npt.NDArray[np.float64]


class Scratch(NamedTuple):
    """One frame's candidates: node, masses and their sum, score, a copy to select from; admitted labels,
    a hash table of futures, and who has tried a label."""

    node: npt.NDArray[np.int64]
    blank: npt.NDArray[np.float64]
    label: npt.NDArray[np.float64]
    total: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    copy: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    seen: npt.NDArray[np.int64]
    stamp: npt.NDArray[np.int64]


@inline_function
def admit_tokens(row, options, labels, tokens):
    """Labels above the threshold, or the likeliest: (how many, the largest value left out, the largest of all).

    What is left out is below the threshold, so whatever is not above the largest of it needs no further look: with many
    labels that is one comparison for nearly all of them.
    """
    size, rest, rest_label, top = 0, np.float32(-INFINITY), -1, row[options.blank]
    for label in range(row.shape[0]):
        value = row[label]
        if not value > rest:
            continue
        if label == options.blank or labels.kind[label] & EXCLUDED:
            continue
        if value >= options.token_min:
            tokens[size] = label
            size += 1
            top = max(top, value)
        else:
            rest, rest_label = value, label
    if size == 0 and rest > row[options.blank]:
        tokens[0] = rest_label
        size = 1
    return size, float(rest), max(top, rest)


@inline_function
def stay(beam, scratch, options, row, both):
    """All hypotheses one frame later without a new label; returns a lower bound of the best score."""
    nodes, top = beam.nodes, -INFINITY
    for index in range(beam.control[SIZE]):
        node = beam.node[index]
        if nodes[node, FLAGS] & ABSORBS:
            silent, spoken = beam.total[index] + both, -INFINITY
        else:
            silent, spoken = beam.total[index] + row[options.blank], -INFINITY
            if nodes[node, KEY] >= 0:
                spoken = beam.label[index] + row[nodes[node, KEY]]
                if spoken > silent:
                    nodes[node, LAST] = beam.control[FRAME]
        scratch.node[index], scratch.blank[index], scratch.label[index] = node, silent, spoken
        top = max(top, max(silent, spoken) + beam.numbers[node, FUSED])
    return top


@copied_function
def arrive(beam, scratch, node, mass, size):
    """Add the mass of a new label to the candidate of `node`; returns the number of candidates."""
    nodes = beam.nodes
    slot = nodes[node, SLOT]
    if slot < 0:
        slot = size
        nodes[node, SLOT] = slot
        scratch.node[slot], scratch.blank[slot], scratch.label[slot] = node, -INFINITY, -INFINITY
        size += 1
    if nodes[node, KEY] >= 0 and nodes[node, CHILD] < 0 and mass > max(scratch.blank[slot], scratch.label[slot]):
        nodes[node, START] = beam.control[FRAME]
        nodes[node, LAST] = beam.control[FRAME]
    if nodes[node, FLAGS] & ABSORBS:
        scratch.blank[slot] = log_add(scratch.blank[slot], mass)
    else:
        scratch.label[slot] = log_add(scratch.label[slot], mass)
    return size


@inline_function
def score_candidates(beam, scratch, low, high):
    """Scores of the candidates `low ... high - 1`, and the best."""
    best = -INFINITY
    for slot in range(low, high):
        scratch.total[slot] = log_add(scratch.blank[slot], scratch.label[slot])
        scratch.score[slot] = scratch.total[slot] + beam.numbers[scratch.node[slot], FUSED]
        best = max(best, scratch.score[slot])
    return best


@inline_function
def thin_out(beam, scratch, options, low, size, least):
    """Keep the best `beam` of the new candidates `low ... size - 1`; returns (their end, the least score kept or given)."""
    score_candidates(beam, scratch, low, size)
    return keep_best(beam, scratch, options, low, size, least)


@inline_function
def keep_best(beam, scratch, options, low, size, least):
    """As `thin_out`, of candidates whose scores are known."""
    count = size - low
    for slot in range(count):
        scratch.copy[slot] = scratch.score[low + slot]
    kth = kth_largest(scratch.copy, count, options.beam)
    end = low
    for slot in range(low, size):
        node = scratch.node[slot]
        if scratch.score[slot] >= kth and end - low < options.beam:
            scratch.node[end], scratch.blank[end], scratch.label[end] = node, scratch.blank[slot], scratch.label[slot]
            beam.nodes[node, SLOT] = end
            end += 1
        else:
            beam.nodes[node, SLOT] = OUTSIDE
            release(beam.nodes, beam.control, node)
    return end, max(least, kth)


@inline_function
def swap_first(beam, index):
    """Put hypothesis `index` first: what the best one reaches limits what is worth trying for the others."""
    if index < beam.control[SIZE]:
        beam.node[0], beam.node[index] = beam.node[index], beam.node[0]
        beam.blank[0], beam.blank[index] = beam.blank[index], beam.blank[0]
        beam.label[0], beam.label[index] = beam.label[index], beam.label[0]
        beam.total[0], beam.total[index] = beam.total[index], beam.total[0]
        beam.nodes[beam.node[index], SLOT] = index
        beam.nodes[beam.node[0], SLOT] = 0


@inline_function
def same_future(beam, phrases, one, other, listed):
    """Whether two nodes are continued alike: the same labels add the same amounts, but for what begun phrases hold."""
    nodes = beam.nodes
    begun, known = nodes[one, PHRASE], nodes[other, PHRASE]
    return (
        nodes[one, LM] == nodes[other, LM]
        and nodes[one, SPELL] == nodes[other, SPELL]
        and nodes[one, KEY] == nodes[other, KEY]
        and nodes[one, FLAGS] == nodes[other, FLAGS]
        and (begun == known or (phrases.span[begun] == 0 and phrases.span[known] == 0))
        and (listed == 0 or nodes[one, EXTRA] == nodes[other, EXTRA])
        and (listed == 0 or nodes[one, SPELL] >= 0 or nodes[one, OWNER] == nodes[other, OWNER])
    )


@inline_function
def lead(beam, phrases, one, other):
    """How much more `one` adds to its acoustic score than `other`, which has the same future, whatever follows.

    What a begun phrase may yet earn is added to what had been earned before it: the least lead over all of them counts.
    """
    nodes, numbers = beam.nodes, beam.numbers
    ahead = numbers[one, FUSED] - numbers[other, FUSED]
    state = nodes[one, PHRASE]
    if phrases.span[state] == 0:
        return ahead
    known = numbers[one, DONE] - numbers[other, DONE]
    ahead = known + numbers[one, EARNED] - numbers[other, EARNED]
    while state > 0 and phrases.span[state] > 0:
        before = base_of(nodes, numbers, nodes[one, PARENT], numbers[one, BASE], phrases.span[state])
        before -= base_of(nodes, numbers, nodes[other, PARENT], numbers[other, BASE], phrases.span[state])
        ahead = min(ahead, known + before)
        state = phrases.fail[state]
    return ahead


@inline_function
def drop_dominated(beam, scratch, phrases, listed):
    """Drop hypotheses that another one with the same future is ahead of, whichever way their alignments end.

    Only where the hypothesis that leads to them (their parent) has been dropped before: nothing more can arrive then, and
    they can never become the best. A beam that drops nothing else drops nothing here.
    """
    nodes, seen = beam.nodes, scratch.seen
    size = beam.control[SIZE]
    mask = seen.shape[0] // 2 - 1
    frame = beam.control[FRAME] + 1
    kept = 0
    for index in range(size):
        node = beam.node[index]
        dropped = False
        parent, begun = nodes[node, PARENT], nodes[node, PHRASE]
        if phrases.span[begun] == 0:
            begun = 0
        if listed == 1 or begun == 0:
            mixed = (nodes[node, LM] * 0x9E3779B1 + nodes[node, SPELL]) * 0x85EBCA77 + nodes[node, KEY] * 0xC2B2AE3D
            mixed += begun * 0x27D4EB2F
            place = ((mixed >> 15) ^ mixed) & mask
            while seen[2 * place] == frame and not same_future(
                beam, phrases, beam.node[seen[2 * place + 1]], node, listed
            ):
                place = (place + 1) & mask
            if seen[2 * place] == frame:
                other = seen[2 * place + 1]
                if parent >= 0 and nodes[parent, SLOT] == OUTSIDE and (listed == 1 or nodes[parent, KEY] >= 0):
                    ahead = lead(beam, phrases, beam.node[other], node)
                    dropped = (
                        beam.blank[other] + ahead >= beam.blank[index]
                        and beam.label[other] + ahead >= beam.label[index]
                    )
            else:
                seen[2 * place], seen[2 * place + 1] = frame, kept
        if dropped:
            nodes[node, SLOT] = OUTSIDE
        else:
            beam.node[kept], beam.blank[kept], beam.label[kept] = node, beam.blank[index], beam.label[index]
            beam.total[kept] = beam.total[index]
            nodes[node, SLOT] = kept
            kept += 1
    beam.control[SIZE] = kept


@inline_function
def survive(beam, scratch, options, phrases, listed, first_new, size):
    """The best candidates become the beam; the nodes of the others are freed."""
    best = score_candidates(beam, scratch, 0, size)
    least = best + options.prune
    count = 0
    for slot in range(size):
        if scratch.score[slot] >= least and scratch.score[slot] > -INFINITY:
            scratch.copy[count] = scratch.score[slot]
            count += 1
    if count > options.beam:
        least = kth_largest(scratch.copy, count, options.beam)
    kept, first = 0, 0
    for slot in range(size):
        node = scratch.node[slot]
        if scratch.score[slot] == best:
            first = kept
        if kept < options.beam and scratch.score[slot] >= least and scratch.score[slot] > -INFINITY:
            beam.node[kept], beam.blank[kept], beam.label[kept] = node, scratch.blank[slot], scratch.label[slot]
            beam.total[kept] = scratch.total[slot]
            beam.nodes[node, SLOT] = kept
            kept += 1
        else:
            beam.nodes[node, SLOT] = OUTSIDE
    beam.control[SIZE] = kept
    swap_first(beam, first)
    if options.single and size > first_new:
        drop_dominated(beam, scratch, phrases, listed)
    for slot in range(size):
        if beam.nodes[scratch.node[slot], SLOT] < 0:
            release(beam.nodes, beam.control, scratch.node[slot])
