"""KenLM's probing binaries, read as they are.

The file: a header of 112 bytes in which a magic string is followed by constants that show byte order and sizes, the
counts of n-grams, a vocabulary (hash table from a word's murmur hash to its id), one record (p, back-off) for each
word, hash tables of the n-grams of order 2 to N - 1 (fingerprint, p, back-off) and N (fingerprint, p), and the words.
Everything stands at multiples of four bytes, so the mapped file is one array of 32-bit words.

**Source**: Heafield, "KenLM: faster and smaller language model queries", WMT 2011; layout of format version 5 as the
release 0.3.0 writes it (lm/binary_format, lm/vocab, lm/search_hashed); no code is taken from it.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slt_ctc_personalization.language_model.ngram import (
    BEGIN,
    END,
    KENLM,
    KENLM_TABLES,
    KENLM_UNIGRAMS,
    KENLM_WORDS,
    LAYOUT,
    ORDER,
    UNKNOWN,
    NgramModel,
    NgramTables,
)
from sltcore.errors import DataError

MAGIC_START = b"mmap lm http://kheafield.com/code"
MAGIC = b"mmap lm http://kheafield.com/code format version 5\n\0"
CONSTANTS = struct.Struct("<3f3IQ")
EXPECTED_CONSTANTS = (0.0, 1.0, -0.5, 1, 0xFFFFFFFF, 0, 1)
FIXED = struct.Struct("<B3xfIB3xI")
KINDS = ("probing", "rest-probing", "trie", "quantised trie", "array trie", "quantised array trie")
REMEDY = "make a readable one with 'build_binary probing model.arpa model.bin', or give the ARPA file itself"
CHECKED_WORDS = 256
MASK = 0xFFFFFFFFFFFFFFFF


class Header(NamedTuple):
    """What the first bytes of a KenLM file say; `end` is where the vocabulary begins."""

    order: int
    multiplier: float
    kind: int
    has_words: bool
    counts: tuple[int, ...]
    end: int


def is_kenlm(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a KenLM binary of any kind."""
    return head.startswith(MAGIC_START)


def murmur_hash(data: bytes, seed: int = 0) -> int:
    """MurmurHash64A, KenLM's hash of a word."""
    factor = 0xC6A4A7935BD1E995
    result = seed ^ (len(data) * factor & MASK)
    whole = len(data) // 8 * 8
    for (block,) in struct.iter_unpack("<Q", data[:whole]):
        block = block * factor & MASK
        block = (block ^ block >> 47) * factor & MASK
        result = (result ^ block) * factor & MASK
    if len(data) > whole:
        result = (result ^ int.from_bytes(data[whole:], "little")) * factor & MASK
    result = (result ^ result >> 47) * factor & MASK
    return result ^ result >> 47


