"""Which candidates of a windowed search survive a frame: ranks, the beam, and hypotheses that others are ahead of."""

# mypy: disable-error-code="no-untyped-def"
# (numba takes the types from the call; annotations of tables in every function would say nothing more.)

from __future__ import annotations

from slt_ctc_personalization.beam_search.candidates import INFINITY, keep_best, same_future, swap_first
from slt_ctc_personalization.beam_search.claims import credit_at
from slt_ctc_personalization.beam_search.prefix_tree import (
    CHILD,
    FRAME,
    FUSED,
    KEY,
    LM,
    NEXT,
    OUTSIDE,
    PARENT,
    PHRASE,
    SIZE,
    SLOT,
    SPELL,
    kth_largest,
    release,
)  # fmt: skip
from slt_ctc_personalization.compiled import inline_function
from slt_ctc_personalization.lexicon.lexicon_trie import COUNT

CLOSED = -2
"""Key of a closed claim below its owner; an open claim on trie node c (1 or more) has the key CLOSED - c."""

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


@inline_function
def lent_to(claims, heard, claim, now):
    """What an open claim on a trie node adds to its rank; -inf where nothing follows, so that it cannot be open."""
    if claims.rows[claim, COUNT] == 0:
        return -INFINITY
    credit = credit_at(claims, heard, claim, now)
    return credit if credit > 0.0 else -DORMANT


@inline_function
def rank_of(beam, claims, heard, node, now):
    """What is added to the mass of a node to compare it with others."""
    rank = beam.numbers[node, FUSED]
    if beam.nodes[node, KEY] < CLOSED:
        rank += lent_to(claims, heard, beam.nodes[node, PHRASE], now)
    return rank


@inline_function
def score_max(beam, scratch, claims, heard, low, high, now):
    """Scores of the candidates `low ... high - 1`, and the best."""
    best = -INFINITY
    for slot in range(low, high):
        scratch.total[slot] = max(scratch.blank[slot], scratch.label[slot])
        node = scratch.node[slot]
        score = scratch.total[slot] + rank_of(beam, claims, heard, node, now)
        if beam.nodes[node, KEY] < CLOSED and lent_to(claims, heard, beam.nodes[node, PHRASE], now) < 0.0:
            score -= BEHIND
        scratch.score[slot] = score
        best = max(best, score)
    return best


@inline_function
def thin_out_max(beam, scratch, options, claims, heard, low, size, least, now):
    """Keep the best `beam` of the new candidates `low ... size - 1`; returns (their end, the least score kept or given)."""
    score_max(beam, scratch, claims, heard, low, size, now)
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
def survive_max(beam, scratch, options, automaton, claims, heard, first_new, size, now):
    """The best candidates become the beam; the nodes of the others are freed."""
    best = score_max(beam, scratch, claims, heard, 0, size, now)
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
