"""ARPA files of n-gram models: a compiled parser that says which line is wrong, and a writer.

**Source**: SRILM's `ngram-format(5)`. Fields are separated by blanks or tabs; words are any other bytes, read as UTF-8.
Deviations: `<UNK>` is read as `<unk>`; a model without `<unk>` gives unknown words log10 p = -100, as KenLM does.
"""

from __future__ import annotations

import gzip
import io
import os
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.compiled import compile_function
from sltcore.errors import DataError

MISSING_UNKNOWN = -100.0  # KenLM's log10 p of words that a model without <unk> does not list
MARKERS = ("<unk>", "<s>", "</s>")
GZIP = b"\x1f\x8b"
HEAD_BYTES = 4096
MAX_ORDER = 16

FEW_FIELDS, MANY_FIELDS, NOT_A_NUMBER, UNKNOWN_WORD, DUPLICATE_WORD, SHORT_SECTION, POSITIVE = range(1, 8)
REASONS = {
    FEW_FIELDS: "has too few fields: a probability and {order} words are expected",
    MANY_FIELDS: "has too many fields: a probability, {order} words and at most one back-off weight are expected",
    NOT_A_NUMBER: "holds something else where a number is expected",
    UNKNOWN_WORD: "uses a word that is not among the 1-grams",
    DUPLICATE_WORD: "lists a word for the second time",
    SHORT_SECTION: "ends the section before all its n-grams are listed",
    POSITIVE: "gives a probability above one (log10 p > 0)",
}


@dataclass(frozen=True)
class ArpaModel:
    """What an ARPA file says: `ngrams[k]` int32 [entries, k + 1] word ids, `log10_p[k]`, `log10_b[k]` float32.

    Words 0, 1, 2 are `<unk>`, `<s>`, `</s>`; the 1-grams are in the order of their ids.
    """

    words: list[str]
    ngrams: list[npt.NDArray[np.int32]]
    log10_p: list[npt.NDArray[np.float32]]
    log10_b: list[npt.NDArray[np.float32]]
    first_lines: tuple[int, ...] = ()


def read_head(path: Path) -> bytes:
    """The first bytes of a file; `DataError` when it is missing, a folder, or empty."""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read as a language model: {error.strerror or error}.") from error
    if not head:
        raise DataError(f"{path} is empty; an ARPA file or a KenLM probing binary is expected.")
    return head


def read_arpa(path: Path) -> ArpaModel:
    """Read an ARPA file, gzipped or not; `DataError` names the file and the line of whatever is malformed."""
    data = path.read_bytes()
    if data[:2] == GZIP:
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is a damaged gzip file: {error}; copy it again.") from error
    return parse_arpa(data, str(path))


def parse_arpa(data: bytes, name: str) -> ArpaModel:
    """The model that an ARPA text describes; `name` is its name in messages."""
    start = 0 if data.startswith(b"\\data\\") else data.find(b"\n\\data\\") + 1
    if start == 0 and not data.startswith(b"\\data\\"):
        raise DataError(f"{name} is no ARPA file: no line reads \\data\\; formats: ARPA, gzipped ARPA, KenLM probing.")
    counts, place = _read_counts(data, start, name)
    buffer = np.frombuffer(data, np.uint8)
    table = np.full((2 * counts[0] + 16, 2), -1, np.int64)
    spans = np.zeros((counts[0], 2), np.int64)
    ngrams: list[npt.NDArray[np.int32]] = []
    log10_p: list[npt.NDArray[np.float32]] = []
    log10_b: list[npt.NDArray[np.float32]] = []
    lines: list[int] = []
    for order, count in enumerate(counts, start=1):
        place = _section_start(data, place, order, name)
        lines.append(data.count(b"\n", 0, place) + 1)
        ids = np.zeros((count, order), np.int32)
        probabilities = np.zeros(count, np.float32)
        weights = np.zeros(count, np.float32)
        row, code, place = parse_section(buffer, place, order, ids, probabilities, weights, table, spans)
        if code:
            raise DataError(f"{name}:{lines[-1] + row}: the line {REASONS[code].format(order=order)}.")
        ngrams.append(ids)
        log10_p.append(probabilities)
        log10_b.append(weights)
    rest = data[place:].lstrip()
    if not rest.startswith(b"\\end\\"):
        line = data.count(b"\n", 0, len(data) - len(rest)) + 1
        raise DataError(
            f"{name}:{line}: \\end\\ is expected after the {counts[-1]} {len(counts)}-grams that the head announces; "
            "the file is cut short or lists more."
        )
    words = [data[first:last].decode("utf-8", "replace") for first, last in spans]
    return arrange(words, ngrams, log10_p, log10_b, tuple(lines), name)


