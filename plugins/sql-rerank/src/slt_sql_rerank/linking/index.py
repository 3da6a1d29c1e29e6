"""One inverted index per database: from words to tables, columns and cells."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol

from rapidfuzz import fuzz, process

from slt_sql_rerank.linking.spans import Span, Spans
from slt_sql_rerank.linking.words import (
    STOP_WORDS,
    Word,
    is_unspaced,
    normal,
    plain,
    question_words,
    singular,
    split_name,
    unaccented,
)
from slt_sql_rerank.sandbox.outcome import Result
from slt_sql_rerank.schema import Column, Schema
from sltcore.errors import DataError

Kind = Literal["table", "column", "value"]
HOW: Mapping[str, float] = {
    "exact": 1.0,  # the words of the name, or the whole cell
    "accents": 0.9,  # the same but for accents: "Sao Paulo" and São Paulo
    "turned": 0.9,  # the two words of a name, the other way round: "first name" and name_first
    "phrase": 0.7,  # some words of a name of several, one after another: "last name" and staff_last_name
    "part": 0.5,  # one word of a name of several
    "prefix": 0.5,  # the beginning of one of its words, or the other way round
    "abbreviation": 0.6,  # its initials, or an initial and a word: "first name" and fname, dob
    "fuzzy": 0.6,  # nearly the name
    "cell-part": 0.4,  # some words of a cell of several
    "code": 0.3,  # the first letters of a word, in a column of short codes: "left" and L
}
"""Ways to link, and how much each says."""
LONGEST = 5
LONGEST_UNSPACED = 12
"""Words of a phrase; where each letter is one, for the script has no spaces, more of them."""
SHORTEST_PREFIX = 4
SHORTEST_PART = 3
FUZZY = 90.0
SIGNS_OF_CODE = 3
MOST_CODES = 30


class Posting(NamedTuple):
    """What a key leads to."""

    kind: Kind
    how: str
    table: str
    column: str = ""
    value: str = ""


class Link(NamedTuple):
    """Words `start` to `stop` of a question name a table, a column, or a cell of one."""

    kind: Kind
    how: str
    table: str
    column: str
    value: str
    start: int
    stop: int
    text: str
    strength: float

    def __str__(self) -> str:
        place = f"{self.table}.{self.column}" if self.column else self.table
        what = f"cell {self.value!r} of {place}" if self.kind == "value" else f"{self.kind} {place}"
        return f"{self.text!r} is {what} ({self.how})"


class Runner(Protocol):
    """What reads cells; `slt_sql_rerank.sandbox.Sandbox` is one."""

    def execute(self, sql: str, deadline: float | None = None) -> Result:
        """Its rows, or why there are none."""


class LinkIndex:
    """Names and cells of one database by their words, built once, and the links of any question.

    Keys are words and phrases in lower case and singular. A question's n-grams, n = 5 to 1, are looked up as they are, by
    their initials, and joined; its words by prefix and as codes; what is still without a link is compared with the names by
    Levenshtein ratio. A link within the words of a longer exact one to the same kind is left out; a word that is part of a
    cell is linked where it first stands. Time grows with the words of the question, not with their square.
    """

    def __init__(self, schema: Schema, cells: Mapping[tuple[str, str], Iterable[str]] | None = None) -> None:
        """`cells` are the distinct texts of columns by (table, column). **Raises** `DataError` for a column not there."""
        self.schema = schema
        self.postings: dict[str, dict[Posting, None]] = {}
        self.codes: dict[str, dict[Posting, None]] = {}
        self.parts: dict[str, dict[Posting, None]] = {}
        for entry in schema.tables:
            self._add_name(entry.name, "table", entry.name)
            for column in entry.columns:
                self._add_name(column.name, "column", entry.name, column.name)
        self._names = sorted({key for key, found in self.postings.items() if any(p.how == "exact" for p in found)})
        self._words = sorted(key for key in self.postings if " " not in key)
        self._known = frozenset(self._words)
        self._longest = max(map(len, self._words), default=0)
        for (table, name), values in (cells or {}).items():
            self._add_cells(schema.column(table, name), list(values))

    def _add_name(self, name: str, kind: Kind, table: str, column: str = "") -> None:
        words = _keys(normal(split_name(name)))
        joined = "".join(split_name(name))
        phrases = {" ".join(words), "".join(words), joined, *_keys([singular(joined)])}
        for phrase in phrases - {""}:
            self._add(phrase, Posting(kind, "exact", table, column))
        longest = LONGEST_UNSPACED if any(map(is_unspaced, words)) else LONGEST
        for size in range(2, min(len(words), longest + 1)):
            for start in range(len(words) - size + 1):
                self._add(" ".join(words[start : start + size]), Posting(kind, "phrase", table, column))
        for first, second in pairwise(words):
            if not is_unspaced(first):
                how = "turned" if len(words) == 2 else "phrase"
                self._add(f"{second} {first}", Posting(kind, how, table, column))
        if len(words) > 1:
            for word in {word for word in words if not is_unspaced(word)} - STOP_WORDS:
                self._add(word, Posting(kind, "part", table, column))

    def _add_cells(self, column: Column, values: Sequence[str]) -> None:
        short = all(len(value) <= SIGNS_OF_CODE and value.isalpha() for value in values) and len(values) <= MOST_CODES
        for value in values:
            words = _keys(word.normal for word in question_words(value))
            if not words:
                continue
            self._add(" ".join(words), Posting("value", "exact", column.table, column.name, value))
            if len(words) > 1:
                for word in {word for word in words if len(word) >= SHORTEST_PART} - STOP_WORDS:
                    posting = Posting("value", "cell-part", column.table, column.name, value)
                    for key in {word, unaccented(word)}:
                        self.parts.setdefault(key, {})[posting] = None
            if short:
                posting = Posting("value", "code", column.table, column.name, value)
                self.codes.setdefault(value.casefold(), {})[posting] = None

    def has_cell(self, table: str, column: str, text: str) -> bool:
        """Whether a cell of a column has the words of a text."""
        place = (table.lower(), column.lower())
        return any(
            found.kind == "value" and found.how == "exact" and (found.table.lower(), found.column.lower()) == place
            for found in self.postings.get(" ".join(_keys(plain(text).split())), ())
        )

    def _add(self, key: str, posting: Posting) -> None:
        self.postings.setdefault(key, {})[posting] = None
        bare = unaccented(key)
        if bare != key and posting.how == "exact":
            self.postings.setdefault(bare, {})[posting._replace(how="accents")] = None

    def link(self, question: str) -> list[Link]:
        """The links of a question, by place, the strongest first."""
        words = [word._replace(normal=_keys([word.normal])[0]) for word in question_words(question)]
        found: dict[tuple[str, str, str, str, int, int], Link] = {}
        for start, stop, how, posting in self._found(words):
            text = question[words[start].start : words[stop - 1].stop]
            strength = HOW[how] * (1.0 if posting.how == "exact" or posting.how == how else HOW[posting.how])
            link = Link(posting.kind, how, posting.table, posting.column, posting.value, start, stop, text, strength)
            key = (link.kind, link.table, link.column, link.value, start, stop)
            if key not in found or found[key].strength < strength:
                found[key] = link
        exact: dict[Kind, list[Span]] = {"table": [], "column": [], "value": []}
        for link in found.values():
            if link.how == "exact":
                exact[link.kind].append((link.start, link.stop))
        spans = {kind: Spans(own) for kind, own in exact.items()}
        kept = [link for link in found.values() if not spans[link.kind].is_within_longer(link.start, link.stop)]
        return sorted(
            kept, key=lambda link: (link.start, -link.strength, -link.stop, link.kind, link.table, link.column)
        )

    def _found(self, words: Sequence[Word]) -> Iterator[tuple[int, int, str, Posting]]:
        named: set[int] = set()
        longest = LONGEST_UNSPACED if any(is_unspaced(word.text) for word in words) else LONGEST
        for size in range(min(longest, len(words)), 0, -1):
            for start in range(len(words) - size + 1):
                part = words[start : start + size]
                if all(word.normal in STOP_WORDS for word in part):
                    continue
                for how, posting in self._of_phrase(part):
                    if posting.kind != "value":
                        named.update(range(start, start + size))
                    yield start, start + size, how, posting
        near: dict[str, list[tuple[str, Posting]]] = {}
        for place, word in enumerate(words):
            if word.normal in STOP_WORDS:
                continue
            if word.normal not in near:
                near[word.normal] = list(self._near(word.normal)) if len(word.normal) >= SHORTEST_PREFIX else []
                for posting in {**self.parts.get(word.normal, {}), **self.parts.get(unaccented(word.normal), {})}:
                    yield place, place + 1, posting.how, posting
            for posting in self._of_code(word):
                yield place, place + 1, "code", posting
            for how, posting in near[word.normal] if place not in named else ():
                yield place, place + 1, how, posting

    def _of_phrase(self, part: Sequence[Word]) -> Iterator[tuple[str, Posting]]:
        names = [word.normal for word in part]
        phrase = " ".join(names)
        for posting in self.postings.get(phrase, ()):
            yield posting.how, posting
        bare = unaccented(phrase)
        for posting in self.postings.get(bare, ()) if bare != phrase else ():
            yield "accents", posting
        if len(part) == 1:
            return
        keys = {}
        if names[0] not in STOP_WORDS and names[-1] not in STOP_WORDS:
            initials = "".join(word.text[0].casefold() for word in part)
            keys = {initials[:-1] + names[-1]: "abbreviation", initials: "abbreviation"}
        keys["".join(names)] = "exact"
        for key, how in keys.items():
            for posting in self.postings.get(key, ()):
                if posting.how == "exact" and posting.kind != "value":
                    yield how, posting

    def _of_code(self, word: Word) -> Iterator[Posting]:
        if word.normal.isalpha():
            for size in range(1, min(SIGNS_OF_CODE, len(word.normal) - 1) + 1):
                yield from self.codes.get(word.normal[:size], ())

    def _near(self, word: str) -> Iterator[tuple[str, Posting]]:
        """Names with a word that begins with this one, or that this one begins with; else names nearly spelled so."""
        keys = []
        for place in range(bisect_left(self._words, word), len(self._words)):
            if not self._words[place].startswith(word):
                break
            keys.append(self._words[place])
        ends = range(SHORTEST_PART, min(len(word), self._longest + 1))
        keys += [word[:end] for end in ends if word[:end] in self._known]
        how = "prefix"
        if not keys:
            how = "fuzzy"
            near = process.extract(word, self._names, scorer=fuzz.ratio, score_cutoff=FUZZY, limit=5)
            keys = [name for name, _, _ in near]
        for key in keys:
            for posting in self.postings[key]:
                if posting.kind != "value":
                    yield how, posting


def _keys(words: Iterable[str]) -> list[str]:
    """Words as they are looked up: the plural of an abbreviation of two letters, as in "ids", is its singular, too."""
    return [
        word[:2]
        if len(word) == 3
        and word.isalpha()
        and word[2] == "s"
        and word[1] not in "aeiousy"
        and word[:2] not in STOP_WORDS
        else word
        for word in words
    ]


def read_cells(
    runner: Runner,
    schema: Schema,
    *,
    database: str | None = None,
    most: int = 5000,
    longest: int = 60,
    seconds: float = 5.0,
) -> dict[tuple[str, str], list[str]]:
    """Distinct texts of each column that holds text, of tables and not of views, at most `most` and of `longest` signs.

    **Raises** `DataError` where a column cannot be read.
    """
    cells: dict[tuple[str, str], list[str]] = {}
    execute: Any = runner.execute if database is None else partial(runner.execute, database=database)  # type: ignore[call-arg]
    for entry in schema.tables:
        for column in entry.columns if not entry.is_view else ():
            if column.family in ("number", "boolean"):
                continue
            name, title = (text.replace('"', '""') for text in (column.name, entry.name))
            result = execute(
                f'SELECT DISTINCT "{name}" FROM "{title}" WHERE typeof("{name}") = \'text\' AND length("{name}") <= {longest} '
                f"LIMIT {most}",
                seconds,
            )
            if not result.ok:
                raise DataError(f"cells of column {entry.name}.{column.name} cannot be read: {result.reason}")
            cells[entry.name, column.name] = [str(row[0]) for row in result.rows]
    return cells
