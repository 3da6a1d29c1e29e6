"""From the n-grams of an ARPA file to the automaton that searches step through."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.compiled import compile_function
from slt_ctc_personalization.language_model.arpa import ArpaModel
from slt_ctc_personalization.language_model.ngram import (
    AUTOMATON,
    LAYOUT,
    ORDER,
    SLOTS,
    NgramModel,
    NgramTables,
    find_slot,
)
from sltcore.errors import DataError

LOAD = 0.7  # share of the hash table's places that are taken
FIRST_TABLE = 6
LN10 = 2.302585092994046
MAX_STATES = 2**31 - 1


def build_model(arpa: ArpaModel, *, source: str = "") -> NgramModel:
    """The model of an ARPA file's content, ready to be queried; `DataError` when an n-gram is listed twice."""
    arpa = _with_contexts(arpa)
    order = len(arpa.ngrams)
    counts = np.array([len(ids) for ids in arpa.ngrams], np.int64)
    states = 1 + int(counts[:-1].sum()) if order > 1 else 1 + int(counts[0])
    entries = int(counts[1:].sum())
    if max(states, entries) > MAX_STATES:
        raise DataError(f"{source or 'the model'} lists {entries} n-grams, at most {MAX_STATES} are read; prune it.")
    slots = np.full(2 * int(entries / LOAD + 16), -1, np.int64)
    flat = np.concatenate([ids.astype(np.int32).ravel() for ids in arpa.ngrams])
    log_p = np.concatenate([np.asarray(values, np.float64) * LN10 for values in arpa.log10_p]).astype(np.float32)
    log_b = np.concatenate([np.asarray(values, np.float64) * LN10 for values in arpa.log10_b]).astype(np.float32)
    backoff = np.zeros(states, np.float32)
    backoff[1:] = log_b[: states - 1]
    suffix = np.zeros(states, np.int32)
    unigrams = np.zeros(int(counts[0]), np.int64)
    bad = link_ngrams(counts, flat, log_p, slots, unigrams, backoff, suffix)
    if bad >= 0:
        level = int(np.searchsorted(np.cumsum(counts), bad, side="right"))
        row = int(bad - counts[:level].sum())
        words = " ".join(arpa.words[word] for word in arpa.ngrams[level][row])
        line = f":{arpa.first_lines[level] + row}" if arpa.first_lines else ""
        raise DataError(f"{source or 'the model'}{line}: the n-gram '{words}' is listed twice.")
    sizes = np.zeros(FIRST_TABLE, np.int64)
    sizes[LAYOUT], sizes[SLOTS], sizes[ORDER] = AUTOMATON, len(slots) // 2, order
    tables = automaton_tables(sizes, slots, unigrams, backoff, suffix)
    return NgramModel(arpa.words, order, tables, source=source)


def automaton_tables(
    sizes: npt.NDArray[np.int64],
    slots: npt.NDArray[np.int64],
    unigrams: npt.NDArray[np.int64],
    backoff: npt.NDArray[np.float32],
    suffix: npt.NDArray[np.int32],
) -> NgramTables:
    """Tables of an automaton: the fields of a KenLM file are empty."""
    return NgramTables(
        sizes=sizes,
        slots=slots,
        unigrams=unigrams,
        backoff=backoff,
        suffix=suffix,
        raw=np.zeros(0, np.uint32),
        kenlm_ids=np.zeros(0, np.int32),
        contexts=np.zeros(0, np.int32),
    )


def _with_contexts(arpa: ArpaModel) -> ArpaModel:
    """Add the contexts that longer n-grams need and the file does not list, with the value that back-off gives them."""
    ngrams, log_p, log_b = list(arpa.ngrams), list(arpa.log10_p), list(arpa.log10_b)
    added = False
    for level in range(len(ngrams) - 1, 1, -1):
        missing = _missing_rows(ngrams[level][:, :-1], ngrams[level - 1])
        if len(missing):
            added = True
            ngrams[level - 1] = np.concatenate([ngrams[level - 1], missing])
            log_p[level - 1] = np.concatenate([log_p[level - 1], np.full(len(missing), np.nan, np.float32)])
            log_b[level - 1] = np.concatenate([log_b[level - 1], np.zeros(len(missing), np.float32)])
    return ArpaModel(arpa.words, ngrams, log_p, log_b, arpa.first_lines) if added else arpa