def _read_counts(data: bytes, start: int, name: str) -> tuple[list[int], int]:
    counts: list[int] = []
    place = data.find(b"\n", start) + 1
    line_number = data.count(b"\n", 0, start) + 2
    while 0 < place < len(data):
        end = data.find(b"\n", place)
        end = len(data) if end < 0 else end
        line = data[place:end].strip()
        if line.startswith(b"\\"):
            break
        if line:
            head, _, count = line.partition(b"=")
            order = head.removeprefix(b"ngram").strip()
            if not (order.isdigit() and int(order) == len(counts) + 1 and count.strip().isdigit()):
                raise DataError(f"{name}:{line_number}: 'ngram {len(counts) + 1}=COUNT' is expected.")
            counts.append(int(count))
        place, line_number = end + 1, line_number + 1
    if not counts or counts[0] == 0:
        raise DataError(f"{name}:{line_number}: no 1-grams are announced; 'ngram 1=COUNT' is expected after \\data\\.")
    if sum(counts) > len(data) or len(counts) > MAX_ORDER:
        raise DataError(f"{name}:{line_number}: the head announces more n-grams than the file can hold.")
    return counts, place


def _section_start(data: bytes, place: int, order: int, name: str) -> int:
    title = b"\\%d-grams:" % order
    while place < len(data) and data[place : place + 1].isspace():
        place += 1
    if data[place : place + len(title)] != title:
        line = data.count(b"\n", 0, place) + 1
        raise DataError(f"{name}:{line}: '{title.decode()}' is expected; the head announces more n-grams than listed.")
    end = data.find(b"\n", place)
    return len(data) if end < 0 else end + 1


def _parse_number(buffer, first, last):  # type: ignore[no-untyped-def]
    """(value, whether it is a number) of the decimal text buffer[first:last]."""
    sign, place = 1.0, first
    if place < last and (buffer[place] == 45 or buffer[place] == 43):
        sign = -1.0 if buffer[place] == 45 else 1.0
        place += 1
    mantissa, digits, shift, seen_point = np.int64(0), 0, 0, False
    while place < last:
        byte = buffer[place]
        if byte == 46 and not seen_point:
            seen_point = True
        elif 48 <= byte <= 57:
            digits += 1
            if mantissa < 900_000_000_000_000_000:
                mantissa = mantissa * 10 + (byte - 48)
                shift -= 1 if seen_point else 0
            elif not seen_point:
                shift += 1
        else:
            break
        place += 1
    if digits == 0:
        return 0.0, False
    if place < last and (buffer[place] == 101 or buffer[place] == 69):
        place += 1
        exponent_sign, exponent, exponent_digits = 1, 0, 0
        if place < last and (buffer[place] == 45 or buffer[place] == 43):
            exponent_sign = -1 if buffer[place] == 45 else 1
            place += 1
        while place < last and 48 <= buffer[place] <= 57 and exponent < 1000:
            exponent = exponent * 10 + (buffer[place] - 48)
            exponent_digits += 1
            place += 1
        if exponent_digits == 0:
            return 0.0, False
        shift += exponent_sign * exponent
    if place != last:
        return 0.0, False
    scale = 10.0 ** abs(shift)
    return sign * (mantissa / scale if shift < 0 else mantissa * scale), True


def _find_word(buffer, first, last, table, spans):  # type: ignore[no-untyped-def]
    """The row of `table` that holds the word buffer[first:last], or where it would stand."""
    key = np.uint64(0xCBF29CE484222325)  # FNV-1a
    for place in range(first, last):
        key = (key ^ np.uint64(buffer[place])) * np.uint64(0x100000001B3)
    row = np.int64(key % np.uint64(len(table)))
    tag = np.int64(key >> np.uint64(1))
    while table[row, 1] >= 0:
        if table[row, 0] == tag:
            start = spans[table[row, 1], 0]
            if spans[table[row, 1], 1] - start == last - first:
                same = True
                for offset in range(last - first):
                    if buffer[start + offset] != buffer[first + offset]:
                        same = False
                        break
                if same:
                    break
        row += 1
        if row == len(table):
            row = np.int64(0)
    return row, tag


parse_number = compile_function(_parse_number)
find_word = compile_function(_find_word)


