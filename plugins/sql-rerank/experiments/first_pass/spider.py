"""The Spider questions, their schemas and databases, as the folder that `--data` names holds them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

HELD_OUT = 16
"""Train databases that no model sees: on them rerankers are tuned."""


class Question(NamedTuple):
    """One line of `train.jsonl` or `dev.jsonl`."""

    id: str
    db_id: str
    question: str
    question_synonym: str
    query: str


class Spider:
    """`folder` holds train.jsonl, dev.jsonl, tables.json and databases_*.zip; databases are unpacked to `unpacked`."""

    def __init__(self, folder: Path, unpacked: Path) -> None:
        self.folder, self.unpacked = folder, unpacked

    def questions(self, split: str) -> list[Question]:
        """Questions of `train`, `tune` (held-out train databases) or `dev` whose database is whole."""
        rows = [json.loads(line) for line in (self.folder / f"{file_of(split)}.jsonl").open(encoding="utf-8")]
        kept = [row for row in rows if row["database_here"] and row["executes"] and not row["touches_missing_table"]]
        found = [Question(*(row[name] for name in Question._fields)) for row in kept]
        if split == "dev":
            return found
        return [question for question in found if (question.db_id in self.held_out) == (split == "tune")]

    @cached_property
    def held_out(self) -> frozenset[str]:
        """The train databases with the smallest hashes of their names."""
        rows = (json.loads(line) for line in (self.folder / "train.jsonl").open(encoding="utf-8"))
        names = {row["db_id"] for row in rows if row["database_here"]}
        return frozenset(sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:HELD_OUT])

    @cached_property
    def schemas(self) -> dict[str, dict[str, Any]]:
        """Entries of tables.json by database."""
        entries = json.loads((self.folder / "tables.json").read_text(encoding="utf-8"))
        return {entry["db_id"]: entry for entry in entries}

    def database(self, db_id: str) -> Path:
        """The SQLite file, unpacked once."""
        path = self.unpacked / db_id / f"{db_id}.sqlite"
        if not path.is_file():
            self._unpack()
        return path

    def _unpack(self) -> None:
        for archive in ("databases_train.zip", "databases_dev.zip"):
            with zipfile.ZipFile(self.folder / archive) as opened:
                opened.extractall(self.unpacked)


def file_of(split: str) -> str:
    """The file that a split is in."""
    return "dev" if split == "dev" else "train"


def text_cells(path: Path, limit: int = 20_000) -> Iterator[tuple[str, str, str]]:
    """(table, column, text) of the distinct texts of a database, at most `limit` of each column."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        tables = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
        for (name,) in tables:
            columns = connection.execute(f"select name from pragma_table_info('{name}')").fetchall()
            for (column,) in columns:
                query = f'select distinct "{column}" from "{name}" where typeof("{column}") = \'text\' limit {limit}'
                yield from ((name, column, cell) for (cell,) in connection.execute(query))
    finally:
        connection.close()
