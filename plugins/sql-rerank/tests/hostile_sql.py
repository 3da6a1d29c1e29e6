"""Statements that try to write, reach, or never end, and a database that helps them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from hostile_more import more
from hostile_places import odd, places

SCHEMA = """
CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, note TEXT, twice INT GENERATED ALWAYS AS (id * 2) VIRTUAL);
CREATE TABLE concert (id INTEGER PRIMARY KEY, singer_id INTEGER REFERENCES singer(id), title TEXT);
CREATE TABLE swollen (a INTEGER);
CREATE VIEW known AS SELECT name FROM singer;
CREATE VIEW endless AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c;
CREATE TABLE logged (word TEXT);
CREATE TRIGGER watch AFTER INSERT ON singer BEGIN INSERT INTO logged VALUES (new.name); END;
CREATE INDEX by_name ON singer (name);
"""


def build(path: Path) -> None:
    """A database with views, triggers, generated columns, and a full-text table where SQLite has them."""
    made = sqlite3.connect(path)
    made.executescript(SCHEMA)
    made.executemany(
        "INSERT INTO singer (id, name, note) VALUES (?, ?, ?)", [(i, f"n{i}", "x" * i) for i in range(1, 400)]
    )
    made.executemany("INSERT INTO concert VALUES (?, ?, ?)", [(i, 1 + i % 99, f"show {i}") for i in range(1, 400)])
    made.execute("INSERT INTO swollen (a) VALUES (900000000)")
    made.execute("ALTER TABLE swollen ADD COLUMN b TEXT GENERATED ALWAYS AS (printf('%.*c', a, 'x')) VIRTUAL")
    try:
        made.executescript("CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES ('tea and time');")
    except sqlite3.OperationalError:
        made.execute("CREATE TABLE words (body TEXT)")
    made.commit()
    made.close()


def writes(outside: Path) -> Iterator[str]:
    """DDL, DML, transactions, and every way to a file."""
    yield from (
        "DROP TABLE singer",
        "DROP TABLE IF EXISTS singer",
        "DROP VIEW known",
        "DROP INDEX by_name",
        "DROP TRIGGER watch",
        "DELETE FROM singer",
        "DELETE FROM singer WHERE id IN (SELECT id FROM concert)",
        "UPDATE singer SET name = NULL",
        "UPDATE OR REPLACE singer SET id = 1",
        "INSERT INTO singer (name) VALUES ('x')",
        "INSERT OR REPLACE INTO singer (id, name) VALUES (1, 'x')",
        "INSERT INTO singer (name) SELECT name FROM singer RETURNING id",
        "REPLACE INTO concert VALUES (1, 1, 'x')",
        "WITH x AS (SELECT 1) INSERT INTO logged SELECT * FROM x",
        "WITH x AS (SELECT 1) DELETE FROM singer WHERE id IN x RETURNING *",
        "WITH x AS (SELECT 1) UPDATE singer SET name = 'y' RETURNING name",
        "CREATE TABLE t (a)",
        "CREATE TABLE t AS SELECT * FROM singer",
        "CREATE TEMP TABLE t AS SELECT * FROM singer",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE INDEX i ON singer (note)",
        "CREATE UNIQUE INDEX i ON singer (note)",
        "CREATE TRIGGER g AFTER DELETE ON singer BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE f USING fts5(a)",
        "CREATE VIRTUAL TABLE f USING fts4(a)",
        "CREATE VIRTUAL TABLE f USING csv(filename='/etc/passwd')",
        "CREATE VIRTUAL TABLE temp.f USING dbstat",
        "CREATE TABLE g (a, b GENERATED ALWAYS AS (load_extension('x')))",
        "ALTER TABLE singer RENAME TO z",
        "ALTER TABLE singer ADD COLUMN z",
        "ALTER TABLE singer DROP COLUMN note",
        "ALTER TABLE singer RENAME COLUMN note TO z",
        "REINDEX",
        "REINDEX singer",
        "ANALYZE",
        "ANALYZE singer",
        "VACUUM",
        "VACUUM main",
        f"VACUUM INTO '{outside}/vacuum.db'",
        f"VACUUM main INTO '{outside}/vacuum.db'",
        f"ATTACH '{outside}/attached.db' AS other",
        f"ATTACH DATABASE 'file:{outside}/attached.db?mode=rwc' AS other",
        "ATTACH ':memory:' AS other",
        "ATTACH '' AS other",
        "DETACH main",
        "BEGIN",
        "BEGIN EXCLUSIVE",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT s",
        "RELEASE s",
        "ROLLBACK TO s",
        "EXPLAIN SELECT 1",
        "EXPLAIN QUERY PLAN SELECT 1",
        "QUERY PLAN SELECT 1",
        "/* c */ QUERY PLAN SELECT * FROM singer",
        "INSERT INTO words(words) VALUES ('rebuild')",
        "INSERT INTO words(words, rank) VALUES ('merge', 500)",
        "INSERT INTO words(words) VALUES ('delete-all')",
        "INSERT INTO words(words, rank) VALUES ('secure-delete', 1)",
    )
    for pragma in (
        "writable_schema = ON",
        "journal_mode = WAL",
        "journal_mode = DELETE",
        "user_version = 7",
        "application_id = 7",
        "query_only = OFF",
        "trusted_schema = ON",
        "temp_store_directory = '/tmp'",
        "temp_store = 1",
        "hard_heap_limit = 0",
        "cache_size = 100000000",
        "mmap_size = 100000000000",
        "wal_checkpoint(TRUNCATE)",
        "incremental_vacuum",
        "optimize",
        "integrity_check",
        "schema_version = 9",
        "foreign_keys = ON",
        "threads = 8",
        "database_list",
        "table_info(singer)",
        "module_list",
    ):
        yield f"PRAGMA {pragma}"


def reaches(outside: Path) -> Iterator[str]:
    """Functions and tables that read files, load code, or tell about the machine."""
    calls = (
        "load_extension('evil')",
        "load_extension('/lib/x86_64-linux-gnu/libc.so.6', 'system')",
        f"writefile('{outside}/written', 'x')",
        "readfile('/etc/passwd')",
        "edit('x', 'sh')",
        "fts3_tokenizer('simple')",
        "fts3_tokenizer('simple', x'4141414141414141')",
        "lsmode('x')",
        "randomblob(1000000000)",
        "zeroblob(1000000000)",
        "random()",
        "sqlite_compileoption_get(1)",
        "sqlite_version()",
        "sqlite_source_id()",
        "sqlite_log(1, 'x')",
        "changes()",
        "last_insert_rowid()",
        "fts5(1)",
        "fts5_source_id()",
        "subtype(1)",
        "sqlite_rename_table('a', 'b', 'c', 'd', 'e', 'f', 'g')",
        "sqlite_drop_column(0, 'x', 1)",
        'load_extension("evil")',
        "\"load_extension\"('evil')",
        "[load_extension]('evil')",
        "LOAD_EXTENSION('evil')",
        "load_extension/**/('evil')",
    )
    for call in calls:
        yield f"SELECT {call}"
        yield f"SELECT name FROM singer WHERE {call} OR 1"
    for table in (
        "sqlite_master",
        "sqlite_schema",
        "sqlite_temp_master",
        "sqlite_temp_schema",
        "main.sqlite_master",
        "sqlite_sequence",
        "sqlite_dbpage",
        "sqlite_stmt",
        "dbstat",
        "bytecode('SELECT 1')",
        "tables_used('SELECT 1')",
        "fsdir('/')",
        "zipfile('/tmp/x.zip')",
        "csv",
        "pragma_database_list",
        "pragma_table_info('singer')",
        "pragma_function_list",
        "pragma_module_list",
        "pragma_compile_options",
        "pragma_journal_mode('WAL')",
        "fts5vocab",
        "other.singer",
    ):
        yield f"SELECT * FROM {table}"
        yield f"SELECT count(*) FROM {table}"


def bombs() -> Iterator[str]:
    """Too long, too deep, too large, never ending."""
    counting = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
    yield counting + "SELECT count(*) FROM c"
    yield counting + "SELECT x FROM c"
    yield counting + "SELECT max(x) FROM c WHERE x < 0"
    yield counting + "SELECT group_concat(x) FROM c"
    yield counting + "SELECT name FROM singer WHERE id IN (SELECT x FROM c) ORDER BY (SELECT count(*) FROM c)"
    yield "WITH RECURSIVE c(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM c) SELECT length(x) FROM c"
    yield "WITH RECURSIVE c(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM c) SELECT max(length(x)) FROM c"
    yield "WITH RECURSIVE c(x, y) AS (SELECT 1, 1 UNION SELECT x + 1, y * x FROM c, singer) SELECT sum(y) FROM c"
    yield "SELECT * FROM endless"
    yield "SELECT count(*) FROM endless, endless AS e"
    yield "SELECT length(b) FROM swollen"
    yield "SELECT b FROM swollen"
    yield "SELECT a FROM swollen WHERE b LIKE '%y%'"
    for size in (10**6, 10**8, 10**9, 2**31 - 1):
        yield f"SELECT length(printf('%.*c', {size}, 'x'))"
        yield f"SELECT printf('%{size}d', 1)"
        yield f"SELECT hex(printf('%.*c', {size // 2}, 'x')) FROM singer"
        yield f"SELECT substr(printf('%0{size}d', 7), 3)"
        yield f"SELECT round(1.5, {size})"
        yield f"SELECT name FROM singer LIMIT {size} OFFSET {size}"
    yield "SELECT length(replace(printf('%.*c', 1000000, 'x'), 'x', printf('%.*c', 1000, 'y')))"
    yield "SELECT replace(replace(replace(note, 'x', 'xxxxxxxxxx'), 'x', 'xxxxxxxxxx'), 'x', 'xxxxxxxxxx') FROM singer"
    yield "SELECT group_concat(a.note) FROM singer a, singer b, singer c"
    yield "SELECT json_group_array(a.note) FROM singer a, singer b, singer c"
    yield "SELECT json_group_array(json_array(a.note, b.note)) FROM singer a, singer b"
    yield "SELECT count(*) FROM json_tree('" + "[" * 900 + "]" * 900 + "')"
    yield "SELECT json('" + "[" * 5000 + "]" * 5000 + "')"
    yield "SELECT json_extract('" + '{"a":' * 900 + "1" + "}" * 900 + "', '$" + ".a" * 900 + "')"
    yield "SELECT count(*) FROM json_each('[" + "1," * 5000 + "1]') a, json_each('[" + "1," * 3000 + "1]') b, singer c"
    yield "SELECT json_valid(printf('%.*c', 3000000, '['))"
    for tables in (3, 6, 20, 60, 70):
        yield "SELECT count(*) FROM " + ", ".join(f"singer AS s{i}" for i in range(tables))
        yield "SELECT count(*) FROM singer AS s0 " + " ".join(
            f"JOIN singer AS s{i} ON s{i}.id + s{i - 1}.id > {i}" for i in range(1, tables)
        )
    yield "SELECT a.id FROM singer a, singer b, singer c ORDER BY a.note || b.note || c.note"
    yield "SELECT DISTINCT a.note || b.note || c.id FROM singer a, singer b, concert c"
    yield "SELECT sum(a.id) OVER (ORDER BY b.note ROWS BETWEEN 100000 PRECEDING AND CURRENT ROW) FROM singer a, singer b"
    for count in (70, 300, 3000, 6000):
        yield "SELECT " + "(" * count + "1" + ")" * count
        yield "SELECT " + "- " * count + "1"
        yield "SELECT " + "NOT " * count + "1"
        yield "SELECT " + "~" * count + "1"
        yield "SELECT " + "1+" * count + "1"
        yield "SELECT " + "'a'||" * min(count, 3000) + "'a'"
        yield "SELECT " + "abs(" * min(count, 3000) + "1" + ")" * min(count, 3000)
        yield "SELECT * FROM " + "(SELECT * FROM " * min(count, 900) + "singer" + ")" * min(count, 900)
        yield "SELECT 1 " + "UNION SELECT 1 " * min(count, 1200)
        yield "SELECT 1 WHERE 1 IN (" + "1," * count + "1)"
        yield "SELECT " + "CASE WHEN 1 THEN " * min(count, 800) + "1" + " END" * min(count, 800)
        yield "SELECT " + ",".join(["1"] * count)
        yield "SELECT 1 WHERE " + "1 AND " * min(count, 3000) + "1"
        yield "SELECT max(" + ",".join(["1"] * count) + ")"
        yield "SELECT name FROM singer ORDER BY " + ",".join(["1"] * count)
    yield "SELECT '" + "x" * 1_000_000 + "'"
    yield "SELECT " + "1 + " * 250_000 + "1"
    yield "SELECT 1 /* " + "x" * 1_000_000 + " */"
    yield "SELECT 1 -- " + "é" * 600_000
    yield " " * 1_000_000 + "SELECT 1"
    yield "SELECT max(min(max(sum(id)))) FROM singer"
    yield "SELECT sum(count(*)) FROM singer"
    yield "SELECT count(count(count(id))) FROM singer GROUP BY sum(id)"
    for count in (100, 400, 5000):
        yield "SELECT name FROM singer WHERE note LIKE '" + "%x" * count + "%y'"
        yield "SELECT name FROM singer WHERE note GLOB '" + "*x" * count + "*y'"
        yield f"SELECT name FROM singer WHERE printf('%.*c', {count * 100}, 'x') LIKE '{'%x' * 90}%y'"
        yield f"SELECT name FROM singer WHERE printf('%.*c', {count * 100}, 'x') GLOB '{'*x' * 90}*y'"


def tricks() -> Iterator[str]:
    """Several statements, comments, quoting and characters."""
    yield from (
        "SELECT 1; DROP TABLE singer",
        "SELECT 1;; DROP TABLE singer",
        "SELECT 1; -- x\nDROP TABLE singer",
        "SELECT 1 /* ; */ ; DELETE FROM singer",
        "; DROP TABLE singer",
        "-- SELECT 1\nDROP TABLE singer",
        "/* SELECT 1 */ DROP TABLE singer",
        "/* SELECT 1 -- */ DELETE FROM singer --",
        "SELECT 1\0; DROP TABLE singer",
        "\ufeffDROP TABLE singer",
        "\u200bDROP TABLE singer",
        "DROP\u00a0TABLE singer",
        "DROP\u3000TABLE singer",
        "\uff24\uff32\uff2f\uff30 TABLE singer",
        "DR\u200cOP TABLE singer",
        "SELECT '\u202e'; DROP TABLE singer",
        "SELECT \u2018x\u2019",
        "SELECT 'x\u02bc; DROP TABLE singer --'",
        "SELECT '\ud800'",
        "SELECT char(0); DELETE FROM singer",
        "SELECT ?1",
        "SELECT :name",
        "SELECT @x, $y",
        "",
        "   \n\t ",
        ";",
        ";;;",
        "--",
        "/*",
        "/* never closed",
        "'",
        '"',
        "SELECT 'never closed",
        'SELECT "never closed',
        "SELECT (((",
        "SELECT )))",
        "SELECT",
        "sElEcT 1 uNiOn aLl dRoP tAbLe singer",
        "VALUES (1); DROP TABLE singer",
        ".read /etc/passwd",
        ".shell ls",
        "\\! ls",
        "GRANT ALL ON singer TO x",
        "TRUNCATE TABLE singer",
        "EXEC xp_cmdshell 'ls'",
        "SELECT * INTO OUTFILE '/tmp/x' FROM singer",
        "COPY singer TO '/tmp/x'",
        "SELECT raise(ABORT, 'x')",
        "SELECT RAISE(IGNORE)",
    )


def statements(outside: Path) -> list[str]:
    """All of them, none twice."""
    groups = writes(outside), reaches(outside), places(outside), bombs(), tricks(), odd(), more(outside)
    return list(dict.fromkeys(sql for group in groups for sql in group))
