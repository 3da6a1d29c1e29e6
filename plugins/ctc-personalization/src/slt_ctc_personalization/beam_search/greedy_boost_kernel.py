"""The compiled walk of greedy decoding with phrases: one label a frame, and the automaton behind it."""

# mypy: disable-error-code="no-untyped-def"
# (numba takes the types from the call; annotations of tables in every function would say nothing more.)

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.beam_search.candidates import BOUNDARY_EDGES, MARK_EDGES, NO_EDGES, STARTS_WORD
from slt_ctc_personalization.beam_search.prefix_tree import ABSORBS, NONEMPTY
from slt_ctc_personalization.compiled import compile_kernel, inline_function
from slt_ctc_personalization.lexicon.lexicon_trie import ABOVE
from slt_ctc_personalization.phrases.phrases import PhraseTables, go_to

STATE, WRITTEN, FLAGS, LAST, MEMORY_INTS = range(5)
"""STATE: automaton state. WRITTEN: labels of the text. FLAGS: as in `prefix_tree`. LAST: the label of the last frame."""
EARNED, FUSED, MEMORY_FLOATS = range(3)
"""EARNED: bonus of complete phrases. FUSED: that, or with the credit of a phrase that has begun, whichever is more."""


class Memory(NamedTuple):
    """What one utterance's walk remembers; `base` is a ring: the bonus earned before each of the last labels."""

    whole: npt.NDArray[np.int64]
    real: npt.NDArray[np.float64]
    base: npt.NDArray[np.float64]


def largest_step(phrases: PhraseTables, edges: int) -> float:
    """The most that one label can add to the bonus: the largest rise along an arc, twice where a border is silent.

    What is read and what is earned after a label both stem from a suffix of the text before it, one arc back.
    """
    credit = phrases.credit
    if len(credit) < 2:
        return 0.0
    rises = np.maximum(credit, phrases.bonus)[1:] - credit[phrases.rows[1:, ABOVE]]
    return max(float(rises.max()), 0.0) * (2.0 if edges == MARK_EDGES else 1.0)


@inline_function
def base_before(base, written, own, span):
    """The bonus earned before the first of the last `span` labels; `own` is that before the label in hand."""
    if span <= 1:
        return own
    return base[(written + 1 - span) & (base.shape[0] - 1)]


@inline_function
def earn(phrases, base, written, own, state, earned, less):
    """Earned bonus with the phrases that end in `state`; `less` labels of their spans were not read."""
    state = phrases.output[state]
    while state > 0:
        earned = max(earned, base_before(base, written, own, phrases.span[state] - less) + phrases.bonus[state])
        state = phrases.output[phrases.fail[state]]
    return earned


@inline_function
def close(options, phrases, memory, edge):
    """State and earned bonus after a silent word edge behind the text."""
    written = memory.whole[WRITTEN] - 1
    own = memory.base[written & (memory.base.shape[0] - 1)]
    state = go_to(phrases, memory.whole[STATE], edge)
    less = 1 if options.edges == BOUNDARY_EDGES else 0
    return state, earn(phrases, memory.base, written, own, state, memory.real[EARNED], less)


@inline_function
def after(options, labels, phrases, memory, label):
    """The text with `label` behind it: (state, flags, earned before the label, earned, fused)."""
    edge = labels.kind.shape[0]
    state, flags, earned = memory.whole[STATE], memory.whole[FLAGS], memory.real[EARNED]
    if label != options.boundary and labels.kind[label] & STARTS_WORD and flags & NONEMPTY:
        state, earned = close(options, phrases, memory, edge)
        flags = 0
    own = earned
    if label == options.boundary:
        flags = ABSORBS
        state = go_to(phrases, state, edge)
    else:
        flags &= NONEMPTY
        state = go_to(phrases, state, label)
        if labels.char_start[label + 1] > labels.char_start[label]:
            flags = NONEMPTY
    written = memory.whole[WRITTEN]
    if state > 0:
        earned = earn(phrases, memory.base, written, own, state, earned, 0)
    fused, suffix = earned, state
    while suffix > 0:
        if phrases.credit[suffix] > 0.0:
            fused = max(fused, base_before(memory.base, written, own, phrases.span[suffix]) + phrases.credit[suffix])
        suffix = phrases.fail[suffix]
    return state, flags, own, earned, fused


@inline_function
def choose(row, options, labels, phrases, memory, most):
    """The label of a frame: the largest ln p + what it adds to the bonus; the smaller id of equals."""
    last, fused = memory.whole[LAST], memory.real[FUSED]
    idle = options.boundary if memory.whole[FLAGS] & ABSORBS else -1
    chosen, best = options.blank, np.float64(row[options.blank])
    for label in range(row.shape[0]):
        value = np.float64(row[label])
        if label == options.blank or value + most < best:
            continue
        if label != last and label != idle:
            value += after(options, labels, phrases, memory, label)[4] - fused
        if value > best or (value == best and label < chosen):
            chosen, best = label, value
    return chosen


@compile_kernel
def walk(log_probs, options, labels, phrases, memory, most, path):
    """Write the label of each frame of `log_probs` [t v] to `path` [t]; `memory` goes on from where it stood."""
    for frame in range(log_probs.shape[0]):
        label = choose(log_probs[frame], options, labels, phrases, memory, most)
        idle = label == options.boundary and memory.whole[FLAGS] & ABSORBS
        if label != options.blank and label != memory.whole[LAST] and not idle:
            state, flags, own, earned, fused = after(options, labels, phrases, memory, label)
            memory.base[memory.whole[WRITTEN] & (memory.base.shape[0] - 1)] = own
            memory.whole[STATE], memory.whole[FLAGS] = state, flags
            memory.whole[WRITTEN] += 1
            memory.real[EARNED], memory.real[FUSED] = earned, fused
        memory.whole[LAST] = label
        path[frame] = label


@compile_kernel
def final_bonus(options, labels, phrases, memory):
    """The bonus of the text as a complete one: what was begun only is returned, the last word has ended."""
    if options.edges == NO_EDGES or not memory.whole[FLAGS] & NONEMPTY:
        return memory.real[EARNED]
    return close(options, phrases, memory, labels.kind.shape[0])[1]
