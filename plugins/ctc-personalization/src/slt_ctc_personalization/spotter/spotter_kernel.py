"""The compiled part of the word spotter: one token for each trie node and kind of last frame, moved frame by frame.

A token is in (node, label), where the last frame wrote the node's label, or in (node, blank), where blanks have followed
it. Its number is the sum of `ln p(label) - max over labels of ln p` over its frames, never above 0, so a token never
gains by waiting. Of two tokens in one place the better stays; equal ones: that which began earlier, then ended later.
"""

# mypy: disable-error-code="no-any-return"
# (compiled functions return numbers; mypy sees the items of numpy arrays as Any.)

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.compiled import compile_kernel, inline_function
from slt_ctc_personalization.lexicon.lexicon_trie import COUNT, FIRST, LABEL

FRAME, ACTIVE, FOUND, HELD, RELEASED, CLOCKS = range(6)
NO_BORDERS, BOUNDARY_LABEL, WORD_MARKS = range(3)
IN_LABEL, IN_BLANK = range(2)
LABEL_BEGIN, BLANK_BEGIN, BLANK_END, STAMP = range(4)
PHRASE, BEGIN, END, PATH, WHEN = range(5)
NONE = -np.inf

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int32]


class SpotterTables(NamedTuple):
    """Label paths of phrases as a trie, node 0 the root.

    `rows` [node, 4] as in `TrieTables`. `path_start` [node + 1]: the paths that end at node n are
    `paths[path_start[n]:path_start[n + 1]]`. `limit` [node] float64: a token below it is dropped. `phrase` [path],
    `gain` [path]: the phrase a path belongs to, and what reading all of it earns.
    """

    rows: IntArray
    path_start: IntArray
    paths: IntArray
    limit: FloatArray
    phrase: IntArray
    gain: FloatArray


class SpotterRules(NamedTuple):
    """Numbers of a spotter. `is_border` [v] uint8: labels that show a word border."""

    is_border: npt.NDArray[np.uint8]
    borders: int
    blank: int
    threshold: float
    missed_border: float
    blank_limit: float
    settle: int


class SpotterState(NamedTuple):
    """What a spotter knows between frames.

    `score` [2, node, 2] and `place` [2, node, 4]: tokens of the last frame and this one; `active` [2, node]: the nodes
    that have any, `counts` [2] how many. `border` [1]: the cost of a word that begins in the next frame.
    `found_score`, `found_place`: the best hit of each phrase in this frame; `held_score`, `held_place` those that may
    still be replaced, `held` [phrase] their phrases; `taken` [phrase]: the end of the last hit that was released.
    `out_score`, `out_place`: released hits.
    """

    clock: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    border: FloatArray
    score: FloatArray
    place: IntArray
    active: IntArray
    found: IntArray
    found_score: FloatArray
    found_place: IntArray
    held: IntArray
    held_score: FloatArray
    held_place: IntArray
    taken: IntArray
    out_score: FloatArray
    out_place: IntArray


@inline_function
def _put(state, now, node, kind, score, begin, end):  # type: ignore[no-untyped-def]
    """Let a token arrive; the better of two stays."""
    side = now & 1
    scores, place = state.score[side, node], state.place[side, node]
    if place[STAMP] != now + 1:
        place[STAMP] = now + 1
        scores[IN_LABEL] = NONE
        scores[IN_BLANK] = NONE
        state.active[side, state.counts[side]] = node
        state.counts[side] += 1
    if kind == IN_LABEL:
        if score > scores[IN_LABEL] or (score == scores[IN_LABEL] and begin < place[LABEL_BEGIN]):
            scores[IN_LABEL] = score
            place[LABEL_BEGIN] = begin
        return
    equal = score == scores[IN_BLANK]
    earlier = begin < place[BLANK_BEGIN] or (begin == place[BLANK_BEGIN] and end > place[BLANK_END])
    if score > scores[IN_BLANK] or (equal and earlier):
        scores[IN_BLANK] = score
        place[BLANK_BEGIN] = begin
        place[BLANK_END] = end


