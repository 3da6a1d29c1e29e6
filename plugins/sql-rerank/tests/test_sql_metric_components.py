"""Promises of the metrics `exact-match`, `execution` and `test-suite`."""

from __future__ import annotations

import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slt_sql_rerank.config_metrics import ExactMatchConfig, ExecutionConfig
from slt_sql_rerank.metric_components import OUTPUTS, REFERENCES, SCRIPT
from slt_sql_rerank.metrics.build_metrics import exact_match, execution, suite
from sltcore.errors import DataError, ShapeError
from sltcore.plugin import Ports
from sltcore.types import Hypothesis, NBest

SINGER = "CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER);"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two databases as Spider lays them out, one of them with a second file, and their tables.json."""
    made = tmp_path_factory.mktemp("databases")
    for place, values in (
        ("a/a.sqlite", "(1, 'Ada', 30), (2, 'Bo', 20)"),
        ("a/0-fuzzed.sqlite", "(1, 'Ada', 30), (2, 'Bo', 20), (3, 'Cy', 25)"),
        ("b.sqlite", "(7, 'Di', 40)"),
    ):
        (made / place).parent.mkdir(exist_ok=True)
        with closing(sqlite3.connect(made / place)) as written:
            written.executescript(f"{SINGER} INSERT INTO singer VALUES {values};")
    described = {
        "db_id": "a",
        "table_names_original": ["singer"],
        "column_names_original": [[-1, "*"], [0, "id"], [0, "name"], [0, "age"]],
        "column_types": ["text", "number", "text", "number"],
        "primary_keys": [1],
        "foreign_keys": [],
    }
    (made / "tables.json").write_text(json.dumps([described, {**described, "db_id": "b"}]))
    return made


def values(metric: Any, outputs: Any, references: Any) -> dict[str, float]:
    metric.reset()
    metric.update(outputs, references)
    return {name: value.value for name, value in metric.reduce(metric.per_item()).items()}


def test_right_answers_are_counted_in_both_forms() -> None:
    # By hand. 25 for 20 and a missing DISTINCT: forgiven by the official set match; the first gives the same rows. DROP: wrong.
    found = values(exact_match(ExactMatchConfig(script=SCRIPT), Ports()), OUTPUTS, REFERENCES)
    assert found == {"exact-match": pytest.approx(100 * 4 / 6), "exact-match-strict": pytest.approx(100 * 2 / 6)}
    found = values(execution(ExecutionConfig(script=SCRIPT), Ports()), OUTPUTS, REFERENCES)
    assert found == {"execution": pytest.approx(100 * 4 / 6), "execution-strict": 50.0}


def test_levels_are_shares_of_their_own_questions() -> None:
    metric = exact_match(ExactMatchConfig(script=SCRIPT, by_hardness=True), Ports())
    found = values(metric, OUTPUTS, REFERENCES)
    assert found["exact-match-easy"] == 100.0
    assert found["exact-match-strict-easy"] == pytest.approx(100 / 3)
    assert found["exact-match-medium"] == 0.0
    assert (found["exact-match-hard"], found["exact-match-extra"]) == (100.0, 0.0)
    assert math.isnan(values(metric, OUTPUTS[:2], REFERENCES[:2])["exact-match-extra"])
    assert set(metric.directions) == set(found)


def test_each_database_is_asked_by_its_name(folder: Path) -> None:
    metric = execution(ExecutionConfig(databases=folder, forms=("strict",)), Ports())
    references = ["SELECT name FROM singer\ta", {"query": "SELECT name FROM singer", "db_id": "b"}]
    outputs = ["SELECT name FROM singer WHERE id < 3", NBest([Hypothesis("SELECT 'Di'"), Hypothesis("SELECT 1")])]
    assert values(metric, outputs, references) == {"execution-strict": 100.0}
    assert metric.groups == ("a", "b")
    assert values(metric, outputs[::-1], references) == {"execution-strict": 0.0}
    assert values(metric, ["SELECT 'Di'", NBest([])], [str(folder / "b.sqlite").join(["SELECT 'Di'\t", ""])] * 2) == {
        "execution-strict": 50.0
    }


def test_a_suite_is_every_file_of_a_database(folder: Path) -> None:
    lucky, gold = "SELECT name FROM singer WHERE id < 3", "SELECT name FROM singer\ta"
    config = ExecutionConfig(databases=folder)
    assert values(execution(config, Ports()), [lucky], [gold]) == {"execution": 100.0, "execution-strict": 100.0}
    assert values(suite(config, Ports()), [lucky], [gold]) == {"test-suite": 0.0, "test-suite-strict": 0.0}
    assert values(suite(config, Ports()), [gold.partition("\t")[0]], [gold])["test-suite-strict"] == 100.0


def test_schemas_come_from_tables_json_or_from_the_files(folder: Path) -> None:
    pair = ["SELECT name FROM singer WHERE age = 1"], ["SELECT name FROM singer WHERE age = 2\tb"]
    for config in (ExactMatchConfig(tables=folder / "tables.json"), ExactMatchConfig(databases=folder)):
        assert values(exact_match(config, Ports()), *pair) == {"exact-match": 100.0, "exact-match-strict": 0.0}


def test_what_is_added_in_parts_is_reduced_at_once() -> None:
    metric = execution(ExecutionConfig(script=SCRIPT), Ports())
    for output, reference in zip(OUTPUTS, REFERENCES, strict=True):
        metric.update([output], [reference], ids=[output])
    assert metric.ids == OUTPUTS
    assert metric.per_item().tolist() == [[1, 1], [1, 1], [0, 0], [1, 0], [1, 1], [0, 0]]
    assert math.isnan(metric.reduce(np.zeros((0, 2)))["execution"].value)


@pytest.mark.parametrize(
    ("config", "output", "reference", "said"),
    [
        (
            {},
            "SELECT 1",
            "SELECT 1",
            "the gold query 'SELECT 1' names no database, and the metric's 'database' is not set",
        ),
        (
            {"database": "nosuch"},
            "SELECT 1",
            "SELECT 1",
            "database 'nosuch' has no file; looked for nosuch, nosuch.sqlite",
        ),
        ({"script": SCRIPT}, 5, "SELECT 1", "an output is int 5; expected SQL, a hypothesis or an n-best list"),
        ({"script": SCRIPT}, "SELECT 1", 5, "a reference is int 5; expected SQL, SQL and a database behind a tab"),
        (
            {"script": SCRIPT},
            "SELECT 1",
            "SELECT x",
            "the gold query 'SELECT x' gives no rows.*: no such column: x; mend",
        ),
    ],
)
def test_what_cannot_be_judged_is_told(config: dict[str, Any], output: Any, reference: Any, said: str) -> None:
    metric = execution(ExecutionConfig(**config), Ports())
    with pytest.raises(DataError, match=said):
        metric.update([output], [reference])
    assert len(metric.ids) == 0


def test_bad_settings_and_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="'script' does not run: near \"nonsense\": syntax error"):
        execution(ExecutionConfig(script="nonsense"), Ports())
    with pytest.raises(DataError, match="'script' makes the database, so 'databases' and 'database' say nothing"):
        execution(ExecutionConfig(script=SCRIPT, database="x"), Ports())
    metric = execution(ExecutionConfig(script=SCRIPT), Ports())
    with pytest.raises(ShapeError, match="1 outputs were given with 2 references; expected one for each"):
        metric.update(["SELECT 1"], ["SELECT 1", "SELECT 2"])
    with pytest.raises(ShapeError, match=r"stats has shape \(3, 9\), expected \(m, 2\)"):
        metric.reduce(np.zeros((3, 9)))
