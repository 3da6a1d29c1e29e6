"""Candidates that use what the question names come first, and each reason names its link."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slt_sql_rerank.databases import Sandboxes, schema_of
from slt_sql_rerank.linking.indexes import Indexes
from slt_sql_rerank.parsing import read
from slt_sql_rerank.sandbox.sandbox import Sandbox
from slt_sql_rerank.schema_linking.constraints import POINTS
from slt_sql_rerank.schema_linking.reranker import SchemaLinkingReranker
from slt_sql_rerank.schema_linking.use import Compared, Joined, used
from sltcore.errors import ContextError
from sltcore.pipeline.build import build_component
from sltcore.types import Hypothesis, NBest

QUESTION = "What are the names of singers from France who had a concert in 2014?"
RIGHT = (
    "SELECT t1.name FROM singer AS t1 JOIN concert AS t2 ON t1.id = t2.singer_id "
    "WHERE t1.country = 'France' AND t2.year = 2014"
)
SCRIPT = """
CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, country TEXT, age INT, gender TEXT);
CREATE TABLE concert (id INTEGER PRIMARY KEY, singer_id INT REFERENCES singer(id), year INT, stadium TEXT);
CREATE TABLE sponsor (id INTEGER PRIMARY KEY, concert_id INT REFERENCES concert(id), name TEXT);
INSERT INTO singer VALUES (1, 'Ada', 'France', 30, 'F'), (2, 'Bo', 'Spain', 20, 'M');
INSERT INTO concert VALUES (1, 1, 2014, 'Wembley'), (2, 2, 2015, 'Camp Nou');
INSERT INTO sponsor VALUES (1, 1, 'Acme Ltd');
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("db") / "music.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(SCRIPT)
    connection.close()
    return path


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[Sandboxes]:
    with Sandboxes() as found:
        yield found


def reranker(sandboxes: Sandboxes, **options: Any) -> SchemaLinkingReranker:
    return SchemaLinkingReranker(Indexes(sandboxes), sandboxes, **options)


def reasons(sandboxes: Sandboxes, database: Any, sql: str, question: str = QUESTION) -> dict[str, Any]:
    (found,) = reranker(sandboxes).explain(question, [Hypothesis(sql, -1.0)], {"database": database})
    return found


def constraints(found: dict[str, Any]) -> list[str]:
    return [one["constraint"] for one in found["broken"]]


def test_the_right_query_breaks_nothing_with_rows_and_without(sandboxes: Sandboxes, database: Path) -> None:
    for where in (database, str(database), schema_of(database)):
        assert reasons(sandboxes, where, RIGHT)["broken"] == []


@pytest.mark.parametrize(
    ("sql", "expected", "why"),
    [
        ("SELECT name FROM singer WHERE country = 'France'", "missing-table", "'concert' is table concert (exact)"),
        (RIGHT.replace("t1.name", "t1.age"), "missing-column", "'names' is column"),
        (
            RIGHT.replace("t1.country = 'France' AND ", ""),
            "missing-cell",
            "'France' is cell 'France' of singer.country",
        ),
        (RIGHT.replace("t1.name", "t1.age"), "unlinked-column", "singer.age is not named, while 'names' is column"),
        (RIGHT.replace("t1.id = t2.singer_id", "t1.id = t2.id"), "join-off-key", "singer.id = concert.id follows no"),
        (RIGHT.replace("France", "Germany"), "strange-text", "'Germany' is not in the question"),
        (RIGHT.replace("2014", "1999"), "strange-number", "1999 is not in the question"),
        (
            RIGHT.replace("t1.country", "t1.name"),
            "other-column",
            "'France' is a cell of singer.country, not of singer.name",
        ),
        (
            "SELECT t1.name FROM singer AS t1 JOIN concert AS t2 ON t1.id = t2.singer_id JOIN sponsor AS t3 ON "
            "t2.id = t3.concert_id WHERE t1.country = 'France' AND t2.year = 2014",
            "needless-table",
            "table sponsor gives nothing and connects nothing",
        ),
    ],
)
def test_each_constraint_is_told_with_its_reason(
    sandboxes: Sandboxes, database: Path, sql: str, expected: str, why: str
) -> None:
    found = reasons(sandboxes, database, sql)
    (one, *_) = [one for one in found["broken"] if one["constraint"] == expected]
    assert one["why"].startswith(why)
    assert found["points"] == pytest.approx(sum(one["points"] for one in found["broken"]))


