"""The program of the sandbox's process; it knows the standard library alone, and is started by its path."""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import sqlite3
import struct
import sys
import time
from typing import Any

WRITES = {
    1: "CREATE INDEX",
    2: "CREATE TABLE",
    3: "CREATE TEMP INDEX",
    4: "CREATE TEMP TABLE",
    5: "CREATE TEMP TRIGGER",
    6: "CREATE TEMP VIEW",
    7: "CREATE TRIGGER",
    8: "CREATE VIEW",
    9: "DELETE",
    10: "DROP INDEX",
    11: "DROP TABLE",
    12: "DROP TEMP INDEX",
    13: "DROP TEMP TABLE",
    14: "DROP TEMP TRIGGER",
    15: "DROP TEMP VIEW",
    16: "DROP TRIGGER",
    17: "DROP VIEW",
    18: "INSERT",
    19: "PRAGMA",
    22: "a transaction",
    23: "UPDATE",
    24: "ATTACH",
    25: "DETACH",
    26: "ALTER TABLE",
    27: "REINDEX",
    28: "ANALYZE",
    29: "CREATE VIRTUAL TABLE",
    30: "DROP VIRTUAL TABLE",
    32: "a savepoint",
}
READ, SELECT, FUNCTION, RECURSIVE = 20, 21, 31, 33
QUERY = re.compile(
    r"(?>[\s\ufeff]|--[^\n]*+(?:\n|\Z)|(?>/\*.*?\*/))*+(?:select|with|values)\b", re.IGNORECASE | re.DOTALL
)  # what a query begins with, behind comments; VACUUM INTO (SELECT ...) compiles like one
VERSION = 19, "data_version", None  # a number that full-text tables ask for when they are read
REASON_CHARACTERS = 300  # a reason quotes the statement
START_SECONDS = 20.0
HOLD_SECONDS = 0.005  # answers to quick statements go out together
PARENT_SECONDS = 2.0  # between looks whether the parent still lives
LEFT_SECONDS = 1.0  # after a deadline, to somebody who would kill
EXPLAINED_COLUMNS = 8  # of EXPLAIN; EXPLAIN QUERY PLAN has 4
WORK = {"check": "check", "run": "execute", "list": "tables", "describe": "describe"}


class Guard:
    """The authorizer of one connection: what a statement reads and calls, and the first thing it may not do."""

    def __init__(self, tables: set[str], functions: set[str]) -> None:
        self.tables, self.functions = tables, functions
        self.clear()

    def clear(self) -> None:
        """Forget the last statement."""
        self.code = self.reason = ""
        self.selects = False
        self.reads: dict[tuple[str, str], None] = {}
        self.called: dict[str, None] = {}

    def refuse(self, code: str, reason: str) -> int:
        """Deny; the first reason stays."""
        if not self.reason:
            self.code, self.reason = code, reason
        return sqlite3.SQLITE_DENY

    def __call__(self, action: int, first: str | None, second: str | None, base: str | None, source: str | None) -> int:
        if action in (SELECT, RECURSIVE):
            self.selects = True
            return sqlite3.SQLITE_OK
        if action == READ:
            name = first or ""
            if name.lower() not in self.tables:
                if not second and not name.lower().startswith(("sqlite_", "pragma_")):
                    return sqlite3.SQLITE_OK  # a common table expression, of which no column is read
                return self.refuse("refused", f"table '{name}' is not one of the database's own")
            if source is None or source.lower() not in self.tables:
                self.reads[name, second or ""] = None
            return sqlite3.SQLITE_OK
        if action == FUNCTION:
            name = (second or "").lower()
            if name not in self.functions:
                return self.refuse("refused", f"function '{name}' is not on the list of allowed ones")
            self.called[name] = None
            return sqlite3.SQLITE_OK
        if (action, first, second) == VERSION and self.selects:
            return sqlite3.SQLITE_OK
        if first in ("sqlite_master", "sqlite_temp_master") and self.selects:
            return self.refuse("refused", "a table-valued function is not on the list of allowed ones")
        if first in ("sqlite_master", "sqlite_temp_master"):
            return self.refuse("write", "a change of the schema is refused: the sandbox only reads")
        what = " ".join(word for word in (WRITES.get(action, f"action {action}"), first, second) if word)
        return self.refuse("write", f"{what} is refused: the sandbox only reads")


