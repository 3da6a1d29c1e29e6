"""What a question asks for: names and cells that its words are linked to, each with the places that would satisfy it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from slt_sql_rerank.linking.index import Link
from slt_sql_rerank.linking.words import plain, question_words
from slt_sql_rerank.schema import Schema
from slt_sql_rerank.schema_linking.use import Place

STRONG = 1.0
FAIR = 0.6
"""Least strength of words that ask for a name where they name none exactly."""
COMMON = 0.3
"""Weight of a cell that one word without a capital names: it may be a word like others."""


class Want(NamedTuple):
    """Words that name something. `tables` and `columns`, each of which would do; `values` that a literal may be equal to.

    `weight` is the strength of the link over the number of different things that the words may mean; columns that keys make
    equal are one. What the words are linked to more weakly (`near_tables`, `near_columns`) satisfies them for the most part.
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
    """What the links of a question come to.

    Names that are linked strongly are wanted, and others as far as nothing is stronger there; of two names, one within the
    words of the other, the longer. So are whole cells that are no name; a common word is none where it is part of a name.
    """
    words = tuple(word.normal for word in question_words(question))
    named = [link for link in links if link.kind != "value"]
    spans = _by_span(links, STRONG)
    names, cells = [], []
    wanted = _by_span(named, STRONG)
    for span, own in _by_span(named, FAIR).items():
        if span not in wanted and not any(_overlap(span, other) and not _covers(span, *other) for other in wanted):
            wanted[span] = own
    for (start, stop), own in wanted.items():
        if not any(_covers(other, start, stop) for other in wanted):
            near = [link for link in named if _overlap((start, stop), (link.start, link.stop))]
            names.append(_of_names(own, near, schema))
    for (start, stop), own in spans.items():
        if (start, stop) in wanted or _is_number(words[start:stop]) or any(_covers(one, start, stop) for one in spans):
            continue
        want = _of_cells(own)
        if want.weight > COMMON or not any(link.start <= start and stop <= link.stop for link in named):
            cells.append(want)
    places = frozenset((link.table.lower(), link.column.lower()) for link in links if link.column)
    tables = frozenset(link.table.lower() for link in links if link.kind == "table")
    values = frozenset(
        ((link.table.lower(), link.column.lower()), plain(link.value)) for link in links if link.kind == "value"
    )
    numbers = frozenset(word for word in words if word.replace(".", "", 1).isdigit())
    return Asked(words, numbers, tuple(names), tuple(cells), places, tables, values)


def _by_span(links: Sequence[Link], least: float) -> dict[tuple[int, int], list[Link]]:
    """The strongest links of each span, of those that are at least so strong."""
    found: dict[tuple[int, int], list[Link]] = {}
    for link in links:
        if link.strength >= least:
            own = found.setdefault((link.start, link.stop), [])
            if own and link.strength > own[0].strength:
                own.clear()
            if not own or link.strength == own[0].strength:
                own.append(link)
    return found


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


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
        links[0].strength / max(1, len(meanings)),
        str(links[0]),
        frozenset(link.table.lower() for link in near if link.kind == "table"),
        frozenset((link.table.lower(), link.column.lower()) for link in near if link.kind == "column"),
    )


def _of_cells(links: Sequence[Link]) -> Want:
    columns = frozenset((link.table.lower(), link.column.lower()) for link in links)
    values = frozenset(link.value.lower() for link in links)
    text = links[0].text
    is_name = " " in text or (not text.islower() and links[0].start > 0)
    return Want(text, frozenset(), columns, values, 1.0 if is_name else COMMON, str(links[0]))