def test_every_price_belongs_to_a_constraint_that_can_break(sandboxes: Sandboxes, database: Path) -> None:
    wrong = [
        "SELECT t3.name FROM singer AS t1, concert AS t2, sponsor AS t3 WHERE t1.id = t2.id AND t1.name = 'France' AND t2.year = 7",
        "SELECT age FROM singer WHERE gender = 'Germany'",
        "SELECT t1.age FROM singer AS t1 JOIN concert AS t2 ON t1.id = t2.singer_id JOIN sponsor AS t3 ON t2.id = t3.concert_id",
        "SELECT year FROM concert WHERE year = 3",
    ]
    seen = {name for sql in wrong for name in constraints(reasons(sandboxes, database, sql))}
    assert seen == set(POINTS)


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT stadium FROM singer", "no such column: stadium"),
        ("SELECT name FROM elsewhere", "no such table: elsewhere"),
        ("SELECT name FRM singer", "syntax error"),
        ("DROP TABLE singer", "refused"),
        ("", "empty"),
    ],
)
def test_what_does_not_prepare_is_impossible_and_goes_last(
    sandboxes: Sandboxes, database: Path, sql: str, why: str
) -> None:
    ranked = reranker(sandboxes).rerank(
        QUESTION, NBest([Hypothesis(sql, 0.0), Hypothesis(RIGHT, -9.0)]), {"database": database}
    )
    assert [one.text for one in ranked] == [RIGHT, sql]
    assert why in ranked[-1].extra["schema-linking"]["impossible"]
    assert reranker(sandboxes).score(QUESTION, [Hypothesis(sql)], {"database": database}) == [-math.inf]


def test_without_rows_unknown_names_are_impossible(sandboxes: Sandboxes, database: Path) -> None:
    schema = schema_of(database)
    assert reasons(sandboxes, schema, "SELECT stadium FROM singer")["impossible"] == "the database has no stadium"
    assert reasons(sandboxes, schema, "SELECT x FROM elsewhere")["impossible"] == "the database has no elsewhere"
    fine = "SELECT n FROM (SELECT name AS n FROM singer) AS s ORDER BY n"
    assert "impossible" not in reasons(sandboxes, schema, fine)
    assert "impossible" not in reasons(sandboxes, schema, 'SELECT name FROM singer WHERE country = "France"')


def test_the_soft_rule_is_score_less_points(sandboxes: Sandboxes, database: Path) -> None:
    candidates = [Hypothesis(RIGHT, -3.0), Hypothesis("SELECT name FROM singer WHERE country = 'France'", -1.0)]
    points = [reasons(sandboxes, database, one.text)["points"] for one in candidates]
    context = {"database": database}
    soft = reranker(sandboxes, weight=2.5).score(QUESTION, candidates, context)
    assert soft == pytest.approx([one.score - 2.5 * p for one, p in zip(candidates, points, strict=True)])
    assert reranker(sandboxes, rule="hard").score(QUESTION, candidates, context) == pytest.approx([-p for p in points])
    dear = reranker(sandboxes, rule="hard", points={"missing-table": 5.0}).score(QUESTION, candidates, context)
    assert dear[1] == pytest.approx(-points[1] - 4.0)


