"""N-gram language models as flat arrays that compiled searches query word by word.

**Model.** With `p` and `b` the probabilities and back-off weights of an ARPA file, and h' the context h less its first
word:

    ln p(w | h) = ln p(h w)             where the file lists the n-gram h w
                = ln b(h) + ln p(w | h')  otherwise, with ln b(h) = 0 where the file does not list h

evaluated exactly: n-grams are compared by their word ids, never by a fingerprint alone. (A KenLM file stores nothing
but fingerprints of 64 bits; `kenlm_file` follows it.) A state is the longest suffix of the history that still matters:
it is listed, and has a back-off weight or a longer n-gram behind it. Histories that can never differ again share one
state, so a search may merge them.

**Source**: back-off: Katz, "Estimation of probabilities from sparse data", 1987; the file format is SRILM's
`ngram-format(5)`. Back-off models as automata: Allauzen, Mohri, Roark, "Generalized algorithms for constructing
statistical language models", 2003.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.compiled import compile_function, inline_function

UNKNOWN, BEGIN, END = 0, 1, 2
"""Word ids of `<unk>`, `<s>` and `</s>` in every model."""

LAYOUT, SLOTS, ORDER, KENLM_WORDS, KENLM_UNIGRAMS, KENLM_TABLES = range(6)
"""Places in `NgramTables.sizes`; from `KENLM_TABLES` on: first word, buckets, first state, first context word."""

AUTOMATON, KENLM = 0, 1
HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
HALF = np.uint64(32)
LOW = np.uint64(0xFFFFFFFF)
CHAIN_FACTOR = np.uint64(8978948897894561157)  # KenLM: a longer n-gram's key from a shorter one's
WORD_FACTOR = np.uint64(17894857484156487943)
SIGN = np.uint32(0x80000000)
ONE = np.uint64(1)
LN10 = np.float32(2.302585092994046)


class NgramTables(NamedTuple):
    """A model's arrays; `sizes[LAYOUT]` says which of them hold it.

    Automaton: `slots` [2 * SLOTS] is an open hash table from `state << 32 | word` (-1: free) to
    `next state << 32 | bits of ln p`; `unigrams` [word] holds the same for single words; `backoff`, `suffix` [state]:
    ln b and the state to go on from. State 0 is the empty context.

    KenLM: `raw` is the file as 32-bit words, `kenlm_ids` [word] its word ids, `contexts` the words of each context
    that a search has reached: written before a state is handed out, always with the same values, hence safe in threads.
    """

    sizes: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]
    unigrams: npt.NDArray[np.int64]
    backoff: npt.NDArray[np.float32]
    suffix: npt.NDArray[np.int32]
    raw: npt.NDArray[np.uint32]
    kenlm_ids: npt.NDArray[np.int32]
    contexts: npt.NDArray[np.int32]


@inline_function
def find_slot(slots, count, state, word):  # type: ignore[no-untyped-def]
    """The place of `state << 32 | word` in the table, or of the free slot where it would stand, as `-1 - place`."""
    key = np.int64(state) << np.int64(32) | np.int64(word)
    mixed = np.uint64(key) * HASH_FACTOR
    mixed = (mixed ^ (mixed >> HALF)) * HASH_FACTOR
    place = np.int64(((mixed >> HALF) * np.uint64(count)) >> HALF)
    while True:
        found = slots[2 * place]
        if found == key:
            return place
        if found == -1:
            return -1 - place
        place += 1
        if place == count:
            place = np.int64(0)


@inline_function
def unpack(packed):  # type: ignore[no-untyped-def]
    """(ln p as float32, next state) of an entry."""
    bits = np.uint32(np.uint64(packed) & LOW)
    return bits.view(np.float32), np.int64(packed >> 32)


@inline_function
def ngram_start(tables):  # type: ignore[no-untyped-def]
    """The state after `<s>`."""
    if tables.sizes[LAYOUT] == KENLM:
        word = np.int64(tables.kenlm_ids[BEGIN])
        return 1 + word if _extends(tables, tables.sizes[KENLM_UNIGRAMS] + 2 * word + 1) else np.int64(0)
    return unpack(tables.unigrams[BEGIN])[1]


@inline_function
def ngram_step(tables, state, word):  # type: ignore[no-untyped-def]
    """(ln p(word | state) as float32, state after the word); `word` is a word id, `UNKNOWN` for words not listed."""
    if tables.sizes[LAYOUT] == KENLM:
        return _kenlm_step(tables, state, word)
    penalty = np.float32(0.0)
    context = np.int64(state)
    while context > 0:
        place = find_slot(tables.slots, tables.sizes[SLOTS], context, word)
        if place >= 0:
            log_prob, after = unpack(tables.slots[2 * place + 1])
            return np.float32(penalty + log_prob), after
        penalty += tables.backoff[context]
        context = np.int64(tables.suffix[context])
    log_prob, after = unpack(tables.unigrams[word])
    return np.float32(penalty + log_prob), after


@inline_function
def ngram_end(tables, state):  # type: ignore[no-untyped-def]
    """ln p(</s> | state) as float32."""
    return ngram_step(tables, state, END)[0]


@inline_function
def _float(raw, place):  # type: ignore[no-untyped-def]
    return np.uint32(raw[place]).view(np.float32)


@inline_function
def _extends(tables, place):  # type: ignore[no-untyped-def]
    """Whether a longer n-gram, or a weight, stands behind a back-off: -0.0 is KenLM's mark for neither."""
    return tables.raw[place] != SIGN