@inline_function
def _move(row, peak, tables, rules, state, now):  # type: ignore[no-untyped-def]
    """Every token of the last frame to each place it may be in now."""
    before = (now & 1) ^ 1
    rows, limit = tables.rows, tables.limit
    rest = np.float64(row[rules.blank]) - peak
    for index in range(state.counts[before]):
        node = state.active[before, index]
        said, waited = state.score[before, node, IN_LABEL], state.score[before, node, IN_BLANK]
        said_begin, waited_begin = state.place[before, node, LABEL_BEGIN], state.place[before, node, BLANK_BEGIN]
        label = rows[node, LABEL]
        stay = said + (np.float64(row[label]) - peak)
        if stay >= limit[node]:
            _put(state, now, node, IN_LABEL, stay, said_begin, now + 1)
        if said + rest >= limit[node]:
            _put(state, now, node, IN_BLANK, said + rest, said_begin, now)
        if waited + rest >= limit[node]:
            _put(state, now, node, IN_BLANK, waited + rest, waited_begin, state.place[before, node, BLANK_END])
        best, begin = said, said_begin
        if waited > said or (waited == said and waited_begin < said_begin):
            best, begin = waited, waited_begin
        for child in range(rows[node, FIRST], rows[node, FIRST] + rows[node, COUNT]):
            after = rows[child, LABEL]
            cost = np.float64(row[after]) - peak
            if best + cost < limit[child]:
                continue
            if after != label:
                _put(state, now, child, IN_LABEL, best + cost, begin, now + 1)
            elif waited + cost >= limit[child]:
                _put(state, now, child, IN_LABEL, waited + cost, waited_begin, now + 1)


@inline_function
def _start(row, peak, tables, rules, state, now):  # type: ignore[no-untyped-def]
    """New tokens, unless the frame is a blank; then the cost of beginning in the next frame."""
    rows = tables.rows
    entry = 0.0
    if rules.borders == BOUNDARY_LABEL:
        entry = max(state.border[0], -rules.missed_border)
    if row[rules.blank] <= rules.blank_limit:
        for child in range(rows[0, FIRST], rows[0, FIRST] + rows[0, COUNT]):
            score = entry + (np.float64(row[rows[child, LABEL]]) - peak)
            if score >= tables.limit[child]:
                _put(state, now, child, IN_LABEL, score, now, now + 1)
    if rules.borders == BOUNDARY_LABEL:
        heard = NONE
        for label in range(row.shape[0]):
            if rules.is_border[label]:
                heard = max(heard, np.float64(row[label]) - peak)
        state.border[0] = max(heard, state.border[0] + (np.float64(row[rules.blank]) - peak))


@inline_function
def _offer(tables, rules, state, now, node, score, begin, end):  # type: ignore[no-untyped-def]
    """A token at the end of its paths: remember the best hit of each phrase in this frame."""
    for index in range(tables.path_start[node], tables.path_start[node + 1]):
        path = tables.paths[index]
        total = score + tables.gain[path]
        if not total >= rules.threshold:
            continue
        phrase = tables.phrase[path]
        place = state.found_place[phrase]
        if place[WHEN] != now + 1:
            place[WHEN] = now + 1
            state.found[state.clock[FOUND]] = phrase
            state.clock[FOUND] += 1
        else:
            old = state.found_score[phrase]
            if total < old:
                continue
            if total == old:
                if begin != place[BEGIN]:
                    if begin > place[BEGIN]:
                        continue
                elif end < place[END] or (end == place[END] and path > place[PATH]):
                    continue
        state.found_score[phrase] = total
        place[BEGIN] = begin
        place[END] = end
        place[PATH] = path


