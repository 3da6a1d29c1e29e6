"""The strict match never calls equal what differs on rows, and forgives what cannot matter; both against execution."""

from __future__ import annotations

import random
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp
from test_sql_metrics import DDL, DIFFERENT, EQUAL

from slt_sql_rerank.metrics import WIDE, Execution, make_instances, neighbours, strict_match
from slt_sql_rerank.metrics.strict_match import canonical
from slt_sql_rerank.sandbox import Sandbox
from slt_sql_rerank.schema import Schema, from_sqlite

UNLIKE = [
    (
        "SELECT a.name FROM student a LEFT JOIN grade g ON a.id = g.student_id",
        "SELECT a.name FROM grade g LEFT JOIN student a ON a.id = g.student_id",
    ),
    (
        "SELECT x FROM (SELECT name AS x, age AS y FROM student)",
        "SELECT x FROM (SELECT age AS x, name AS y FROM student)",
    ),
    (
        "WITH t(x, y) AS (SELECT name, age FROM student) SELECT x FROM t",
        "WITH t(x, y) AS (SELECT age, name FROM student) SELECT x FROM t",
    ),
    (
        "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM t WHERE x < 3) SELECT x FROM t",
        "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM t WHERE x < 5) SELECT x FROM t",
    ),
    (
        "SELECT name FROM student WHERE (id, age) IN (SELECT mark, student_id FROM grade)",
        "SELECT name FROM student WHERE (id, age) IN (SELECT student_id, mark FROM grade)",
    ),
    (
        "SELECT sum(age) OVER w FROM student WINDOW w AS (PARTITION BY name)",
        "SELECT sum(age) OVER w FROM student WINDOW w AS (PARTITION BY id)",
    ),
    (
        "SELECT age / 2 FROM student",
        "SELECT age / 2.0 FROM student",
    ),
    (
        "SELECT name FROM student WHERE id = 9007199254740993",
        "SELECT name FROM student WHERE id = 9007199254740992",
    ),
    (
        "SELECT name AS x, city AS y FROM student, address UNION SELECT 'a','b' ORDER BY x",
        "SELECT name AS y, city AS x FROM student, address UNION SELECT 'a','b' ORDER BY x",
    ),
    (
        "SELECT name FROM student WHERE NOT (age = age)",
        "SELECT name FROM student WHERE NOT (id = id)",
    ),
    (
        "SELECT name FROM student WHERE age = age",
        "SELECT name FROM student",
    ),
    (
        "SELECT name -> '$.A' FROM student",
        "SELECT name -> '$.a' FROM student",
    ),
    (
        "SELECT -age AS age FROM student ORDER BY age",
        "SELECT -age FROM student ORDER BY age",
    ),
    (
        "SELECT value FROM json_each('[1]')",
        "SELECT value FROM json_each('[2]')",
    ),
    (
        "SELECT name FROM student ORDER BY age NULLS LAST",
        "SELECT name FROM student ORDER BY age",
    ),
    (
        "SELECT count(*) FILTER (WHERE age > 1) FROM student",
        "SELECT count(*) FROM student",
    ),
    (
        "SELECT name FROM student s WHERE EXISTS (SELECT 1 FROM grade g WHERE g.student_id = s.id)",
        "SELECT name FROM student s WHERE EXISTS (SELECT 1 FROM grade g WHERE g.student_id = g.mark)",
    ),
    (
        "SELECT CASE WHEN age > 1 THEN 1 ELSE 0 END FROM student",
        "SELECT CASE WHEN age > 1 THEN 1 END FROM student",
    ),
    (
        "SELECT CAST(age AS TEXT) FROM student",
        "SELECT CAST(age AS REAL) FROM student",
    ),
    (
        "SELECT substr(name, 0) FROM student",
        "SELECT substr(name) FROM student",
    ),
    (
        "SELECT name FROM student GROUP BY name HAVING count(*) > 1",
        "SELECT name FROM student GROUP BY name HAVING count(*) > 1.5",
    ),
    (
        "SELECT name FROM student LIMIT 1 OFFSET 0",
        "SELECT name FROM student LIMIT 1 OFFSET 1",
    ),
    (
        "SELECT name FROM student WHERE name LIKE 'A'",
        "SELECT name FROM student WHERE name GLOB 'A'",
    ),
    (
        "SELECT name FROM student WHERE 1 IN (name)",
        "SELECT name FROM student WHERE 1 = name",
    ),
    (
        "SELECT a.name FROM student a CROSS JOIN grade",
        "SELECT a.name FROM student a NATURAL JOIN grade",
    ),
    (
        "SELECT name COLLATE NOCASE FROM student ORDER BY 1",
        "SELECT name FROM student ORDER BY 1",
    ),
    (
        "SELECT 'A' FROM student",
        "SELECT 'a' FROM student",
    ),
    (
        "SELECT x'41' FROM student",
        "SELECT x'42' FROM student",
    ),
    (
        "SELECT TRUE FROM student",
        "SELECT FALSE FROM student",
    ),
    (
        "SELECT name FROM student WHERE age IS NULL",
        "SELECT name FROM student WHERE age IS NOT NULL",
    ),
    (
        "SELECT group_concat(name, ',') FROM student",
        "SELECT group_concat(name, ';') FROM student",
    ),
    (
        "SELECT group_concat(name ORDER BY age) FROM student",
        "SELECT group_concat(name ORDER BY id) FROM student",
    ),
    (
        "SELECT lag(age) OVER (ORDER BY id) FROM student",
        "SELECT lag(age) OVER (ORDER BY id DESC) FROM student",
    ),
    (
        "SELECT strftime('%Y', name) FROM student",
        "SELECT strftime('%y', name) FROM student",
    ),
    (
        "SELECT strftime('%M', name) FROM student",
        "SELECT strftime('%m', name) FROM student",
    ),
    (
        "SELECT s.name FROM student s JOIN address g USING (id)",
        "SELECT s.name FROM student s JOIN address g",
    ),
    (
        "SELECT name FROM student UNION ALL SELECT city FROM address LIMIT 1",
        "SELECT city FROM address UNION ALL SELECT name FROM student LIMIT 1",
    ),
]
SEEDS = [
    "SELECT name, age FROM student WHERE age > 20 AND id < 5 OR name = 'Ada'",
    "SELECT DISTINCT T1.name FROM student AS T1 JOIN grade AS T2 ON T1.id = T2.student_id WHERE T2.mark >= 2",
    "SELECT count(*), course FROM grade GROUP BY course HAVING count(*) > 1 ORDER BY course",
    "SELECT T2.city FROM student AS T1 JOIN address AS T2 ON T1.current_address_id = T2.id WHERE T1.age BETWEEN 20 AND 27",
    "SELECT name FROM student WHERE id NOT IN (SELECT student_id FROM grade WHERE mark > 1)",
    "SELECT name FROM student UNION SELECT city FROM address",
    "SELECT a.name FROM student AS a LEFT JOIN grade AS b ON a.id = b.student_id WHERE b.course IS NULL",
    "SELECT avg(age), name FROM student GROUP BY name",
    "SELECT x FROM (SELECT name AS x, max(age) AS y FROM student GROUP BY name) WHERE y > 20",
    "WITH old AS (SELECT id, name FROM student WHERE age > 20) SELECT g.mark FROM grade AS g, old WHERE old.id = g.student_id",
    "SELECT a.name FROM student a, student b WHERE a.age = b.age AND a.id < b.id",
    "SELECT name FROM student s WHERE EXISTS (SELECT 1 FROM grade g WHERE g.student_id = s.id AND g.mark = s.age / 2)",
    "SELECT course FROM grade WHERE mark = (SELECT max(mark) FROM grade) AND course LIKE '%a%'",
    "SELECT CASE WHEN age > 20 THEN name ELSE 'x' END, age * 2 + 1 FROM student WHERE NOT age = 25",
]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("strict")
    with closing(sqlite3.connect(folder / "school.sqlite")) as made:
        made.executescript(DDL)
    return make_instances(folder / "school.sqlite", folder, count=8, queries=SEEDS, rows=12)


