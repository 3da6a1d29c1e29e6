"""Promises of the metrics: the scorer's traps, and what the strict forms say of them."""

from __future__ import annotations

import itertools
import math
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slt_sql_rerank.metrics import (
    Execution,
    gains,
    hardness,
    official_match,
    oracle_at,
    recovered_gap,
    strict_match,
    wins_losses,
)
from slt_sql_rerank.metrics.execution import is_ordered, official_rows, same_rows
from slt_sql_rerank.metrics.strict_match import canonical
from slt_sql_rerank.sandbox import Sandbox
from slt_sql_rerank.schema import Schema, from_sqlite
from sltcore.errors import DataError, ShapeError

DDL = """
CREATE TABLE address (id INTEGER PRIMARY KEY, city TEXT);
CREATE TABLE student (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, current_address_id INTEGER REFERENCES address(id),
  permanent_address_id INTEGER REFERENCES address(id), market_value REAL);
CREATE TABLE grade (student_id INTEGER REFERENCES student(id), course TEXT, mark INTEGER);
INSERT INTO address VALUES (1, 'Rome'), (2, 'Oslo');
INSERT INTO student VALUES (1, 'Ada', 20, 1, 1, 1.5), (2, 'Bo', 30, 1, 2, 2.5), (3, 'Ada', 25, 2, 2, 3.5);
INSERT INTO grade VALUES (1, 'maths', 1), (1, 'art', 2), (2, 'maths', 3);
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("metrics") / "school.sqlite"
    made = sqlite3.connect(file)
    made.executescript(DDL)
    made.close()
    return file


@pytest.fixture(scope="module")
def schema(path: Path) -> Schema:
    return from_sqlite(path)


@pytest.fixture(scope="module")
def execution(path: Path) -> Iterator[Execution]:
    with Sandbox(path) as sandbox:
        yield Execution(sandbox)


TRAPS = [
    # candidate, gold, official match, strict match
    (
        "SELECT name FROM student WHERE current_address_id = permanent_address_id",
        "SELECT name FROM student WHERE permanent_address_id = permanent_address_id",
        True,
        False,
    ),
    ("SELECT name FROM student WHERE id = 99", "SELECT name FROM student WHERE id = 1", True, False),
    ("SELECT name FROM student ORDER BY id LIMIT 5", "SELECT name FROM student ORDER BY id LIMIT 1", True, False),
    ("SELECT name FROM student", "SELECT DISTINCT name FROM student", True, False),
    ("SELECT count(name) FROM student", "SELECT count(DISTINCT name) FROM student", True, False),
    ("SELECT max(id) FROM student", "SELECT id FROM student ORDER BY id DESC LIMIT 1", False, False),
    ("SELECT name FROM student WHERE id IN (1, 2)", "SELECT name FROM student WHERE id IN (1, 2)", None, True),
    ("SELECT market_value FROM student", "SELECT market_value FROM student", False, True),
    (
        "SELECT T1.name FROM student AS T1 JOIN grade AS T2 ON T1.id = T2.mark",
        "SELECT T1.name FROM student AS T1 JOIN grade AS T2 ON T1.id = T2.student_id",
        True,
        False,
    ),
    ("SELECT s.name FROM student s", "SELECT name FROM student", False, True),
    ("SELECT name FROM student WHERE (age > 3)", "SELECT name FROM student WHERE age > 3", False, True),
    ("SELECT name FROM student WHERE 3 < age", "SELECT name FROM student WHERE age > 3", False, True),
    ("SELECT name FROM student WHERE age=3", "SELECT name FROM student WHERE age = 3", False, True),
    ("SELECT name FROM student LIMIT 1 DROP TABLE student", "SELECT name FROM student LIMIT 1", True, False),
    ("nonsense", "SELECT name FROM student", False, False),
    ("", "SELECT name FROM student", False, False),
    ("SELECT " + "(" * 999, "SELECT name FROM student", False, False),
]


@pytest.mark.parametrize(("candidate", "gold", "official", "strict"), TRAPS)
def test_a_trap_of_the_scorer_catches_the_official_form_alone(
    schema: Schema, candidate: str, gold: str, official: bool | None, strict: bool
) -> None:
    assert strict_match(candidate, gold, schema) is strict
    if official is None:
        with pytest.raises(
            DataError, match=r"Spider's scorer cannot parse the gold query .* IN has no query; use the strict"
        ):
            official_match(candidate, gold, schema)
    else:
        assert official_match(candidate, gold, schema) is official


EQUAL = [
    ("SELECT name, age FROM student", "select AGE, Name from STUDENT"),
    ("SELECT * FROM address", "SELECT city, id FROM address"),
    (
        "SELECT name FROM student WHERE age > 3 AND id = 2",
        "SELECT x.name FROM student AS x WHERE 2 = x.id AND x.age > 3",
    ),
    ("SELECT name FROM student WHERE age BETWEEN 2 AND 5", "SELECT name FROM student WHERE age <= 5 AND age >= 2"),
    ('SELECT name FROM student WHERE name = "Ada"', "SELECT name FROM student WHERE name = 'Ada'"),
    (
        "SELECT T1.id FROM student AS T1 JOIN grade AS T2 ON T1.id = T2.student_id WHERE T2.mark = 1",
        "SELECT student_id FROM grade, student WHERE student.id = grade.student_id AND 1 = mark",
    ),
    (
        "SELECT city FROM address UNION SELECT name FROM student",
        "SELECT name FROM student UNION SELECT city FROM address",
    ),
    (
        "SELECT a.name FROM student a JOIN student b ON a.id = b.age WHERE b.name = 'x'",
        "SELECT b.name FROM student a JOIN student b ON b.id = a.age WHERE a.name = 'x'",
    ),
    (
        "SELECT count(*) AS n FROM grade GROUP BY course ORDER BY n",
        "SELECT count(*) FROM grade GROUP BY course ORDER BY count(*)",
    ),
    ("WITH x AS (SELECT id FROM student) SELECT id FROM x", "WITH y AS (SELECT id FROM student) SELECT y.id FROM y"),
]
DIFFERENT = [
    ("SELECT name FROM student WHERE name = 'Ada'", "SELECT name FROM student WHERE name = 'ada'"),
    ("SELECT name FROM student WHERE age > 3", "SELECT name FROM student WHERE age >= 3"),
    ("SELECT name FROM student WHERE age > id", "SELECT name FROM student WHERE id > age"),
    ("SELECT name FROM student ORDER BY age, id", "SELECT name FROM student ORDER BY id, age"),
    ("SELECT name FROM student ORDER BY age", "SELECT name FROM student ORDER BY age DESC"),
    ("SELECT name FROM student", "SELECT name FROM student, address"),
    (
        "SELECT city FROM address EXCEPT SELECT name FROM student",
        "SELECT name FROM student EXCEPT SELECT city FROM address",
    ),
    (
        "SELECT city FROM address UNION SELECT name FROM student",
        "SELECT city FROM address UNION ALL SELECT name FROM student",
    ),
    ("SELECT id, age FROM student UNION SELECT 1, 2", "SELECT age, id FROM student UNION SELECT 1, 2"),
    (
        "SELECT a.name FROM student a LEFT JOIN grade g ON a.id = g.student_id AND g.mark = 1",
        "SELECT a.name FROM student a LEFT JOIN grade g ON a.id = g.student_id WHERE g.mark = 1",
    ),
    (
        "SELECT a.name FROM student a JOIN student b ON a.id = b.age WHERE b.name = 'x'",
        "SELECT a.name FROM student a JOIN student b ON a.id = b.age WHERE a.name = 'x'",
    ),
    ("SELECT count(*) FROM student", "SELECT count(id) FROM student"),
    (
        "SELECT name FROM student WHERE age = 1 AND id = 1 OR id = 2",
        "SELECT name FROM student WHERE age = 1 AND (id = 1 OR id = 2)",
    ),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_the_strict_match_forgives_names_and_order(schema: Schema, execution: Execution, one: str, other: str) -> None:
    assert strict_match(one, other, schema)
    assert strict_match(other, one, schema)
    assert execution.strict(one, other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_the_strict_match_forgives_nothing_else(schema: Schema, one: str, other: str) -> None:
    assert canonical(one, schema) is not None
    assert canonical(other, schema) is not None
    assert not strict_match(one, other, schema)


def test_a_gold_query_that_is_no_sql_is_told(schema: Schema) -> None:
    with pytest.raises(
        DataError, match=r"the gold query 'nonsense' of database 'school' is no SQL that sqlglot parses"
    ):
        strict_match("SELECT 1", "nonsense", schema)


EXECUTED = [
    # candidate, gold, official, strict
    ("SELECT name, age FROM student WHERE id = 9", "SELECT city FROM address WHERE id = 9", True, False),
    ("SELECT name FROM student", "SELECT DISTINCT name FROM student", True, False),
    ("DROP TABLE student", "SELECT name FROM student WHERE id = 9", True, False),
    ("DELETE FROM student", "SELECT name FROM student", False, False),
    ("SELECT market_value FROM student", "SELECT market_value FROM student", False, True),
    ("SELECT age, name FROM student", "SELECT name, age FROM student", True, True),
    ("SELECT name FROM student ORDER BY age DESC", "SELECT name FROM student", True, True),
    ("SELECT name FROM student ORDER BY age DESC", "SELECT name FROM student ORDER BY age", False, False),
    (
        "SELECT name FROM student ORDER BY age",
        "SELECT name FROM student WHERE 'order by' = 'order by'",
        False,
        True,
    ),
    ("SELECT id FROM student WHERE age > = 25", "SELECT id FROM student WHERE age >= 25", True, False),
    ("SELECT max(id) FROM student", "SELECT id FROM student ORDER BY id DESC LIMIT 1", True, True),
    ("SELECT nosuch FROM student", "SELECT name FROM student", False, False),
    ("SELECT 1.0", "SELECT 1", True, True),
    ("SELECT '1'", "SELECT 1", False, False),
    ("SELECT name FROM student; DROP TABLE student", "SELECT name FROM student", True, False),
]


@pytest.mark.parametrize(("candidate", "gold", "official", "strict"), EXECUTED)
def test_execution_accuracy_and_its_traps(
    execution: Execution, path: Path, candidate: str, gold: str, official: bool, strict: bool
) -> None:
    before = path.read_bytes()
    assert execution.official(candidate, gold) is official
    assert execution.strict(candidate, gold) is strict
    assert path.read_bytes() == before


def test_a_candidate_past_its_deadline_is_wrong(path: Path) -> None:
    with Sandbox(path) as sandbox:
        quick = Execution(sandbox, seconds=0.2)
        endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
        assert not quick.official(endless, "SELECT 1")
        assert not quick.strict(endless, "SELECT 1")


def test_a_suite_is_passed_on_every_database_or_not_at_all(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    made = sqlite3.connect(other)
    made.executescript(DDL + "INSERT INTO student VALUES (4, 'Cy', 40, 1, 1, 0);")
    made.close()
    with Sandbox({"a": path, "b": other}) as sandbox:
        suite = Execution(sandbox)
        by_luck = ("SELECT name FROM student WHERE id <= 3", "SELECT name FROM student")
        for judge in (suite.official, suite.strict):
            assert judge(*by_luck, ["a"])
            assert not judge(*by_luck, ["b"])
            assert not judge(*by_luck, ["a", "b"])
            assert judge(by_luck[1], by_luck[1], ["a", "b"])
        with pytest.raises(
            DataError, match=r"the gold query 'SELECT x' gives no rows on database 'a': no such column: x; mend"
        ):
            suite.strict("SELECT 1", "SELECT x", ["a"])


CELLS = st.sampled_from([0, 1, 1.0, "1", "a", None, b"a"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    width, height = draw(st.integers(1, 4)), draw(st.integers(0, 5))
    rows = [tuple(draw(CELLS) for _ in range(width)) for _ in range(height)]
    if draw(st.booleans()):
        order = draw(st.permutations(range(width)))
        other = [tuple(row[i] for i in order) for row in draw(st.permutations(rows))]
    else:
        other = [tuple(draw(CELLS) for _ in range(width)) for _ in range(height)]
    return rows, other


@settings(max_examples=300, deadline=None)
@given(tables(), st.booleans())
def test_results_are_equal_when_some_order_of_columns_makes_them_so(
    both: tuple[list[tuple[object, ...]], list[tuple[object, ...]]], ordered: bool
) -> None:
    rows, other = both
    wanted = not rows  # by brute force over all orders of columns
    for order in itertools.permutations(range(len(rows[0]) if rows else 0)):
        moved = [tuple(row[i] for i in order) for row in other]
        wanted = wanted or (moved == rows if ordered else Counter(moved) == Counter(rows))
    assert same_rows(rows, other, ordered=ordered) is wanted  # type: ignore[arg-type]
    assert wanted or not rows or not official_rows(rows, other, ordered=ordered)  # type: ignore[arg-type]


def test_wide_results_are_compared_quickly() -> None:
    draw = random.Random(0)
    rows = [tuple(draw.randrange(2) for _ in range(30)) for _ in range(200)]
    order = draw.sample(range(30), 30)
    assert same_rows(rows, [tuple(row[i] for i in order) for row in draw.sample(rows, 200)], ordered=False)
    assert same_rows([(1,) * 40] * 50, [(1,) * 40] * 50, ordered=False)


def test_order_counts_by_the_outermost_query() -> None:
    assert is_ordered("SELECT a FROM t ORDER BY a")
    assert is_ordered("SELECT a FROM t UNION SELECT b FROM t ORDER BY 1")
    assert not is_ordered("SELECT a FROM (SELECT a FROM t ORDER BY a)")
    assert not is_ordered("SELECT 'order by'")


@pytest.mark.parametrize(
    ("sql", "level"),
    [
        ("SELECT count(*) FROM student", "easy"),
        ("SELECT name, age FROM student WHERE age > 3", "medium"),
        (
            "SELECT T1.name FROM student AS T1 JOIN grade AS T2 ON T1.id = T2.student_id GROUP BY T1.id ORDER BY count(*)",
            "hard",
        ),
        ("SELECT name FROM student WHERE id IN (SELECT student_id FROM grade)", "hard"),
        ("SELECT name FROM student WHERE age > 1 AND id IN (SELECT student_id FROM grade WHERE mark > 1)", "extra"),
    ],
)
def test_hardness_grows_with_parts(schema: Schema, sql: str, level: str) -> None:
    assert hardness(sql, schema) == level


class TestReranking:
    CORRECT = ([True, False], [False, True], [False, False], [False, True, True], [True, True])

    def test_oracle_grows_with_n(self) -> None:
        assert [oracle_at(self.CORRECT, n) for n in (1, 2, 9)] == [0.4, 0.8, 0.8]
        assert math.isnan(oracle_at([], 3))

    def test_gap_is_recovered_in_shares(self) -> None:
        found = gains(
            self.CORRECT, [[0, 1], [1, 0], [1, 0], [0, 2, 1], [0, 1]], ["easy", "hard", "hard", "hard", "easy"]
        )
        assert found["all"] == (5, 0.4, 0.6, 0.8, pytest.approx(0.5))
        assert found["hard"] == (3, 0.0, pytest.approx(1 / 3), pytest.approx(2 / 3), pytest.approx(0.5))
        assert found["easy"][:4] == (2, 1.0, 1.0, 1.0)
        assert math.isnan(found["easy"].recovered)
        assert recovered_gap(0.5, 0.25, 1.0) == -0.5

    def test_no_order_beats_the_oracle(self) -> None:
        draw = random.Random(1)
        correct = [[draw.random() < 0.3 for _ in range(4)] for _ in range(50)]
        for _ in range(20):
            orders = [draw.sample(range(4), 4) for _ in correct]
            gain = gains(correct, orders)["all"]
            assert gain.reranked <= gain.oracle == oracle_at(correct, 4)

    def test_wins_and_losses_are_counted_and_tested(self) -> None:
        before = [True] * 5 + [False] * 10
        after = [True] * 4 + [False] + [True] * 7 + [False] * 3
        found = wins_losses(before, after)
        assert found[:4] == (7, 1, 4, 3)
        assert found.p == pytest.approx(2 * (1 + 8) / 2**8)  # binomial(8, 1/2): P(X <= 1), twice

    def test_bad_numbers_are_refused(self) -> None:
        with pytest.raises(ShapeError, match="the oracle of the first 0 candidates was asked for; expected at least 1"):
            oracle_at(self.CORRECT, 0)
        with pytest.raises(ShapeError, match="item 1 has no candidates; expected at least one"):
            oracle_at([[True], []], 1)
        with pytest.raises(ShapeError, match=r"order \[0, 0\] is no permutation of 2 candidates"):
            gains([[True, False]], [[0, 0]])
        with pytest.raises(ShapeError, match="1 items came with 0 orders and 0 groups; expected one each"):
            gains([[True]], [])
