"""Promises of the sandbox's processes: whatever interrupts, forks, shares or kills those who use them."""

from __future__ import annotations

import ast
import copy
import gc
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hostile_sql import build

import slt_sql_rerank
from slt_sql_rerank.databases import Sandboxes, schema_of
from slt_sql_rerank.metrics import Execution
from slt_sql_rerank.ranking import listed, rank
from slt_sql_rerank.sandbox import Limits, Sandbox
from slt_sql_rerank.simple.first_executable import FirstExecutable
from slt_sql_rerank.simple.majority_vote import MajorityVote
from sltcore.types import Hypothesis

COUNTING = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
UNSTOPPABLE = "SELECT instr(printf('%.*c', 3000000, 'x'), printf('%.*c', 1500000, 'x') || 'y')"  # in one call


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("life") / "shop.sqlite"
    build(made)
    return made


@pytest.fixture
def sandbox(path: Path) -> Iterator[Sandbox]:
    with Sandbox(path) as made:
        yield made


def gone(pids: list[int], seconds: float) -> bool:
    """Whether all have ended before the time is over; one that only its parent has not asked after has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestInterrupts:
    @pytest.mark.parametrize("place", range(1, 8))
    def test_what_was_asked_before_is_never_the_answer_to_the_next(
        self, sandbox: Sandbox, place: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = 0

        def clock() -> float:
            nonlocal seen
            seen += 1
            if seen == place:
                raise KeyboardInterrupt
            return time.monotonic()

        def ask() -> None:
            for _ in range(4):
                sandbox.check_all(["SELECT 1", "SELECT nosuch", "SELECT name FROM singer"])

        monkeypatch.setattr("slt_sql_rerank.sandbox.sandbox.time", SimpleNamespace(monotonic=clock))
        with pytest.raises(KeyboardInterrupt):
            ask()
        assert [verdict.ok for verdict in sandbox.check_all(["SELECT 2", "SELECT 3"])] == [True, True]
        assert sandbox.execute("SELECT 7").rows == ((7,),)

    def test_a_real_one_ends_the_statement_and_leaves_a_sandbox_that_works(self, sandbox: Sandbox) -> None:
        caller = threading.get_ident()
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell are deaf to it
        timer = threading.Timer(0.2, lambda: signal.pthread_kill(caller, signal.SIGINT))
        timer.start()
        begin = time.monotonic()
        try:
            with pytest.raises(KeyboardInterrupt):
                sandbox.execute(COUNTING, 60)
        finally:
            timer.join()
            signal.signal(signal.SIGINT, before)
        assert time.monotonic() - begin < 30
        assert sandbox.execute("SELECT 7").rows == ((7,),)

    def test_a_spare_process_that_was_killed_is_not_used(self, sandbox: Sandbox) -> None:
        os.kill(sandbox.pids[1], signal.SIGKILL)
        assert gone([sandbox.pids[1]], 30)
        assert sandbox.execute(UNSTOPPABLE, 0.1).code == "time"
        assert sandbox.execute("SELECT 7", 30).rows == ((7,),)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
class TestEnds:
    def test_processes_end_with_a_sandbox_that_nobody_holds(self, path: Path) -> None:
        made = Sandbox(path)
        pids = list(made.pids)
        assert all(map(alive, pids))
        del made
        gc.collect()
        assert gone(pids, 30)

    @pytest.mark.parametrize("kind", ["idle", "forked", "answering"])
    def test_processes_end_after_a_parent_that_was_killed(self, path: Path, kind: str) -> None:
        program = f"""
import os, time
from slt_sql_rerank.sandbox import Sandbox
sandbox = Sandbox({str(path)!r})
if {kind!r} != "idle":
    other = os.fork()  # holds the pipes, so that they do not close
    if other == 0:
        time.sleep(120)
        os._exit(0)
if {kind!r} == "answering":  # more than a pipe holds, and nobody reads
    request = {{"database": "shop", "sql": ["SELECT printf('%.*c', 900000, 'x')"], "seconds": 0.5, "work": "run", "together": False}}
    sandbox._process.send(request)
