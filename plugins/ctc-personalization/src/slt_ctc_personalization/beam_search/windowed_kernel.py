"""The compiled search for windowed boosting: CTC prefix search in the max semiring, with claims on phrases.

Nodes are those of the prefix tree, one for each label sequence, and *twins* below them: a twin has the label sequence
of its owner (the node it hangs from) and a claim. An open claim c (a node of the phrases' trie) says that the last
labels are the beginning of a phrase, entered at a word start, and pay nothing else until it is complete. A closed claim
has its bonus in its mass and waits for the end of the word. All that depends on the label sequence alone is the owner's.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba takes the types from the call; annotations of tables in every function would say nothing more.)

from __future__ import annotations

from slt_ctc_personalization.beam_search.candidates import (
    BOUNDARY_EDGES,
    INFINITY,
    NO_EDGES,
    NO_LM,
    STARTS_WORD,
    admit_tokens,
)  # fmt: skip
from slt_ctc_personalization.beam_search.claims import add_expected, add_openings, bonus_at, list_openings, listen
from slt_ctc_personalization.beam_search.kernel import close_word, gain_of, new_prefix
from slt_ctc_personalization.beam_search.prefix_tree import (
    ABSORBS,
    CHILD,
    DONE,
    FLAGS,
    FRAME,
    FUSED,
    KEY,
    LAST,
    LEFT,
    LM,
    NEXT,
    NONEMPTY,
    PARENT,
    PHRASE,
    ROOT_KEY,
    SIZE,
    SLOT,
    START,
    add_node,
    child_by_key,
)  # fmt: skip
from slt_ctc_personalization.beam_search.windowed_beam import (
    CLOSED,
    LENT,
    lent_to,
    owner_of,
    survive_max,
    thin_out_max,
)  # fmt: skip
from slt_ctc_personalization.compiled import compile_kernel, copied_function, inline_function
from slt_ctc_personalization.language_model.ngram import ngram_end
from slt_ctc_personalization.lexicon.lexicon_trie import COUNT, find_child

MOST_REACHED = 4
"""Candidates that one label behind one hypothesis may bring: no claim, a closed one, one that goes on, one that begins."""


@inline_function
def at_start(nodes, options, owner):
    """Whether a word, and so a phrase, may begin behind the label sequence of `owner`, if the next label lets it."""
    if options.edges == NO_EDGES:
        return True
    if options.edges == BOUNDARY_EDGES:
        return nodes[owner, FLAGS] & ABSORBS != 0
    return nodes[owner, KEY] == ROOT_KEY or nodes[owner, FLAGS] & NONEMPTY != 0


@inline_function
def ends_word(nodes, options, labels, owner, label):
    """Whether `label` behind the label sequence of `owner` ends a word."""
    if options.edges == BOUNDARY_EDGES:
        return label == options.boundary
    return labels.kind[label] & STARTS_WORD != 0 and nodes[owner, FLAGS] & NONEMPTY != 0


@inline_function
def may_begin(nodes, options, labels, owner, label):
    """Whether a phrase may begin with `label` behind the label sequence of `owner`."""
    if not at_start(nodes, options, owner):
        return False
    marked = options.edges != NO_EDGES and options.edges != BOUNDARY_EDGES and nodes[owner, KEY] != ROOT_KEY
    return not marked or labels.kind[label] & STARTS_WORD != 0


@inline_function
def stay_max(beam, scratch, options, claims, heard, row, both):
    """All hypotheses one frame later without a new label; what claims are lent now is noted.

    Returns a lower bound of the best score, and the most that a hypothesis has without what its current word may add.
    """
    nodes, numbers, top, most = beam.nodes, beam.numbers, -INFINITY, -INFINITY
    for index in range(beam.control[SIZE]):
        node = beam.node[index]
        owner = owner_of(nodes, node)
        spoken = -INFINITY
        if nodes[owner, FLAGS] & ABSORBS:
            silent = beam.total[index] + both
        else:
            silent = beam.total[index] + row[options.blank]
            if nodes[owner, KEY] >= 0:
                spoken = beam.label[index] + row[nodes[owner, KEY]]
                if spoken > silent:
                    nodes[owner, LAST] = beam.control[FRAME]
        scratch.node[index], scratch.blank[index], scratch.label[index] = node, silent, spoken
        rank = numbers[node, FUSED]
        if nodes[node, KEY] < CLOSED:
            numbers[node, LENT] = lent_to(claims, heard, nodes[node, PHRASE])
            rank += numbers[node, LENT]
        top = max(top, max(silent, spoken) + rank)
        most = max(most, beam.total[index] + numbers[owner, DONE])
    return top, most


@inline_function
def mark_start(beam, scratch, owner, mass):
    """Keep this frame as that of the last label of `owner`, unless labels follow or a path without claim is better."""
    nodes = beam.nodes
    slot, child = nodes[owner, SLOT], nodes[owner, CHILD]
    if slot >= 0 and mass < max(scratch.blank[slot], scratch.label[slot]):
        return
    while child >= 0:
        if nodes[child, KEY] >= 0:
            return
        child = nodes[child, NEXT]
    nodes[owner, START] = beam.control[FRAME]
    nodes[owner, LAST] = beam.control[FRAME]


@inline_function
def arrive_max(beam, scratch, node, owner, mass, size):
    """Let a path whose last label begins now reach the candidate of `node`; returns the number of candidates."""
    nodes = beam.nodes
    slot = nodes[node, SLOT]
    if slot < 0:
        slot = size
        nodes[node, SLOT] = slot
        scratch.node[slot], scratch.blank[slot], scratch.label[slot] = node, -INFINITY, -INFINITY
        size += 1
    if nodes[owner, KEY] >= 0 and mass > max(scratch.blank[slot], scratch.label[slot]):
        mark_start(beam, scratch, owner, mass)
    if nodes[owner, FLAGS] & ABSORBS:
        scratch.blank[slot] = max(scratch.blank[slot], mass)
    else:
        scratch.label[slot] = max(scratch.label[slot], mass)
    return size


@inline_function
def twin_of(beam, owner, claim, lent):
    """The twin of `owner` with an open claim on a trie node, or with a closed one for 0; made when there is none."""
    nodes = beam.nodes
    twin = child_by_key(nodes, owner, CLOSED - claim)
    if twin < 0:
        twin = add_node(nodes, beam.control, owner, CLOSED - claim, beam.control[FRAME])
        nodes[twin, PHRASE] = claim
        beam.numbers[twin, FUSED], beam.numbers[twin, LENT] = beam.numbers[owner, FUSED], lent
    return twin


@copied_function
def reach(
    beam, scratch, options, labels, spellings, extra, automaton, lm, claims, heard, owner, label, mass, free, onward,
    fresh, size, least,
):  # fmt: skip
    """Put `label` behind the label sequence of `owner`: without a claim where `free`, and with claims on the trie nodes
    `onward` and `fresh` (-1: none). Returns the number of candidates and the least score worth trying."""
    paid, best, lent, lent_fresh = 0.0, -INFINITY, -INFINITY, -INFINITY
    if free:
        best = 0.0
    if onward >= 0:
        paid, lent = bonus_at(claims, heard, onward), lent_to(claims, heard, onward)
        best = max(best, lent)
    if fresh >= 0:
        paid, lent_fresh = max(paid, bonus_at(claims, heard, fresh)), lent_to(claims, heard, fresh)
        best = max(best, lent_fresh)
    if paid > 0.0:
        best = max(best, paid)
    child = child_by_key(beam.nodes, owner, label)
    if child < 0 and mass + beam.numbers[owner, DONE] + best + gain_of(options, labels, label) >= least:
        child = new_prefix(beam, options, labels, spellings, extra, automaton, lm, owner, label, mass + best, least)
    if child >= 0 and best > -INFINITY:
        top = mass + beam.numbers[child, FUSED]
        if free:
            size = arrive_max(beam, scratch, child, child, mass, size)
        if paid > 0.0:
            target = child if options.edges == NO_EDGES else twin_of(beam, child, 0, 0.0)
            size = arrive_max(beam, scratch, target, child, mass + paid, size)
        if lent > -INFINITY and top + lent >= least:
            size = arrive_max(beam, scratch, twin_of(beam, child, onward, lent), child, mass, size)
        if lent_fresh > -INFINITY and top + lent_fresh >= least:
            size = arrive_max(beam, scratch, twin_of(beam, child, fresh, lent_fresh), child, mass, size)
        least = max(least, top + best + options.prune)
    return size, least


@copied_function
def extend_max(
    beam, scratch, options, labels, spellings, extra, automaton, lm, claims, heard, index, label, value, first_new, size,
    least,
):  # fmt: skip
    """Try `label` behind hypothesis `index`; returns the number of candidates and the least score worth trying."""
    nodes, node = beam.nodes, beam.node[index]
    owner = owner_of(nodes, node)
    mass = value + (beam.blank[index] if label == nodes[owner, KEY] else beam.total[index])
    free, onward, fresh = True, -1, -1
    if nodes[node, KEY] == CLOSED:
        free = ends_word(nodes, options, labels, owner, label)
    elif nodes[node, KEY] < CLOSED:
        # A claim whose owner is not in the beam stands for it, too: its paths are paths without the claim as well.
        free = not 0 <= nodes[owner, SLOT] < first_new
        onward = find_child(claims, nodes[node, PHRASE], label)
    if free and claims.rows[0, COUNT] > 0 and may_begin(nodes, options, labels, owner, label):
        fresh = find_child(claims, 0, label)
    if mass > -INFINITY and (free or onward >= 0):
        size, least = reach(
            beam, scratch, options, labels, spellings, extra, automaton, lm, claims, heard, owner, label, mass, free,
            onward, fresh, size, least,
        )  # fmt: skip
    return size, least


@inline_function
def new_words(options):
    """The most that the bonuses of the words which a label ends and begins can add."""
    return 0.0 if options.lm_unit == NO_LM else 2.0 * max(options.word_bonus, 0.0)


@inline_function
def expected_by_claims(beam, scratch, options, claims, heard, row, index, first_new, tokens, openings, rest, least):
    """Append labels below the threshold that a claim expects, or that begin a phrase which is heard; returns their end."""
    nodes, node = beam.nodes, beam.node[index]
    owner = owner_of(nodes, node)
    key = nodes[node, KEY]
    own = beam.total[index] + beam.numbers[owner, DONE] + new_words(options)
    trial = beam.control[FRAME] * options.beam + index + 1
    if key < CLOSED and own + rest + claims.most[nodes[node, PHRASE]] >= least:
        tokens = add_expected(
            claims, heard, scratch, row, own, nodes[node, PHRASE], tokens, trial, options.token_min, least
        )
    if key == CLOSED and options.edges == BOUNDARY_EDGES:
        value = row[options.boundary]
        if (
            value < options.token_min
            and own + value >= least
            and not (tokens > 0 and scratch.tokens[0] == options.boundary)
        ):
            scratch.tokens[tokens] = options.boundary
            tokens += 1
    elif (
        openings > 0 and at_start(nodes, options, owner) and (key >= CLOSED or not 0 <= nodes[owner, SLOT] < first_new)
    ):
        tokens = add_openings(heard, openings, scratch, row, own, tokens, trial, least)
    return tokens


@compile_kernel
def search_windowed(
    log_probs, begin, end, options, labels, spellings, extra, automaton, lm, claims, heard, evidence, beam, scratch
):
    """As `kernel.search_labels`, in the max semiring; row t of `evidence` is what is heard around frame t."""
    nodes, control = beam.nodes, beam.control
    capacity, boosted = scratch.node.shape[0], claims.rows[0, COUNT] > 0
    for frame in range(begin, end):
        if control[LEFT] < 2 * capacity:
            return frame
        row = log_probs[frame]
        tokens, rest, top = admit_tokens(row, options, labels, scratch.tokens)
        if top == -INFINITY:
            return -1 - frame
        if boosted:
            listen(claims, heard, evidence, frame)
        both = row[options.blank]
        if options.boundary >= 0:
            both = max(both, row[options.boundary])
        first_new = size = control[SIZE]
        least, most = stay_max(beam, scratch, options, claims, heard, row, both)
        least += options.prune
        openings = 0
        if boosted and most + new_words(options) + rest + claims.most[0] >= least:
            openings = list_openings(
                claims, heard, scratch, row, most + new_words(options), tokens, options.token_min, least
            )
        for index in range(first_new):
            absorbs = nodes[owner_of(nodes, beam.node[index]), FLAGS] & ABSORBS
            tried = tokens
            if boosted:
                tried = expected_by_claims(
                    beam, scratch, options, claims, heard, row, index, first_new, tokens, openings, rest, least
                )
            for place in range(tried):
                label = scratch.tokens[place]
                if label == options.boundary and absorbs:
                    continue
                if size + MOST_REACHED > capacity:
                    size, least = thin_out_max(beam, scratch, options, first_new, size, least)
                size, least = extend_max(
                    beam, scratch, options, labels, spellings, extra, automaton, lm, claims, heard, index, label,
                    row[label], first_new, size, least,
                )  # fmt: skip
        survive_max(beam, scratch, options, automaton, first_new, size)
        control[FRAME] += 1
    return end


@compile_kernel
def finish_windowed(options, labels, spellings, extra, lm, beam, final_node, final_score):
    """As `kernel.finish_labels`: claims that are not complete pay nothing, and of equal texts the best path counts."""
    count, nodes = 0, beam.nodes
    for index in range(beam.control[SIZE]):
        node = beam.node[index]
        owner = owner_of(nodes, node)
        done, state, text = beam.numbers[owner, DONE], nodes[owner, LM], owner
        if nodes[owner, FLAGS] & ABSORBS:
            if nodes[owner, PARENT] >= 0:
                text = nodes[owner, PARENT]
        elif options.edges != NO_EDGES and nodes[owner, FLAGS] & NONEMPTY:
            done, state = close_word(beam, options, spellings, extra, lm, owner)
        elif nodes[node, KEY] == CLOSED:
            continue
        if options.lm_unit != NO_LM:
            done += options.lm_weight * ngram_end(lm, state)
        score = beam.total[index] + done
        place = 0
        while place < count and final_node[place] != text:
            place += 1
        if place == count:
            final_node[count], final_score[count] = text, score
            count += 1
        else:
            final_score[place] = max(final_score[place], score)
    return count