class Database:
    """One read-only connection and its guard."""

    def __init__(self, uri: str, limits: dict[str, Any], cache_kib: int) -> None:
        self.limits = limits
        self.deadline = 0.0
        self.connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=0)
        self.connection.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        for pragma in (
            "query_only=ON",
            "trusted_schema=OFF",
            "cell_size_check=ON",
            "temp_store=MEMORY",
            "mmap_size=0",
            f"cache_size=-{cache_kib}",
            "threads=0",
            f"hard_heap_limit={limits['memory_bytes'] // 2}",
        ):
            self.connection.execute(f"PRAGMA {pragma}").fetchall()

    def guarded(self) -> None:
        """From here on a stranger's statements may come."""
        limits, run = self.limits, self.connection.execute
        self.connection.set_progress_handler(lambda: time.monotonic() > self.deadline, 1000)
        listed = run(
            "SELECT name, type = 'table' AND NOT rootpage FROM sqlite_master WHERE type IN ('table', 'view')"
        ).fetchall()
        virtual = [name for name, is_virtual in listed if is_virtual]
        names = [name for name, _ in listed if isinstance(name, str)] + limits["table_functions"]
        allowed = {name.lower() for name in names if not name.lower().startswith("sqlite_")}
        for name in (*virtual, *limits["table_functions"]):
            try:  # virtual tables are declared at their first use, which the guard would take for a write
                run('SELECT 1 FROM "{}" LIMIT 0'.format(str(name).replace('"', '""'))).fetchall()
            except sqlite3.Error:
                continue  # a module that is not here: a statement will be told so
        self.guard = Guard(allowed, {name.lower() for name in limits["functions"]})
        for category, value in (
            (sqlite3.SQLITE_LIMIT_LENGTH, max(limits["value_bytes"], limits["sql_bytes"])),
            (sqlite3.SQLITE_LIMIT_SQL_LENGTH, limits["sql_bytes"] + 16),
            (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200),
            (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 50),
            (sqlite3.SQLITE_LIMIT_VDBE_OP, limits["operations"]),
            (sqlite3.SQLITE_LIMIT_FUNCTION_ARG, 32),
            (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
            (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 200),
            (sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 8),  # full-text tables ask themselves with some
            (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 1),
            (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
        ):
            self.connection.setlimit(category, value)
        self.connection.set_authorizer(self.guard)

    def check(self, sql: str) -> dict[str, Any]:
        """Compile, do not run."""
        self.guard.clear()
        cursor = self.connection.cursor()
        try:
            cursor.execute("EXPLAIN " + sql)
            explained = len(cursor.description or ())
        except Exception as error:
            return self.failure(error)
        finally:
            cursor.close()
        if explained != EXPLAINED_COLUMNS or not self.guard.selects or not QUERY.match(sql):
            return {"code": "refused", "reason": "the statement is no query; expected one SELECT"}
        named = {table for table, column in self.guard.reads if column}
        reads = [(table, column) for table, column in self.guard.reads if column or table not in named]
        return {"code": "ok", "reads": reads, "functions": list(self.guard.called)}

    def execute(self, sql: str) -> dict[str, Any]:
        """Compile, run, and give every row."""
        verdict = self.check(sql)
        if verdict["code"] != "ok":
            return verdict
        cursor = self.connection.cursor()
        try:
            cursor.execute(sql)
            columns = [entry[0] for entry in cursor.description or ()]
            return self.collect(cursor, columns)
        except Exception as error:
            return self.failure(error)
        finally:
            cursor.close()

    def collect(self, cursor: sqlite3.Cursor, columns: list[str]) -> dict[str, Any]:
        """The rows, unless they are too many or too large."""
        rows: list[list[Any]] = []
        size, limits = 0, self.limits
        most = min(limits["rows"], limits["cells"] // max(1, len(columns)))
        for row in cursor:
            if len(rows) == most:
                return {"code": "limit", "reason": f"the result has more than {most} rows of {len(columns)} columns"}
            for cell in row:
                size += weight(cell)
            if size > limits["result_bytes"]:
                return {"code": "limit", "reason": f"the result has more than {limits['result_bytes']} bytes"}
            rows.append([{"b": cell.hex()} if isinstance(cell, bytes) else cell for cell in row])
            if len(rows) % 256 == 0 and time.monotonic() > self.deadline:
                return {"code": "time", "reason": "interrupted"}
        return {"code": "ok", "columns": columns, "rows": rows}

    def tables(self, _: str) -> dict[str, Any]:
        """Name, kind and statement of each table and view, in the order in which they were made."""
        return self.unguarded(
            "SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' "
            "ESCAPE '\\' AND typeof(name) = 'text' AND typeof(sql) = 'text' ORDER BY rowid"
        )

    def describe(self, table: str) -> dict[str, Any]:
        """Columns and foreign keys of a table, by its name."""
        name = "'" + table.replace("'", "''") + "'"
        return self.unguarded(
            f'SELECT name, type, pk, "notnull", hidden FROM pragma_table_xinfo({name}) WHERE hidden <> 1',
            f'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list({name}) ORDER BY id DESC, seq',
        )

    def unguarded(self, *statements: str) -> dict[str, Any]:
        """Rows of our own statements, which read what a stranger's may not."""
        self.guard.clear()
        self.connection.set_authorizer(None)
        try:
            return {"code": "ok", "found": [self.connection.execute(sql).fetchall() for sql in statements]}
        except Exception as error:
            return self.failure(error)
        finally:
            self.connection.set_authorizer(self.guard)

    def failure(self, error: Exception) -> dict[str, Any]:
        """Why a statement did not compile or run."""
        text = shown(str(error)) or type(error).__name__
        if self.guard.reason:
            return {"code": self.guard.code, "reason": shown(self.guard.reason)}
        if isinstance(error, MemoryError) or "out of memory" in text:
            return {"code": "memory", "reason": f"it needs more than {self.limits['memory_bytes'] >> 20} MiB"}
        if "interrupted" in text:
            return {"code": "time", "reason": "interrupted"}
        if text.startswith("Incorrect number of bindings"):
            return {"code": "error", "reason": "the statement has parameters, for which there are no values"}
        if "one statement at a time" in text:
            return {"code": "refused", "reason": "there are several statements; expected one SELECT"}
        if text.startswith("unsafe use of"):  # by a view or a generated column
            return {"code": "refused", "reason": text}
        if any(f"too {what}" in text for what in ("big", "many", "large", "complex", "deep")):
            return {"code": "limit", "reason": text}
        return {"code": "error", "reason": text}


def shown(text: str) -> str:
    """One line of at most `REASON_CHARACTERS`, without characters that a terminal would obey."""
    line = "".join(
        c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text[: 4 * REASON_CHARACTERS]
    )
    line = " ".join(line.split())
    return line if len(line) <= REASON_CHARACTERS else line[: REASON_CHARACTERS - 3] + "..."


def lock_down(memory_bytes: int) -> None:
    """From here on: no further file or socket, no written byte, no core, no memory beyond the allowance."""
    with open("/proc/self/statm", encoding="ascii") if os.path.exists("/proc/self/statm") else open(os.devnull) as file:
        pages = file.read().split()
    for kind, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, 3)):
        resource.setrlimit(kind, (value, value))  # descriptors that are open stay so
    if pages:
        total = int(pages[0]) * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (total, total))