def test_codes_patterns_plurals_and_number_words_are_found(sandboxes: Sandboxes, database: Path) -> None:
    def broken(question: str, sql: str) -> list[str]:
        return constraints(reasons(sandboxes, database, sql, question))

    assert broken("Which female singers are there?", "SELECT name FROM singer WHERE gender = 'F'") == []
    assert broken("Singers with a b in their name?", "SELECT name FROM singer WHERE name LIKE '%b%'") == []
    assert broken("Which singers are older than twenty-five?", "SELECT name FROM singer WHERE age > 25") == []
    assert "strange-number" in broken("Which singers are older than twenty?", "SELECT name FROM singer WHERE age > 25")
    assert broken("Show the three oldest singers.", "SELECT name FROM singer ORDER BY age DESC LIMIT 3") == []


def points_of(found: dict[str, Any], constraint: str) -> list[float]:
    return [one["points"] for one in found["broken"] if one["constraint"] == constraint]


def test_a_text_that_the_question_does_not_say_costs_half_where_it_is_a_cell(
    sandboxes: Sandboxes, database: Path
) -> None:
    question = "Which singers are from Iberia?"
    cell = reasons(sandboxes, database, "SELECT name FROM singer WHERE country = 'Spain'", question)
    none = reasons(sandboxes, database, "SELECT name FROM singer WHERE country = 'Norway'", question)
    (half,), (whole,) = points_of(cell, "strange-text"), points_of(none, "strange-text")
    assert half == pytest.approx(whole / 2)


def test_a_table_that_count_counts_is_not_needless(sandboxes: Sandboxes, database: Path) -> None:
    joined = "FROM singer AS t1 JOIN concert AS t2 ON t1.id = t2.singer_id"
    counted = reasons(
        sandboxes, database, f"SELECT t1.name, count(*) {joined} GROUP BY t1.id", "Names and appearances?"
    )
    plain = reasons(sandboxes, database, f"SELECT t1.name {joined}", "Names?")
    inside = f"SELECT t1.name {joined} WHERE t1.age > (SELECT count(*) FROM sponsor)"
    assert "needless-table" not in constraints(counted)
    assert "needless-table" in constraints(reasons(sandboxes, database, inside, "Names?"))
    assert "needless-table" in constraints(plain)


def test_a_join_off_key_does_not_make_the_table_between_needless(sandboxes: Sandboxes, database: Path) -> None:
    sql = (
        "SELECT t3.name FROM singer AS t1 JOIN concert AS t2 ON t1.id = t2.singer_id JOIN sponsor AS t3 "
        "ON t2.id = t3.concert_id AND t1.id = t3.id WHERE t1.age > 20"
    )
    assert "needless-table" not in constraints(reasons(sandboxes, database, sql, "Sponsors, age above 20?"))


def made(path: Path, script: str) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


def test_of_two_names_one_within_the_other_the_longer_is_wanted(sandboxes: Sandboxes, tmp_path: Path) -> None:
    path = made(tmp_path / "a.sqlite", "CREATE TABLE staff (last_name TEXT, name TEXT, salary INT)")
    question = "the last name of all staff"
    assert reasons(sandboxes, path, "SELECT last_name FROM staff", question)["broken"] == []
    assert points_of(reasons(sandboxes, path, "SELECT name FROM staff", question), "missing-column")
    path = made(tmp_path / "b.sqlite", "CREATE TABLE staff (staff_last_name TEXT, name TEXT, salary INT)")
    assert reasons(sandboxes, path, "SELECT staff_last_name FROM staff", question)["broken"] == []


def test_words_that_are_nearly_a_name_are_none_where_they_begin_within_another(
    sandboxes: Sandboxes, tmp_path: Path
) -> None:
    path = made(tmp_path / "staff.sqlite", "CREATE TABLE staff (first_name TEXT, year_name TEXT)")
    assert reasons(sandboxes, path, "SELECT first_name FROM staff", "first name year of staff")["broken"] == []
    assert reasons(sandboxes, path, "SELECT first_name FROM staff", "name year of staff")["broken"] != []


