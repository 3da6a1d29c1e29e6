"""What a question mentions of a schema, by names alone: the question with names, numbers and values put into classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from slt_sql_rerank.linking.words import STOP_WORDS, Word, normal, question_words, split_name
from slt_sql_rerank.schema import Schema

LONGEST = 4
QUOTES = "\"'‘’“”`"


class Place(NamedTuple):
    """What some words of a name stand for: tables and columns, in lower case."""

    tables: frozenset[str]
    columns: frozenset[tuple[str, str]]
    family: str


class Mentions(NamedTuple):
    """A question against a schema.

    `words` are its normal forms, `classes` the same with `<table>`, `<column:family>`, `<number>` and `<value>` in place
    of what they stand for. `tables` and `columns` are those named; of a column's name that several tables have, each.
    """

    words: tuple[str, ...]
    classes: tuple[str, ...]
    tables: frozenset[str]
    columns: tuple[frozenset[tuple[str, str]], ...]

    @property
    def fewest_tables(self) -> int:
        """Tables that it takes to have the named ones and every named column, by a greedy cover."""
        have = set(self.tables)
        open_ = [options for options in self.columns if not any(table in have for table, _ in options)]
        while open_:
            counts: dict[str, int] = {}
            for options in open_:
                for table in {table for table, _ in options}:
                    counts[table] = counts.get(table, 0) + 1
            have.add(min(counts, key=lambda table: (-counts[table], table)))
            open_ = [options for options in open_ if not any(table in have for table, _ in options)]
        return len(have)


def mentions(question: str, schema: Schema | None) -> Mentions:
    """What a question mentions; without a schema numbers and values alone are put into classes."""
    words = question_words(question)
    names = _names(schema) if schema is not None else {}
    normals = [word.normal for word in words]
    classes: list[str] = []
    tables: set[str] = set()
    columns: list[frozenset[tuple[str, str]]] = []
    start = 0
    while start < len(words):
        size, place = _longest(normals, start, names)
        if place is None:
            classes.append(_class(words, start, question))
            start += 1
            continue
        if place.tables:
            tables.update(place.tables)
            classes.append("<table>")
        else:
            columns.append(place.columns)
            classes.append(f"<column:{place.family}>")
        start += size
    return Mentions(tuple(normals), tuple(classes), frozenset(tables), tuple(columns))


def _longest(normals: list[str], start: int, names: Mapping[tuple[str, ...], Place]) -> tuple[int, Place | None]:
    for size in range(min(LONGEST, len(normals) - start), 0, -1):
        gram = tuple(normals[start : start + size])
        place = names.get(gram)
        if place is not None and not (size == 1 and (gram[0] in STOP_WORDS or gram[0].isdigit())):
            return size, place
    return 0, None


def _class(words: list[Word], place: int, question: str) -> str:
    word = words[place]
    if word.normal.isdigit():
        return "<number>"
    quoted = word.start > 0 and question[word.start - 1] in QUOTES
    if quoted or (place and word.text[0].isupper() and question[word.start - 1] == " "):
        return "<value>"
    return word.normal


@lru_cache(maxsize=512)
def _names(schema: Schema) -> Mapping[tuple[str, ...], Place]:
    """Places by the normal words of names; a name of several words is also known by its last one, where no other name is."""
    found: dict[tuple[str, ...], Place] = {}

    def add(gram: tuple[str, ...], tables: set[str], columns: set[tuple[str, str]], family: str) -> None:
        have = found.get(gram)
        if have is None:
            found[gram] = Place(frozenset(tables), frozenset(columns), family)
        else:
            found[gram] = Place(have.tables | tables, have.columns | columns, have.family)

    for table in schema.tables:
        add(normal(split_name(table.name)), {table.name.lower()}, set(), "")
    for column in schema.columns:
        place = (column.table.lower(), column.name.lower())
        add(normal(split_name(column.name)), set(), {place}, column.family)
    for column in schema.columns:
        gram = normal(split_name(column.name))
        place = (column.table.lower(), column.name.lower())
        if len(gram) > 1:
            head = found.get(gram[-1:])
            if head is None or not head.tables:
                add(gram[-1:], set(), {place}, column.family)
    return found
