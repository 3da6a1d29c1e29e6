"""The compiled search over labels: CTC prefix beam search with a language model and phrases, without a lexicon."""

# mypy: disable-error-code="no-untyped-def"
# (numba takes the types from the call; annotations of tables in every function would say nothing more.)

from __future__ import annotations

from slt_ctc_personalization.beam_search.candidates import (
    BOUNDARY_EDGES,
    INFINITY,
    LETTERS_OF_A_WORD,
    MARK_EDGES,
    NO_EDGES,
    NO_LM,
    STARTS_WORD,
    TOKEN_LM,
    WORD_LM,
    admit_tokens,
    arrive,
    stay,
    survive,
    thin_out,
)  # fmt: skip
from slt_ctc_personalization.beam_search.prefix_tree import (
    ABSORBS,
    BASE,
    CLOSING,
    DONE,
    EARNED,
    EXTRA,
    FLAGS,
    FRAME,
    FUSED,
    KEY,
    LEFT,
    LM,
    NONEMPTY,
    OWNER,
    PARENT,
    PHRASE,
    SIZE,
    SPELL,
    add_node,
    base_of,
    child_by_key,
    log_add,
)  # fmt: skip
from slt_ctc_personalization.compiled import compile_kernel, copied_function, inline_function
from slt_ctc_personalization.language_model.ngram import ngram_end, ngram_start, ngram_step
from slt_ctc_personalization.lexicon.lexicon_trie import COUNT, FIRST, LABEL, find_child
from slt_ctc_personalization.phrases.phrases import go_to


@inline_function
def earn(nodes, numbers, phrases, state, parent, own, earned, less):
    """Earned bonus after the phrases that end in `state`; `less` labels of their spans were not read (a silent edge)."""
    state = phrases.output[state]
    while state > 0:
        base = base_of(nodes, numbers, parent, own, phrases.span[state] - less)
        earned = max(earned, base + phrases.bonus[state])
        state = phrases.output[phrases.fail[state]]
    return earned


@copied_function
def boost(nodes, numbers, phrases, state, parent, own, earned):
    """Earned bonus, or credit for a phrase that has begun, whichever is more."""
    best = earned
    while state > 0:
        credit = phrases.credit[state]
        if credit > 0.0:
            best = max(best, base_of(nodes, numbers, parent, own, phrases.span[state]) + credit)
        state = phrases.fail[state]
    return best


@inline_function
def unknown_penalty(options, letters):
    """What an unknown word of so many characters, or the part of one, adds to the score."""
    return options.lm_weight * options.unknown * max(letters / LETTERS_OF_A_WORD, 1.0)


@inline_function
def close_word(beam, options, spellings, extra, lm, node):
    """Language model and bonus of the word that ends at `node`: (done, language model state)."""
    done, state = beam.numbers[node, DONE], beam.nodes[node, LM]
    if options.lm_unit != WORD_LM:
        return done, state
    word = 0
    spelled, listed = beam.nodes[node, SPELL], beam.nodes[node, EXTRA]
    if spelled > 0 and spellings.word_start[spelled + 1] > spellings.word_start[spelled]:
        word = spellings.words[spellings.word_start[spelled]]
    known = word > 0
    if not known and listed > 0 and extra.word_start[listed + 1] > extra.word_start[listed]:
        known = extra.weights[extra.word_start[listed]] == 0.0
    log_prob, state = ngram_step(lm, state, word)
    done += options.lm_weight * log_prob + options.word_bonus
    if not known:
        done += unknown_penalty(options, beam.nodes[node, OWNER])
    return done, state


@inline_function
def close_phrase(beam, options, phrases, node, boundary):
    """Automaton state and earned bonus after a silent word edge behind `node`."""
    state = go_to(phrases, beam.nodes[node, PHRASE], boundary)
    less = 1 if options.edges == BOUNDARY_EDGES else 0
    parent, own = beam.nodes[node, PARENT], beam.numbers[node, BASE]
    return state, earn(beam.nodes, beam.numbers, phrases, state, parent, own, beam.numbers[node, EARNED], less)


@inline_function
def gain_of(options, labels, label):
    """The most that a label can add to a score beside phrases: bonuses for the word it ends, and for the one it begins."""
    if options.lm_unit == TOKEN_LM:
        return max(options.word_bonus, 0.0)
    gain = 0.0
    if label == options.boundary or labels.kind[label] & STARTS_WORD:
        gain = max(options.word_bonus, 0.0)
    if options.look_ahead and label != options.boundary:
        gain += max(options.word_bonus, 0.0)
    return gain


