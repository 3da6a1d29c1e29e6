"""The queries over one schema, as a grammar in the notation that llguidance reads."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence

from slt_sql_rerank.sandbox.limits import FUNCTIONS
from slt_sql_rerank.schema import Schema
from sltcore.errors import DataError

PLAIN = re.compile(r"[^\W\d]\w*")
CASTS = (
    "integer",
    "int",
    "bigint",
    "real",
    "float",
    "double",
    "decimal",
    "numeric",
    "text",
    "varchar",
    "date",
    "datetime",
)
OF_WINDOWS = frozenset(
    [
        "cume_dist",
        "dense_rank",
        "first_value",
        "lag",
        "last_value",
        "lead",
        "nth_value",
        "ntile",
        "percent_rank",
        "rank",
        "row_number",
    ]
)
OPTIONS = '%llguidance {"no_forcing": true}'
"""Where one text alone can follow, a mask holds every token that begins it, and not only the first of its usual ones."""
RULES = r"""
start: S? query
query: core (S setop S core)* (S order)? (S limit)?
setop: UNION (S ALL)? | INTERSECT | EXCEPT
core: SELECT (what items | S DISTINCT items_in_brackets) S FROM S tables (S where)? (S group)?
what: S | S DISTINCT S | S ALL S
items: item (COMMA item)*
items_in_brackets: "(" S? expr S? ")" (binary operand)* (COMMA item)*
item: "*" | name DOT "*" | expr (S AS S ALIAS)?
tables: source (COMMA source | S joined)*
joined: (NATURAL S)? (LEFT S (OUTER S)? | INNER S | CROSS S)? JOIN S source (S on)?
on: ON cond_after | USING S? "(" S? column_name (COMMA column_name)* S? ")"
source: TABLE (S (AS S)? ALIAS)? | subquery (S (AS S)? ALIAS)?
where: WHERE cond_after
group: GROUP S BY S key (COMMA key)* (S HAVING cond_after)?
order: ORDER S BY S ordered (COMMA ordered)*
ordered: key (S (ASC | DESC))?
key: expr | ALIAS
limit: LIMIT S INTEGER ((S OFFSET S | COMMA) INTEGER)?
cond_after: S cond | S? cond_in_brackets
cond: test (S (AND | OR) test_after)*
test_after: S test | S? test_in_brackets
cond_in_brackets: test_in_brackets (S (AND | OR) test_after)*
test_in_brackets: "(" S? cond S? ")"
test: test_in_brackets | NOT test_after | EXISTS S? subquery | NOT S EXISTS S? subquery | comparison
comparison: expr S? COMPARE S? expr
  | expr S (NOT S)? IN S? "(" S? (query | literal (COMMA literal)*) S? ")"
  | expr S (NOT S)? (LIKE | GLOB) S expr
  | expr S (NOT S)? BETWEEN S expr S AND S expr
  | expr S IS S (NOT S)? NULL
