"""What Spider's scorer sees in a text before it parses: words between blanks, aliases behind AS, quotes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlglot.dialects.sqlite import SQLite
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

SPACED = re.compile(r"[\s<>!(){}\[\]*;&%$#@?,]")  # its tokeniser parts words at these
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
GLUED = {"=", "+", "-", "/", "||"}  # and not at these
AFTER_NOT = {TokenType.IN, TokenType.LIKE, TokenType.BETWEEN}
OTHER_SPELLINGS = {"<>", "=="}


class Unreadable(Exception):
    """Spider's scorer cannot parse this, and scores an empty query in its place."""


class Words(NamedTuple):
    """The tokens of a text, and what each alias stands for; of two with one name the last counts, as in the scorer."""

    sql: str
    tokens: tuple[Token, ...]
    aliases: Mapping[str, str]
    commented: bool = False
    """Whether a comment, of which the scorer knows nothing, ended the text here."""


def words(sql: str, tables: Sequence[str]) -> Words:
    """**Raises** `Unreadable` where the scorer's tokeniser or its scan of aliases goes wrong."""
    comment = re.search("--|/[*]", QUOTED.sub(lambda found: "x" * len(found.group()), sql))
    try:
        tokens = tuple(SQLite().tokenize(sql[: comment.start()] if comment else sql))
    except SqlglotError as error:
        raise Unreadable(f"it has no tokens: {error}") from error
    if (sql.count("'") + sql.count('"')) % 2:
        raise Unreadable("the number of quotes is odd")
    aliases: dict[str, str] = {}
    for index, token in enumerate(tokens):
        following = tokens[index + 1] if index + 1 < len(tokens) else None
        if token.text.lower() == "as" and token.token_type == TokenType.ALIAS and following is not None and index:
            aliases[following.text.lower()] = tokens[index - 1].text.lower()
    for table in tables:
        if table in aliases:
            raise Unreadable(f"alias {table} is a table's name")
        aliases[table] = table
    return Words(sql, tokens, aliases, comment is not None)


CLAUSES = ("select", "from", "where", "group", "having", "order", "limit")


def check(sql: str, tokens: Sequence[Token]) -> None:
    """**Raises** `Unreadable` where a word, or the order of clauses, is not what the scorer expects."""
    reached = [-1]
    for index, token in enumerate(tokens):
        _check(sql, token, tokens[index + 1] if index + 1 < len(tokens) else None)
        if token.token_type == TokenType.L_PAREN:
            reached.append(-1)
        elif token.token_type == TokenType.R_PAREN and len(reached) > 1:
            reached.pop()
        rank = CLAUSES.index(word) if (word := first_word(token)) in CLAUSES else None
        if rank is not None and 0 < rank <= reached[-1]:
            raise Unreadable(f"{word} stands after {CLAUSES[reached[-1]]}")
        if rank is not None and token.token_type not in (TokenType.STRING, TokenType.IDENTIFIER):
            reached[-1] = rank


def first_word(token: Token) -> str:
    """Of "GROUP BY" the "group"."""
    return (token.text.lower().split() or [""])[0]


def _check(sql: str, token: Token, following: Token | None) -> None:
    quote = sql[token.start]
    if token.token_type == TokenType.IDENTIFIER and quote != '"':
        raise Unreadable(f"{quote} is no quote")
    if token.token_type in (TokenType.STRING, TokenType.IDENTIFIER) and ("'" in token.text or '"' in token.text):
        raise Unreadable("a string holds a quote")
    if token.token_type == TokenType.NOT and (following is None or following.token_type not in AFTER_NOT):
        raise Unreadable("NOT stands before IN, LIKE and BETWEEN only")
    text = sql[token.start : token.end + 1]
    if text in OTHER_SPELLINGS:
        raise Unreadable(f"{text} is no operator")
    if text in GLUED or text in ("!=", "<=", ">="):
        before, after = sql[token.start - 1 : token.start] or " ", sql[token.end + 1 : token.end + 2] or " "
        number = text in ("-", "+") and following is not None and following.token_type == TokenType.NUMBER
        if (not SPACED.match(after) and not number) or (text in GLUED and not SPACED.match(before)):
            raise Unreadable(f"{text} touches its neighbour")
        if number and SPACED.match(after):
            raise Unreadable(f"{text} stands apart from its number")


def without_distinct(sql: str) -> str:
    """The first statement less each word DISTINCT outside of quotes; the text as it is where it has no tokens."""
    try:
        tokens = SQLite().tokenize(sql)
    except SqlglotError:
        return sql
    for token in reversed(tokens):
        if token.token_type == TokenType.SEMICOLON:
            sql = sql[: token.start]
        elif token.token_type == TokenType.DISTINCT:
            sql = sql[: token.start] + sql[token.end + 1 :]
    return sql