print(*sandbox.pids, *([other] if {kind!r} != "idle" else []), flush=True)
time.sleep(120)
"""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
        ) as made:
            assert made.stdout is not None
            first, spare, *forked = map(int, made.stdout.readline().split())
            made.kill()
            made.wait()
            try:
                assert gone([first, spare], 30)
            finally:
                for pid in forked:
                    os.kill(pid, signal.SIGKILL)

    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    def test_a_fork_that_closes_or_ends_takes_nothing_from_its_parent(self, sandbox: Sandbox) -> None:
        pids = sandbox.pids
        child = os.fork()
        if child == 0:
            sandbox.close()
            gc.collect()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert sandbox.execute("SELECT 8").rows == ((8,),)
        assert sandbox.pids == pids

    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    def test_a_fork_does_not_wait_for_a_statement_of_its_parent(self, sandbox: Sandbox) -> None:
        thread = threading.Thread(target=sandbox.execute, args=(COUNTING, 1.5))
        thread.start()
        time.sleep(0.3)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            rows = sandbox.execute("SELECT 9", 30).rows
            sandbox.close()
            os._exit(0 if rows == ((9,),) else 1)
        assert os.waitpid(child, 0)[1] == 0
        thread.join()
        assert sandbox.execute("SELECT 8").rows == ((8,),)


class Counted:
    """Stands in for a sandbox that takes a while to open."""

    opened: list[str]
    closed = 0

    def __init__(self, text: str) -> None:
        time.sleep(0.05)
        Counted.opened.append(text)

    def close(self) -> None:
        Counted.closed += 1


class TestShared:
    def test_threads_that_ask_for_one_database_get_one_sandbox(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Counted.opened, Counted.closed = [], 0
        monkeypatch.setattr(Sandboxes, "_opened", lambda self, text: Counted(text))
        names = [f"{path}{number}" for number in range(5)]
        with Sandboxes(most_open=5) as shared:
            found: list[Any] = []
            threads = [
                threading.Thread(target=lambda: found.extend(shared.of(name) for name in names)) for _ in range(6)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(Counted.opened) == names
            assert len(found) == 30
            assert len(set(map(id, found))) == 5
            assert shared.of(f"{path}5") is not None
            assert Counted.closed == 1
        assert Counted.closed == 6

    def test_threads_and_few_open_sandboxes_give_each_its_own_rows(self, tmp_path: Path) -> None:
        paths = []
        for number in range(4):
            paths.append(tmp_path / f"{number}.sqlite")
            with sqlite3.connect(paths[-1]) as made:
                made.execute(f"CREATE TABLE t AS SELECT {number} AS a")
            made.close()
        wrong: list[object] = []

        def ask(first: int) -> None:
            for turn in range(4):
                number = (first + turn) % 4
                result = shared.of(paths[number]).execute("SELECT a FROM t", 30)
                if result.rows != ((number,),):
                    wrong.append(result)

        with Sandboxes(most_open=2) as shared:
            threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert wrong == []

    def test_copies_and_other_processes_start_with_none_open(self, path: Path) -> None:
        with Sandboxes(Limits(rows=7), most_open=3) as shared:
            assert shared.of(path).execute("SELECT 1").ok
            reranker = FirstExecutable(shared)
            for other in (copy.deepcopy(reranker).sandboxes, pickle.loads(pickle.dumps(reranker)).sandboxes):
                assert (other.limits, other.most_open) == (shared.limits, 3)
                assert other.of(path) is not shared.of(path)
                assert other.of(path).execute("SELECT 2").rows == ((2,),)
                other.close()


MAY_CONNECT = {
    "sandbox/child.py": "the sandbox's own process",
    "filling.py": "another process, which writes the files of make_instances",
    "metrics/build_metrics.py": "the script of a metric's spec, into a new file",
    "constrained/decoder.py": "tables without rows, into a new file",
    "constrained/grammar.py": "in memory, to ask which names need no quotes",
}


def test_no_other_module_opens_a_database() -> None:
    folder = Path(slt_sql_rerank.__file__).parent
    found = set()
    for file in folder.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        if any(name.partition(".")[0] in ("sqlite3", "apsw", "aiosqlite") for name in names):
            found.add(file.relative_to(folder).as_posix())
    assert found == set(MAY_CONNECT)


def test_candidates_and_gold_queries_are_run_without_a_connection_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shop.sqlite"
    with sqlite3.connect(path) as made:
        made.executescript(
            "CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO singer VALUES (3, 'Ada');"
            "CREATE VIEW known AS SELECT name FROM singer;"
        )
    made.close()

    def connect(*given: object, **named: object) -> None:
        raise AssertionError(f"a connection was opened here: {given}")

    monkeypatch.setattr(sqlite3, "connect", connect)
    sqls = ["SELECT nosuch FROM singer", "SELECT name FROM singer WHERE id = 3", "SELECT name FROM known LIMIT 1"]
    context = {"database": str(path)}
    assert schema_of(path) is not None
    candidates = [Hypothesis(sql, -float(place)) for place, sql in enumerate(sqls)]
    with Sandboxes() as shared:
        assert FirstExecutable(shared).score("?", candidates, context)[:2] == [-float("inf"), 0.0]
        assert MajorityVote(shared).score("?", candidates, context)[0] == -float("inf")
    execution = Execution(Sandbox(path))
    assert execution.strict(sqls[1], sqls[1])
    assert not execution.official(sqls[0], sqls[1])
    execution.close()
    line = '{"question": "Which singer has id 3?", "candidates": ["SELECT nosuch FROM singer", "SELECT name FROM singer WHERE id = 3"]}'
    for by in ("first-executable", "majority-vote", "schema-linking", "weighted"):
        (ranked,) = rank(str(path), iter([listed(line, "here", "1")]), by=by, execute=True)
        assert ranked.result is not None
        assert ranked.candidates[0].text == sqls[1], by