@copied_function
def new_prefix(beam, options, labels, spellings, extra, phrases, lm, parent, label, mass, least):
    """The node for `label` after `parent`, with all that is added to its acoustic score; -1 if that is below `least`.

    What the phrases add comes first: most labels that only a phrase expects are given up before the words are looked up.
    """
    nodes, numbers = beam.nodes, beam.numbers
    edge = labels.kind.shape[0]
    flags = nodes[parent, FLAGS]
    state, earned = nodes[parent, PHRASE], numbers[parent, EARNED]
    own = earned
    is_boundary = label == options.boundary
    ends_word = is_boundary or (labels.kind[label] & STARTS_WORD and flags & NONEMPTY)
    if is_boundary:
        state = go_to(phrases, state, edge)
    else:
        if ends_word:
            state, earned = close_phrase(beam, options, phrases, parent, edge)
            own = earned
        state = go_to(phrases, state, label)
    if state > 0:
        earned = earn(nodes, numbers, phrases, state, parent, own, earned, 0)
    bonus = boost(nodes, numbers, phrases, state, parent, own, earned) if state > 0 else earned
    done, lm_state = numbers[parent, DONE], nodes[parent, LM]
    if not (mass + done + bonus + gain_of(options, labels, label) >= least):
        return -1
    spelled, listed = nodes[parent, SPELL], nodes[parent, EXTRA]
    pending, letters = 0.0, nodes[parent, OWNER]
    if ends_word:
        done, lm_state = close_word(beam, options, spellings, extra, lm, parent)
        spelled, listed, flags, letters = 0, 0, 0, 0
    if is_boundary:
        flags = ABSORBS
    else:
        flags &= NONEMPTY
        letters += labels.char_start[label + 1] - labels.char_start[label]
        if labels.char_start[label + 1] > labels.char_start[label]:
            flags = NONEMPTY
        if options.lm_unit == WORD_LM:
            for place in range(labels.char_start[label], labels.char_start[label + 1]):
                if spelled >= 0:
                    spelled = find_child(spellings, spelled, labels.chars[place])
                if listed >= 0:
                    listed = find_child(extra, listed, labels.chars[place])
                    if listed >= 0 and extra.best[listed] < 0.0:  # only phrases with a gate of 0 go on here
                        listed = -1
            if spelled > 0 and options.look_ahead:
                pending = options.lm_weight * spellings.best[spelled] + options.word_bonus
            elif spelled < 0 and listed < 0:
                pending = unknown_penalty(options, letters)
        elif options.lm_unit == TOKEN_LM:
            log_prob, lm_state = ngram_step(lm, lm_state, labels.lm_word[label])
            done += options.lm_weight * log_prob + options.word_bonus
    if not (mass + done + pending + bonus >= least):
        return -1
    node = add_node(nodes, beam.control, parent, label, beam.control[FRAME])
    nodes[node, LM] = lm_state
    nodes[node, SPELL] = spelled
    nodes[node, EXTRA] = listed
    nodes[node, OWNER] = letters
    nodes[node, PHRASE] = state
    nodes[node, FLAGS] = flags
    numbers[node, DONE] = done
    numbers[node, BASE] = own
    numbers[node, EARNED] = earned
    numbers[node, FUSED] = done + pending + bonus
    numbers[node, CLOSING] = earned
    if options.edges == MARK_EDGES and state > 0 and flags & NONEMPTY:  # kept: asked for in each frame
        numbers[node, CLOSING] = max(earned, close_phrase(beam, options, phrases, node, edge)[1])
    return node


@copied_function
def extend(beam, scratch, options, labels, spellings, extra, phrases, lm, index, label, value, reach, size, least):
    """Try `label` behind hypothesis `index`; returns the number of candidates and the score it reaches, -inf for none."""
    node = beam.node[index]
    mass = (beam.blank[index] if label == beam.nodes[node, KEY] else beam.total[index]) + value
    child = child_by_key(beam.nodes, node, label)
    if child < 0:
        bound = beam.numbers[node, DONE] + reach + gain_of(options, labels, label)
        if mass > -INFINITY and mass + bound >= least:
            child = new_prefix(beam, options, labels, spellings, extra, phrases, lm, node, label, mass, least)
    if child >= 0:
        size = arrive(beam, scratch, child, mass, size)
        return size, mass + beam.numbers[child, FUSED]
    return size, -INFINITY


