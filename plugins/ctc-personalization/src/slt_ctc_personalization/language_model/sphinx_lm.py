"""The n-gram models of CMU Sphinx ("Trie Language Model" binaries), such as the one that the pocketsphinx wheel carries.

The file: the magic string, the order, the counts; tables of the 65,536 values that probabilities and weights of each
order are rounded to; the 1-grams (p, back-off, first child); for each higher order a packed bit array of (word, back-off
and probability as table places, first child), the last without weights and children; the words. N-grams hang in the
trie by their last word first. Logs are to the base 1.0001.

**Source**: the format as pocketsphinx 5 reads it (src/lm/lm_trie, src/lm/lm_trie_quant, BSD); no code is taken from it.
Its own writer of ARPA files crashes on this very model (pocketsphinx 5.1.1), hence this reader.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.language_model.arpa import ArpaModel, arrange
from sltcore.errors import DataError

MAGIC = b"Trie Language Model"
TABLE = 1 << 16
TO_LOG10 = math.log10(1.0001)
TAIL_BYTES = 8  # each bit array ends with eight bytes of padding
Ints = npt.NDArray[np.int64]


def is_sphinx(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a Sphinx binary."""
    return head.startswith(MAGIC)


def read_sphinx(path: Path) -> ArpaModel:
    """The n-grams of a Sphinx binary; `DataError` when it is cut short or damaged."""
    try:
        return _parse(path.read_bytes(), str(path))
    except (struct.error, ValueError, IndexError) as error:
        raise DataError(f"{path} is a damaged Sphinx language model ({error}); install its package again.") from error


def _parse(data: bytes, name: str) -> ArpaModel:
    place = len(MAGIC)
    order = data[place]
    if not 2 <= order <= 10:
        raise ValueError(f"order {order}")
    counts = struct.unpack_from(f"<{order}I", data, place + 1)
    place += 1 + 4 * order + 4  # an unused number stands before the tables
    tables = np.frombuffer(data, "<f4", count=(2 * order - 3) * TABLE, offset=place).reshape(-1, TABLE)
    place += tables.nbytes
    kind = np.dtype([("p", "<f4"), ("b", "<f4"), ("next", "<u4")])
    unigrams = np.frombuffer(data, kind, count=counts[0] + 1, offset=place)
    place += unigrams.nbytes
    first_child = unigrams["next"].astype(np.int64)
    rows: list[npt.NDArray[np.int32]] = [np.arange(counts[0], dtype=np.int32)[:, None]]
    log_p, log_b = [unigrams["p"][:-1] * TO_LOG10], [unigrams["b"][:-1] * TO_LOG10]
    word_bits = counts[0].bit_length()
    for level in range(1, order):
        last = level == order - 1
        next_bits = 0 if last else counts[level + 1].bit_length()
        value_bits = 16 if last else 32
        width = word_bits + value_bits + next_bits
        size = ((1 + counts[level]) * width + 7) // 8 + TAIL_BYTES
        packed = np.frombuffer(data, np.uint8, count=size, offset=place)
        place += size
        parents = np.repeat(np.arange(len(first_child) - 1), np.diff(first_child))
        if first_child[0] != 0 or len(parents) > counts[level]:  # the counts are upper bounds
            raise ValueError(f"{len(parents)} of {counts[level]} {level + 1}-grams hang in the trie")
        starts = np.arange(len(parents) + 1, dtype=np.int64) * width
        words = _bits(packed, starts[:-1], word_bits)
        if int(words.max(initial=0)) >= counts[0]:
            raise ValueError(f"a {level + 1}-gram with word {words.max()} of {counts[0]}")
        # a child's word stands before the n-gram of its parent
        rows.append(np.concatenate([words[:, None].astype(np.int32), rows[-1][parents]], axis=1))
        values = _bits(packed, starts[:-1] + word_bits, value_bits)
        log_p.append(tables[2 * level - 2][values >> (0 if last else 16)] * TO_LOG10)
        log_b.append(np.zeros(len(values)) if last else tables[2 * level - 1][values & 0xFFFF] * TO_LOG10)
        if not last:
            first_child = _bits(packed, starts + word_bits + value_bits, next_bits)
    (length,) = struct.unpack_from("<I", data, place)
    words_text = data[place + 4 : place + 4 + length]
    names = [word.decode("utf-8", "replace") for word in words_text.split(b"\0")[:-1]]
    if len(names) != counts[0]:
        raise ValueError(f"{len(names)} of {counts[0]} words")
    to_32 = [[values.astype(np.float32) for values in lists] for lists in (log_p, log_b)]
    return arrange(names, rows, to_32[0], to_32[1], (), name)


def _bits(packed: npt.NDArray[np.uint8], starts: Ints, width: int) -> Ints:
    """The `width` (at most 57) bits that begin at each of `starts`, lowest first."""
    first = starts >> 3
    value = np.zeros(len(starts), np.uint64)
    for byte in range((width + 14) // 8):
        value |= packed[np.minimum(first + byte, len(packed) - 1)].astype(np.uint64) << np.uint64(8 * byte)
    shifted = (value >> (starts & 7).astype(np.uint64)) & np.uint64((1 << width) - 1)
    return shifted.astype(np.int64)
