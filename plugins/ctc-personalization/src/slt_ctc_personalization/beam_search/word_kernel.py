"""The compiled search over a lexicon: CTC prefix beam search whose hypotheses are word sequences.

A hypothesis is a word history, a node of the pronunciation trie, and the states of the language model and of the
phrases. In the tree a word's node hangs below the node of the word before it, and the labels of the word being heard
hang below that; so pronunciations of one word, with and without a boundary label behind it, meet in one node and add up.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba takes the types from the call; annotations of tables in every function would say nothing more.)

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.beam_search.candidates import (
    INFINITY,
    NO_LM,
    admit_tokens,
    arrive,
    stay,
    survive,
    thin_out,
)
from slt_ctc_personalization.beam_search.prefix_tree import (
    ABSORBS,
    BASE,
    DONE,
    EARNED,
    EXTRA,
    FLAGS,
    FRAME,
    FUSED,
    KEY,
    LAST,
    LEFT,
    LM,
    OUTSIDE,
    OWNER,
    PARENT,
    PHRASE,
    SIZE,
    SLOT,
    SPELL,
    START,
    WORD_KEY,
    add_node,
    child_by_key,
    log_add,
    release,
)  # fmt: skip
from slt_ctc_personalization.compiled import compile_kernel, copied_function, inline_function
from slt_ctc_personalization.language_model.ngram import ngram_end, ngram_step
from slt_ctc_personalization.lexicon.lexicon_trie import COUNT, FIRST, LABEL, find_child
from slt_ctc_personalization.phrases.phrases import go_to, word_credit


class WordTables(NamedTuple):
    """Per lexicon word: its id in the language model, and what is added when the model does not know it."""

    lm_word: npt.NDArray[np.int64]
    penalty: npt.NDArray[np.float64]


@inline_function
def earned_before(nodes, numbers, owner, span):
    """Bonus earned before the last `span` words of the history that ends at the word node `owner`."""
    for _ in range(span):
        owner = nodes[owner, PARENT]
    return numbers[owner, EARNED]


@inline_function
def after_word(beam, options, words, phrases, lm, owner, word):
    """(done, language model state, phrase state, earned, fused) when `word` follows the word node `owner`."""
    nodes, numbers = beam.nodes, beam.numbers
    done, lm_state = numbers[owner, DONE], nodes[owner, LM]
    if options.lm_unit != NO_LM:
        log_prob, lm_state = ngram_step(lm, lm_state, words.lm_word[word])
        done += options.lm_weight * log_prob + options.word_bonus + words.penalty[word]
    state, earned = 0, numbers[owner, EARNED]
    if phrases.symbol[word] >= 0:
        state = go_to(phrases, nodes[owner, PHRASE], phrases.symbol[word])
    ending = phrases.output[state] if state > 0 else -1
    while ending > 0:
        earned = max(earned, earned_before(nodes, numbers, owner, phrases.span[ending] - 1) + phrases.bonus[ending])
        ending = phrases.output[phrases.fail[ending]]
    bonus, begun = earned, state
    while begun > 0:
        lent = earned_before(nodes, numbers, owner, phrases.span[begun] - 1) + phrases.credit[begun]
        bonus = max(bonus, lent)
        begun = phrases.fail[begun]
    return done, lm_state, state, earned, done + bonus


@inline_function
def word_node(beam, options, words, phrases, lm, heard, word):
    """The node of `word`, whose labels end at `heard`; made when it does not exist."""
    nodes, numbers = beam.nodes, beam.numbers
    owner = nodes[heard, OWNER]
    node = child_by_key(nodes, owner, WORD_KEY - word)
    if node >= 0:
        return node
    done, lm_state, state, earned, fused = after_word(beam, options, words, phrases, lm, owner, word)
    start = nodes[heard, START] if nodes[heard, EXTRA] < 0 else nodes[heard, EXTRA]
    node = add_node(nodes, beam.control, owner, WORD_KEY - word, start)
    nodes[node, LAST] = nodes[heard, LAST]
    nodes[node, LM] = lm_state
    nodes[node, SPELL] = 0
    nodes[node, EXTRA] = nodes[heard, SPELL]
    nodes[node, PHRASE] = state
    nodes[node, FLAGS] = ABSORBS
    nodes[node, OWNER] = node
    numbers[node, DONE] = done
    numbers[node, BASE] = earned
    numbers[node, EARNED] = earned
    numbers[node, FUSED] = fused
    return node


@inline_function
def label_node(beam, trie, phrases, parent, label, place, mass, least):
    """The node for `label`, which reaches the trie node `place`, behind `parent`; -1 if it scores below `least`."""
    nodes, numbers = beam.nodes, beam.numbers
    owner = nodes[parent, OWNER]
    state = nodes[owner, PHRASE]
    bonus = numbers[owner, EARNED]
    if phrases.map_keys.shape[0] > 1:
        while True:
            credit = word_credit(phrases, state * trie.rows.shape[0] + place)
            if credit > 0.0:
                bonus = max(bonus, earned_before(nodes, numbers, owner, phrases.span[state]) + credit)
            if state == 0:
                break
            state = phrases.fail[state]
    fused = numbers[owner, DONE] + trie.best[place] + bonus
    if not (mass + fused >= least):
        return -1
    node = add_node(nodes, beam.control, parent, label, beam.control[FRAME])
    nodes[node, LM] = nodes[owner, LM]
    nodes[node, SPELL] = place
    nodes[node, EXTRA] = -1
    if parent != owner:
        nodes[node, EXTRA] = nodes[parent, START] if nodes[parent, EXTRA] < 0 else nodes[parent, EXTRA]
    nodes[node, PHRASE] = nodes[owner, PHRASE]
    nodes[node, FLAGS] = 0
    nodes[node, OWNER] = owner
    numbers[node, DONE] = numbers[owner, DONE]
    numbers[node, BASE] = numbers[owner, EARNED]
    numbers[node, EARNED] = numbers[owner, EARNED]
    numbers[node, FUSED] = fused
    return node


@copied_function
def hear(beam, scratch, options, trie, phrases, parent, label, place, mass, ceiling, size, least):
    """Add `mass` to the node of `label` below `parent`, made when it is worth it; returns (candidates, least score)."""
    child = child_by_key(beam.nodes, parent, label)
    if child < 0:
        owner = beam.nodes[parent, OWNER]
        if mass + beam.numbers[owner, DONE] + beam.numbers[owner, EARNED] + ceiling + trie.best[place] >= least:
            child = label_node(beam, trie, phrases, parent, label, place, mass, least)
    if child >= 0:
        size = arrive(beam, scratch, child, mass, size)
        least = max(least, mass + beam.numbers[child, FUSED] + options.prune)
    return size, least


@inline_function
def expected_labels(beam, scratch, options, trie, phrases, row, index, tokens, rest, ceiling, least):
    """Append the labels that a begun phrase expects, inside its word or behind it; returns how many labels to try."""
    nodes, numbers = beam.nodes, beam.numbers
    node = beam.node[index]
    owner, here = nodes[node, OWNER], nodes[node, SPELL]
    state = nodes[owner, PHRASE]
    if state == 0 and here == 0:
        return tokens
    ahead = max(trie.best[here], max(options.word_bonus, 0.0) + trie.best[0])
    own = beam.total[index] + numbers[owner, DONE] + numbers[owner, EARNED] + ceiling + ahead
    if own + rest < least:
        return tokens
    trial = beam.control[FRAME] * options.beam + index + 1
    for place in range(tokens):
        scratch.stamp[scratch.tokens[place]] = trial
    begun = state
    while True:
        if begun > 0 or here > 0:
            tokens = admit_children(scratch, trie, phrases, row, begun, here, trial, own, least, tokens)
        if begun == 0:
            break
        begun = phrases.fail[begun]
    if here > 0:
        for entry in range(trie.word_start[here], trie.word_start[here + 1]):
            symbol = phrases.symbol[trie.words[entry]]
            begun = go_to(phrases, state, symbol) if symbol >= 0 else 0
            while begun > 0:
                tokens = admit_children(scratch, trie, phrases, row, begun, 0, trial, own, least, tokens)
                begun = phrases.fail[begun]
    return tokens


@inline_function
def admit_children(scratch, trie, phrases, row, state, here, trial, own, least, tokens):
    """Append the labels below the trie node `here` that lead along a phrase in `state`."""
    first = trie.rows[here, FIRST]
    for child in range(first, first + trie.rows[here, COUNT]):
        label = trie.rows[child, LABEL]
        if scratch.stamp[label] == trial or own + row[label] < least:
            continue
        if word_credit(phrases, state * trie.rows.shape[0] + child) > 0.0:
            scratch.stamp[label] = trial
            scratch.tokens[tokens] = label
            tokens += 1
    return tokens


@inline_function
def end_words(beam, scratch, options, trie, words, phrases, lm, index, label, value, ceiling, first_new, size, least):
    """The words whose labels end at hypothesis `index`, followed by `label`: a boundary, or the next word's first."""
    nodes, numbers = beam.nodes, beam.numbers
    node = beam.node[index]
    owner, here = nodes[node, OWNER], nodes[node, SPELL]
    is_boundary = label == options.boundary
    place = 0 if is_boundary else find_child(trie, 0, label)
    if place < 0:
        return size, least
    ahead = max(options.word_bonus, 0.0) + (0.0 if is_boundary else trie.best[place])
    for entry in range(trie.word_start[here], trie.word_start[here + 1]):
        mass = (beam.blank[index] if label == nodes[node, KEY] else beam.total[index]) + value + trie.weights[entry]
        bound = numbers[owner, DONE] + numbers[owner, EARNED] + ceiling + ahead
        if mass == -INFINITY or not (mass + bound >= least):
            continue
        if size == scratch.node.shape[0]:
            size, least = thin_out(beam, scratch, options, first_new, size, least)
        behind = word_node(beam, options, words, phrases, lm, node, trie.words[entry])
        if not is_boundary:
            size, least = hear(beam, scratch, options, trie, phrases, behind, label, place, mass, ceiling, size, least)
        elif nodes[behind, SLOT] != OUTSIDE or mass + numbers[behind, FUSED] >= least:
            size = arrive(beam, scratch, behind, mass, size)
            least = max(least, mass + numbers[behind, FUSED] + options.prune)
        release(nodes, beam.control, behind)
    return size, least