expr: MINUS? operand (binary operand)*
binary: S? (OPERATOR | MINUS) S?
operand: column | literal_unsigned | call | CAST S? "(" S? expr S AS S TYPE S? ")" | case | subquery | "(" S? expr S? ")"
case: CASE (S expr)? (S WHEN S (cond | expr) S THEN S expr)+ (S ELSE S expr)? S END
call: FUNCTION S? "(" S? ((DISTINCT S)? expr (COMMA expr)* | "*")? S? ")"
subquery: "(" S? query S? ")"
literal: MINUS? NUMBER | STRING | NULL
literal_unsigned: NUMBER | STRING | NULL
COMMA: /[ \t\n]{0,4},[ \t\n]{0,4}/
DOT: "."
MINUS: "-"
S: /[ \t\n]{1,4}/
COMPARE: /<=|>=|<>|!=|==|=|<|>/
OPERATOR: /[+*\/%]|\|\|/
INTEGER: /[0-9]{1,18}/
NUMBER: /[0-9]{1,18}(\.[0-9]{1,12})?|\.[0-9]{1,12}/
STRING: /'([^'\x00-\x1f]|''){0,200}'/
ALIAS: /[A-Za-z][0-9]{0,2}/
"""
KEYWORDS = [
    "SELECT",
    "DISTINCT",
    "ALL",
    "FROM",
    "AS",
    "NATURAL",
    "LEFT",
    "OUTER",
    "INNER",
    "CROSS",
    "JOIN",
    "ON",
    "USING",
    "WHERE",
    "GROUP",
    "BY",
    "HAVING",
    "ORDER",
    "ASC",
    "DESC",
    "LIMIT",
    "OFFSET",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "AND",
    "OR",
    "NOT",
    "IN",
    "LIKE",
    "GLOB",
    "BETWEEN",
    "IS",
    "NULL",
    "EXISTS",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "CAST",
]


def grammar_of(schema: Schema, functions: Iterable[str] = FUNCTIONS) -> str:
    """One SELECT of SQLite over the tables and columns of a schema, and nothing behind it.

    Names are those of the schema, in any case, in double quotes where they need them or anyway. `table.column` is a pair that
    exists; behind an alias (a letter and up to two digits) stands any column. Functions are those that the sandbox allows.
    What a grammar cannot say (which tables are in FROM, which aliases are declared) it lets pass. Left out: WITH, VALUES,
    window functions, comments, blob and hexadecimal literals, parameters, `COLLATE`.
    **Raises** `DataError` for a schema without columns.
    """
    tables = [entry for entry in schema.tables if entry.columns]
    if not tables:
        raise DataError(f"database '{schema.name}' has no table with columns; a query has nothing to name")
    plain = _plain_names({entry.name for entry in tables} | {column.name for column in schema.columns})
    lines = [OPTIONS, RULES]
    lines += [f"{word}: {_words([word.lower()])}" for word in KEYWORDS]
    lines.append(f"FUNCTION: {_words(name for name in functions if name.isidentifier() and name not in OF_WINDOWS)}")
    lines.append(f"TYPE: {_words(CASTS)}")
    lines.append(f"TABLE: {_names((entry.name for entry in tables), plain)}")
    lines.append(f"COLUMN: {_names((column.name for column in schema.columns), plain)}")
    for number, entry in enumerate(tables):
        lines.append(f"T{number}: {_names([entry.name], plain)}")
        lines.append(f"C{number}: {_names((column.name for column in entry.columns), plain)}")
    pairs = " | ".join(f"T{number} DOT C{number}" for number in range(len(tables)))
    lines.append(f"column: COLUMN | ALIAS DOT COLUMN | {pairs}")
    lines.append("name: ALIAS | TABLE")
    lines.append("column_name: COLUMN")
    return "\n".join(lines)


def _plain_names(names: Iterable[str]) -> frozenset[str]:
    """Those that SQLite reads as names without quotes."""
    connection = sqlite3.connect(":memory:")
    try:
        return frozenset(name for name in names if PLAIN.fullmatch(name) and _is_name(connection, name))
    finally:
        connection.close()


def _is_name(connection: sqlite3.Connection, name: str) -> bool:
    try:
        connection.execute(f'EXPLAIN SELECT a.{name} FROM (SELECT 1 AS "{name}") AS a')
    except sqlite3.Error:
        return False
    return True


def _names(names: Iterable[str], plain: frozenset[str]) -> str:
    spellings: dict[str, None] = {}
    for name in names:
        if name in plain:
            spellings[_pattern(name)] = None
        spellings[_pattern('"' + name.replace('"', '""') + '"')] = None
    return _any(list(spellings))


def _words(words: Iterable[str]) -> str:
    return _any([_pattern(word) for word in sorted(words)])


def _any(patterns: Sequence[str]) -> str:
    return f"/{'|'.join(patterns)}/"


def _pattern(text: str) -> str:
    """A text as a regular expression, ASCII letters in any case as SQLite reads them, signs by their number."""
    return "".join(map(_sign, text))


def _sign(sign: str) -> str:
    if sign.isascii() and sign.isalpha():
        return f"[{sign.upper()}{sign.lower()}]"
    return sign if sign.isascii() and (sign.isdigit() or sign == "_") else f"\\x{{{ord(sign):x}}}"