def _parse_section(buffer, place, order, ids, probabilities, weights, table, spans):  # type: ignore[no-untyped-def]
    """(line, error code, place after) of the n-grams of one order; fills the arrays."""
    starts = np.zeros(order + 3, np.int64)
    ends = np.zeros(order + 3, np.int64)
    for row in range(len(ids)):
        fields = 0
        while place < len(buffer) and buffer[place] != 10:
            byte = buffer[place]
            if byte == 32 or byte == 9 or byte == 13:
                place += 1
                continue
            starts[fields] = place
            while place < len(buffer) and not (
                buffer[place] == 32 or buffer[place] == 9 or buffer[place] == 10 or buffer[place] == 13
            ):
                place += 1
            ends[fields] = place
            fields += 1
            if fields == order + 3:
                return row, MANY_FIELDS, place
        place += 1
        if fields == 0 or buffer[starts[0]] == 92:
            return row, SHORT_SECTION, place
        if fields < order + 1:
            return row, FEW_FIELDS, place
        value, valid = parse_number(buffer, starts[0], ends[0])
        if not valid:
            return row, NOT_A_NUMBER, place
        if value > 0.0:
            return row, POSITIVE, place
        probabilities[row] = value
        for index in range(order):
            slot, tag = find_word(buffer, starts[1 + index], ends[1 + index], table, spans)
            if order == 1:
                if table[slot, 1] >= 0:
                    return row, DUPLICATE_WORD, place
                table[slot, 0] = tag
                table[slot, 1] = row
                spans[row, 0] = starts[1]
                spans[row, 1] = ends[1]
            elif table[slot, 1] < 0:
                return row, UNKNOWN_WORD, place
            ids[row, index] = table[slot, 1]
        if fields == order + 2:
            value, valid = parse_number(buffer, starts[order + 1], ends[order + 1])
            if not valid:
                return row, NOT_A_NUMBER, place
            weights[row] = value
    return 0, 0, place


parse_section = compile_function(_parse_section)


def arrange(
    words: list[str],
    ngrams: list[npt.NDArray[np.int32]],
    log10_p: list[npt.NDArray[np.float32]],
    log10_b: list[npt.NDArray[np.float32]],
    lines: tuple[int, ...],
    name: str,
) -> ArpaModel:
    """Word ids with the three markers first."""
    places = {word: index for index, word in enumerate(words)}
    if "<unk>" not in places and "<UNK>" in places:
        places["<unk>"] = places["<UNK>"]
    for marker in MARKERS[1:]:
        if marker not in places:
            raise DataError(f"{name} has no {marker} among its 1-grams; estimate the model with sentence markers.")
    has_unknown = "<unk>" in places
    special = [places[marker] for marker in MARKERS if marker in places]
    rest = np.delete(np.arange(len(words)), special)
    order = np.concatenate([np.array(special, np.int64), rest])
    new_id = np.empty(len(words), np.int32)
    new_id[order] = np.arange(len(words), dtype=np.int32) + (0 if has_unknown else 1)
    renamed = [*MARKERS, *(words[index] for index in rest)]
    first_p, first_b = log10_p[0][order], log10_b[0][order]
    if not has_unknown:
        first_p = np.concatenate([np.array([MISSING_UNKNOWN], np.float32), first_p])
        first_b = np.concatenate([np.zeros(1, np.float32), first_b])
    unigrams = np.arange(len(renamed), dtype=np.int32)[:, None]
    return ArpaModel(
        words=renamed,
        ngrams=[unigrams, *(new_id[ids] for ids in ngrams[1:])],
        log10_p=[first_p, *log10_p[1:]],
        log10_b=[first_b, *log10_b[1:]],
        first_lines=lines,
    )


def write_arpa(model: ArpaModel, path: str | Path) -> None:
    """Write an ARPA file, gzipped when the name ends in `.gz`; the file appears complete or not at all.

    Numbers have nine digits: enough to give back the same float32. Equal models give equal bytes.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            if target.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as packed:
                    _write_text(model, packed)
            else:
                _write_text(model, file)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _write_text(model: ArpaModel, binary: Any) -> None:
    text = io.TextIOWrapper(binary, encoding="utf-8", newline="\n", write_through=False)
    text.write("\\data\\\n")
    text.writelines(f"ngram {order}={len(ids)}\n" for order, ids in enumerate(model.ngrams, start=1))
    for order, ids in enumerate(model.ngrams, start=1):
        text.write(f"\n\\{order}-grams:\n")
        rows = zip(ids.tolist(), model.log10_p[order - 1].tolist(), model.log10_b[order - 1].tolist(), strict=True)
        longest = order == len(model.ngrams)
        for row, probability, weight in rows:
            words = " ".join([model.words[word] for word in row])
            tail = "" if longest else f"\t{weight:.9g}"
            text.write(f"{probability:.9g}\t{words}{tail}\n")
    text.write("\n\\end\\\n")
    text.flush()
    text.detach()