@inline_function
def _kenlm_find(tables, order, key):  # type: ignore[no-untyped-def]
    """The bucket of an n-gram of `order` words with fingerprint `key`, or -1."""
    first = tables.sizes[KENLM_TABLES + 4 * (order - 2)]
    buckets = tables.sizes[KENLM_TABLES + 4 * (order - 2) + 1]
    width = np.int64(3) if order == tables.sizes[ORDER] else np.int64(4)
    bucket = np.int64(key % np.uint64(buckets))
    while True:
        place = first + bucket * width
        found = np.uint64(tables.raw[place]) | np.uint64(tables.raw[place + 1]) << HALF
        if found == key:
            return bucket
        if found == 0:
            return np.int64(-1)
        bucket += 1
        if bucket == buckets:
            bucket = np.int64(0)


@inline_function
def _kenlm_context(tables, state):  # type: ignore[no-untyped-def]
    """(number of words, place of the first in `contexts`) of a state of two words or more."""
    length = 2
    while length < tables.sizes[ORDER] - 1 and state >= tables.sizes[KENLM_TABLES + 4 * (length - 1) + 2]:
        length += 1
    bucket = state - tables.sizes[KENLM_TABLES + 4 * (length - 2) + 2]
    return length, tables.sizes[KENLM_TABLES + 4 * (length - 2) + 3] + bucket * length


@inline_function
def _context_word(tables, state, length, place, back):  # type: ignore[no-untyped-def]
    """The KenLM id of the context's word `back` places before its last."""
    if length == 1:
        return state - 1
    return np.int64(tables.contexts[place + length - 1 - back])


@inline_function
def _chain(key, word):  # type: ignore[no-untyped-def]
    return key * CHAIN_FACTOR ^ (np.uint64(word) + ONE) * WORD_FACTOR


@inline_function
def _kenlm_step(tables, state, word):  # type: ignore[no-untyped-def]
    own = np.int64(tables.kenlm_ids[word])
    order = tables.sizes[ORDER]
    length, place = np.int64(0), np.int64(0)
    if state > tables.sizes[KENLM_WORDS]:
        length, place = _kenlm_context(tables, state)
    elif state > 0:
        length = np.int64(1)
    unigram = tables.sizes[KENLM_UNIGRAMS] + 2 * own
    log_prob = -abs(_float(tables.raw, unigram))  # the sign bit says that nothing extends to the left
    kept, kept_bucket = np.int64(0), np.int64(0)
    if _extends(tables, unigram + 1):
        kept = np.int64(1)
    matched = np.int64(1)
    key = np.uint64(own)
    while matched <= length:
        key = _chain(key, _context_word(tables, state, length, place, matched - 1))
        bucket = _kenlm_find(tables, matched + 1, key)
        if bucket < 0:
            break
        matched += 1
        first = tables.sizes[KENLM_TABLES + 4 * (matched - 2)]
        if matched == order:
            log_prob = -abs(_float(tables.raw, first + 3 * bucket + 2))
            break
        log_prob = -abs(_float(tables.raw, first + 4 * bucket + 2))
        if _extends(tables, first + 4 * bucket + 3):
            kept, kept_bucket = matched, bucket
    total = np.float32(LN10 * (log_prob + _kenlm_backoff(tables, state, length, place, matched)))
    if kept <= 1:
        return total, (own + 1 if kept == 1 else np.int64(0))
    base = tables.sizes[KENLM_TABLES + 4 * (kept - 2) + 3] + kept_bucket * kept
    tables.contexts[base + kept - 1] = own
    for back in range(kept - 1):
        tables.contexts[base + kept - 2 - back] = _context_word(tables, state, length, place, back)
    return total, tables.sizes[KENLM_TABLES + 4 * (kept - 2) + 2] + kept_bucket


