"""What a question asks for: names and cells that its words are linked to, each with the places that would satisfy it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from slt_sql_rerank.linking.index import Link
from slt_sql_rerank.linking.spans import Span, Spans
from slt_sql_rerank.linking.words import plain, question_words
from slt_sql_rerank.schema import Schema
from slt_sql_rerank.schema_linking.use import Place

STRONG = 1.0
SAME = 0.9
"""Least strength of words that are a cell: all of it, but for accents."""
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
    named = _by_span([link for link in links if link.kind != "value"])
    wanted = _wanted(named)
    longest, around = Spans(wanted), Spans(named)
    names, cells = [], []
    for (start, stop), own in wanted.items():
        if not longest.is_within_longer(start, stop):
            near = [link for span in around.around(start, stop) for link in named[span]]
            names.append(_of_names(own, near, schema))
    whole = _by_span([link for link in links if link.strength >= (SAME if link.kind == "value" else STRONG)])
    spans = Spans(whole)
    for (start, stop), own in whole.items():
        if (start, stop) in wanted or _is_number(words[start:stop]) or spans.is_within_longer(start, stop):
            continue
        want = _of_cells(_strongest(own))
        if want.weight > COMMON or not any(
            first <= start and stop <= last for first, last in around.around(start, stop)
        ):
            cells.append(want)
    places = frozenset((link.table.lower(), link.column.lower()) for link in links if link.column)
    tables = frozenset(link.table.lower() for link in links if link.kind == "table")
    values = frozenset(
        ((link.table.lower(), link.column.lower()), plain(link.value)) for link in links if link.kind == "value"
    )
    numbers = frozenset(word for word in words if word.replace(".", "", 1).isdigit())
    return Asked(words, numbers, tuple(names), tuple(cells), places, tables, values)


def _wanted(named: Mapping[Span, Sequence[Link]]) -> dict[Span, list[Link]]:
    """The strongest links of each span: of all that name exactly, and of fair ones that cover what they overlap of those."""
    best = {span: _strongest(own) for span, own in named.items()}
    wanted = {span: own for span, own in best.items() if own[0].strength >= STRONG}
    strong = Spans(wanted)
    fair = {
        (start, stop): own
        for (start, stop), own in best.items()
        if FAIR <= own[0].strength < STRONG
        and all(start <= first and last <= stop for first, last in strong.around(start, stop))
    }
    return wanted | fair


def _by_span(links: Sequence[Link]) -> dict[Span, list[Link]]:
    found: dict[Span, list[Link]] = {}
    for link in links:
        found.setdefault((link.start, link.stop), []).append(link)
    return found


def _strongest(links: Sequence[Link]) -> list[Link]:
    most = max(link.strength for link in links)
    return [link for link in links if link.strength == most]


def _is_number(words: Sequence[str]) -> bool:
    return all(word.replace(".", "", 1).isdigit() for word in words)


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
