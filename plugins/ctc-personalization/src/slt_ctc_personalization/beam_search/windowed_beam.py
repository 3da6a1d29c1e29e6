"""Which candidates of a windowed search survive a frame: ranks, the beam, and hypotheses that others are ahead of."""

# mypy: disable-error-code="no-untyped-def"
# (numba takes the types from the call; annotations of tables in every function would say nothing more.)

from __future__ import annotations

from slt_ctc_personalization.beam_search.candidates import INFINITY, keep_best, same_future, swap_first
from slt_ctc_personalization.beam_search.claims import credit_at
from slt_ctc_personalization.beam_search.prefix_tree import (
    CHILD,
    EARNED,
    FRAME,
    FUSED,
    KEY,
    LM,
    NEXT,
    OUTSIDE,
    PARENT,
    SIZE,
    SLOT,
    SPELL,
    kth_largest,
    release,
)  # fmt: skip
from slt_ctc_personalization.compiled import copied_function, inline_function
from slt_ctc_personalization.lexicon.lexicon_trie import COUNT

CLOSED = -2
"""Key of a closed claim below its owner; an open claim on trie node c (1 or more) has the key CLOSED - c."""

LENT = EARNED
"""Column of `Beam.numbers` that holds what an open claim is lent in the frame at hand."""

DORMANT = 5.0
"""An open claim of whose phrases none is heard is dropped so many nats above the limit for others: evidence may still
come, but rarely for texts that are far behind."""

BEHIND = 1e6
"""Such a claim also ranks behind all others: it gets a place in the beam only where they leave one, so that phrases
which are not heard crowd out no text."""


@inline_function
def owner_of(nodes, node):
    """The node of the label sequence of a twin; any other node itself."""
    return nodes[node, PARENT] if nodes[node, KEY] <= CLOSED else node


@copied_function
def lent_to(claims, heard, claim):
    """What an open claim on a trie node adds to its rank; -inf where nothing follows, so that it cannot be open."""
    credit = credit_at(claims, heard, claim)
    if credit > 0.0:
        return credit
    return -DORMANT if claims.rows[claim, COUNT] > 0 else -INFINITY


@inline_function
def score_max(nodes, numbers, scratch, low, high):
    """Scores of the candidates `low ... high - 1`, and the best."""
    best = -INFINITY
    for slot in range(low, high):
        node = scratch.node[slot]
        scratch.total[slot] = max(scratch.blank[slot], scratch.label[slot])
        rank = numbers[node, FUSED]
        if nodes[node, KEY] < CLOSED:
            rank += numbers[node, LENT]
        score = scratch.total[slot] + rank
        if nodes[node, KEY] < CLOSED and numbers[node, LENT] < 0.0:
            score -= BEHIND
        scratch.score[slot] = score
        best = max(best, score)
    return best


@inline_function
def thin_out_max(beam, scratch, options, low, size, least):
    """Keep the best `beam` of the new candidates `low ... size - 1`; returns (their end, the least score kept or given)."""
    score_max(beam.nodes, beam.numbers, scratch, low, size)
    return keep_best(beam, scratch, options, low, size, least)


@inline_function
def is_orphan(nodes, owner):
    """Whether nothing can arrive at a label sequence any more: neither its parent nor a twin of it is in the beam."""
    parent = nodes[owner, PARENT]
    if parent < 0 or nodes[parent, SLOT] != OUTSIDE:
        return False
    child = nodes[parent, CHILD]
    while child >= 0:
        if nodes[child, KEY] <= CLOSED and nodes[child, SLOT] != OUTSIDE:
            return False
        child = nodes[child, NEXT]
    return True


@inline_function
def drop_dominated_max(beam, scratch, automaton):
    """As `candidates.drop_dominated`, for hypotheses with the same claim."""
    nodes, seen = beam.nodes, scratch.seen
    mask, frame, kept = seen.shape[0] // 2 - 1, beam.control[FRAME] + 1, 0
    for index in range(beam.control[SIZE]):
        node = beam.node[index]
        owner = owner_of(nodes, node)
        claim = min(nodes[node, KEY], -1)
        mixed = (nodes[owner, LM] * 0x9E3779B1 + nodes[owner, SPELL]) * 0x85EBCA77 + nodes[owner, KEY] * 0xC2B2AE3D
        mixed += claim * 0x27D4EB2F
        place, dropped = ((mixed >> 15) ^ mixed) & mask, False
        while seen[2 * place] == frame:
            other = beam.node[seen[2 * place + 1]]
            if min(nodes[other, KEY], -1) == claim and same_future(beam, automaton, owner_of(nodes, other), owner, 1):
                break
            place = (place + 1) & mask
        if seen[2 * place] == frame:
            first = seen[2 * place + 1]
            ahead = beam.numbers[beam.node[first], FUSED] - beam.numbers[node, FUSED]
            dropped = (
                beam.blank[first] + ahead >= beam.blank[index]
                and beam.label[first] + ahead >= beam.label[index]
                and is_orphan(nodes, owner)
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
def survive_max(beam, scratch, options, automaton, first_new, size):
    """The best candidates become the beam; the nodes of the others are freed."""
    best = score_max(beam.nodes, beam.numbers, scratch, 0, size)
    least, count = best + options.prune, 0
    for slot in range(size):
        score = scratch.score[slot]
        if score >= least or (score < least - 0.5 * BEHIND and score + BEHIND >= least):
            if score > -INFINITY:
                scratch.copy[count] = score
                count += 1
        else:
            scratch.score[slot] = -INFINITY
    least = -INFINITY
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
        drop_dominated_max(beam, scratch, automaton)
    for slot in range(size):
        if beam.nodes[scratch.node[slot], SLOT] < 0:
            release(beam.nodes, beam.control, scratch.node[slot])
