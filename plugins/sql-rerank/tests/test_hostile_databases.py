"""Promises of the sandbox on files that are themselves hostile, damaged, written, or replaced."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Timer

import pytest
from hostile_sql import build
from test_sandbox_hostile import hashes

from slt_sql_rerank.databases import Sandboxes, schema_of
from slt_sql_rerank.metrics import make_instances
from slt_sql_rerank.sandbox import Limits, Sandbox
from slt_sql_rerank.schema import from_sqlite
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


def test_reading_a_schema_gives_views_that_cannot_be_used_no_columns(tmp_path: Path) -> None:
    path = make(tmp_path / "h.sqlite", CREATED)
    before = hashes(tmp_path)
    columns = {entry.name: [column.name for column in entry.columns] for entry in from_sqlite(path).tables}
    assert columns["t"] == ["a", "b"]
    assert columns["loads"] == columns["lost"] == []
    assert columns["writes"] == ["a"]
    assert hashes(tmp_path) == before


def unfolding(path: Path) -> Path:
    """A file whose last view has a million times a million tables behind it."""
    views = "".join(f"CREATE VIEW v{i + 1} AS SELECT l.a FROM v{i} l, v{i} r;" for i in range(40))
    return make(path, f"CREATE TABLE v0 (a); INSERT INTO v0 VALUES (1);{views} CREATE TABLE late (b);")


def test_reading_a_schema_outlives_views_that_unfold_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite asks no progress handler while it compiles, so that only another process can be stopped."""
    monkeypatch.setattr("slt_sql_rerank.sandbox.sandbox.TABLE_SECONDS", 0.5)
    columns = {entry.name: len(entry.columns) for entry in from_sqlite(unfolding(tmp_path / "u.sqlite")).tables}
    assert len(columns) == 42
    assert columns["v0"] == columns["v3"] == columns["late"] == 1
    assert columns["v40"] == 0


def test_reading_a_schema_ends_in_time_or_tells_where(tmp_path: Path) -> None:
    with Sandbox(unfolding(tmp_path / "u.sqlite"), spare=False) as sandbox:
        begin = time.monotonic()
        with pytest.raises(
            DataError, match=r"u\.sqlite cannot be read as a SQLite database in time: it stopped at 'v?\w+'"
        ):
            sandbox.tables(seconds=0.5)
        assert time.monotonic() - begin < 10
        assert sandbox.execute("SELECT a FROM v0").rows == ((1,),)


MAKING = """
CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT DEFAULT (lower(hex(randomblob(4)))));
INSERT INTO t (a) VALUES ('x'), ('y'), (printf('%.*c', 50000, 'z'));
"""


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("CREATE TABLE w (a, b DEFAULT (sqlite_source_id()));", None),
        ("CREATE VIRTUAL TABLE w USING fts5(a);", None),
        ("CREATE TABLE w (a, CHECK (sqlite_source_id() > a));", "not authorized to use function: sqlite_source_id"),
        (
            "CREATE VIRTUAL TABLE w USING fts5(a); PRAGMA writable_schema = ON;"
            "UPDATE sqlite_master SET sql = 'CREATE/**/VIRTUAL TABLE w USING fts5(a)' WHERE name = 'w';",
            "table 'w' of database 'm' cannot be made again: not authorized",
        ),
    ],
)
def test_making_instances_calls_no_more_than_a_candidate_may(tmp_path: Path, declared: str, said: str | None) -> None:
    path = make(tmp_path / "m.sqlite", MAKING + declared)
    before = path.read_bytes()
    begin = time.monotonic()
    if said is None:
        for file in make_instances(path, tmp_path / "made", count=3):
            with closing(sqlite3.connect(file)) as opened:
                assert max(opened.execute("SELECT max(length(a)) FROM t").fetchone()[0] or 0, 1) < 20_000
    else:
        with pytest.raises(DataError, match=said):
            make_instances(path, tmp_path / "made", count=3)
    assert time.monotonic() - begin < 30
    assert path.read_bytes() == before


def test_making_instances_ends_in_time_where_a_check_never_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slt_sql_rerank.filling.SECONDS", 1.0)
    slow = "instr(printf('%.*c', 99000, 'x') || a, printf('%.*c', 49000, 'x') || 'y')"
    path = make(tmp_path / "m.sqlite", f"CREATE TABLE w (a TEXT, CHECK ({' + '.join([slow] * 150)} = 0));")
    with pytest.raises(DataError, match=r"database 'm' cannot be made again: it was not done in 3 s"):
        make_instances(path, tmp_path / "made", count=1)


