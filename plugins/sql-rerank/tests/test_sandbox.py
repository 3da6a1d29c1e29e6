"""Promises of the sandbox on SQLite files."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_sql import build
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slt_sql_rerank.sandbox import Limits, Sandbox
from slt_sql_rerank.sandbox.precheck import depth
from sltcore.errors import DataError, SpecError

COUNTING = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
UNSTOPPABLE = "SELECT length(printf('%.*c', 900000000, 'x'))"  # one function call: no progress handler is asked


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sandbox") / "shop.sqlite"
    build(made)
    return made


@pytest.fixture(scope="module")
def sandbox(path: Path) -> Iterator[Sandbox]:
    with Sandbox(path) as made:
        yield made


class TestRows:
    def test_types_survive(self, sandbox: Sandbox) -> None:
        result = sandbox.execute("SELECT 1, -9223372036854775808, 0.1, 1e999, -0.0, 'é\n\"', x'00ff', NULL, '', x''")
        (row,) = result.rows
        assert row == (1, -(2**63), 0.1, math.inf, -0.0, 'é\n"', b"\x00\xff", None, "", b"")
        assert [type(cell) for cell in row] == [int, int, float, float, float, str, bytes, type(None), str, bytes]
        assert math.copysign(1, row[4]) == -1  # type: ignore[arg-type]

    def test_text_that_is_no_utf8_survives(self, sandbox: Sandbox) -> None:
        (row,) = sandbox.execute("SELECT CAST(x'61ff62' AS TEXT)").rows
        assert str(row[0]).encode("utf-8", "surrogateescape") == b"a\xffb"

    def test_they_are_those_of_a_plain_connection(self, sandbox: Sandbox, path: Path) -> None:
        plain = sqlite3.connect(path)
        for sql in (
            "SELECT * FROM singer",
            "SELECT s.name, count(*) AS n FROM singer s JOIN concert c ON s.id = c.singer_id GROUP BY 1",
        ):
            wanted = plain.execute(sql)
            result = sandbox.execute(sql)
            assert result.columns == tuple(entry[0] for entry in wanted.description)
            assert list(result.rows) == wanted.fetchall()
        plain.close()

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.one_of(st.integers(-(2**63) + 1, 2**63 - 1), st.floats(allow_nan=False), st.text(), st.binary(max_size=50))
    )
    def test_any_literal_comes_back(self, sandbox: Sandbox, value: int | float | str | bytes) -> None:
        if isinstance(value, str):
            value = value.replace("\0", "").encode("utf-8", "ignore").decode()
            literal = "'" + value.replace("'", "''") + "'"
        elif isinstance(value, bytes):
            literal = f"x'{value.hex()}'"
        elif isinstance(value, float) and math.isinf(value):
            literal = f"{'-' if value < 0 else ''}1e999"
        else:
            literal = repr(value)
        assert sandbox.execute(f"SELECT {literal}").rows == ((value,),)


class TestVerdicts:
    def test_what_is_read_is_told(self, sandbox: Sandbox) -> None:
        verdict = sandbox.check(
            "SELECT T1.name FROM singer AS T1 JOIN concert AS T2 ON T1.id = T2.singer_id WHERE lower(T2.title) = 'x'"
        )
        assert verdict.ok
        assert set(verdict.reads) == {
            ("singer", "name"),
            ("singer", "id"),
            ("concert", "singer_id"),
            ("concert", "title"),
        }
        assert verdict.functions == ("lower",)

    def test_a_table_without_columns_and_a_view_are_read_too(self, sandbox: Sandbox) -> None:
        assert sandbox.check("SELECT count(*) FROM singer").reads == (("singer", ""),)
        assert sandbox.check("SELECT name FROM known").reads == (("known", "name"),)

    def test_a_subquery_with_a_name_is_no_table(self, sandbox: Sandbox) -> None:
        verdict = sandbox.check("WITH x AS (SELECT id FROM singer) SELECT count(*) FROM x")
        assert verdict.ok
        assert verdict.reads == (("singer", "id"),)

    @pytest.mark.parametrize(
        ("sql", "code", "reason"),
        [
            ("DROP TABLE singer", "write", "a change of the schema is refused: the sandbox only reads"),
            ("DELETE FROM singer", "write", "DELETE singer is refused: the sandbox only reads"),
            ("PRAGMA user_version = 3", "write", "PRAGMA user_version 3 is refused: the sandbox only reads"),
            ("ATTACH 'x' AS y", "write", "ATTACH x is refused: the sandbox only reads"),
            ("BEGIN", "write", "a transaction BEGIN is refused: the sandbox only reads"),
            ("VACUUM INTO (SELECT name FROM singer)", "refused", "the statement is no query; expected one SELECT"),
            ("VACUUM", "refused", "the statement is no query; expected one SELECT"),
            ("QUERY PLAN SELECT 1", "refused", "the statement is no query; expected one SELECT"),
            ("SELECT 1; SELECT 2", "refused", "there are several statements; expected one SELECT"),
            ("SELECT load_extension('x')", "refused", "function 'load_extension' is not on the list of allowed ones"),
            ("SELECT * FROM sqlite_master", "refused", "table 'sqlite_master' is not one of the database's own"),
            ("SELECT count(*) FROM sqlite_master", "refused", "table 'sqlite_master' is not one of the database's own"),
            ("SELECT nosuch FROM singer", "error", "no such column: nosuch"),
            ("SELECT * FROM nosuch", "error", "no such table: nosuch"),
            ("SELECT ?", "error", "the statement has parameters, for which there are no values"),
            ("SELECT ?9", "error", "variable number must be between ?1 and ?8"),
            ("", "text", "the text is empty"),
            (" ; ", "text", "the text is empty"),
            ("SELECT 1\0", "text", "character 8 is NUL"),
            ("SELECT '\ud800'", "text", "character 8 is half a surrogate pair, which no text holds"),
            ("x" * 20_001, "text", "the text has 20001 characters; at most 20000 bytes are read"),
            ("é" * 19_000, "text", "the text has 38000 bytes; at most 20000 are read"),
            ("SELECT " + "(" * 65 + "1", "text", "the text is nested 65 deep; at most 64 is read"),
            ("SELECT " + "- " * 65 + "1", "text", "the text is nested 65 deep; at most 64 is read"),
        ],
    )
    def test_a_refusal_says_why(self, sandbox: Sandbox, sql: str, code: str, reason: str) -> None:
        for outcome in (sandbox.check(sql), sandbox.execute(sql)):
            assert (outcome.ok, outcome.code, outcome.reason) == (False, code, reason)

    def test_what_is_no_string_is_refused(self, sandbox: Sandbox) -> None:
        assert sandbox.check(None).reason == "a candidate is NoneType; expected a string"  # type: ignore[arg-type]

    def test_many_are_answered_in_order(self, sandbox: Sandbox) -> None:
        verdicts = sandbox.check_all(["SELECT 1", "", "SELECT nosuch", "SELECT name FROM singer"])
        assert [verdict.code for verdict in verdicts] == ["ok", "text", "error", "ok"]
        assert sandbox.check_all([]) == []

    def test_brackets_in_quotes_and_comments_are_not_counted(self) -> None:
        assert depth("SELECT '(((', \"((\", `(` -- ((((\n, (1) /* (( */") == 1
        assert depth("CASE WHEN 1 THEN CASE 2 WHEN (3) THEN 4 END END") == 3

    def test_functions_can_be_allowed(self, path: Path) -> None:
        with Sandbox(path, Limits(functions=frozenset({"count"}))) as strict:
            assert strict.check("SELECT count(*) FROM singer").ok
            assert (
                strict.check("SELECT max(id) FROM singer").reason == "function 'max' is not on the list of allowed ones"
            )


class TestCaps:
    @pytest.mark.parametrize(
        ("limits", "sql", "reason"),
        [
            (Limits(rows=10), "SELECT id FROM singer", "the result has more than 10 rows of 1 columns"),
            (Limits(cells=20), "SELECT id, name FROM singer", "the result has more than 10 rows of 2 columns"),
            (
                Limits(result_bytes=999),
                "SELECT replace(printf('%.*c', 600, 'x'), 'x', 'é')",
                "the result has more than 999 bytes",
            ),
            (Limits(result_bytes=999), "SELECT note FROM singer", "the result has more than 999 bytes"),
            (
                Limits(value_bytes=100, sql_bytes=90),
                "SELECT replace('aaaaaaaaaa', 'a', 'bbbbbbbbbbbbbbb')",
                "string or blob too big",
            ),
            (Limits(operations=20), "SELECT max(id), min(id), sum(id) FROM singer GROUP BY name", None),
        ],
    )
    def test_a_result_is_capped(self, path: Path, limits: Limits, sql: str, reason: str | None) -> None:
        with Sandbox(path, limits) as sandbox:
            result = sandbox.execute(sql)
            assert result.code in ("limit", "memory")
            assert reason is None or result.reason == reason

    def test_exactly_as_many_rows_as_allowed_are_given(self, path: Path) -> None:
        with Sandbox(path, Limits(rows=399)) as sandbox:
            assert len(sandbox.execute("SELECT id FROM singer").rows) == 399

    def test_memory_is_capped_and_the_next_statement_runs(self, path: Path) -> None:
        with Sandbox(path, Limits(memory_bytes=8 << 20)) as sandbox:
            result = sandbox.execute(
                "SELECT count(*) FROM (SELECT DISTINCT a.note || b.note || a.id || b.id FROM singer a, singer b)", 20
            )
            assert (result.code, result.reason) == ("memory", "it needs more than 8 MiB")
            assert sandbox.execute("SELECT 1").rows == ((1,),)
            assert sandbox.restarts == 1

    @pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="needs /proc")
    def test_the_process_may_open_and_write_nothing(self, sandbox: Sandbox) -> None:
        for pid in sandbox.pids[:1]:
            text = Path(f"/proc/{pid}/limits").read_text()
            lines = {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()}
            assert lines["Max file size"] == ["0", "0"]
            assert lines["Max core file size"] == ["0", "0"]
            assert int(lines["Max open files"][1]) <= 4
            assert lines["Max address space"][1] != "unlimited"

    @pytest.mark.parametrize("wrong", [{"rows": 0}, {"seconds": -1.0}, {"depth": 0}])
    def test_a_limit_of_nothing_is_refused(self, wrong: dict[str, float]) -> None:
        (name,) = wrong
        with pytest.raises(SpecError, match=f"limit '{name}' is .*; expected a number above 0"):
            Limits(**wrong)  # type: ignore[arg-type]


class TestDeadline:
    @pytest.mark.parametrize("sql", [COUNTING, UNSTOPPABLE])
    def test_it_holds_also_inside_one_function_call(self, path: Path, sql: str) -> None:
        with Sandbox(path) as sandbox:
            waits = []
            for _ in range(3):
                started = time.monotonic()
                result = sandbox.execute(sql, 0.2)
                waits.append(time.monotonic() - started)
                assert (result.code, result.reason) == ("time", "it did not end within 0.2 s")
            assert min(waits) < 0.3
            assert sandbox.execute("SELECT 1").ok

    def test_a_killed_process_is_replaced_by_one_that_was_ready(self, path: Path) -> None:
        with Sandbox(path) as sandbox:
            first, spare = sandbox.pids
            assert sandbox.execute(UNSTOPPABLE, 0.05).code == "time"
            assert sandbox.pids[0] == spare
            assert sandbox.restarts == 1
            with pytest.raises(ProcessLookupError):
                os.kill(first, 0)

    def test_a_death_is_blamed_on_one_statement_and_a_list_is_asked_again(self, path: Path) -> None:
        with Sandbox(path) as sandbox:
            os.kill(sandbox.pids[0], signal.SIGKILL)
            time.sleep(0.05)
            result = sandbox.execute("SELECT 1")
            assert result.code == "crash"
            assert result.reason == "the sandbox's process ended while it ran this: it was ended by signal 9"
            assert sandbox.execute("SELECT 1").ok
            os.kill(sandbox.pids[0], signal.SIGKILL)
            time.sleep(0.05)
            verdicts = sandbox.check_all(["SELECT 1", "SELECT 2", "SELECT nosuch"])
            assert [verdict.code for verdict in verdicts] == ["ok", "ok", "error"]
            assert sandbox.restarts == 2

    def test_a_slow_statement_among_many_is_the_only_one_that_is_late(self, tmp_path: Path) -> None:
        views = "".join(f"CREATE VIEW v{i + 1} AS SELECT l.a FROM v{i} l, v{i} r;" for i in range(30))
        with sqlite3.connect(tmp_path / "v.sqlite") as made:
            made.executescript(f"CREATE TABLE v0 (a);{views}")
        made.close()
        with Sandbox(tmp_path / "v.sqlite") as sandbox:
            verdicts = sandbox.check_all(["SELECT 1", "SELECT a FROM v30", "SELECT 2", "SELECT nosuch"], seconds=0.3)
            assert [verdict.code for verdict in verdicts][2:] == ["ok", "error"]
            assert verdicts[0].ok
            assert verdicts[1].code in ("time", "memory", "limit", "error")

    def test_a_deadline_of_nothing_is_refused(self, sandbox: Sandbox) -> None:
        with pytest.raises(SpecError, match=r"the deadline is 0 s; expected more than 0 and less than 1e\+06"):
            sandbox.execute("SELECT 1", 0)


class TestLife:
    def test_several_databases_are_told_apart(self, path: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.sqlite"
        with sqlite3.connect(other) as made:
            made.execute("CREATE TABLE only_here AS SELECT 5 AS five")
        made.close()
        with Sandbox({"a": path, "b": other}) as both:
            assert both.execute("SELECT five FROM only_here", database="b").rows == ((5,),)
            assert both.execute("SELECT five FROM only_here", database="a").reason == "no such table: only_here"
            with pytest.raises(DataError, match=r"no database was named; this sandbox has a, b\."):
                both.execute("SELECT 1")
            with pytest.raises(DataError, match=r"there is no database 'c'; this sandbox has a, b\."):
                both.execute("SELECT 1", database="c")

    def test_threads_share_it(self, sandbox: Sandbox) -> None:
        rows: list[tuple[int, object]] = []

        def ask(number: int) -> None:
            rows.extend((number, sandbox.execute(f"SELECT {number}", 5).rows) for _ in range(20))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(rows) == 80
        assert all(given == ((number,),) for number, given in rows)

    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    def test_a_fork_gets_processes_of_its_own(self, path: Path) -> None:
        with Sandbox(path) as sandbox:
            mine = sandbox.pids
            child = os.fork()
            if child == 0:
                same = sandbox.execute("SELECT 7").rows == ((7,),) and not set(sandbox.pids) & set(mine)
                sandbox.close()
                os._exit(0 if same else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert sandbox.execute("SELECT 8").rows == ((8,),)
            assert sandbox.pids == mine

    def test_closing_ends_the_processes_and_it_can_be_used_again(self, path: Path) -> None:
        sandbox = Sandbox(path)
        pids = sandbox.pids
        sandbox.close()
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        assert sandbox.execute("SELECT 1").ok
        sandbox.close()

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (None, r"nothing\.sqlite is no file; expected a SQLite database"),
            (b"hello, this is text", r"is no SQLite database: it begins with b'hello"),
            (
                b"SQLite format 3\x00" + b"x" * 2000,
                r"cannot be opened: (file is not a database|database disk image is malformed)",
            ),
        ],
    )
    def test_what_is_no_database_is_refused(self, tmp_path: Path, content: bytes | None, said: str) -> None:
        file = tmp_path / "nothing.sqlite"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(DataError, match=said):
            Sandbox(file)

    def test_an_open_write_ahead_log_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "busy.sqlite"
        writer = sqlite3.connect(file)
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE t (a)")
        writer.commit()
        with pytest.raises(DataError, match=r"has \d+ bytes in its write-ahead log, which a read-only copy misses"):
            Sandbox(file)
        writer.close()
        with Sandbox(file) as sandbox:
            assert sandbox.check("SELECT a FROM t").ok

    def test_no_database_is_refused(self) -> None:
        with pytest.raises(
            DataError, match="no database was given; expected the path of a SQLite file, or paths by name"
        ):
            Sandbox({})
