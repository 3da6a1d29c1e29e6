"""The rerankers that every claim must beat do what they say, on a database whose rows are known."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slt_sql_rerank.databases import Sandboxes, is_url, schema_of
from slt_sql_rerank.plan_components import COMPONENTS
from slt_sql_rerank.sandbox.outcome import Result
from slt_sql_rerank.schema import Schema, table
from slt_sql_rerank.simple.first_executable import FirstExecutable
from slt_sql_rerank.simple.likelihood import LikelihoodReranker
from slt_sql_rerank.simple.majority_vote import MajorityVote, log_votes
from sltcore.errors import ContextError, DataError
from sltcore.testing import RerankerPromises
from sltcore.testing.case import Case
from sltcore.types import Hypothesis, NBest

SCRIPT = """
CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER);
INSERT INTO singer VALUES (1, 'Ada', 30), (2, 'Bo', 20), (3, 'Cy', 20);
"""
AGES = "SELECT name FROM singer WHERE age = 20"
IDS = "SELECT name FROM singer WHERE id > 1 ORDER BY id DESC"
ALL = "SELECT name FROM singer"
NONE = "SELECT name FROM singer WHERE age = 99"
EMPTY = "SELECT name FROM singer WHERE id < 0"
BROKEN = "SELECT nam FROM singer"
WRITES = "DELETE FROM singer"
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("databases") / "singers.sqlite"
    made = sqlite3.connect(path)
    made.executescript(SCRIPT)
    made.close()
    return path


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[Sandboxes]:
    with Sandboxes() as found:
        yield found


def nbest(*texts: str, scores: tuple[float, ...] = ()) -> NBest:
    given_ = scores or tuple(-0.5 * place for place in range(len(texts)))
    return NBest(Hypothesis(text, score) for text, score in zip(texts, given_, strict=True))


def texts(found: NBest) -> list[str]:
    return [hypothesis.text for hypothesis in found]


def test_the_first_that_runs_comes_first_and_what_failed_last(database: Path, sandboxes: Sandboxes) -> None:
    reranker = FirstExecutable(sandboxes, seconds=0.3)
    found = reranker.rerank("?", nbest(BROKEN, ENDLESS, NONE, WRITES, ALL), {"database": str(database)})
    assert texts(found) == [NONE, ALL, BROKEN, ENDLESS, WRITES]
    planned = FirstExecutable(sandboxes, check="plan")
    assert texts(planned.rerank("?", nbest(BROKEN, ENDLESS, NONE), {"database": str(database)})) == [
        ENDLESS,
        NONE,
        BROKEN,
    ]


def test_an_empty_result_counts_only_where_it_may(database: Path, sandboxes: Sandboxes) -> None:
    strict = FirstExecutable(sandboxes, empty=False)
    assert texts(strict.rerank("?", nbest(NONE, BROKEN, ALL), {"database": database})) == [ALL, NONE, BROKEN]
    assert texts(strict.rerank("?", nbest(NONE, EMPTY), {"database": database})) == [NONE, EMPTY], "nothing better"


def test_candidates_behind_the_first_that_runs_are_not_run(database: Path) -> None:
    class Counting(Sandboxes):
        ran: ClassVar[list[str]] = []

        def of(self, database: Any) -> Any:
            inner = super().of(database)
            counting = self

            class Runs:
                check_all = inner.check_all

                def execute(self, sql: str, deadline: float | None = None) -> Result:
                    counting.ran.append(sql)
                    return inner.execute(sql, deadline)

            return Runs()

    with Counting() as counting:
        FirstExecutable(counting).score("?", nbest(BROKEN, ALL, AGES), {"database": database})
    assert counting.ran == [ALL]


def test_candidates_with_the_same_rows_vote_together(database: Path, sandboxes: Sandboxes) -> None:
    scores = tuple(math.log(p) for p in (0.4, 0.3, 0.25, 0.05))
    given_ = nbest(ALL, AGES, IDS, BROKEN, scores=scores)
    reranker = MajorityVote(sandboxes)
    found = reranker.score("?", given_, {"database": database})
    assert found == pytest.approx([math.log(0.4), math.log(0.55), math.log(0.55), -math.inf])
    assert texts(reranker.rerank("?", given_, {"database": database})) == [AGES, IDS, ALL, BROKEN]


def test_by_count_each_candidate_has_one_vote(database: Path, sandboxes: Sandboxes) -> None:
    given_ = nbest(ALL, AGES, IDS, scores=(-0.01, -9.0, -10.0))
    context = {"database": database}
    assert texts(MajorityVote(sandboxes).rerank("?", given_, context))[0] == ALL
    assert texts(MajorityVote(sandboxes, votes="count").rerank("?", given_, context))[0] == AGES


def test_the_order_of_rows_counts_where_asked(database: Path, sandboxes: Sandboxes) -> None:
    given_ = nbest(ALL, AGES, IDS, scores=(math.log(0.4), math.log(0.35), math.log(0.25)))
    assert texts(MajorityVote(sandboxes, ordered=True).rerank("?", given_, {"database": database}))[0] == ALL


@pytest.mark.parametrize(
    ("empty", "order"),
    [("vote", [NONE, EMPTY, ALL, BROKEN]), ("alone", [ALL, NONE, EMPTY, BROKEN]), ("last", [ALL, NONE, EMPTY, BROKEN])],
)
def test_empty_results_vote_stand_alone_or_go_back(
    empty: Any, order: list[str], database: Path, sandboxes: Sandboxes
) -> None:
    given_ = nbest(ALL, NONE, EMPTY, BROKEN, scores=tuple(map(math.log, (0.38, 0.32, 0.28, 0.02))))
    assert texts(MajorityVote(sandboxes, empty=empty).rerank("?", given_, {"database": database})) == order


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-20, 0), st.sampled_from("abc!-")), min_size=1, max_size=10),
    st.sampled_from(["probability", "count"]),
    st.sampled_from(["vote", "alone", "last"]),
)
def test_votes_are_what_adding_up_by_hand_gives(entries: list[tuple[float, str]], votes: Any, empty: Any) -> None:
    """Letters are results, ! fails, - is empty."""
    results = [
        None if kind == "!" else Result(True, "ok", "", ("x",), () if kind == "-" else ((kind,),))
        for _, kind in entries
    ]
    found = MajorityVote(Sandboxes(), votes=votes, empty=empty).vote([score for score, _ in entries], results)
    total = math.fsum(math.exp(score) for score, _ in entries)
    own = [1.0 if votes == "count" else math.exp(score) / total for score, _ in entries]
    groups = [(kind, place) if kind == "-" and empty == "alone" else kind for place, (_, kind) in enumerate(entries)]
    sums = [math.fsum(v for v, g in zip(own, groups, strict=True) if g == group) for group in groups]
    for place, (_, kind) in enumerate(entries):
        if kind == "!":
            assert found[place] == -math.inf
        elif not (kind == "-" and empty == "last"):
            assert found[place] == pytest.approx(math.log(sums[place]), abs=1e-9)
    if empty == "last":
        full = [value for value, (_, kind) in zip(found, entries, strict=True) if kind in "abc"]
        back = [value for value, (_, kind) in zip(found, entries, strict=True) if kind == "-"]
        assert not full or not back or max(back) < min(full)
        assert all(value > -math.inf for value in back)


def test_votes_without_a_finite_score_are_equal() -> None:
    assert log_votes([-math.inf, math.nan]) == pytest.approx([math.log(0.5)] * 2)
    assert log_votes([-1e9, -1e9 - 1]) == pytest.approx([-math.log1p(math.exp(-1)), -1 - math.log1p(math.exp(-1))])


def test_numbers_that_differ_by_rounding_are_one_result(database: Path, sandboxes: Sandboxes) -> None:
    given_ = nbest(ALL, "SELECT 0.1 + 0.2", "SELECT 0.3", "SELECT 2.0", "SELECT 2", scores=(-1.0,) * 5)
    found = MajorityVote(sandboxes, votes="count").score("?", given_, {"database": database})
    assert [round(math.exp(value)) for value in found] == [1, 2, 2, 2, 2]


def test_likelihood_is_the_score_by_the_length_that_is_asked_for() -> None:
    given_ = [Hypothesis("SELECT a FROM t", -4.0), Hypothesis("SELECT 1", -3.0, tokens=(1, 2, 3)), Hypothesis("", -2.0)]
    assert LikelihoodReranker().score("?", given_, {}) == [-4, -3, -2]
    assert LikelihoodReranker(per="token").score("?", given_, {}) == [-1, -1, -2]
    assert LikelihoodReranker(per="character").score("?", given_, {}) == [-4 / 15, -3 / 8, -2]


@pytest.mark.parametrize("reranker", [FirstExecutable, MajorityVote])
def test_candidates_need_a_database_with_rows(reranker: Any, sandboxes: Sandboxes, tmp_path: Path) -> None:
    with pytest.raises(ContextError, match="names no database; candidates run on a SQLite file or a SQLAlchemy URL"):
        reranker(sandboxes).score("?", nbest(ALL), {})
    with pytest.raises(ContextError, match="a schema without rows; candidates run"):
        reranker(sandboxes).score("?", nbest(ALL), {"database": Schema("s", [table("t", [("a", "int")])])})
    with pytest.raises(DataError, match="gone.sqlite is no file"):
        reranker(sandboxes).score("?", nbest(ALL), {"database": tmp_path / "gone.sqlite"})


@pytest.mark.parametrize("name", ["first-executable", "majority-vote"])
@pytest.mark.parametrize("promise", sorted(RerankerPromises.promises))
def test_those_that_run_keep_the_promises_of_rerankers(name: str, promise: str, database: Path) -> None:
    (component,) = (entry for entry in COMPONENTS if entry.name == name)

    def make(config: Mapping[str, Any], ports: Any, seed: int) -> Any:
        from sltcore.pipeline import build_component

        return build_component("reranker", f"sltcore-sql-rerank/{name}", dict(config))

    small = {"contexts": [{"database": str(database)}], "query": "How many?"}
    method = getattr(RerankerPromises(), f"test_{promise.replace('-', '_')}")
    method(Case(replace(component, small=small), make))


def test_the_last_sandboxes_stay_open_and_others_close(tmp_path: Path) -> None:
    with Sandboxes(most_open=2) as found:
        opened = []
        for name in "abc":
            path = tmp_path / f"{name}.sqlite"
            made = sqlite3.connect(path)
            made.executescript(SCRIPT)
            made.close()
            opened.append(found.of(path))
        assert found.of(tmp_path / "c.sqlite") is opened[2]
        assert found.of(tmp_path / "a.sqlite") is not opened[0]
        assert not opened[0].pids  # type: ignore[attr-defined]


def test_a_schema_is_read_once_and_anew_when_its_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "shop.sqlite"
    made = sqlite3.connect(path)
    made.execute("CREATE TABLE item (id INTEGER)")
    made.commit()
    first = schema_of(path)
    assert first is schema_of(str(path))
    assert first is not None
    assert "item" in first
    made.execute("CREATE TABLE sale (id INTEGER)")
    made.commit()
    made.close()
    import os

    os.utime(path, ns=(1, 1))
    again = schema_of(path)
    assert again is not None
    assert "sale" in again
    assert schema_of(None) is None
    assert schema_of(first) is first


def test_a_schema_alone_comes_from_a_description(tmp_path: Path) -> None:
    file = tmp_path / "tables.json"
    file.write_text(
        '[{"db_id": "shop", "table_names_original": ["item"], "column_names_original": [[-1, "*"], [0, "id"]],'
        ' "column_types": ["text", "number"], "primary_keys": [1], "foreign_keys": []}]'
    )
    found = schema_of(f"{file}#shop")
    assert found is not None
    assert found.has_column("item", "id")
    with pytest.raises(DataError, match="describes no database 'shpo'. Did you mean 'shop'?"):
        schema_of(f"{file}#shpo")
    with pytest.raises(DataError, match=r"other.json is no file; expected schemas in Spider's format"):
        schema_of(f"{tmp_path}/other.json#shop")
    with pytest.raises(ContextError, match="context 'database' is a int; expected a path"):
        schema_of(7)
    assert is_url("postgresql://x/y")
    assert not is_url("/data/x.sqlite")