@pytest.fixture(scope="module")
def schema(suite: tuple[Path, ...]) -> Schema:
    return from_sqlite(suite[0], name="school")


@pytest.fixture(scope="module")
def execution(suite: tuple[Path, ...]) -> Iterator[Execution]:
    with Sandbox({file.stem: file for file in suite}, WIDE) as sandbox:
        yield Execution(sandbox, seconds=2.0)


@pytest.mark.parametrize(("one", "other"), UNLIKE)
def test_what_differs_somewhere_is_not_equal(schema: Schema, one: str, other: str) -> None:
    assert canonical(one, schema) is not None
    assert canonical(one, schema) == canonical(one.replace("SELECT", "select"), schema)
    assert canonical(one, schema) != canonical(other, schema)


@pytest.mark.slow
def test_queries_with_one_canonical_form_give_one_result_on_every_instance(
    schema: Schema, suite: tuple[Path, ...], execution: Execution
) -> None:
    groups: dict[object, list[str]] = defaultdict(list)
    names = [file.stem for file in suite]
    made = [text for seed in SEEDS for text in (seed, *neighbours(seed, schema, count=45))]
    made += [text for first in made[::6] for text in neighbours(first, schema, count=3)]
    for pair in (*EQUAL, *DIFFERENT, *UNLIKE):
        made += pair
    draw = random.Random(3)
    made += [turned(sqlglot.parse_one(text, read="sqlite"), draw).sql("sqlite") for text in made[::3]]
    for text in dict.fromkeys(made):
        form = canonical(text, schema)
        if form is not None and execution.runner.execute(text, 2.0, database=names[0]).ok and "LIMIT" not in text:
            groups[form].append(text)
    alike = [(group[0], other) for group in groups.values() for other in group[1:]]
    wrong = [pair for pair in alike if not execution.strict(pair[1], pair[0], names)]
    print(f"\n{sum(map(len, groups.values()))} queries have {len(groups)} forms; {len(alike)} pairs share one")
    assert wrong == []
    assert len(groups) > 400
    assert len(alike) > 100


def turned(tree: exp.Expr, draw: random.Random) -> exp.Expr:
    """A query that says the same: sides of = and <, conditions, inner joins and columns in other places, other aliases."""
    for node in list(tree.walk()):
        if isinstance(node, exp.EQ | exp.And | exp.Or | exp.NEQ) and draw.random() < 0.5:
            first, second = node.this, node.expression
            node.set("this", second.copy())
            node.set("expression", first.copy())
    for kind, swapped in ((exp.GT, exp.LT), (exp.LTE, exp.GTE)):
        for node in list(tree.find_all(kind)):
            node.replace(swapped(this=node.expression.copy(), expression=node.this.copy()))
    if isinstance(tree, exp.Select):
        tree.set("expressions", draw.sample(tree.expressions, len(tree.expressions)))
    return tree


@pytest.mark.parametrize("sql", SEEDS)
def test_a_query_that_only_looks_different_is_equal(
    schema: Schema, suite: tuple[Path, ...], execution: Execution, sql: str
) -> None:
    draw = random.Random(sql)
    names = [file.stem for file in suite]
    for _ in range(5):
        text = turned(sqlglot.parse_one(sql, read="sqlite"), draw).sql("sqlite")
        assert strict_match(text, sql, schema), text
        assert execution.strict(text, sql, names), text