@compile_kernel
def search_words(log_probs, begin, end, options, labels, trie, words, phrases, lm, beam, scratch):
    """Read frames `begin ... end - 1` of `log_probs` [t v] float32; returns as `kernel.search_labels`."""
    nodes, control = beam.nodes, beam.control
    capacity = scratch.node.shape[0]
    ceiling = 0.0
    for state in range(phrases.bonus.shape[0]):
        ceiling = max(ceiling, phrases.bonus[state])
    for frame in range(begin, end):
        if control[LEFT] < 2 * capacity:
            return frame
        row = log_probs[frame]
        tokens, rest, top = admit_tokens(row, options, labels, scratch.tokens)
        if top == -INFINITY:
            return -1 - frame
        both = row[options.blank]
        if options.boundary >= 0:
            both = log_add(both, row[options.boundary])
        first_new = size = control[SIZE]
        least = stay(beam, scratch, options, row, both) + options.prune
        for index in range(first_new):
            node = beam.node[index]
            tried = tokens
            if ceiling > 0.0:
                tried = expected_labels(beam, scratch, options, trie, phrases, row, index, tokens, rest, ceiling, least)
            ends = (
                nodes[node, KEY] >= 0 and trie.word_start[nodes[node, SPELL] + 1] > trie.word_start[nodes[node, SPELL]]
            )
            for token in range(tried):
                label = scratch.tokens[token]
                if label != options.boundary:
                    place = find_child(trie, nodes[node, SPELL], label)
                    mass = (beam.blank[index] if label == nodes[node, KEY] else beam.total[index]) + row[label]
                    if place >= 0 and mass > -INFINITY:
                        if size == capacity:
                            size, least = thin_out(beam, scratch, options, first_new, size, least)
                        size, least = hear(
                            beam, scratch, options, trie, phrases, node, label, place, mass, ceiling, size, least
                        )
                if ends:
                    size, least = end_words(
                        beam, scratch, options, trie, words, phrases, lm, index, label, row[label], ceiling, first_new,
                        size, least,
                    )  # fmt: skip
        survive(beam, scratch, options, phrases, 0, first_new, size)
        control[FRAME] += 1
    return end


