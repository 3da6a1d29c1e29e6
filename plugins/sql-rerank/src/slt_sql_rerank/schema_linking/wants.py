"""What a question asks for: names and cells that its words are linked to, each with the places that would satisfy it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from slt_sql_rerank.linking.index import Link
from slt_sql_rerank.linking.words import question_words
from slt_sql_rerank.schema import Schema
from slt_sql_rerank.schema_linking.use import Place

STRONG = 1.0
COMMON = 0.3
"""Weight of a cell that one lower-case word names: it may be a word like others."""


class Want(NamedTuple):
    """Words that name something. `tables` and `columns`, each of which would do; `values` that a literal may be equal to.

    `weight` is 1 over the number of different things that the words may mean; columns that keys make equal are one. What the
    words are linked to more weakly (`near_tables`, `near_columns`) satisfies them for the most part.
    """

    text: str
    tables: frozenset[str]
    columns: frozenset[Place]
    values: frozenset[str]
    weight: float
    link: str
    near_tables: frozenset[str] = frozenset()
    near_columns: frozenset[Place] = frozenset()


class Asked(NamedTuple):
    """A question: its words in normal form, its numbers, what it wants, and every place that any word is linked to."""

    words: tuple[str, ...]
    numbers: frozenset[str]
    wants: tuple[Want, ...]
    cells: tuple[Want, ...]
    linked: frozenset[Place]
    linked_tables: frozenset[str]
    cell_values: frozenset[tuple[Place, str]]


def asked(question: str, links: Sequence[Link], schema: Schema) -> Asked:
    """What the links of a question come to. Names that are linked strongly are wanted; so are whole cells that are no name."""
    words = tuple(word.normal for word in question_words(question))
    spans: dict[tuple[int, int], list[Link]] = {}
    for link in links:
        if link.strength >= STRONG:
            spans.setdefault((link.start, link.stop), []).append(link)
    names, cells = [], []
    for (start, stop), own in spans.items():
        named = [link for link in own if link.kind != "value"]
        if named:
            near = [link for link in links if link.start < stop and start < link.stop and link.kind != "value"]
            names.append(_of_names(named, near, schema))
        elif not _is_number(words[start:stop]) and not any(_covers(other, start, stop) for other in spans):
            cells.append(_of_cells(own))
    places = frozenset((link.table.lower(), link.column.lower()) for link in links if link.column)
    tables = frozenset(link.table.lower() for link in links if link.kind == "table")
    values = frozenset(
        ((link.table.lower(), link.column.lower()), link.value.lower()) for link in links if link.kind == "value"
    )
    numbers = frozenset(word for word in words if word.replace(".", "", 1).isdigit())
    return Asked(words, numbers, tuple(names), tuple(cells), places, tables, values)


def _is_number(words: Sequence[str]) -> bool:
    return all(word.replace(".", "", 1).isdigit() for word in words)


def _covers(span: tuple[int, int], start: int, stop: int) -> bool:
    return span != (start, stop) and span[0] <= start and stop <= span[1]


def _of_names(links: Sequence[Link], near: Sequence[Link], schema: Schema) -> Want:
    tables = frozenset(link.table.lower() for link in links if link.kind == "table")
    columns = frozenset((link.table.lower(), link.column.lower()) for link in links if link.kind == "column")
    meanings = {*tables, *(schema.representative(*place) for place in columns)}
    return Want(
        links[0].text,
        tables,
        columns,
        frozenset(),
        1 / max(1, len(meanings)),
        str(links[0]),
        frozenset(link.table.lower() for link in near if link.kind == "table"),
        frozenset((link.table.lower(), link.column.lower()) for link in near if link.kind == "column"),
    )


def _of_cells(links: Sequence[Link]) -> Want:
    columns = frozenset((link.table.lower(), link.column.lower()) for link in links)
    values = frozenset(link.value.lower() for link in links)
    text = links[0].text
    is_name = " " in text or not text.islower()
    return Want(text, frozenset(), columns, values, 1.0 if is_name else COMMON, str(links[0]))
