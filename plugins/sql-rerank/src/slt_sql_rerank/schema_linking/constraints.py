"""What a candidate breaks of what the question and the schema ask for, in points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from slt_sql_rerank.linking.index import LinkIndex
from slt_sql_rerank.linking.words import STOP_WORDS, plain
from slt_sql_rerank.schema import Schema
from slt_sql_rerank.schema_linking.use import Compared, From, Use
from slt_sql_rerank.schema_linking.wants import Asked, Want

POINTS: Mapping[str, float] = MappingProxyType(
    {
        "missing-table": 1.0,
        "missing-column": 1.0,
        "missing-cell": 1.0,
        "unlinked-column": 0.3,
        "needless-table": 0.7,
        "join-off-key": 0.7,
        "strange-text": 1.0,
        "other-column": 0.7,
        "strange-number": 0.7,
    }
)
"""Constraints and what breaking one costs; `impossible` (it does not prepare, or names what is not there) has no price.

missing-*: a name or cell that the question names is not used. unlinked-column: a column that no word names, in a table of which
another is named and not used. needless-table: a table that nothing needs. join-off-key: an equation that no foreign key
declares, between tables that have one. strange-text, strange-number: a literal that the question does not say; half of it for a
text that is a cell of its column. other-column: a cell that the question names, compared with a column that does not hold it.
"""
NEAR = 0.3
"""What is left of a missing name where something that the words also resemble is used."""
KNOWN = 0.5
"""What is left of a strange text where it is a cell of the column that it is compared with."""
PLAIN_NUMBERS = frozenset({"0", "1"})


class Broken(NamedTuple):
    """One constraint that is broken: how often or how strongly, and by what."""

    constraint: str
    amount: float
    why: str


def broken(use: Use, question: Asked, index: LinkIndex) -> list[Broken]:
    """All that a candidate breaks, in the order of `POINTS`.

    **Source**: Zeng et al. 2022, arXiv:2210.10668, names the penalties in words; amounts, points and the constraints on
    cells and numbers are ours.
    """
    schema = index.schema
    found = [
        *_missing(use, question, schema),
        *_unlinked(use, question, schema),
        *_needless(use, question, schema),
        *_off_key(use, schema),
        *_literals(use, question, index),
    ]
    order = list(POINTS)
    return sorted(found, key=lambda one: order.index(one.constraint))


def _missing(use: Use, question: Asked, schema: Schema) -> Iterator[Broken]:
    equal = {schema.representative(*place) for place in use.columns}
    for want in question.wants:
        has_column = any(schema.representative(*place) in equal for place in want.columns)
        if not has_column and not want.tables & use.tables:
            kind = "missing-table" if want.tables else "missing-column"
            is_near = want.near_tables & use.tables or want.near_columns & use.columns
            yield Broken(kind, want.weight * (NEAR if is_near else 1.0), f"{want.link}, and it is not used")
    texts = [literal.text for literal in use.literals]
    for want in question.cells:
        if not any(_says(text, value) for text in texts for value in want.values):
            yield Broken("missing-cell", want.weight, f"{want.link}, and nothing is compared with it")


def _says(text: str, value: str) -> bool:
    """Whether a literal asks for a cell: it is the cell, holds its words, or is a pattern of it."""
    inside = plain(text.strip("%_"))
    value = plain(value)
    return f" {value} " in f" {inside} " or ("%" in text and inside != "" and inside in value)


def _unlinked(use: Use, question: Asked, schema: Schema) -> Iterator[Broken]:
    keys = {end for join in use.joins for end in join}
    wanted: dict[str, list[Want]] = {}
    for want in question.wants:
        if want.columns and not want.columns & use.columns and not want.tables & use.tables:
            for table in {table for table, _ in want.columns}:
                wanted.setdefault(table, []).append(want)
    said = {literal.column for literal in use.literals if _is_said(literal, question)}
    for place in sorted(use.columns - question.linked - keys - said):
        if place[0] in wanted:
            instead = max(wanted[place[0]], key=lambda want: want.weight)
            yield Broken("unlinked-column", instead.weight, f"{place[0]}.{place[1]} is not named, while {instead.link}")


def _needless(use: Use, question: Asked, schema: Schema) -> Iterator[Broken]:
    many = {(key.table.lower(), column.lower()) for key in schema.foreign_keys for column in key.columns}
    for one in use.froms:
        if len(one.tables) < 2:
            continue
        counted = {table for join in one.joins for table, column in join if one.counts and (table, column) in many}
        for table in sorted(set(one.tables) - one.used - counted - question.linked_tables):
            if _connected(one, schema, without=table):
                yield Broken("needless-table", 1.0, f"table {table} gives nothing and connects nothing")


def _connected(one: From, schema: Schema, *, without: str) -> bool:
    """Whether the joins still connect the other tables: those along keys, where there are any."""
    left = set(one.tables) - {without}
    reached = {min(left)} if left else set()
    along = [join for join in one.joins if schema.representative(*join.left) == schema.representative(*join.right)]
    grows = True
    while grows:
        ends = [{join.left[0], join.right[0]} for join in along or one.joins]
        more = {table for end in ends if end & reached and without not in end for table in end} - reached
        grows = bool(more)
        reached |= more
    return left <= reached


def _off_key(use: Use, schema: Schema) -> Iterator[Broken]:
    pairs = {frozenset((key.table.lower(), key.other_table.lower())) for key in schema.foreign_keys}
    for left, right in use.joins:
        if frozenset((left[0], right[0])) in pairs and schema.representative(*left) != schema.representative(*right):
            yield Broken("join-off-key", 1.0, f"{'.'.join(left)} = {'.'.join(right)} follows no foreign key")


def _literals(use: Use, question: Asked, index: LinkIndex) -> Iterator[Broken]:
    for literal in use.literals:
        text = plain(literal.text.strip("%_"))
        if not text or _is_value(literal, question):
            continue
        if literal.is_number:
            if literal.text not in PLAIN_NUMBERS and not _is_said(literal, question):
                yield Broken("strange-number", 1.0, f"{literal.text} is not in the question")
            continue
        elsewhere = sorted({place for place, value in question.cell_values if value == text})
        if elsewhere and literal.column is not None:
            where = ", ".join(f"{table}.{column}" for table, column in elsewhere)
            yield Broken(
                "other-column", 1.0, f"'{literal.text}' is a cell of {where}, not of {'.'.join(literal.column)}"
            )
        elif not _is_said(literal, question):
            is_cell = literal.column is not None and index.has_cell(*literal.column, literal.text)
            yield Broken("strange-text", KNOWN if is_cell else 1.0, f"'{literal.text}' is not in the question")


def _is_value(literal: Compared, question: Asked) -> bool:
    """Whether the question names this cell, and the literal is compared with its column."""
    text = plain(literal.text.strip("%_"))
    if literal.column is None:
        return any(value == text for _, value in question.cell_values)
    return (literal.column, text) in question.cell_values


def _is_said(literal: Compared, question: Asked) -> bool:
    """Whether the question has the literal's number, or its words."""
    if literal.is_number:
        return literal.text.removesuffix(".0") in question.numbers
    words = plain(literal.text.strip("%_")).split()
    spoken = set(question.words)
    return bool(words) and (set(words) - STOP_WORDS <= spoken or _is_prefix(words, spoken))


def _is_prefix(words: list[str], spoken: set[str]) -> bool:
    """Whether every word begins one of the question, or the other way round: USA and United States do not, French and France do
    not, "Robot" and "robots" do."""
    long = [word for word in words if len(word) > 3]
    return bool(long) and all(
        any(one.startswith(word) or word.startswith(one) for one in spoken if len(one) > 3) for word in long
    )
