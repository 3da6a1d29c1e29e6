"""Decoder `sql-constrained`: a language model that can write nothing but queries which its database accepts."""

from __future__ import annotations

import os
import re
import sqlite3
from collections import OrderedDict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from slt_sql_rerank.candidates.generate import SqlGenerate
from slt_sql_rerank.constrained.constraint import Check, SqlConstraint
from slt_sql_rerank.databases import Sandboxes, has_rows, is_url, schema_of
from slt_sql_rerank.schema import Schema
from sltcore.errors import ContextError, DataError

MOST_KEPT = 8
QUOTED = re.compile(r"""'(?:[^']|'')*'|"((?:[^"]|"")*)\"""")


class SqlConstrained(SqlGenerate):
    """`sql-generate` behind a constraint: at each step only tokens with which some query over the schema begins.

        p'(token | prefix) ~ p(token | prefix) [some query begins with prefix + token]

    steers the search; scores stay log p of the model itself, so lists of both decoders compare. A text may end where the
    sandbox compiles it: on the database, or for a schema alone on a SQLite file with its tables and no rows. What does not end
    within `new_tokens` is left out; a list without any query holds the one empty text.

    **Source**: as `SqlConstraint`; constrained n-best lists are the first pass of Zeng et al. 2022, arXiv:2210.10668.
    """

    _sandboxes: Sandboxes | None = None
    _folder: TemporaryDirectory[str] | None = None
    _kept: OrderedDict[Any, SqlConstraint] | None = None

    def constraint(self, place: Any) -> SqlConstraint | None:
        """The constraint of a database, kept for the next question. **Raises** `ContextError` without a database."""
        schema = schema_of(place)
        if schema is None:
            raise ContextError(
                "decoder 'sql-constrained' writes queries over a schema; the call gives no context 'database'"
            )
        self._kept = self._kept if self._kept is not None else OrderedDict()
        key = (schema, str(place))
        if key not in self._kept:
            self._kept[key] = SqlConstraint(schema, self.writer.tokenizer, self._check(place, schema))
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _check(self, place: Any, schema: Schema) -> Check:
        self._sandboxes = self._sandboxes or Sandboxes()
        sandboxes = self._sandboxes
        if not has_rows(place):
            self._folder = self._folder or TemporaryDirectory(prefix="sql-constrained-")
            place = str(write_empty(schema, Path(self._folder.name) / f"{len(os.listdir(self._folder.name))}.sqlite"))
        spelled = (lambda text: text) if is_url(str(place)) else in_backticks
        return lambda text: sandboxes.of(place).check_all([spelled(text)])[0].ok


def in_backticks(sql: str) -> str:
    '''A query whose names in double quotes stand in backticks, where SQLite never takes an unknown name for a string.

    >>> print(in_backticks("""select "a b" from t where c = 'say "no"'"""))
    select `a b` from t where c = 'say "no"'
    '''
    return QUOTED.sub(_backticks, sql)


def _backticks(found: re.Match[str]) -> str:
    name = found[1]
    return found[0] if name is None else "`" + name.replace('""', '"').replace("`", "``") + "`"


TYPES = {"number": "NUMERIC", "text": "TEXT", "time": "TEXT", "boolean": "INTEGER", "other": ""}


def write_empty(schema: Schema, file: Path) -> Path:
    """A SQLite file with the tables of a schema and no rows."""
    connection = sqlite3.connect(file)
    try:
        for entry in schema.tables:
            columns = ", ".join(f"{_quoted(column.name)} {TYPES[column.family]}" for column in entry.columns)
            if columns:
                connection.execute(f"CREATE TABLE {_quoted(entry.name)} ({columns})")
        connection.commit()
    except sqlite3.Error as error:
        raise DataError(f"the schema of database '{schema.name}' makes no SQLite tables: {error}") from error
    finally:
        connection.close()
    return file


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
