"""Promises of the sandbox before a PostgreSQL server, which the test starts itself."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres_server import program, server

from slt_sql_rerank.sandbox import Limits
from sltcore.errors import DataError

pytestmark = pytest.mark.skipif(
    program("initdb") is None or program("pg_ctl") is None,
    reason="PostgreSQL's programs initdb and pg_ctl are not here",
)
sqlalchemy = pytest.importorskip("sqlalchemy")
psycopg = pytest.importorskip("psycopg")

TABLES = """
CREATE TABLE singer (id integer PRIMARY KEY, name varchar(20), born date, fee numeric, photo bytea, active boolean);
CREATE TABLE concert (id integer PRIMARY KEY, singer_id integer REFERENCES singer(id), title text);
INSERT INTO singer VALUES (1, 'Ada', '1990-02-03', 12.5, '\\x00ff', true), (2, 'Bo', NULL, 3, NULL, false);
INSERT INTO concert SELECT g, 1 + g % 2, 'show ' || g FROM generate_series(1, 30) g;
CREATE SEQUENCE numbers;
CREATE ROLE reader LOGIN; GRANT SELECT ON singer, concert TO reader; GRANT ALL ON numbers TO reader;
CREATE ROLE files LOGIN; GRANT pg_read_server_files TO files;
"""


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a socket's path may have 107 characters at most
    try:
        with server(folder) as place:
            with psycopg.connect(f"host={place} user=root dbname=postgres", autocommit=True) as root:
                root.execute(TABLES)
            yield place
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def url(socket: str, user: str) -> str:
    return f"postgresql+psycopg://{user}@/postgres?host={socket}"


@pytest.fixture(scope="module")
def sandbox(socket: str) -> Iterator[Any]:
    from slt_sql_rerank.sandbox.server import ServerSandbox

    made = ServerSandbox(url(socket, "reader"), Limits(rows=50, check_seconds=5))
    yield made
    made.close()


def contents(socket: str) -> Any:
    with psycopg.connect(f"host={socket} user=root dbname=postgres") as root:
        rows = [root.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in ("singer", "concert")]
        names = root.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
        ).fetchall()
        return rows, names, root.execute("SELECT last_value, is_called FROM numbers").fetchall()


def test_rows_come_typed(sandbox: Any) -> None:
    result = sandbox.execute("SELECT id, name, born, fee, photo, active FROM singer ORDER BY id")
    assert result.columns == ("id", "name", "born", "fee", "photo", "active")
    assert result.rows == ((1, "Ada", "1990-02-03", 12.5, b"\x00\xff", 1), (2, "Bo", None, 3, None, 0))


def test_what_a_query_reads_is_told(sandbox: Any) -> None:
    verdict = sandbox.check(
        "SELECT s.name FROM singer AS s JOIN concert AS c ON s.id = c.singer_id WHERE title LIKE 's%'"
    )
    assert verdict.ok
    assert set(verdict.reads) == {("singer", "name"), ("singer", "id"), ("concert", "singer_id"), ("concert", "title")}
    assert [(key.table, key.other_table) for key in sandbox.schema.foreign_keys] == [("concert", "singer")]
    assert sandbox.schema.column("singer", "fee").family == "number"


WRITES = [
    "DROP TABLE singer",
    "DELETE FROM singer",
    "UPDATE singer SET name = 'x'",
    "INSERT INTO singer (id) VALUES (9)",
    "WITH gone AS (DELETE FROM singer RETURNING id) SELECT * FROM gone",
    "SELECT * INTO copied FROM singer",
    "SELECT * FROM singer FOR UPDATE",
    "CREATE TABLE x (a integer)",
    "SELECT 1; DROP TABLE singer",
    "SELECT 1; COMMIT; DROP TABLE singer",
    "COMMIT",
    "SET default_transaction_read_only = off",
    "SELECT set_config('transaction_read_only', 'off', false)",
    "SELECT nextval('numbers')",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT \"pg_read_file\"('/etc/passwd')",
    "SELECT pg_catalog.pg_ls_dir('/')",
    "SELECT * FROM pg_read_file('/etc/passwd')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT pg_terminate_backend(1)",
    "COPY singer TO '/tmp/x'",
    "COPY singer TO PROGRAM 'touch /tmp/x'",
    "EXPLAIN ANALYZE DELETE FROM singer",
    "DO $$ BEGIN DELETE FROM singer; END $$",
    "CALL something()",
    "LISTEN x",
    "VACUUM",
    "PREPARE p AS DELETE FROM singer",
    "SELECT query_to_xml('DELETE FROM singer', true, true, '')",
    "SELECT repeat('x', 1000000000)",
    "SELECT lpad('x', 1000000000)",
    "SELECT count(*) FROM generate_series(1, 100000000)",
    "SELECT query FROM pg_stat_activity",
    "SELECT setting FROM pg_catalog.pg_settings",
    'SELECT name FROM singer WHERE name IN (SELECT usename FROM "pg_user")',
    "SELECT table_name FROM information_schema.tables",
    "WITH x AS (SELECT * FROM PG_ROLES) SELECT count(*) FROM x",
    "TABLE pg_stat_activity",
    "SELECT format('%1000000000s', 'x')",
    "SELECT pg_sleep(100)",
    "SELECT pg_advisory_lock(1)",
    "SELECT dblink('host=x', 'SELECT 1')",
    "SELECT current_setting('data_directory')",
    "SELECT version()",
    "SELECT database_to_xml(true, true, '')",
    "SELECT * FROM pg_ls_waldir()",
    "SELECT xmlparse(document '<!DOCTYPE x [<!ENTITY y SYSTEM \"file:///etc/passwd\">]><x>&y;</x>')",
    "SELECT * FROM ROWS FROM (pg_read_file('/etc/passwd')) AS x",
    "SELECT currval('numbers'), setval('numbers', 9)",
    "SELECT lo_put(1, 0, 'x')",
    "REFRESH MATERIALIZED VIEW x",
    "LOCK TABLE singer",
    "NOTIFY x, 'y'",
    "EXECUTE p",
    "FETCH 1 FROM candidate",
]


@pytest.mark.parametrize("sql", WRITES)
def test_nothing_but_a_query_passes(sandbox: Any, socket: str, sql: str) -> None:
    before = contents(socket)
    for outcome in (sandbox.check(sql), sandbox.execute(sql, 1.0)):
        assert not outcome.ok
        assert outcome.code in ("write", "refused", "error")
        assert outcome.reason
        assert "\n" not in outcome.reason
    assert contents(socket) == before


@pytest.mark.parametrize("sql", ["SELECT 1; DROP TABLE singer", "SELECT 1; COMMIT; DROP TABLE singer"])
def test_the_server_refuses_several_statements_even_past_the_first_door(
    sandbox: Any, socket: str, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlglot

    before = contents(socket)
    monkeypatch.setattr(sandbox, "_parsed", lambda text: sqlglot.parse_one("SELECT 1", read="postgres"))
    for outcome in (sandbox.check(sql), sandbox.execute(sql)):
        assert "cannot insert multiple commands into a prepared statement" in outcome.reason
    assert contents(socket) == before


@pytest.mark.parametrize(
    "sql", ["WITH x AS (DELETE FROM singer RETURNING id) SELECT * FROM x", "SELECT nextval('numbers')"]
)
def test_the_transaction_is_read_only_even_past_the_first_door(
    sandbox: Any, socket: str, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlglot

    before = contents(socket)
    monkeypatch.setattr(sandbox, "_parsed", lambda text: sqlglot.parse_one("SELECT 1", read="postgres"))
    outcome = sandbox.execute(sql)
    assert not outcome.ok
    assert outcome.code in ("write", "refused")
    assert contents(socket) == before


def test_the_deadline_ends_a_query(sandbox: Any) -> None:
    started = time.monotonic()
    result = sandbox.execute(
        "SELECT count(*) FROM concert a, concert b, concert c, concert d, concert e, concert f", 0.3
    )
    assert (result.code, result.reason) == ("time", "it did not end within 0.3 s")
    assert time.monotonic() - started < 1.0
    assert sandbox.execute("SELECT 1").ok


def test_rows_are_capped(sandbox: Any) -> None:
    result = sandbox.execute("SELECT a.id FROM concert a, concert b")
    assert (result.code, result.reason) == ("limit", "the result has more than 50 rows")


def test_reasons_of_bad_sql_are_the_servers(sandbox: Any) -> None:
    assert sandbox.check("SELECT nosuch FROM singer").reason == 'column "nosuch" does not exist'
    assert sandbox.check("").reason == "the text is empty"
    assert sandbox.check("SELECT 1, FROM FROM").code == "error"


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("root", r"role 'root' of .* is a superuser, who reaches more than tables; connect as a role that has SELECT"),
        ("files", r"role 'files' of .* is a member of pg_read_server_files, who reaches more than tables"),
        ("nobody_here", r"postgresql\+psycopg://nobody_here@.* cannot be reached: .*"),
    ],
)
def test_a_role_that_may_do_more_is_refused(socket: str, user: str, said: str) -> None:
    from slt_sql_rerank.sandbox.server import ServerSandbox

    with pytest.raises(DataError, match=said):
        ServerSandbox(url(socket, user))


def test_other_kinds_of_servers_are_refused_by_name() -> None:
    from slt_sql_rerank.sandbox.server import ServerSandbox

    with pytest.raises(DataError, match=r"is of kind 'mysql'; a sandbox reads SQLite files \(Sandbox\) and PostgreSQL"):
        ServerSandbox("mysql://me:secret@host/x")
