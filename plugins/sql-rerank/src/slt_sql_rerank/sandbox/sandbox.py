"""Statements of strangers against SQLite files, none of which can change."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from slt_sql_rerank.files import read_only, stamp
from slt_sql_rerank.sandbox.limits import Limits
from slt_sql_rerank.sandbox.locks import ForkedLock
from slt_sql_rerank.sandbox.outcome import Cell, Declared, Field, Result, Verdict
from slt_sql_rerank.sandbox.precheck import refusal
from slt_sql_rerank.sandbox.process import Gone, Late, Process
from sltcore.errors import DataError, SltError, SpecError, did_you_mean

Work = Literal["check", "run", "list", "describe"]
MOST_SECONDS = 1e6
READING_SECONDS = 30.0
TABLE_SECONDS = 5.0
GRACE_SECONDS = 0.02
"""After the deadline, for a process that stops by itself to say so; then it is killed."""


class Sandbox:
    """Checks and runs single queries in a child process that cannot write, connect, or outlive a deadline.

    The files are opened immutable and read-only; one that was changed or replaced since is opened anew. A process that is
    late is killed, and another, started beforehand, takes its place. Works from any thread, one statement at a time, and
    after a fork.

    >>> import sqlite3, tempfile; path = Path(tempfile.mkdtemp()) / "shop.sqlite"
    >>> with sqlite3.connect(path) as made: _ = made.execute("CREATE TABLE item AS SELECT 1 AS id, 'tea' AS label")
    >>> with Sandbox(path) as sandbox:
    ...     print(sandbox.execute("SELECT label FROM item").rows, sandbox.check("DROP TABLE item").reason)
    (('tea',),) a change of the schema is refused: the sandbox only reads
    """

    def __init__(
        self, databases: str | Path | Mapping[str, str | Path], limits: Limits | None = None, *, spare: bool = True
    ) -> None:
        """One file, or several by name; without a `spare` process a late one is replaced only when it is late.

        **Raises** `DataError` where a file cannot be read as a SQLite database.
        """
        named = databases if isinstance(databases, Mapping) else {Path(databases).stem: databases}
        if not named:
            raise DataError("no database was given; expected the path of a SQLite file, or paths by name")
        self.limits = limits or Limits()
        self._files = {name: Path(path).absolute() for name, path in named.items()}
        self._stamps = {name: stamp(file) for name, file in self._files.items()}
        self._uris = {name: read_only(file) for name, file in self._files.items()}
        self._lock = ForkedLock()
        self._spares = spare
        self._owner = os.getpid()
        self._process: Process | None = None
        self._spare: Process | None = None
        self.restarts = 0
        """How many processes were replaced."""
        self._now().wait_ready()
        self._spare = Process(self._uris, self.limits) if spare else None

    def check(self, sql: str, *, database: str | None = None, seconds: float | None = None) -> Verdict:
        """Whether it is one query that may run here; it is compiled, and not run."""
        return self.check_all([sql], database=database, seconds=seconds)[0]

    def check_all(
        self, statements: Sequence[str], *, database: str | None = None, seconds: float | None = None
    ) -> list[Verdict]:
        """`check` of each, with one trip to the process; `seconds` for each."""
        limit = self.limits.check_seconds if seconds is None else seconds
        return [_verdict(answer) for answer, _ in self._ask(statements, database, limit, "check")]

    def execute(self, sql: str, deadline: float | None = None, *, database: str | None = None) -> Result:
        """Its rows, or why there are none, within `deadline` seconds.

        **Raises** `DataError` for a database it does not have, `SpecError` for a deadline that is not above 0.
        """
        limit = self.limits.seconds if deadline is None else deadline
        answer, seconds = next(self._ask([sql], database, limit, "run"))
        if answer["code"] != "ok":
            return Result(False, answer["code"], answer["reason"], seconds=seconds)
        return Result(True, "ok", "", tuple(answer["columns"]), tuple(map(_row, answer["rows"])), seconds)

    def tables(self, *, database: str | None = None, seconds: float = READING_SECONDS) -> tuple[Declared, ...]:
        """Tables and views that the file declares; a view that cannot be used has no columns.

        **Raises** `DataError` where a table cannot be read, or `seconds` are not enough for all.
        """
        name, end = self._name(database), time.monotonic() + seconds
        (listed,) = self._told("list", "", name, seconds)
        return tuple(self._declared(name, entry, end) for entry in listed)

    def _declared(self, name: str, entry: Sequence[str], end: float) -> Declared:
        table, kind, sql = entry
        left = end - time.monotonic()
        if left <= 0:
            raise DataError(f"{self._files[name]} cannot be read as a SQLite database in time: it stopped at '{table}'")
        try:
            columns, keys = self._told("describe", table, name, min(left, TABLE_SECONDS))
        except DataError:
            if kind == "table":
                raise
            columns, keys = [], []
        fields = (Field(title, of or "", key, bool(notnull), bool(made)) for title, of, key, notnull, made in columns)
        return Declared(table, kind == "view", sql, tuple(fields), tuple((*map(_plain, key),) for key in keys))

    def _told(self, work: Work, what: str, name: str, seconds: float) -> Any:
        with self._lock:
            self._look(name)
            ((answer, _),) = self._answers(name, [what], seconds, work)
        if answer["code"] != "ok":
            raise DataError(f"{self._files[name]} cannot be read as a SQLite database: {answer['reason']}")
        return answer["found"]

    def _ask(
        self, statements: Sequence[str], database: str | None, seconds: float, work: Work
    ) -> Iterator[tuple[dict[str, Any], float]]:
        if not 0 < seconds < MOST_SECONDS:
            raise SpecError(f"the deadline is {seconds} s; expected more than 0 and less than {MOST_SECONDS:g}")
        name = self._name(database)
        with self._lock:
            self._look(name)
            refusals = [refusal(sql, self.limits) for sql in statements]
            waiting = [
                sql.rstrip("; \t\r\n") for sql, refused in zip(statements, refusals, strict=True) if refused is None
            ]
            answers = self._answers(name, waiting, seconds, work)
            done = [(r._asdict(), 0.0) if r is not None else next(answers) for r in refusals]
            if work == "run" and done[0][0]["code"] == "ok" and stamp(self._files[name]) != self._stamps[name]:
                done = [({"code": "error", "reason": "the file was written while this ran; ask again"}, done[0][1])]
        return iter(done)

    def _answers(
        self, name: str, statements: Sequence[str], seconds: float, work: Work
    ) -> Iterator[tuple[dict[str, Any], float]]:
        """One answer each; a process that dies is replaced, and the statements after the guilty one go on.

        Several statements that are only checked are answered together; when the process dies over them, the guilty one is
        found by asking again, one by one.
        """
        begin, asked = 0, False
        together = work == "check" and len(statements) > 1
        process = self._now()
        while begin < len(statements):
            started, dead = time.monotonic(), True
            try:
                if not asked:
                    process.wait_ready()
                    started = time.monotonic()
                    request: dict[str, Any] = {
                        "database": name,
                        "sql": list(statements[begin:]),
                        "seconds": seconds,
                        "work": work,
                        "together": together,
                    }
                    process.owed = len(request["sql"])
                    process.send(request)
                    asked = True
                answer = process.receive(started + seconds + GRACE_SECONDS)
                process.owed -= 1
                dead = answer["code"] == "memory"
            except (Late, Gone) as failure:
                if together:
                    process, asked, together = self._replace(), False, False
                    continue
                answer = {"code": "time"}
                if isinstance(failure, Gone):
                    reason = f"the sandbox's process ended while it ran this: {failure}"
                    answer = {"code": "crash", "reason": reason}
            except BaseException:
                self._replace()
                raise
            if answer["code"] == "time":
                answer["reason"] = f"it did not end within {seconds:g} s"
            begin += 1
            waited = time.monotonic() - started
            if dead:
                process, asked = self._replace(), False
            yield answer, waited

    def _now(self) -> Process:
        """The process of this process: what a fork inherited belongs to its parent, and what somebody interrupted may still
        answer the last question."""
        if self._owner != os.getpid():
            for inherited in (self._process, self._spare):
                if inherited is not None:
                    inherited.stop.detach()
            self._owner, self._process, self._spare = os.getpid(), None, None
        if self._process is None:
            self._process = Process(self._uris, self.limits)
        return self._process if self._process.is_clean else self._replace()

    def _look(self, name: str) -> None:
        """Start anew where the file is no longer the one that was opened. **Raises** `DataError` as `read_only` does."""
        now = stamp(self._files[name])
        if now != self._stamps[name]:
            uri = read_only(self._files[name])
            self.close()
            self._stamps[name], self._uris[name] = now, uri

    def _replace(self) -> Process:
        if self._process is not None:
            self._process.stop()
            self.restarts += 1
        ready = self._spare is not None and self._spare.is_clean and self._spare.child.poll() is None
        process = self._spare if ready and self._spare is not None else Process(self._uris, self.limits)
        self._process, self._spare = process, Process(self._uris, self.limits) if self._spares else None
        return process

    def _name(self, database: str | None) -> str:
        if database is None and len(self._uris) == 1:
            return next(iter(self._uris))
        if database is None or database not in self._uris:
            given = "no database was named" if database is None else f"there is no database '{database}'"
            raise DataError(
                f"{given}; this sandbox has {', '.join(self._uris)}.{did_you_mean(database or '', self._uris)}"
            )
        return database

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that are running."""
        return tuple(process.pid for process in (self._process, self._spare) if process is not None)

    def close(self) -> None:
        """End its processes; it starts again where it is used again."""
        with self._lock:
            for process in (self._process, self._spare):
                if process is not None:
                    with suppress(SltError):
                        process.stop()
            self._process = self._spare = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _verdict(answer: Mapping[str, Any]) -> Verdict:
    if answer["code"] != "ok":
        return Verdict(False, answer["code"], answer["reason"])
    reads = tuple((table, column) for table, column in answer["reads"])
    return Verdict(True, "ok", "", reads, tuple(answer["functions"]))


def _plain(value: Any) -> Any:
    """A file may declare a number where a name belongs."""
    return value if value is None or isinstance(value, int) else str(value)


def _row(row: Sequence[Any]) -> tuple[Cell, ...]:
    return tuple(bytes.fromhex(cell["b"]) if isinstance(cell, dict) else cell for cell in row)
