"""Builds the metrics from their configurations."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from contextlib import closing
from functools import lru_cache
from pathlib import Path

from slt_sql_rerank.config_metrics import ExactMatchConfig, ExecutionConfig
from slt_sql_rerank.metrics.accuracy import Accuracy, SameRows, SetMatches
from slt_sql_rerank.metrics.gold import Databases
from sltcore.errors import DataError
from sltcore.plugin import Ports


def exact_match(config: ExactMatchConfig, ports: Ports) -> Accuracy:
    """**Raises** `DataError` where the script does not run."""
    databases = _databases(config)
    return Accuracy("exact-match", SetMatches(databases), databases, forms=config.forms, by_hardness=config.by_hardness)


def execution(config: ExecutionConfig, ports: Ports) -> Accuracy:
    """**Raises** `DataError` where the script does not run."""
    return _by_rows("execution", config, suite=False)


def suite(config: ExecutionConfig, ports: Ports) -> Accuracy:
    """**Raises** `DataError` where the script does not run."""
    return _by_rows("test-suite", config, suite=True)


def _by_rows(name: str, config: ExecutionConfig, *, suite: bool) -> Accuracy:
    databases = _databases(config)
    judge = SameRows(databases, suite=suite, seconds=config.seconds)
    return Accuracy(name, judge, databases, forms=config.forms, by_hardness=config.by_hardness)


def _databases(config: ExactMatchConfig) -> Databases:
    if config.script is None:
        return Databases(folder=config.databases, database=config.database, tables=config.tables)
    if config.databases is not None or config.database is not None:
        raise DataError("'script' makes the database, so 'databases' and 'database' say nothing; leave them out")
    return Databases(database=str(_made(config.script)), tables=config.tables)


@lru_cache(maxsize=16)
def _made(script: str) -> Path:
    """A file that the script made; the folder goes with the program."""
    folder = Path(_folder().name) / hashlib.sha256(script.encode()).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    file = folder / "script.sqlite"
    file.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(file)) as made:
            made.executescript(script)
    except sqlite3.Error as error:
        raise DataError(f"'script' does not run: {error}") from error
    return file


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="slt-sql-")