def test_making_instances_ends_in_time_where_a_column_never_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slt_sql_rerank.metrics.instances.READ_SECONDS", 0.5)
    slow = "instr(printf('%.*c', 3000000, a), printf('%.*c', 1500000, a) || 'y')"  # one call
    path = make(tmp_path / "m.sqlite", "CREATE TABLE t (a); INSERT INTO t VALUES ('x');")
    with closing(sqlite3.connect(path)) as made:
        made.execute(f"ALTER TABLE t ADD COLUMN b GENERATED ALWAYS AS ({slow}) VIRTUAL")
    with pytest.raises(DataError, match=r"column t\.b cannot be read: it did not end within 0\.5 s"):
        make_instances(path, tmp_path / "made", count=1)


def test_a_result_of_a_file_that_was_written_meanwhile_is_not_given(tmp_path: Path) -> None:
    path = make(tmp_path / "t.sqlite", "CREATE TABLE t (a); INSERT INTO t VALUES (1);")
    slow = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 6000000) SELECT count(*), (SELECT a FROM t) FROM c"
    with Sandbox(path) as sandbox:
        writer = Timer(0.1, lambda: make(path, "UPDATE t SET a = 2"))
        writer.start()
        result = sandbox.execute(slow, 60)
        writer.join()
        assert (result.code, result.reason) == ("error", "the file was written while this ran; ask again")
        assert sandbox.execute("SELECT a FROM t").rows == ((2,),)


def test_a_file_written_under_its_old_size_and_time_is_opened_anew(tmp_path: Path) -> None:
    path = make(tmp_path / "t.sqlite", "CREATE TABLE t (a); INSERT INTO t VALUES (1);")
    was = path.stat()
    with Sandbox(path) as sandbox:
        assert sandbox.execute("SELECT a FROM t").rows == ((1,),)
        assert [column.name for column in schema_of(path).columns] == ["a"]
        make(path, "UPDATE t SET a = 2; ALTER TABLE t RENAME COLUMN a TO b")
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
        assert path.stat().st_size == was.st_size
        assert sandbox.execute("SELECT b FROM t").rows == ((2,),)
        assert [column.name for column in schema_of(path).columns] == ["b"]


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.sqlite")
    (tmp_path / "folder.sqlite").mkdir()
    (tmp_path / "loop.sqlite").symlink_to(tmp_path / "loop.sqlite")
    (tmp_path / "device.sqlite").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "loop", "device", "file:x?mode=rwc&x="):
        for reading in (Sandbox, from_sqlite, schema_of, Sandboxes().of):
            with pytest.raises(DataError, match=r"is no file; "):
                reading(tmp_path / f"{name}.sqlite")  # type: ignore[operator]
    assert len(list(tmp_path.iterdir())) == 4


def test_an_empty_file_has_no_tables_and_stays_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.sqlite"
    path.touch()
    assert from_sqlite(path).tables == ()
    with Sandbox(path) as sandbox:
        assert sandbox.execute("SELECT 1").rows == ((1,),)
        assert not sandbox.execute("CREATE TABLE t (a)").ok
    assert path.read_bytes() == b""
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_looks_like_a_uri_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "file:t.sqlite?mode=rwc&vfs=unix-none#x%20%41"
    make(tmp_path / "plain.sqlite", "CREATE TABLE t (a); INSERT INTO t VALUES (3);").rename(tmp_path / name)
    before = hashes(tmp_path)
    monkeypatch.chdir(tmp_path)
    with Sandbox(name) as sandbox:
        assert sandbox.execute("SELECT a FROM t").rows == ((3,),)
        assert not sandbox.execute("DELETE FROM t").ok
        monkeypatch.chdir("/")  # a relative name stays the file that it was
        assert sandbox.execute("SELECT a FROM t").rows == ((3,),)
    assert hashes(tmp_path) == before


@pytest.mark.parametrize(
    "url", ["sqlite:///{}/new.sqlite", "sqlite+pysqlite:///{}/new.sqlite", "file://{}/x", "mysql://a/b"]
)
def test_a_url_of_another_kind_is_refused_and_makes_no_file(tmp_path: Path, url: str) -> None:
    pytest.importorskip("sqlalchemy")
    for reading in (schema_of, Sandboxes().of):
        with pytest.raises(DataError, match=r"is of kind '.*'; a sandbox reads SQLite files"):
            reading(url.format(tmp_path))
    with pytest.raises(DataError, match=r"a URL that begins '://' cannot be read; expected postgresql"):
        schema_of("://user:secret@")
    assert list(tmp_path.iterdir()) == []