def read_header(data: bytes | mmap.mmap, path: Path) -> Header:
    """The header of a KenLM file; `DataError` when it is of another kind, version or machine."""
    padded = (len(MAGIC) + 7) // 8 * 8
    start = padded + CONSTANTS.size
    if len(data) < start + FIXED.size or data[: len(MAGIC)] != MAGIC:
        raise DataError(f"{path} is a KenLM binary of another version or cut short; {REMEDY}.")
    if CONSTANTS.unpack_from(data, padded) != EXPECTED_CONSTANTS:
        raise DataError(f"{path} is a KenLM binary of a machine with other number formats; {REMEDY}.")
    order, multiplier, kind, has_words, _ = FIXED.unpack_from(data, start)
    if kind != 0:
        name = KINDS[kind] if kind < len(KINDS) else f"unknown ({kind})"
        raise DataError(f"{path} is a KenLM binary of kind '{name}', only 'probing' is read; {REMEDY}.")
    start += FIXED.size
    if not 2 <= order <= 64 or len(data) < start + 8 * order:
        raise DataError(f"{path} is a KenLM binary with a damaged header (order {order}); {REMEDY}.")
    counts = struct.unpack_from(f"<{order}Q", data, start)
    return Header(order, multiplier, kind, bool(has_words), counts, (start + 8 * order + 7) // 8 * 8)


def _buckets(entries: int, multiplier: float) -> int:
    scaled = np.float32(multiplier) * np.float32(entries)
    return max(entries + 1, int(scaled))


def read_kenlm(path: str | Path) -> NgramModel:
    """The model of a KenLM probing file, mapped into memory.

    Raises `DataError` for other kinds of KenLM file, files without their words, and damaged ones.
    """
    file = Path(path)
    with file.open("rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    header = read_header(data, file)
    if not header.has_words:
        raise DataError(f"{file} is a KenLM binary without its words; build it without the option that drops them.")
    raw = np.frombuffer(data, np.uint32, count=len(data) // 4)
    vocabulary = _buckets(header.counts[0], header.multiplier)
    first_vocabulary = header.end // 4 + 2
    unigrams = first_vocabulary + 3 * vocabulary
    place = unigrams + 2 * (header.counts[0] + 1)
    words_in_file = int(raw[header.end // 4 + 1]) if header.end // 4 + 1 < len(raw) else 0
    sizes = [0] * KENLM_TABLES
    state, context = words_in_file + 1, 0
    for order in range(2, header.order + 1):
        buckets = _buckets(header.counts[order - 1], header.multiplier)
        sizes += [place, buckets, state, context]
        place += buckets * (3 if order == header.order else 4)
        if order < header.order:
            state, context = state + buckets, context + buckets * order
    if 4 * place > len(data):
        raise DataError(f"{file} is cut short: {len(data)} bytes, at least {4 * place} expected; copy it again.")
    words = data[4 * place :].split(b"\0")[:-1]
    _check_words(file, words, words_in_file, raw[first_vocabulary:unigrams])
    names, ids = _reorder(file, [word.decode("utf-8", "replace") for word in words])
    sizes[LAYOUT], sizes[ORDER] = KENLM, header.order
    sizes[KENLM_WORDS], sizes[KENLM_UNIGRAMS] = words_in_file, unigrams
    tables = NgramTables(
        sizes=np.array(sizes, np.int64),
        slots=np.zeros(0, np.int64),
        unigrams=np.zeros(0, np.int64),
        backoff=np.zeros(0, np.float32),
        suffix=np.zeros(0, np.int32),
        raw=raw,
        kenlm_ids=ids,
        contexts=np.zeros(context, np.int32),
    )
    return NgramModel(names, header.order, tables, source=str(file))


def _check_words(file: Path, words: list[bytes], expected: int, table: np.ndarray) -> None:  # type: ignore[type-arg]
    """Look a sample of the words up by their hash, as KenLM does: layout, words and ids must agree."""
    if len(words) != expected:
        raise DataError(f"{file} lists {len(words)} words, its header says {expected}; copy it again.")
    entries = table.reshape(-1, 3)
    keys = entries[:, 0].astype(np.uint64) | entries[:, 1].astype(np.uint64) << np.uint64(32)
    step = max(1, len(words) // CHECKED_WORDS)
    for index in range(1, len(words), step):  # word 0 is <unk>, which is not in the table
        key = murmur_hash(words[index])
        bucket = key % len(keys)
        while keys[bucket] not in (key, 0):
            bucket = (bucket + 1) % len(keys)
        if keys[bucket] == 0 or entries[bucket, 2] != index:
            raise DataError(f"{file} is damaged: word {index} is not where its hash says; copy it again.")


def _reorder(file: Path, names: list[str]) -> tuple[list[str], np.ndarray]:  # type: ignore[type-arg]
    """Words with `<unk>`, `<s>`, `</s>` first, and KenLM's ids in that order."""
    markers = {"<unk>": 0, "<s>": -1, "</s>": -1}
    for index, name in enumerate(names):
        if index and name in markers:
            markers[name] = index
    for name in ("<s>", "</s>"):
        if markers[name] < 0:
            raise DataError(f"{file} has no {name}; estimate the model with sentence markers.")
    special = list(markers.values())
    rest = [index for index in range(len(names)) if index not in set(special)]
    order = special + rest
    result = [names[index] for index in order]
    result[UNKNOWN], result[BEGIN], result[END] = "<unk>", "<s>", "</s>"
    return result, np.array(order, np.int32)