@inline_function
def collect(final_owner, final_key, final_node, final_score, count, owner, key, node, score):
    """Add one complete hypothesis, summed with the one of the same words; returns how many there are."""
    for place in range(count):
        if final_owner[place] == owner and final_key[place] == key:
            final_score[place] = log_add(final_score[place], score)
            return count
    final_owner[count], final_key[count], final_node[count], final_score[count] = owner, key, node, score
    return count + 1


@compile_kernel
def finish_words(options, trie, words, phrases, lm, beam, whole, final_owner, final_key, final_node, final_score):
    """Complete hypotheses: the node of the words before, the last word's key, the node that heard it, and the score.

    With `whole` only hypotheses whose last word is complete count; without, an incomplete last word is left out.
    Returns how many there are, or -1 when the arrays are too short.
    """
    nodes, numbers = beam.nodes, beam.numbers
    count = 0
    for index in range(beam.control[SIZE]):
        node = beam.node[index]
        owner, here = nodes[node, OWNER], nodes[node, SPELL]
        if nodes[node, KEY] < 0 or whole == 0:
            score = beam.total[index] + numbers[owner, DONE] + numbers[owner, EARNED]
            if options.lm_unit != NO_LM:
                score += options.lm_weight * ngram_end(lm, nodes[owner, LM])
            if count == final_node.shape[0]:
                return -1
            count = collect(
                final_owner,
                final_key,
                final_node,
                final_score,
                count,
                nodes[owner, PARENT],
                nodes[owner, KEY],
                owner,
                score,
            )
            continue
        for entry in range(trie.word_start[here], trie.word_start[here + 1]):
            word = trie.words[entry]
            done, lm_state, state, earned, fused = after_word(beam, options, words, phrases, lm, owner, word)
            if trie.weights[entry] == -INFINITY:  # only phrases with a gate of 0 list this word
                continue
            score = beam.total[index] + trie.weights[entry] + done + earned
            if options.lm_unit != NO_LM:
                score += options.lm_weight * ngram_end(lm, lm_state)
            if count == final_node.shape[0]:
                return -1
            count = collect(final_owner, final_key, final_node, final_score, count, owner, WORD_KEY - word, node, score)
    return count