def _missing_rows(needed: npt.NDArray[np.int32], listed: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    if not len(needed):
        return needed
    rows = np.ascontiguousarray(needed)
    changed = np.r_[True, (rows[1:] != rows[:-1]).any(axis=1)]  # sorted files repeat each context in a row
    rows = np.unique(rows[changed], axis=0) if rows.shape[1] > 2 else _unique_pairs(rows[changed])
    kind = np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))
    known = np.ascontiguousarray(listed).view(kind).ravel()
    result: npt.NDArray[np.int32] = rows[~np.isin(np.ascontiguousarray(rows).view(kind).ravel(), known)]
    return result


def _unique_pairs(rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    keys = np.unique(rows[:, 0].astype(np.int64) << 32 | rows[:, 1].astype(np.int64))
    return np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1).astype(np.int32)


def _pack(log_p, state):  # type: ignore[no-untyped-def]
    """`state << 32 | bits of log_p`."""
    return np.int64(state) << np.int64(32) | np.int64(np.float32(log_p).view(np.uint32))


pack = compile_function(_pack)


def _link_ngrams(counts, flat, log_p, slots, unigrams, backoff, suffix):  # type: ignore[no-untyped-def]
    """Fill the tables; the number of an n-gram that is listed twice, or -1.

    State `1 + n` is the n-gram number n, counted from the first 1-gram; the longest order has no states.
    """
    order = len(counts)
    slot_count = len(slots) // 2
    states = len(backoff)
    grows = np.zeros(states, np.bool_)
    prefix_of = np.zeros(len(log_p), np.int64)
    number, place = counts[0], counts[0]
    for level in range(1, order):  # contexts come before what follows them, so their states are known
        for _ in range(counts[level]):
            state = 1 + np.int64(flat[place])
            for step in range(1, level):
                state = slots[2 * find_slot(slots, slot_count, state, flat[place + step]) + 1]
            prefix_of[number] = state
            grows[state] = True
            slot = find_slot(slots, slot_count, state, flat[place + level])
            if slot >= 0:
                return number
            slots[2 * (-1 - slot)] = state << np.int64(32) | np.int64(flat[place + level])
            slots[2 * (-1 - slot) + 1] = 1 + number
            number += 1
            place += level + 1
    number, place = counts[0], counts[0]
    for level in range(1, order):  # suffixes: from the suffix of the prefix, by the last word
        last = level == order - 1
        for _ in range(counts[level]):
            word = np.int64(flat[place + level])
            context = np.int64(suffix[prefix_of[number]])
            target = 1 + word
            penalty = backoff[prefix_of[number]]
            lower = log_p[word]
            while context > 0:
                slot = find_slot(slots, slot_count, context, word)
                if slot >= 0:
                    target = slots[2 * slot + 1]
                    lower = log_p[target - 1]
                    break
                penalty += backoff[context]
                context = np.int64(suffix[context])
            if np.isnan(log_p[number]):
                log_p[number] = penalty + lower
            if last:
                prefix_of[number] = target
            else:
                suffix[1 + number] = target
            number += 1
            place += level + 1
    return _minimise(counts, log_p, slots, unigrams, backoff, suffix, grows, prefix_of)


def _minimise(counts, log_p, slots, unigrams, backoff, suffix, grows, longest_suffix):  # type: ignore[no-untyped-def]
    """Lead every n-gram to the longest state that still matters, and hide the others from the suffix chain."""
    states = len(backoff)
    kept = np.zeros(states, np.int64)
    for state in range(1, states):  # a suffix is shorter, so it has a smaller number
        kept[state] = state if grows[state] or backoff[state] != 0.0 else kept[suffix[state]]
    for slot in range(len(slots) // 2):
        if slots[2 * slot] != -1:
            target = slots[2 * slot + 1]
            number = target - 1
            state = target if target < states else longest_suffix[number]
            slots[2 * slot + 1] = pack(log_p[number], kept[state])
    for word in range(counts[0]):
        unigrams[word] = pack(log_p[word], kept[1 + word])
    for state in range(1, states):
        suffix[state] = kept[suffix[state]]
    return np.int64(-1)


_minimise = compile_function(_minimise)
link_ngrams = compile_function(_link_ngrams)