def test_a_name_that_the_words_also_resemble_costs_less_than_any_other(sandboxes: Sandboxes, tmp_path: Path) -> None:
    path = made(tmp_path / "film.sqlite", "CREATE TABLE film (year INT, release_year INT, size INT)")
    near, far = (
        points_of(reasons(sandboxes, path, f"SELECT {name} FROM film", "the year of each film"), "missing-column")
        for name in ("release_year", "size")
    )
    assert near == pytest.approx([0.3 * far[0]])


def test_a_column_compared_with_what_the_question_says_is_named(sandboxes: Sandboxes, database: Path) -> None:
    for number, unnamed in ((30, {"singer.id"}), (31, {"singer.id", "singer.age"})):
        sql = f"SELECT id FROM singer WHERE age = {number}"
        found = reasons(sandboxes, database, sql, "the name of singers with 30")["broken"]
        assert {one["why"].split()[0] for one in found if one["constraint"] == "unlinked-column"} == unnamed


def test_a_common_word_counts_little_as_a_cell_and_nothing_within_a_name(sandboxes: Sandboxes, tmp_path: Path) -> None:
    path = made(
        tmp_path / "shop.sqlite",
        "CREATE TABLE shop (open_year INT, state TEXT); INSERT INTO shop VALUES (1, 'open'), (2, 'shut'), (3, 'Left Bank');",
    )

    def missing(question: str) -> list[float]:
        return points_of(reasons(sandboxes, path, "SELECT open_year FROM shop", question), "missing-cell")

    assert missing("the open year of shops") == missing("shops now open") == []
    assert missing("shops now shut") == missing("Shut shops") == [0.3]
    assert missing("shops marked Shut") == missing("shops of left bank") == [1.0]


def test_a_weaker_link_asks_for_less(sandboxes: Sandboxes, tmp_path: Path) -> None:
    path = made(tmp_path / "pupil.sqlite", "CREATE TABLE pupil (name_first TEXT, height INT)")
    whole = points_of(reasons(sandboxes, path, "SELECT name_first FROM pupil", "pupils by height"), "missing-column")
    turned = points_of(reasons(sandboxes, path, "SELECT height FROM pupil", "first name of pupils"), "missing-column")
    assert len(whole) == len(turned) == 1
    assert 0 < turned[0] < whole[0]


def test_a_cell_is_known_in_another_column_whatever_its_signs(sandboxes: Sandboxes, tmp_path: Path) -> None:
    script = "CREATE TABLE firm (name TEXT, town TEXT); INSERT INTO firm VALUES ('Acme,  Ltd.', 'Rome')"
    path = made(tmp_path / "firms.sqlite", script)
    found = reasons(sandboxes, path, "SELECT name FROM firm WHERE town = 'Acme,  Ltd.'", "firm Acme Ltd by name")
    assert constraints(found) == ["other-column"]


def test_the_cell_itself_is_wanted_where_the_question_leaves_accents_out(sandboxes: Sandboxes, tmp_path: Path) -> None:
    script = "CREATE TABLE town (name TEXT, size INT); INSERT INTO town VALUES ('São Paulo', 1)"
    path = made(tmp_path / "towns.sqlite", script)
    for text, expected in (("São Paulo", []), ("Rio", ["missing-cell", "strange-text"])):
        sql = f"SELECT size FROM town WHERE name = '{text}'"
        assert constraints(reasons(sandboxes, path, sql, "the size of town Sao Paulo")) == expected


def test_a_literal_may_hold_the_cell_among_other_words(sandboxes: Sandboxes, database: Path) -> None:
    question = "Sponsors like Acme Ltd"
    for text in ("Acme Ltd", "the Acme Ltd.", "%acme%"):
        sql = f"SELECT name FROM sponsor WHERE name LIKE '{text}'"
        assert "missing-cell" not in constraints(reasons(sandboxes, database, sql, question)), text
    sql = "SELECT name FROM sponsor WHERE name = 'Acm'"
    assert "missing-cell" in constraints(reasons(sandboxes, database, sql, question))


