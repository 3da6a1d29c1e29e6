"""Promises of made databases: they look like their source, tell lucky queries from right ones, and can be chosen from."""

from __future__ import annotations

import json
import os
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
from test_sql_metrics import DDL, EQUAL

from slt_sql_rerank.metrics import WIDE, Execution, distilled, make_instances, neighbours
from slt_sql_rerank.metrics.instances import _neighbours
from slt_sql_rerank.sandbox import Sandbox
from slt_sql_rerank.schema import from_sqlite
from sltcore.errors import DataError, SpecError

EXTRA = """
CREATE TABLE loan (a INTEGER NOT NULL, b TEXT NOT NULL UNIQUE, c REAL CHECK (c >= 0), d GENERATED ALWAYS AS (a + 1),
  PRIMARY KEY (a, b));
INSERT INTO loan (a, b, c) VALUES (1, 'x', 0.5), (2, 'y', 1.5);
CREATE VIEW adults AS SELECT name FROM student WHERE age > 21;
CREATE TRIGGER never AFTER INSERT ON loan BEGIN DELETE FROM student; END;
CREATE TABLE bare (first INTEGER, second DATE, third BOOLEAN, fourth TEXT);
"""
LUCKY = [  # right on the rows at hand only: candidate, gold
    ("SELECT name FROM student WHERE id <= 3", "SELECT name FROM student"),
    ("SELECT name FROM student WHERE age >= 21", "SELECT name FROM student WHERE age > 21"),
    ("SELECT DISTINCT city FROM address", "SELECT city FROM address"),
    ("SELECT count(*) FROM student", "SELECT count(age) FROM student"),
    ("SELECT id FROM student WHERE name = 'Bo'", "SELECT id FROM student WHERE age = 30"),
    ("SELECT max(mark) FROM grade", "SELECT count(*) FROM grade"),
    ("SELECT count(DISTINCT course) FROM grade", "SELECT count(DISTINCT student_id) FROM grade"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("instances") / "school.sqlite"
    with closing(sqlite3.connect(file)) as made:
        made.executescript(DDL + EXTRA)
    return file


@pytest.fixture(scope="module")
def suite(source: Path) -> tuple[Path, ...]:
    return make_instances(source, source.parent / "suite", count=12, queries=[sql for pair in LUCKY for sql in pair])


def rows(file: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as opened:
        return opened.execute(sql).fetchall()


def test_an_instance_has_the_tables_views_and_keys_of_its_source(source: Path, suite: tuple[Path, ...]) -> None:
    before = source.read_bytes()
    mine = from_sqlite(source)
    for file in suite:
        theirs = from_sqlite(file, name=mine.name)
        assert sorted(theirs.tables) == sorted(mine.tables)
        assert theirs.foreign_keys == mine.foreign_keys
        assert rows(file, "SELECT count(*) FROM sqlite_master WHERE type = 'trigger'") == [(0,)]
        assert rows(file, "PRAGMA integrity_check") == [("ok",)]
    assert source.read_bytes() == before


def test_rows_differ_between_instances_and_keep_the_rules_of_the_tables(suite: tuple[Path, ...]) -> None:
    everything = [rows(file, "SELECT * FROM student") for file in suite]
    assert len({repr(entry) for entry in everything}) == len(suite)
    held = of = nulls = 0
    for file in suite:
        assert rows(file, "SELECT count(*) FROM loan WHERE a IS NULL OR b IS NULL OR c < 0") == [(0,)]
        assert rows(file, "SELECT count(*) - count(DISTINCT b) FROM loan") == [(0,)]
        (counted,) = rows(file, "SELECT count(student_id), sum(student_id IN (SELECT id FROM student)) FROM grade")
        of, held = of + int(str(counted[0])), held + int(str(counted[1] or 0))
        nulls += len(rows(file, "SELECT 1 FROM student WHERE age IS NULL"))
    assert of > 50
    assert 0.7 < held / of < 1  # most keys are held, and a few are not
    assert nulls > 0
    assert any(not entry for entry in everything) or min(map(len, everything)) < 10


def test_the_same_seed_makes_the_same_rows(source: Path, suite: tuple[Path, ...], tmp_path: Path) -> None:
    queries = [sql for pair in LUCKY for sql in pair]
    again = make_instances(source, tmp_path / "again", count=2, queries=queries)
    other = make_instances(source, tmp_path / "other", count=2, queries=queries, seed=1)
    for table in ("student", "grade", "loan", "bare"):
        for number in range(2):
            assert rows(again[number], f"SELECT * FROM {table}") == rows(suite[number], f"SELECT * FROM {table}")
    assert rows(other[0], "SELECT * FROM student") != rows(again[0], "SELECT * FROM student")


def test_literals_of_queries_and_their_neighbours_are_among_the_values(source: Path, tmp_path: Path) -> None:
    files = make_instances(
        source, tmp_path, count=8, queries=["SELECT 1 FROM student WHERE age > 777 AND name LIKE '%Zoë%'", "not SQL ("]
    )
    ages = {row[0] for file in files for row in rows(file, "SELECT age FROM student")}
    names = {row[0] for file in files for row in rows(file, "SELECT name FROM student")}
    assert ages >= {776, 777, 778}
    assert {"Zoë", "Zoëa", "aZoë"} <= names
    assert set(_neighbours("5", False)) == {4, 5, 6}


@pytest.mark.parametrize(("candidate", "gold"), LUCKY)
def test_a_query_that_is_right_by_luck_fails_on_some_instance(
    source: Path, suite: tuple[Path, ...], candidate: str, gold: str
) -> None:
    with Sandbox({"source": source, **{file.stem: file for file in suite}}) as sandbox:
        execution = Execution(sandbox)
        assert execution.strict(candidate, gold, ["source"])
        assert not execution.strict(candidate, gold, [file.stem for file in suite])


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_queries_that_mean_the_same_pass_the_suite(suite: tuple[Path, ...], one: str, other: str) -> None:
    with Sandbox({file.stem: file for file in suite}) as sandbox:
        assert Execution(sandbox).strict(one, other, [file.stem for file in suite])


def test_a_few_chosen_instances_tell_apart_what_all_of_them_do(source: Path, suite: tuple[Path, ...]) -> None:
    schema = from_sqlite(source)
    golds = {gold: neighbours(gold, schema, count=8) for _, gold in LUCKY}
    names = [file.stem for file in suite]
    with Sandbox({file.stem: file for file in suite}, WIDE) as sandbox:
        found = distilled(golds, sandbox, names)
        execution = Execution(sandbox)
        apart = {  # by brute force, one pair and one database after the other
            (gold, other): {name for name in names if not execution.strict(other, gold, [name])}
            for gold, others in golds.items()
            for other in others
        }
    assert found.pairs == len(apart) == sum(map(len, golds.values())) > 30
    assert (
        found.separated
        == sum(map(bool, apart.values()))
        == sum(bool(at & set(found.databases)) for at in apart.values())
    )
    assert len(found.databases) < len(names)
    counts = [
        sum(bool(at & set(found.databases[: n + 1])) for at in apart.values()) for n in range(len(found.databases))
    ]
    assert counts == sorted(set(counts))  # each adds something
    assert counts[0] == max(sum(name in at for at in apart.values()) for name in names)


def test_neighbours_are_other_queries_one_edit_away(source: Path) -> None:
    schema = from_sqlite(source)
    gold = "SELECT DISTINCT name FROM student WHERE age > 21 AND id = 3 GROUP BY name HAVING count(*) > 1 ORDER BY name LIMIT 2"
    found = neighbours(gold, schema, count=40)
    assert len(found) == len(set(found)) == 40
    assert neighbours(gold, schema, count=40) == found
    assert gold not in found
    for sql in (
        "SELECT name FROM student WHERE age > 21 AND id = 3 GROUP BY name HAVING COUNT(*) > 1 ORDER BY name LIMIT 2",
        "SELECT DISTINCT name FROM student WHERE age > 21 AND id = 3 GROUP BY name HAVING COUNT(*) > 1 LIMIT 2",
    ):
        assert sql in neighbours(gold, schema, count=70)
    assert neighbours("nonsense (", schema, count=5) == ()


def test_bad_orders_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="0 instances of up to 5 rows were asked for; expected at least 1 and 1"):
        make_instances(source, tmp_path, count=0, rows=5)
    with pytest.raises(DataError, match=r"nowhere\.sqlite is no file; expected a SQLite database"):
        make_instances(tmp_path / "nowhere.sqlite", tmp_path, count=1)


SPIDER = Path(os.environ.get("SLT_DATA", "/nonexistent")) / "spider"


@pytest.mark.slow
@pytest.mark.skipif(not SPIDER.exists(), reason="needs SLT_DATA, a folder that holds spider/")
def test_instances_of_spider_catch_lucky_neighbours_and_pass_gold_queries(tmp_path: Path) -> None:
    with zipfile.ZipFile(SPIDER / "databases_dev.zip") as packed:
        packed.extractall(tmp_path / "databases")
    lines = [json.loads(line) for line in (SPIDER / "dev.jsonl").read_text().splitlines()]
    lucky = caught = pairs = kept = 0
    for name in ("concert_singer", "pets_1", "world_1"):
        file = next((tmp_path / "databases").rglob(f"{name}.sqlite"))
        golds = [line["query"] for line in lines if line["db_id"] == name][:25]
        files = make_instances(file, tmp_path / name, count=8, queries=golds)
        schema = from_sqlite(file)
        with Sandbox({"": file, **{entry.stem: entry for entry in files}}, WIDE) as sandbox:
            execution = Execution(sandbox, seconds=2.0)
            names = [entry.stem for entry in files]
            for gold in golds:
                assert execution.strict(gold, gold, names)
                for other in neighbours(gold, schema, count=4):
                    pairs += 1
                    if execution.strict(other, gold, [""]):
                        lucky += 1
                        caught += not execution.strict(other, gold, names)
            kept += len(
                distilled(
                    {gold: neighbours(gold, schema, count=4) for gold in golds}, sandbox, names, seconds=2.0
                ).databases
            )
    print(
        f"\n{pairs} neighbours, {lucky} right on the database at hand, {caught} of them caught; {kept} of 24 files kept"
    )
    assert caught >= lucky // 2 > 10