@inline_function
def expected_labels(beam, scratch, options, labels, phrases, row, edge, index, earned, tokens, rest, least):
    """Append the labels that a begun phrase expects and that could still count; returns the number of labels to try."""
    node = beam.node[index]
    state = beam.nodes[node, PHRASE]
    own = beam.total[index] + beam.numbers[node, DONE] + earned
    if phrases.span[state] == 0 or own + 2.0 * max(options.word_bonus, 0.0) + rest + phrases.reach[state] < least:
        return tokens
    trial = beam.control[FRAME] * options.beam + index + 1
    for place in range(tokens):
        scratch.stamp[scratch.tokens[place]] = trial
    while state > 0 and phrases.span[state] > 0:
        place, stop, behind_edge = (
            phrases.rows[state, FIRST],
            phrases.rows[state, FIRST] + phrases.rows[state, COUNT],
            -1,
        )
        while place < stop:
            label, credit = phrases.rows[place, LABEL], phrases.credit[place]
            if label == edge and options.edges == BOUNDARY_EDGES:
                label = options.boundary
            elif label == edge:
                behind_edge = place
            place += 1
            if place == stop and behind_edge >= 0:
                place = phrases.rows[behind_edge, FIRST]
                stop, behind_edge = place + phrases.rows[behind_edge, COUNT], -1
            if label == edge or own + row[label] + credit + gain_of(options, labels, label) < least:
                continue
            if scratch.stamp[label] != trial:
                scratch.stamp[label] = trial
                scratch.tokens[tokens] = label
                tokens += 1
        state = phrases.fail[state]
    return tokens


@compile_kernel
def search_labels(log_probs, begin, end, options, labels, spellings, extra, phrases, lm, beam, scratch):
    """Read frames `begin ... end - 1` of `log_probs` [t v] float32; returns the first frame not read.

    It stops early, for the caller to enlarge the tree, when a frame might not fit; the result does not depend on that.
    Returns -1 - frame when a frame gives no label any probability.
    """
    nodes, control = beam.nodes, beam.control
    capacity = scratch.node.shape[0]
    edge = labels.kind.shape[0]
    for frame in range(begin, end):
        if control[LEFT] < capacity:
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
        cut = -INFINITY  # kept apart: which labels a phrase may add depends on scores, not on the room for candidates
        for index in range(first_new):
            node = beam.node[index]
            tried = tokens
            earned = beam.numbers[node, CLOSING]
            if nodes[node, PHRASE] > 0:
                tried = expected_labels(
                    beam, scratch, options, labels, phrases, row, edge, index, earned, tokens, rest, least
                )
            for place in range(tried):
                label = scratch.tokens[place]
                if label == options.boundary and nodes[node, FLAGS] & ABSORBS:
                    continue
                if size == capacity:
                    size, cut = thin_out(beam, scratch, options, first_new, size, cut)
                size, reached = extend(
                    beam, scratch, options, labels, spellings, extra, phrases, lm, index, label, row[label],
                    earned + phrases.reach[nodes[node, PHRASE]], size, max(least, cut),
                )  # fmt: skip
                least = max(least, reached + options.prune)
        survive(beam, scratch, options, phrases, 1, first_new, size)
        control[FRAME] += 1
    return end


@compile_kernel
def finish_labels(options, labels, spellings, extra, phrases, lm, beam, final_node, final_score):
    """Scores of the hypotheses as complete texts: word, language model and phrases closed; equal texts are summed.

    Writes each hypothesis' node (without a trailing boundary) and score; returns how many there are.
    """
    count = 0
    edge = labels.kind.shape[0]
    for index in range(beam.control[SIZE]):
        node = beam.node[index]
        done, state = beam.numbers[node, DONE], beam.nodes[node, LM]
        earned, text = beam.numbers[node, EARNED], node
        if beam.nodes[node, FLAGS] & ABSORBS:
            if beam.nodes[node, PARENT] >= 0:
                text = beam.nodes[node, PARENT]
        elif options.edges != NO_EDGES and beam.nodes[node, FLAGS] & NONEMPTY:
            done, state = close_word(beam, options, spellings, extra, lm, node)
            earned = close_phrase(beam, options, phrases, node, edge)[1]
        if options.lm_unit != NO_LM:
            done += options.lm_weight * ngram_end(lm, state)
        score = beam.total[index] + done + earned
        place = 0
        while place < count and final_node[place] != text:
            place += 1
        if place == count:
            final_node[count], final_score[count] = text, score
            count += 1
        else:
            final_score[place] = log_add(final_score[place], score)
    return count


@compile_kernel
def first_lm_state(lm):
    """The language model's state before the first word."""
    return ngram_start(lm)