def test_use_is_what_the_tree_says(database: Path) -> None:
    schema = schema_of(database)
    assert schema is not None
    sql = (
        "SELECT s.name, count(*) FROM singer AS s JOIN concert c ON s.id = c.singer_id WHERE s.age > 20 AND c.stadium LIKE 'W%' "
        "AND EXISTS (SELECT 1 FROM sponsor WHERE concert_id = c.id AND name IN ('Acme Ltd', 'x'))"
    )
    found = used(read(sql, schema).tree, schema)
    assert found.tables == {"singer", "concert", "sponsor"}
    assert ("sponsor", "concert_id") in found.columns
    assert Joined(("singer", "id"), ("concert", "singer_id")) in found.joins
    assert Compared("20", ("singer", "age"), is_number=True) in found.literals
    assert Compared("W%", ("concert", "stadium"), is_pattern=True) in found.literals
    assert Compared("x", ("sponsor", "name")) in found.literals
    assert found.unknown == ()


def test_the_database_itself_says_the_same_reads(database: Path) -> None:
    schema = schema_of(database)
    assert schema is not None
    statements = [RIGHT, "SELECT name FROM singer", "SELECT * FROM concert WHERE year IN (SELECT age FROM singer)"]
    with Sandbox(database) as sandbox:
        for sql, verdict in zip(statements, sandbox.check_all(statements), strict=True):
            tree = read(sql, schema).tree
            reads = used(tree, schema, verdict)
            assert used(tree, schema).columns <= reads.columns
            assert used(tree, schema).tables == reads.tables


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_it_is_a_permutation_that_is_stable_and_deterministic(
    data: st.DataObject, sandboxes: Sandboxes, database: Path
) -> None:
    texts = [RIGHT, "SELECT name FROM singer", "SELECT x FROM singer", "nonsense", "SELECT age FROM singer", RIGHT]
    chosen = data.draw(st.lists(st.sampled_from(texts), min_size=1, max_size=6))
    before = NBest(Hypothesis(text, -float(k)) for k, text in enumerate(chosen))
    part = reranker(sandboxes)
    after = part.rerank(QUESTION, before, {"database": database})
    assert sorted((one.text, one.score) for one in after) == sorted((one.text, one.score) for one in before)
    assert [one.text for one in part.rerank(QUESTION, before, {"database": database})] == [one.text for one in after]
    scores = part.score(QUESTION, list(before), {"database": database})
    expected = [before[place].text for place in sorted(range(len(before)), key=lambda place: -scores[place])]
    assert [one.text for one in after] == expected


def test_a_call_without_a_database_is_told(sandboxes: Sandboxes) -> None:
    with pytest.raises(ContextError, match="the call gives no context 'database'"):
        reranker(sandboxes).score(QUESTION, [Hypothesis(RIGHT)], {})


def test_a_file_that_changes_is_read_anew(sandboxes: Sandboxes, tmp_path: Path) -> None:
    path = tmp_path / "music.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(SCRIPT)
    indexes = Indexes(sandboxes)
    assert not any(link.value == "Lima" for link in indexes.of(path).link("Who sang in Lima?"))
    connection.execute("INSERT INTO concert VALUES (3, 1, 2016, 'Lima')")
    connection.commit()
    connection.close()
    assert any(link.value == "Lima" for link in indexes.of(path).link("Who sang in Lima?"))


def test_it_is_built_from_a_spec(database: Path) -> None:
    part = build_component(
        "reranker", "schema-linking", {"rule": "hard", "points": {"missing-table": 2}, "cells": False}
    )
    found = part.explain(QUESTION, [Hypothesis("SELECT name FROM singer")], {"database": str(database)})
    assert [one["points"] for one in found[0]["broken"] if one["constraint"] == "missing-table"] == [2.0]
