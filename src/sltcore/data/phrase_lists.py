"""Lists of phrases from files: text, CSV, JSON, and JSON lines."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from sltcore.errors import DataError, did_you_mean

NUMBERS = ("weight", "bonus")
FIELDS = ("text", *NUMBERS, "spellings")
DELIMITERS = {".csv": (",", ";", "\t"), ".tsv": ("\t",)}
EXAMPLE = '"Anna" or {"text": "Anna", "bonus": 3}'


def read_phrases(path: str | Path, *, named: str | None = None) -> list[str | dict[str, Any]]:
    """The phrases of a file, in its order: a text where only the text is given, else a map of `text`, `weight`, `bonus`,
    `spellings` (those that are given).

    - `.csv`, `.tsv`: the first line names the columns, `text` and any of `weight`, `bonus`, `spellings` (parted by `;` or
      `|`); columns are parted by commas, semicolons or tabs; empty cells are not given.
    - `.json`: a list of texts and maps, or one map from text to a weight, a spelling, a list of spellings or a map.
    - `.jsonl`, `.ndjson`: a text or a map on each line.
    - anything else: a phrase on each line, or a phrase, a tab and its weight; lines that begin with `#` are remarks.

    UTF-8 with or without a byte order mark, lines ended in any way. `named` is what errors call the file. **Raises**
    `DataError` with file and line for what cannot be read, and for a text file without any phrase; an empty JSON list
    and a table with nothing but column names are lists of no phrase.
    """
    file = Path(path)
    where = named or str(path)
    text = _text(file, where)
    ending = file.suffix.lower()
    if ending in DELIMITERS:
        return list(_table(text, where, DELIMITERS[ending]))
    if ending == ".json":
        return _document(text, where)
    rows = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    lines = [(number, line) for number, line in rows if line and not line.startswith("#")]
    if not lines:
        raise DataError(f"{where}: holds no phrase; write one a line")
    if ending in (".jsonl", ".ndjson"):
        return [_json_line(line, f"{where}:{number}") for number, line in lines]
    return [_line(line, f"{where}:{number}") for number, line in lines]


def _text(file: Path, where: str) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{where}: is not UTF-8 text; save it as UTF-8, one phrase a line") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{where}:{line}: holds a zero byte, so it is no text; save it as UTF-8, one phrase a line")
    return text


def _line(line: str, where: str) -> str | dict[str, Any]:
    text, tab, weight = line.partition("\t")
    return {"text": text.strip(), "weight": _number(weight.strip(), where, "weight")} if tab else text


def _number(written: str, where: str, field: str) -> float:
    try:
        value = float(written)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise DataError(f"{where}: {field} is {written[:40]!r}, expected a number from 0, such as 1.5")
    return value


def _json_line(line: str, where: str) -> str | dict[str, Any]:
    try:
        value = _parsed(line, where)
    except ValueError:
        value = None
    if not isinstance(value, str | dict):
        raise DataError(f"{where}: {line[:60]!r} is no JSON text or map, such as {EXAMPLE}")
    return value


def _parsed(text: str, where: str) -> Any:
    """A JSON value. **Raises** `ValueError` where it is none, `DataError` where it holds a key twice or is too deep."""

    def mapped(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{where}: {twice[:40]!r} stands there twice in one map; keep one")
        return found

    try:
        return json.loads(text, object_pairs_hook=mapped)
    except RecursionError:
        raise DataError(f"{where}: is nested too deep; expected a list of phrases such as [{EXAMPLE}]") from None


def _document(text: str, where: str) -> list[str | dict[str, Any]]:
    try:
        data = _parsed(text, where)
    except ValueError as error:
        place = f"{where}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else where
        raise DataError(f"{place}: is no JSON ({error}); expected a list of phrases such as [{EXAMPLE}]") from None
    if isinstance(data, dict):
        return [_named(text, value, where) for text, value in data.items()]
    if not isinstance(data, list):
        raise DataError(f"{where}: holds {str(data)[:40]!r}, expected a list of phrases, or a map from text to weight")
    for index, item in enumerate(data):
        if not isinstance(item, str | dict):
            raise DataError(f"{where}: item {index} is {json.dumps(item)[:40]}, expected a text or a map: {EXAMPLE}")
    return data


def _named(text: str, value: Any, where: str) -> str | dict[str, Any]:
    """One entry of a map from texts."""
    if value is None:
        return text
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"text": text, "weight": value}
    if isinstance(value, str | list):
        return {"text": text, "spellings": [value] if isinstance(value, str) else value}
    if isinstance(value, dict) and "text" not in value:
        return {"text": text, **value}
    raise DataError(
        f"{where}: {text[:40]!r} has {json.dumps(value)[:40]}, expected its weight, its spellings, or a map of its fields"
    )


def _table(text: str, where: str, delimiters: tuple[str, ...]) -> Iterator[str | dict[str, Any]]:
    lines = iter(text.splitlines(keepends=True))
    first = next((line for line in lines if line.strip()), "")
    before = text.splitlines(keepends=True).index(first) if first else 0
    delimiter = max(delimiters, key=first.count)
    reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True, skipinitialspace=True)
    columns: list[str] | None = None
    try:
        for row in reader:
            place = f"{where}:{reader.line_num + before}"
            cells = [cell.strip() for cell in row]
            if columns is None:
                columns = _columns(cells, place)
            elif any(cells):
                yield _row(columns, cells, place)
    except csv.Error as error:
        raise DataError(
            f"{where}:{reader.line_num + before}: cannot be read as a table: {error}; check its quotes"
        ) from None


def _columns(cells: list[str], where: str) -> list[str]:
    columns = [cell.lower() for cell in cells]
    if "text" not in columns:
        raise DataError(
            f"{where}: the first line is {', '.join(cells)[:60]!r}, expected the names of columns: text, and any of "
            f"{', '.join(FIELDS[1:])}; a list of phrases and nothing else may be a .txt file"
        )
    for column in columns:
        if column not in FIELDS:
            raise DataError(
                f"{where}: no column is named {column!r}, so it would have no effect; columns: {', '.join(FIELDS)}."
                f"{did_you_mean(column, FIELDS)}"
            )
        if columns.count(column) > 1:
            raise DataError(f"{where}: the column {column!r} stands there twice; keep one")
    return columns


def _row(columns: list[str], cells: list[str], where: str) -> str | dict[str, Any]:
    if len(cells) > len(columns) and any(cells[len(columns) :]):
        raise DataError(
            f"{where}: has {len(cells)} cells, but there are {len(columns)} columns; put quotes around a cell that holds "
            "the sign between columns"
        )
    given: Mapping[str, str] = {name: cell for name, cell in zip(columns, cells, strict=False) if cell}
    if "text" not in given:
        raise DataError(f"{where}: the text is empty; write a phrase there, or delete the line")
    entry: dict[str, Any] = {"text": given["text"]}
    for name in NUMBERS:
        if name in given:
            entry[name] = _number(given[name], where, name)
    if "spellings" in given:
        entry["spellings"] = [part.strip() for part in re.split("[;|]", given["spellings"]) if part.strip()]
    return entry if len(entry) > 1 else given["text"]
