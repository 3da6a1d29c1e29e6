"""What the model reads: a schema once, then each question with the cells that it names; what it writes: plain SQL."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from spider import Question, Spider, text_cells

WORD = re.compile(r"\w+")
QUOTED = re.compile(r"('(?:[^']|'')*'|\"[^\"]*\")")
PUNCTUATION = re.compile(r"\s*([(),;]|!=|<>|<=|>=|=|<|>)\s*")
MOST_CELLS = 4
MOST_WORDS = 6


def schema_text(entry: dict[str, Any]) -> str:
    """Tables with their columns and, behind `=`, what a foreign key points to.

    >>> entry = {"table_names_original": ["a", "b"], "foreign_keys": [[2, 1]],
    ...          "column_names_original": [[-1, "*"], [0, "Id"], [1, "a_id"], [1, "name"]]}
    >>> schema_text(entry)
    'a(id) b(a_id=a.id,name)'
    """
    tables, columns = entry["table_names_original"], entry["column_names_original"]
    points = {here: f"={tables[columns[there][0]]}.{columns[there][1]}" for here, there in entry["foreign_keys"]}
    parts = []
    for number, table in enumerate(tables):
        own = [f"{name}{points.get(k, '')}" for k, (owner, name) in enumerate(columns) if owner == number]
        parts.append(f"{table}({','.join(own)})")
    return " ".join(parts).lower()


def plain_sql(sql: str) -> str:
    """One line, lower case outside of quotes, single spaces, single quotes, no semicolon at the end.

    >>> plain_sql('SELECT Count(*)  FROM head WHERE  name =  "Al Gore" AND age>=3 ;')
    "select count(*) from head where name = 'Al Gore' and age >= 3"
    """
    pieces = []
    for number, piece in enumerate(QUOTED.split(sql)):
        if number % 2:
            pieces.append("'" + piece[1:-1].replace("''", "'").replace("'", "''") + "'")
        else:
            pieces.append(_spaced(piece.lower()))
    return "".join(pieces).strip(" ;")


def _spaced(sql: str) -> str:
    def around(match: re.Match[str]) -> str:
        sign = match[1]
        if sign == "(":
            return "(" if match[0][0] != " " else " ("
        if sign in "),;":
            return {")": ") ", ",": ", ", ";": " "}[sign]
        return f" {sign} "

    spaced = PUNCTUATION.sub(around, sql.replace("\n", " ").replace("\t", " "))
    spaced = re.sub(r"\b(count|sum|avg|min|max|abs|round|length|cast|distinct)\s+\(", r"\1(", spaced)
    return re.sub(r"\s+", " ", re.sub(r"\s+([,)])", r"\1", spaced))


class Prompts:
    """Prompts of one data set; the cells of each database are read once."""

    def __init__(self, spider: Spider) -> None:
        self.spider = spider
        self.cells = lru_cache(maxsize=None)(self._cells)

    def schema(self, db_id: str) -> str:
        """The beginning that all questions of a database share."""
        return f"database {db_id.lower()}: {schema_text(self.spider.schemas[db_id])}\n"

    def question(self, question: Question, text: str | None = None) -> str:
        """What follows the schema; `text` stands in for the question, such as its version with synonyms."""
        asked = question.question if text is None else text
        found = list(self.matches(question.db_id, asked))[:MOST_CELLS]
        cells = f"cells: {'; '.join(found)}\n" if found else ""
        return f"question: {' '.join(asked.split())}\n{cells}sql:"

    def answer(self, question: Question) -> str:
        """What the model learns to write."""
        return " " + plain_sql(question.query)

    def matches(self, db_id: str, asked: str) -> Iterator[str]:
        """Cells whose words stand in the question, longest first, as `table.column = 'cell'`."""
        words = [word.lower() for word in WORD.findall(asked)]
        cells, covered = self.cells(db_id), set[int]()
        for size in range(min(MOST_WORDS, len(words)), 0, -1):
            for begin in range(len(words) - size + 1):
                span = range(begin, begin + size)
                places = cells.get(tuple(words[begin : begin + size]), ())
                if places and not covered.intersection(span):
                    covered.update(span)
                    yield from (f"{table}.{column} = '{cell}'" for table, column, cell in places[:2])

    def _cells(self, db_id: str) -> dict[tuple[str, ...], list[tuple[str, str, str]]]:
        found = defaultdict[tuple[str, ...], list[tuple[str, str, str]]](list)
        for table, column, cell in text_cells(self.spider.database(db_id)):
            words = tuple(word.lower() for word in WORD.findall(cell))
            if 0 < len(words) <= MOST_WORDS and any(len(word) > 2 or word.isupper() for word in WORD.findall(cell)):
                found[words].append((table.lower(), column.lower(), cell))
        return dict(found)