@inline_function
def _find(row, peak, tables, rules, state, now):  # type: ignore[no-untyped-def]
    """The hits that this frame shows: phrases that end with it, or before it where it shows a word border."""
    side = now & 1
    missed = 0.0 if rules.borders == NO_BORDERS else rules.missed_border
    if missed < np.inf:
        for index in range(state.counts[side]):
            node = state.active[side, index]
            said = state.score[side, node, IN_LABEL]
            if tables.path_start[node] < tables.path_start[node + 1] and said > NONE:
                _offer(tables, rules, state, now, node, said - missed, state.place[side, node, LABEL_BEGIN], now + 1)
    if rules.borders == NO_BORDERS:
        return
    first, best, second = -1, NONE, NONE  # the likeliest label that shows a border, and the likeliest other one
    for label in range(row.shape[0]):
        if rules.is_border[label]:
            score = np.float64(row[label]) - peak
            if score > best:
                first, second, best = label, best, score
            elif score > second:
                second = score
    before = side ^ 1
    for index in range(state.counts[before]):
        node = state.active[before, index]
        if tables.path_start[node] == tables.path_start[node + 1]:
            continue
        place = state.place[before, node]
        said = state.score[before, node, IN_LABEL] + (second if tables.rows[node, LABEL] == first else best)
        if said > NONE:
            _offer(tables, rules, state, now, node, said, place[LABEL_BEGIN], now)
        waited = state.score[before, node, IN_BLANK] + best
        if waited > NONE:
            _offer(tables, rules, state, now, node, waited, place[BLANK_BEGIN], place[BLANK_END])


@inline_function
def _release(state, phrase):  # type: ignore[no-untyped-def]
    place, count = state.held_place[phrase], state.clock[RELEASED]
    state.out_score[count] = state.held_score[phrase]
    state.out_place[count, PHRASE] = phrase
    for column in (BEGIN, END, PATH):
        state.out_place[count, column] = place[column]
    state.clock[RELEASED] += 1
    state.taken[phrase] = place[END]


@inline_function
def _settle(state, now, frames):  # type: ignore[no-untyped-def]
    """Hits of this frame against those held; what has been held for `frames` frames is released."""
    for index in range(state.clock[FOUND]):
        phrase = state.found[index]
        new, old = state.found_place[phrase], state.held_place[phrase]
        score = state.found_score[phrase]
        if new[BEGIN] < state.taken[phrase]:
            continue
        if old[WHEN] == 0:
            state.held[state.clock[HELD]] = phrase
            state.clock[HELD] += 1
        elif new[BEGIN] >= old[END]:
            _release(state, phrase)
        else:
            kept = state.held_score[phrase]
            wider = new[BEGIN] <= old[BEGIN] and new[END] >= old[END]
            if score < kept or (score == kept and not wider):
                continue
        state.held_score[phrase] = score
        for column in (BEGIN, END, PATH):
            old[column] = new[column]
        old[WHEN] = now + 1
    state.clock[FOUND] = 0
    kept_count = 0
    for index in range(state.clock[HELD]):
        phrase = state.held[index]
        if now + 1 - state.held_place[phrase, WHEN] >= frames:
            _release(state, phrase)
            state.held_place[phrase, WHEN] = 0
        else:
            state.held[kept_count] = phrase
            kept_count += 1
    state.clock[HELD] = kept_count


@compile_kernel
def hear_frames(frames, tables, rules, state):  # type: ignore[no-untyped-def]
    """Hear `frames` [t v] float32, natural log; returns how many, fewer where the room for released hits is used up."""
    room = state.out_score.shape[0] - 2 * state.taken.shape[0]
    for index in range(frames.shape[0]):
        if state.clock[RELEASED] > room:
            return index
        row = frames[index]
        peak = np.float64(row[0])
        for label in range(1, row.shape[0]):
            peak = max(peak, np.float64(row[label]))
        now = state.clock[FRAME]
        state.counts[now & 1] = 0
        _move(row, peak, tables, rules, state, now)
        _start(row, peak, tables, rules, state, now)
        _find(row, peak, tables, rules, state, now)
        _settle(state, now, rules.settle)
        state.clock[FRAME] = now + 1
    return frames.shape[0]


@compile_kernel
def end_frames(tables, rules, state):  # type: ignore[no-untyped-def]
    """End the utterance, which is a word border at no cost, and release everything."""
    now = state.clock[FRAME]
    before = (now & 1) ^ 1
    if rules.borders != NO_BORDERS and now > 0:
        for index in range(state.counts[before]):
            node = state.active[before, index]
            place = state.place[before, node]
            said, waited = state.score[before, node, IN_LABEL], state.score[before, node, IN_BLANK]
            if said > NONE:
                _offer(tables, rules, state, now, node, said, place[LABEL_BEGIN], now)
            if waited > NONE:
                _offer(tables, rules, state, now, node, waited, place[BLANK_BEGIN], place[BLANK_END])
    _settle(state, now, 0)