@inline_function
def _kenlm_backoff(tables, state, length, place, matched):  # type: ignore[no-untyped-def]
    """The sum of the back-offs of the contexts of `matched` to `length` words, log10."""
    total = np.float32(0.0)
    if matched > length:
        return total
    last = _context_word(tables, state, length, place, 0)
    if matched == 1:
        total += _float(tables.raw, tables.sizes[KENLM_UNIGRAMS] + 2 * last + 1)
    key = np.uint64(last)
    for size in range(2, length + 1):
        key = _chain(key, _context_word(tables, state, length, place, size - 1))
        if size >= matched:
            bucket = _kenlm_find(tables, size, key)
            if bucket >= 0:
                total += _float(tables.raw, tables.sizes[KENLM_TABLES + 4 * (size - 2)] + 4 * bucket + 3)
    return total


def _score_ids(tables, ids, begin, end):  # type: ignore[no-untyped-def]
    state = ngram_start(tables) if begin else np.int64(0)
    total = 0.0
    for word in ids:
        log_prob, state = ngram_step(tables, state, word)
        total += log_prob
    if end:
        total += ngram_end(tables, state)
    return total


score_ids = compile_function(_score_ids)


class NgramModel:
    """A back-off n-gram model: its words, and the tables that compiled searches query.

    `words[0..2]` are `<unk>`, `<s>` and `</s>`. `source` says where the model came from.

    >>> from slt_ctc_personalization.language_model.build_lm import build_lm
    >>> model = build_lm(["the cat sat", "the dog sat"], order=2)
    >>> model.score(["the", "cat"]) > model.score(["cat", "the"])
    True
    """

    def __init__(self, words: Sequence[str], order: int, tables: NgramTables, *, source: str = "") -> None:
        self.words = list(words)
        self.order = order
        self.tables = tables
        self.source = source
        self._ids = {word: index for index, word in enumerate(self.words)}

    def __repr__(self) -> str:
        return f"NgramModel({len(self.words)} words, order {self.order}{', ' + self.source if self.source else ''})"

    def word_id(self, word: str) -> int:
        """The id of a word; 0 (`<unk>`) when the model does not list it."""
        return self._ids.get(word, UNKNOWN)

    def in_vocabulary(self, word: str) -> bool:
        """Whether the model lists the word (`<unk>` itself does not count)."""
        return self._ids.get(word, UNKNOWN) != UNKNOWN

    def score(self, words: Sequence[str], bos: bool = True, eos: bool = True) -> float:
        """ln p of the words, after `<s>` (`bos`) and before `</s>` (`eos`)."""
        ids = np.array([self.word_id(word) for word in words], np.int64)
        return float(score_ids(self.tables, ids, bos, eos))

    def unigram_log_probs(self) -> npt.NDArray[np.float32]:
        """ln p(word) without a context, float32 [words]: to rank words and to look ahead in a search."""
        tables = self.tables
        if tables.sizes[LAYOUT] == KENLM:
            places = int(tables.sizes[KENLM_UNIGRAMS]) + 2 * tables.kenlm_ids.astype(np.int64)
            result: Any = LN10 * -np.abs(tables.raw[places].view(np.float32))
        else:
            result = (tables.unigrams & 0xFFFFFFFF).astype(np.uint32).view(np.float32).copy()
        return np.asarray(result, np.float32)


def load_lm(path: str | Path) -> NgramModel:
    """The model of an ARPA file, gzipped or not, of a KenLM probing binary, or of a CMU Sphinx binary.

    ARPA and Sphinx files are parsed once; the tables are kept in the user's cache folder (`SLT_CACHE`) under the file's sha256
    and mapped into memory from then on. A KenLM probing file is mapped as it is.

    Raises `DataError` when the file is missing, malformed (with file and line), or a KenLM file of another kind (with
    the command that makes a readable one).
    """
    from slt_ctc_personalization.language_model import arpa, kenlm_file, lm_cache, sphinx_lm

    file = Path(path)
    head = arpa.read_head(file)
    if kenlm_file.is_kenlm(head):
        return kenlm_file.read_kenlm(file)
    if sphinx_lm.is_sphinx(head):
        return lm_cache.cached_model(file, lambda: sphinx_lm.read_sphinx(file))
    return lm_cache.cached_model(file, lambda: arpa.read_arpa(file))
