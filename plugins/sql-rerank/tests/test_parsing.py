"""Candidates are read once, by caps and sqlglot, and never raise for what they say."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path

import hostile_sql
import pytest
from sqlglot import exp

from slt_sql_rerank.parsing import CAPS, read
from slt_sql_rerank.schema import ForeignKey, Schema, from_sqlite, table

SCHEMA = Schema(
    "shop",
    [
        table("Item", [("id", "integer"), ("label", "text"), ("price", "real")], primary=["id"]),
        table("Sale", [("id", "integer"), ("item_id", "integer"), ("day", "date")], primary=["id"]),
    ],
    [ForeignKey("Sale", ("item_id",), "Item", ("id",))],
)
WORDS = (
    "select from where ( ) , ' \" item label sale on = and or not in like group by having order limit union intersect "
    "except case when then end * 1 - + as T1 . over with recursive values [ ] ; exists between cast null distinct offset"
)


def test_a_text_is_read_once_for_all_who_ask() -> None:
    assert read("SELECT label FROM item", SCHEMA) is read("SELECT label FROM item", SCHEMA)
    assert read("SELECT label FROM item", SCHEMA) is not read("SELECT label FROM item", Schema("other", []))


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("", "the text is empty"),
        (" ;; ", "the text is empty"),
        ("SELECT 1; SELECT 2", "there are 2 statements; expected one query"),
        ("DROP TABLE item", "DROP is no query; expected a SELECT"),
        ("VACUUM INTO 'x'", "VACUUM is no query; expected a SELECT"),
        ("explain select 1", "EXPLAIN is no query; expected a SELECT"),
        ("INSERT INTO item VALUES (1)", "INSERT is no query; expected a SELECT"),
        ("how many items", "HOW is no query; expected a SELECT"),
        ("SELECT 'a\0b'", "character 9 is NUL"),
        ("SELECT " + "(" * 65 + "1" + ")" * 65, "the text is nested 65 deep; at most 64 is read"),
        ("SELECT '\ud800'", "character 8 is half a surrogate pair, which no text holds"),
        (7, "a candidate is int; expected a string"),
    ],
)
def test_what_is_no_query_has_a_problem_in_one_line(sql: object, problem: str) -> None:
    found = read(sql, SCHEMA)  # type: ignore[arg-type]
    assert found.tree is None
    assert found.qualified is None
    assert found.problem == problem
    assert found.misfit == problem


def test_a_syntax_error_is_one_short_line() -> None:
    found = read("SELECT FROM WHERE " + "x " * 400, SCHEMA)
    assert found.tree is None
    assert found.problem is not None
    assert "\n" not in found.problem
    assert "\x1b" not in found.problem
    assert len(found.problem) <= 200


def test_a_comment_or_bracket_before_the_query_is_no_obstacle() -> None:
    for sql in ("-- why\nSELECT 1", "/* why */ SELECT 1", "(SELECT 1)", "WITH a AS (SELECT 1 AS x) SELECT x FROM a"):
        assert read(sql, SCHEMA).problem is None, sql


def test_columns_get_their_tables_in_lower_case() -> None:
    found = read('SELECT Label, "no such name" FROM ITEM AS T1 JOIN sale ON T1.id = Item_ID', SCHEMA)
    assert found.misfit is None
    columns = {f"{c.table}.{c.name}" for c in found.qualified.find_all(exp.Column)}
    assert columns == {"t1.label", "t1.id", "sale.item_id"}
    assert "'no such name'" in found.qualified.sql()
    assert found.tree.sql() != found.qualified.sql(), "the tree as written stays as it was"


def test_stars_become_columns() -> None:
    assert read("SELECT * FROM item", SCHEMA).qualified.named_selects == ["id", "label", "price"]


def test_an_ambiguous_name_stays_without_a_table_and_is_not_unknown() -> None:
    found = read("SELECT id FROM item JOIN sale ON item.id = sale.item_id", SCHEMA)
    assert found.misfit is None
    assert found.unknown == ()
    assert [column.table for column in found.qualified.find_all(exp.Column)] == ["", "item", "sale"]


def test_what_cannot_be_qualified_is_a_misfit_and_still_a_tree() -> None:
    found = read("SELECT t.label FROM item AS t JOIN sale AS t ON t.id = t.item_id", SCHEMA)
    assert found.problem is None
    assert found.tree is not None
    assert found.qualified is None
    assert found.misfit is not None
    assert "t" in found.misfit
    assert "\n" not in found.misfit


def test_a_column_of_a_table_that_lacks_it_is_a_misfit() -> None:
    found = read("SELECT T1.label FROM item AS T1 INTERSECT SELECT T1.label FROM sale AS T1", SCHEMA)
    assert found.problem is None
    assert found.misfit is not None
    assert "label" in found.misfit


@pytest.mark.parametrize(
    ("sql", "unknown"),
    [
        ("SELECT label FROM item", ()),
        ("SELECT colour FROM item", ("colour",)),
        ("SELECT label FROM items", ("items",)),
        ("SELECT x FROM (SELECT label AS x FROM item)", ()),
        ("WITH a AS (SELECT id FROM item) SELECT id FROM a", ()),
        ("SELECT label FROM item AS t WHERE EXISTS (SELECT 1 FROM sale WHERE sale.item_id = t.id)", ()),
        ("SELECT label FROM item AS t WHERE price > (SELECT 1 FROM sale WHERE nr = 2)", ("nr",)),
        ("SELECT label AS a FROM item ORDER BY a", ()),
        ("SELECT T1.label FROM item AS T1 INTERSECT SELECT T1.day FROM sale AS T1", ()),
    ],
)
def test_names_that_the_database_does_not_have_are_told(sql: str, unknown: tuple[str, ...]) -> None:
    found = read(sql, SCHEMA)
    assert found.problem is None
    assert found.unknown == unknown


def test_sqlite_agrees_on_which_names_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "shop.sqlite"
    made = sqlite3.connect(path)
    made.executescript(
        "CREATE TABLE item (id INTEGER PRIMARY KEY, label TEXT, price REAL);"
        "CREATE TABLE sale (id INTEGER PRIMARY KEY, item_id INTEGER REFERENCES item(id), day TEXT);"
    )
    schema = from_sqlite(path)
    draw = random.Random(0)
    names = ["label", "price", "day", "item.id", "sale.item_id", "sale.label", "size", "item.day"]
    sources = ["item", "sale", "item JOIN sale ON item.id = sale.item_id"]
    agreed = 0
    for _ in range(200):
        sql = f"SELECT {draw.choice(names)}, {draw.choice(names)} FROM {draw.choice(sources)} WHERE {draw.choice(names)} = 1"
        try:
            made.execute("EXPLAIN " + sql)
            valid = True
        except sqlite3.OperationalError as error:
            valid = "no such column" not in str(error)
        found = read(sql, schema)
        assert (found.unknown == () and found.misfit is None) == valid, (sql, found.unknown, found.misfit)
        agreed += not valid
    made.close()
    assert agreed > 50


@pytest.mark.slow
def test_hostile_texts_are_read_in_time_and_never_raise(tmp_path: Path) -> None:
    path = tmp_path / "hostile.sqlite"
    hostile_sql.build(path)
    schema = from_sqlite(path)
    for sql in hostile_sql.statements(tmp_path):
        started = time.process_time()
        found = read(sql, schema)
        assert found.tree is not None or found.problem, sql[:80]
        assert found.qualified is not None or found.misfit, sql[:80]
        assert found.unknown is not None
        assert time.process_time() - started < 10, sql[:80]


def test_random_words_never_raise() -> None:
    draw = random.Random(1)
    words = WORDS.split()
    trees = 0
    for _ in range(600):
        found = read("select " + " ".join(draw.choices(words, k=draw.randint(1, 20))), SCHEMA)
        trees += found.tree is not None
        assert (found.tree is None) == (found.problem is not None)
        assert (found.qualified is None) == (found.misfit is not None)
    assert trees > 5


def test_caps_hold_before_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(name: str) -> None:
        raise AssertionError(f"the parser of {name} was asked")

    monkeypatch.setattr("slt_sql_rerank.parsing._dialect", never)
    found = read("SELECT " + "1," * CAPS.sql_bytes, SCHEMA)
    assert found.problem is not None
    assert "at most 20000 bytes are read" in found.problem
    assert read("DROP TABLE unheard_of", SCHEMA).problem == "DROP is no query; expected a SELECT"