def weight(cell: Any) -> int:
    """Bytes of a cell in an answer."""
    if isinstance(cell, str):
        return len(cell) if cell.isascii() else len(cell.encode("utf-8", "surrogatepass"))
    return 2 * len(cell) if isinstance(cell, bytes) else 8


def allow_seconds(seconds: float) -> None:
    """Time for the next statement, on the clock and of the processor; what follows is death, even with nobody left to kill
    the process."""
    signal.setitimer(signal.ITIMER_REAL, seconds + LEFT_SECONDS)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 2, hard))


def read(count: int, parent: int = 0) -> bytes:
    """Exactly so many bytes; the process ends with its parent, also where a fork of that holds the other end of the pipe."""
    parts = []
    waiter = select.poll()
    waiter.register(0, select.POLLIN)
    while count:
        while parent and not waiter.poll(int(1000 * PARENT_SECONDS)):
            if os.getppid() != parent:
                os._exit(0)
        part = os.read(0, min(count, 1 << 20))
        if not part:
            os._exit(0)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def packed(message: dict[str, Any]) -> bytes:
    """One message, its length first."""
    raw = json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return struct.pack("<I", len(raw)) + raw


def write(raw: bytes) -> None:
    """All of it."""
    view = memoryview(raw)
    while view:
        view = view[os.write(1, view) :]


def main() -> None:
    """Open the databases, lock the process down, answer until the parent is gone."""
    start = json.loads(read(struct.unpack("<I", read(4))[0]))
    limits, parent = start["limits"], start["parent"]
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    cache_kib = max(64, min(4000, limits["memory_bytes"] // 8192 // len(start["databases"])))
    opened: dict[str, Database] = {}
    uri = ""
    try:
        for name, uri in start["databases"].items():
            opened[name] = Database(uri, limits, cache_kib)
        lock_down(limits["memory_bytes"])
        for name, database in opened.items():
            uri = start["databases"][name]
            database.deadline = time.monotonic() + START_SECONDS
            database.guarded()
            database.execute("SELECT 1")
    except Exception as error:  # whatever a damaged file leads to, the parent is told
        write(packed({"fault": f"{uri} cannot be opened: {shown(str(error)) or type(error).__name__}"}))
        return
    write(packed({"ready": sqlite3.sqlite_version}))
    while True:
        request = json.loads(read(struct.unpack("<I", read(4, parent))[0], parent))
        database = opened[request["database"]]
        work = getattr(database, WORK[request["work"]])
        held, since = b"", time.monotonic()
        for sql in request["sql"]:
            allow_seconds(request["seconds"])
            database.deadline = time.monotonic() + request["seconds"]
            answer = work(sql)
            try:
                held += packed(answer)
            except MemoryError:
                answer = database.failure(MemoryError())
                held += packed(answer)
            over = answer["code"] == "memory"
            if over or not request["together"] or time.monotonic() - since > HOLD_SECONDS:
                write(held)
                held, since = b"", time.monotonic()
            if over:
                sys.exit(0)
        write(held)
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
