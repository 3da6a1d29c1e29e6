"""Promises of the sandbox on files that are themselves hostile, damaged, written, or replaced."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hostile_sql import build
from test_sandbox_hostile import hashes

from slt_sql_rerank.sandbox import Limits, Sandbox
from slt_sql_rerank.schema import connected, from_sqlite
from sltcore.errors import DataError

CREATED = """
CREATE TABLE t (a INTEGER, b TEXT);
INSERT INTO t VALUES (1, 'x'), (2, 'y');
CREATE VIEW loads AS SELECT load_extension('evil.so') AS a;
CREATE VIEW tokenizes AS SELECT fts3_tokenizer('simple') AS a;
CREATE VIEW peeks AS SELECT * FROM pragma_database_list;
CREATE VIEW reads_itself AS SELECT sql FROM sqlite_master;
CREATE VIEW slow AS SELECT length(printf('%.*c', 900000000, 'x')) AS a;
CREATE VIEW lost AS SELECT * FROM gone;
CREATE VIEW writes AS SELECT a FROM t;
CREATE TRIGGER instead INSTEAD OF INSERT ON writes BEGIN DELETE FROM t; END;
CREATE VIEW "DROP TABLE t" AS SELECT 1 AS "; DELETE FROM t; --";
CREATE VIEW "\x1b[2J" AS SELECT 2 AS "\x1b]0;x\x07";
CREATE TABLE "pragma_table_info" (a);
CREATE TABLE "json_each " (a);
"""
STATEMENTS = (
    "SELECT * FROM t",
    "SELECT count(*), b FROM t GROUP BY b ORDER BY a",
    "SELECT a.a FROM t a JOIN t b ON a.a = b.a WHERE a.b LIKE '%x%'",
    "SELECT name, note, twice FROM singer WHERE name > 'n3' ORDER BY note",
    "SELECT * FROM singer JOIN concert ON singer.id = singer_id",
    "SELECT * FROM words WHERE words MATCH 'tea'",
)


def make(path: Path, script: str) -> Path:
    with closing(sqlite3.connect(path)) as made:
        made.executescript(script)
    return path


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(make(tmp_path_factory.mktemp("hostile") / "h.sqlite", CREATED)) as made:
        yield made


@pytest.mark.parametrize(
    ("sql", "code", "reason"),
    [
        ("SELECT * FROM loads", "refused", "unsafe use of load_extension()"),
        ("SELECT * FROM tokenizes", "refused", "unsafe use of fts3_tokenizer()"),
        ("SELECT * FROM peeks", "refused", 'unsafe use of virtual table "pragma_database_list"'),
        ("SELECT * FROM reads_itself", "refused", "table 'sqlite_master' is not one of the database's own"),
        ("SELECT * FROM slow", "time", "it did not end within 0.1 s"),
        ("SELECT * FROM lost", "error", "no such table: main.gone"),
        ("INSERT INTO writes VALUES (1)", "write", "INSERT writes is refused: the sandbox only reads"),
        ("SELECT * FROM nosuch\x1b[2J", "error", 'unrecognized token: "\\x1b"'),
    ],
)
def test_a_view_may_do_no_more_than_a_statement(sandbox: Sandbox, sql: str, code: str, reason: str) -> None:
    result = sandbox.execute(sql, 0.1)
    assert (result.code, result.reason) == (code, reason)


def test_strange_names_are_only_names(sandbox: Sandbox) -> None:
    assert sandbox.execute('SELECT * FROM "DROP TABLE t"').columns == ("; DELETE FROM t; --",)
    assert sandbox.execute('SELECT * FROM "\x1b[2J"').rows == ((2,),)
    assert sandbox.execute("SELECT * FROM pragma_table_info").ok
    assert not sandbox.execute("SELECT * FROM pragma_table_info('t')").ok
    assert sandbox.execute("SELECT count(*) FROM t").rows == ((2,),)


def test_views_that_unfold_without_end_stop_in_time(tmp_path: Path) -> None:
    views = "".join(f"CREATE VIEW v{i + 1} AS SELECT l.a FROM v{i} l, v{i} r;" for i in range(40))
    path = make(tmp_path / "unfolding.sqlite", f"CREATE TABLE v0 (a); INSERT INTO v0 VALUES (1);{views}")
    with Sandbox(path) as sandbox:
        for sql in ("SELECT a FROM v40", "SELECT count(*) FROM v20", "SELECT 1 FROM v12"):
            sandbox.execute("SELECT 1")
            started = time.monotonic()
            result = sandbox.execute(sql, 0.2)
            waited = time.monotonic() - started
            assert not result.ok
            assert result.code in ("time", "error", "memory", "limit", "crash")
            assert waited < 0.2 + 0.3
        assert sandbox.execute("SELECT a FROM v3").rows == ((1,),)


@pytest.mark.slow
def test_damaged_files_give_rows_or_reasons_and_stay_as_they_are(tmp_path: Path) -> None:
    whole = tmp_path / "whole.sqlite"
    build(whole)
    raw, draw = whole.read_bytes(), random.Random(5)
    seen: dict[str, int] = {}
    for number in range(60):
        damaged = bytearray(raw)
        for _ in range(draw.choice([1, 5, 50])):
            damaged[draw.randrange(100, 4096) if draw.random() < 0.3 else draw.randrange(100, len(raw))] = (
                draw.randrange(256)
            )
        if number % 10 == 9:
            del damaged[draw.randrange(512, len(raw)) :]
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "d.sqlite").write_bytes(damaged)
        before = hashes(folder)
        try:
            with Sandbox(folder / "d.sqlite") as sandbox:
                for sql in STATEMENTS:
                    started = time.monotonic()
                    code = sandbox.execute(sql, 0.3).code
                    assert time.monotonic() - started < 1.5
                    seen[code] = seen.get(code, 0) + 1
        except DataError as error:
            assert "d.sqlite" in str(error)
            seen["refused file"] = seen.get("refused file", 0) + 1
        assert hashes(folder) == before
    print(f"\n60 damaged files: {seen}")
    assert seen["ok"] > 50
    assert seen["error"] > 50


def test_a_file_in_wal_mode_is_read_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = make(tmp_path / "wal.sqlite", "PRAGMA journal_mode=WAL; CREATE TABLE t (a); INSERT INTO t VALUES (5);")
    before = hashes(tmp_path)
    assert set(before) == {"wal.sqlite"}
    with Sandbox(path) as sandbox:
        assert sandbox.execute("SELECT a FROM t").rows == ((5,),)
        assert not sandbox.execute("PRAGMA journal_mode=DELETE").ok
        assert hashes(tmp_path) == before


def test_a_file_that_is_written_meanwhile_is_opened_anew(tmp_path: Path) -> None:
    path = make(tmp_path / "t.sqlite", "CREATE TABLE t (a); INSERT INTO t VALUES (1);")
    with Sandbox(path) as sandbox:
        assert sandbox.execute("SELECT a FROM t").rows == ((1,),)
        make(path, "UPDATE t SET a = 2; CREATE TABLE later (b)")
        assert sandbox.execute("SELECT a FROM t").rows == ((2,),)
        assert sandbox.check("SELECT b FROM later").ok


def test_a_file_that_is_replaced_meanwhile_is_opened_anew_or_refused(tmp_path: Path) -> None:
    first = make(tmp_path / "1.sqlite", "CREATE TABLE t (a); INSERT INTO t VALUES (1);")
    other = make(tmp_path / "2.sqlite", "CREATE TABLE t (a); INSERT INTO t VALUES (7);")
    link = tmp_path / "link.sqlite"
    link.symlink_to(first)
    with Sandbox(link) as sandbox:
        assert sandbox.execute("SELECT a FROM t").rows == ((1,),)
        link.unlink()
        link.symlink_to(other)
        assert sandbox.execute("SELECT a FROM t").rows == ((7,),)
        os.replace(first, other)
        assert sandbox.execute("SELECT a FROM t").rows == ((1,),)
        other.write_bytes(b"no database any more")
        with pytest.raises(DataError, match=r"link\.sqlite is no SQLite database: it begins with b'no database"):
            sandbox.execute("SELECT a FROM t")
        other.unlink()
        with pytest.raises(DataError, match=r"link\.sqlite is no file; expected a SQLite database"):
            sandbox.execute("SELECT a FROM t")


def test_a_rollback_journal_that_waits_is_told(tmp_path: Path) -> None:
    path = make(tmp_path / "t.sqlite", "CREATE TABLE t (a); INSERT INTO t VALUES (1);")
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA cache_size = 1")
    writer.execute("BEGIN EXCLUSIVE")
    writer.executemany("INSERT INTO t VALUES (?)", [("x" * 3000,) for _ in range(100)])
    with pytest.raises(DataError, match=r"has a rollback journal: a program is writing it, or ended while it wrote"):
        Sandbox(path)
    writer.execute("ROLLBACK")
    writer.close()
    with Sandbox(path) as sandbox:
        assert sandbox.execute("SELECT a FROM t").rows == ((1,),)


def test_many_databases_share_the_memory_of_one_process(tmp_path: Path) -> None:
    build(tmp_path / "0.sqlite")
    paths = {f"d{number}": tmp_path / f"{number}.sqlite" for number in range(60)}
    for path in paths.values():
        path.write_bytes((tmp_path / "0.sqlite").read_bytes())
    with Sandbox(paths, Limits(memory_bytes=64 << 20)) as sandbox:
        for name in paths:
            assert sandbox.execute("SELECT count(note) FROM singer, swollen", database=name).rows == ((399,),)
        assert sandbox.restarts == 0


def test_reading_a_schema_stops_in_time_and_calls_nothing(tmp_path: Path) -> None:
    """What a stranger's file does when its tables are listed and its cells are read, outside of the sandbox."""
    path = make(tmp_path / "h.sqlite", CREATED)
    before = hashes(tmp_path)
    columns = {entry.name: [column.name for column in entry.columns] for entry in from_sqlite(path).tables}
    assert columns["t"] == ["a", "b"]
    assert columns["loads"] == columns["lost"] == []
    opened = connected(path, 0.2)
    begin = time.monotonic()
    with closing(opened), pytest.raises(sqlite3.OperationalError, match="interrupted"):
        opened.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        ).fetchall()
    assert time.monotonic() - begin < 5
    with closing(connected(path)) as opened:
        for statement in ("SELECT * FROM loads", "SELECT * FROM peeks", "DELETE FROM t", "ATTACH 'x.sqlite' AS x"):
            with pytest.raises(sqlite3.Error):
                opened.execute(statement).fetchall()
    assert hashes(tmp_path) == before
