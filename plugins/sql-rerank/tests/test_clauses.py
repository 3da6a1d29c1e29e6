"""The clauses of a query are those of its outermost SELECT, read from its tree."""

from __future__ import annotations

import json
import os
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from official_scorer import Official, package, unpack

from slt_sql_rerank.clauses import CLAUSES, KEYWORDS, clauses, closed, from_text, is_valid, written
from sltcore.errors import DataError

DATA = os.environ.get("SLT_DATA")
OFFICIAL = (
    "where",
    "group",
    "having",
    "desc",
    "asc",
    "order",
    "limit",
    "except",
    "union",
    "intersect",
    "or",
    "not",
    "in",
)


@pytest.mark.parametrize(
    ("sql", "plan"),
    [
        ("SELECT a FROM t", "select"),
        ("SELECT a FROM t WHERE a = 1 OR b LIKE 'x'", "select where or like"),
        ("SELECT a FROM t WHERE a NOT IN (1, 2)", "select where not in"),
        ("SELECT a FROM t WHERE a <> 1", "select where"),
        ("SELECT a FROM t WHERE a IS NOT NULL", "select where not"),
        ("SELECT a FROM t WHERE a BETWEEN 1 AND 2", "select where between"),
        ("SELECT a FROM t ORDER BY b", "select order asc"),
        ("SELECT a FROM t ORDER BY b DESC, c ASC LIMIT 1", "select order asc desc limit"),
        ("SELECT a, count(*) FROM t GROUP BY a HAVING count(*) > 1", "select group having agg count"),
        ("SELECT max(a), min(a), avg(a), sum(a) FROM t", "select agg max min sum avg"),
        ("SELECT total(a) FROM t", "select agg"),
        ("SELECT a FROM t ORDER BY count(*) DESC", "select order desc agg count"),
        ("SELECT count(DISTINCT a) FROM t", "select agg count distinct"),
        ("SELECT DISTINCT a FROM t", "select distinct"),
        ("SELECT a FROM t JOIN u ON t.i = u.i", "select join"),
        ("SELECT a FROM t, u WHERE t.i = u.i", "select where join"),
        ("SELECT a FROM t WHERE i IN (SELECT i FROM u WHERE b = 1 ORDER BY c LIMIT 1)", "select where nested in"),
        ("SELECT a FROM (SELECT a FROM t WHERE b = 1) AS s", "select nested"),
        ("SELECT (SELECT max(b) FROM u) FROM t", "select nested"),
        ("WITH s AS (SELECT a FROM t WHERE b = 1) SELECT a FROM s", "select nested"),
        ("SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u)", "select where nested"),
        ("SELECT a FROM t WHERE NOT EXISTS (SELECT 1 FROM u)", "select where nested not"),
        ("SELECT a FROM t UNION SELECT a FROM u WHERE b = 1", "select where union"),
        ("SELECT a FROM t WHERE b = 1 UNION SELECT a FROM u", "select where union"),
        ("SELECT a FROM t INTERSECT SELECT a FROM u ORDER BY a LIMIT 2", "select order asc limit intersect"),
        ("SELECT a FROM t EXCEPT SELECT a FROM u UNION SELECT a FROM v", "select union except"),
        ("(SELECT a FROM t WHERE b = 1)", "select where"),
    ],
)
def test_each_clause_is_seen_where_it_counts(sql: str, plan: str) -> None:
    found = clauses(sqlglot.parse_one(sql, read="sqlite"))
    assert written(found) == plan
    assert from_text(plan) == found
    assert is_valid(found)


def test_words_in_literals_names_and_comments_do_not_count() -> None:
    sql = "SELECT \"group by\" FROM t WHERE a = 'x order by y limit 1 union or not in' -- having\n"
    assert clauses(sqlglot.parse_one(sql, read="sqlite")) == {"where"}


def test_no_tree_has_no_clauses() -> None:
    assert clauses(None) == frozenset()


def test_closed_makes_any_set_valid_and_leaves_valid_ones() -> None:
    names = ("order", "asc", "desc", "agg", "count", "max", "where")
    for chosen in chain.from_iterable(combinations(names, size) for size in range(len(names) + 1)):
        found = closed(chosen)
        assert is_valid(found)
        assert found >= set(chosen)
        assert not is_valid(chosen) or found == set(chosen)


def test_a_word_that_is_no_clause_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"plan 'select were' has 'were', which is no clause; .* Did you mean 'where'\?"
    ):
        from_text("select were")


def test_names_stand_once_and_keywords_first() -> None:
    assert len(set(CLAUSES)) == len(CLAUSES)
    assert CLAUSES[: len(KEYWORDS)] == KEYWORDS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # in the scorer's files
@pytest.mark.skipif(DATA is None, reason="needs SLT_DATA")
def test_spiders_scorer_sees_the_same_keywords_in_its_gold_queries(tmp_path_factory: pytest.TempPathFactory) -> None:
    """They differ where documented, only: in a set operation's second side, and in an OR between ON's conditions."""
    folder = Path(str(DATA)) / "spider"
    entries: list[dict[str, Any]] = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
    databases = unpack(folder / "databases_dev.zip", tmp_path_factory.mktemp("databases"))
    official = Official(
        package(tmp_path_factory.mktemp("scorer")), databases, {entry["db_id"]: entry for entry in entries}
    )
    schemas: dict[str, Any] = {}
    rows = [json.loads(line) for line in (folder / "dev.jsonl").open(encoding="utf-8")]
    same, differing = 0, []
    for row in rows:
        if row["db_id"] not in schemas:
            path = str(official.path(row["db_id"]))
            schemas[row["db_id"]] = official.parsing.Schema(official.parsing.get_schema(path))
        theirs = official.scoring.get_keywords(official.parsing.get_sql(schemas[row["db_id"]], row["query"]))
        ours = clauses(sqlglot.parse_one(row["query"], read="sqlite"))
        compared = {*OFFICIAL, "like"}
        if theirs & compared == ours & compared:
            same += 1
        else:
            differing.append((row["query"], theirs, ours))
    for query, theirs, ours in differing:
        or_in_on = ours - theirs & compared >= {"or"} and " ON " in query and " OR " in query
        assert ours & {"union", "intersect", "except"} or or_in_on, (query, theirs, written(ours))
        assert theirs & compared <= ours, (query, theirs, written(ours))
    assert same + len(differing) == 928
    assert len(differing) <= 72
