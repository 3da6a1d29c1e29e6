"""Promises of the index that links questions to a database."""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slt_sql_rerank.linking import Link, LinkIndex
from slt_sql_rerank.linking.index import read_cells
from slt_sql_rerank.linking.spans import Spans
from slt_sql_rerank.linking.words import STOP_WORDS, normal, question_words, singular, split_name
from slt_sql_rerank.sandbox import Sandbox
from slt_sql_rerank.schema import Schema, from_sqlite, table
from sltcore.errors import DataError

SCHEMA = Schema(
    "club",
    [
        table("Players", [("player_id", "int"), ("fname", "text"), ("Song_release_year", "int"), ("hand", "char(1)")]),
        table("has_pet", [("StuID", "int"), ("dob", "date"), ("num_of_pets", "int")]),
        table("countries", [("name", "text"), ("continent", "text")]),
    ],
)
CELLS = {
    ("players", "hand"): ["L", "R", "U"],
    ("countries", "name"): ["United States of America", "France", "New Zealand"],
    ("countries", "continent"): ["Europe", "3", "twenty-one pilots"],
}


@pytest.fixture(scope="module")
def index() -> LinkIndex:
    return LinkIndex(SCHEMA, CELLS)


def targets(index: LinkIndex, question: str) -> set[tuple[str, str, str, str]]:
    return {(link.how, link.table, link.column, link.value) for link in index.link(question)}


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("How many players are there?", ("exact", "Players", "", "")),
        ("the song release years", ("exact", "Players", "Song_release_year", "")),
        ("which year", ("part", "Players", "Song_release_year", "")),
        ("show the player id", ("exact", "Players", "player_id", "")),
        ("their first names", ("abbreviation", "Players", "fname", "")),
        ("the date of birth", ("abbreviation", "has_pet", "dob", "")),
        ("the number of pets", ("prefix", "has_pet", "num_of_pets", "")),
        ("released songs", ("prefix", "Players", "Song_release_year", "")),
        ("every contry", ("fuzzy", "countries", "", "")),
        ("each country", ("exact", "countries", "", "")),
        ("left handed", ("code", "Players", "hand", "L")),
        ("in france", ("exact", "countries", "name", "France")),
        ("the united states of america", ("exact", "countries", "name", "United States of America")),
        ("from Zealand", ("cell-part", "countries", "name", "New Zealand")),
        ("in three places", ("exact", "countries", "continent", "3")),
        ("by 21 pilots", ("exact", "countries", "continent", "twenty-one pilots")),
        ("has pets", ("exact", "has_pet", "", "")),
        ("player's pet has", ("turned", "has_pet", "", "")),
        ("the id of a player", ("part", "Players", "player_id", "")),
        ("the id player", ("turned", "Players", "player_id", "")),
        ("release year", ("phrase", "Players", "Song_release_year", "")),
    ],
)
def test_a_name_or_cell_is_found_by_its_words(index: LinkIndex, question: str, wanted: tuple[str, ...]) -> None:
    assert wanted in targets(index, question)


def test_words_of_a_longer_name_are_not_links_of_their_own(index: LinkIndex) -> None:
    columns = [link for link in index.link("song release year") if link.kind == "column"]
    assert [(link.column, link.how, link.start, link.stop) for link in columns] == [
        ("Song_release_year", "exact", 0, 3)
    ]


def test_a_part_of_cells_is_linked_where_it_first_stands(index: LinkIndex) -> None:
    found = [(link.value, link.start) for link in index.link("zealand or zealand") if link.how == "cell-part"]
    assert found == [("New Zealand", 0)]


def test_a_column_knows_its_cells_by_their_words(index: LinkIndex) -> None:
    assert index.has_cell("Countries", "NAME", "new zealand ")
    assert index.has_cell("countries", "continent", "21 pilots")
    assert not index.has_cell("countries", "continent", "France")
    assert not index.has_cell("countries", "name", "Zealand")


def test_stop_words_link_nothing(index: LinkIndex) -> None:
    assert index.link("what is the of and how many") == []
    assert index.link("") == []
    assert index.link("?! 漢字") == []


def test_a_link_says_what_and_why(index: LinkIndex) -> None:
    (link,) = [link for link in index.link("Who is from New Zealand?") if link.how == "exact"]
    assert str(link) == "'New Zealand' is cell 'New Zealand' of countries.name (exact)"
    assert link == Link("value", "exact", "countries", "name", "New Zealand", 3, 5, "New Zealand", 1.0)
    assert str(index.link("players")[0]) == "'players' is table Players (exact)"


def test_cells_of_columns_that_are_not_there_are_refused() -> None:
    with pytest.raises(DataError, match="table 'players' of database 'club' has no column 'nosuch'"):
        LinkIndex(SCHEMA, {("players", "nosuch"): ["x"]})


@given(
    st.lists(
        st.sampled_from(
            [
                "show",
                "players",
                "first",
                "names",
                "united",
                "states",
                "of",
                "america",
                "3",
                "left",
                "release",
                "years",
                "zqxv",
            ]
        ),
        max_size=9,
    )
)
def test_exact_links_are_those_of_brute_force(words: list[str]) -> None:
    index = LinkIndex(SCHEMA, CELLS)
    normals = [word.normal for word in question_words(" ".join(words))]
    wanted = set()
    names = [(t.name, "", normal(split_name(t.name))) for t in SCHEMA.tables]
    names += [(c.table, c.name, normal(split_name(c.name))) for c in SCHEMA.columns]
    for start in range(len(normals)):
        for stop in range(start + 1, min(len(normals), start + 5) + 1):
            part = normals[start:stop]
            if all(word in STOP_WORDS for word in part):
                continue
            wanted |= {(t, c, start, stop) for t, c, name in names if "".join(part) == "".join(name)}
    longest = {
        entry
        for entry in wanted
        if not any(
            bool(other[1]) == bool(entry[1])
            and other[2] <= entry[2]
            and entry[3] <= other[3]
            and other[3] - other[2] > entry[3] - entry[2]
            for other in wanted
        )
    }
    found = {
        (k.table, k.column, k.start, k.stop)
        for k in index.link(" ".join(words))
        if k.how == "exact" and k.kind != "value"
    }
    assert found == longest


@given(st.text(max_size=60))
def test_any_text_is_linked_without_error_and_in_any_case_alike(text: str) -> None:
    index = LinkIndex(SCHEMA, CELLS)
    for link in index.link(text):
        assert 0 <= link.start < link.stop <= len(question_words(text))
        assert 0 < link.strength <= 1
    plain = text.encode("ascii", "ignore").decode()
    assert targets(index, plain.upper()) == targets(index, plain.lower())


SHORT = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)).map(lambda pair: (pair[0], sum(pair))))


@given(SHORT, st.integers(0, 30), st.integers(1, 12))
def test_spans_around_one_are_those_of_brute_force(spans: list[tuple[int, int]], start: int, size: int) -> None:
    stop, found = start + size, Spans(spans)
    words = set(range(start, stop))
    assert sorted(found.around(start, stop)) == sorted({span for span in spans if words & set(range(*span))})
    assert found.is_within_longer(start, stop) == any(words < set(range(*span)) for span in spans)


@pytest.mark.parametrize(
    ("many", "one"), [("cities", "city"), ("dogs", "dog"), ("glass", "glass"), ("bus", "bus"), ("children", "child")]
)
def test_plurals(many: str, one: str) -> None:
    assert singular(many) == one


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("two hundred", "200"),
        ("Fifty-three", "53"),
        ("third", "3"),
        ("2,500", "2500"),
        ("3.5", "3.5"),
        ("twenty", "20"),
        ("２０１４", "2014"),
        ("٣", "3"),
    ],
)
def test_numbers_in_words(text: str, number: str) -> None:
    assert [word.normal for word in question_words(text)] == [number]
    assert question_words(f"of {text}!")[1].text == text


def test_cells_are_read_through_the_sandbox(tmp_path: Path) -> None:
    path = tmp_path / "cells.sqlite"
    made = sqlite3.connect(path)
    made.executescript(
        'CREATE TABLE t (id INTEGER, word TEXT, "odd ""name" TEXT); CREATE VIEW v AS SELECT word FROM t;'
        "INSERT INTO t VALUES (1, 'a', 'p'), (2, 'a', NULL), (3, 'b', 7), (4, x'00', 'q');"
    )
    made.execute("INSERT INTO t VALUES (5, ?, 'r')", ("x" * 61,))
    made.commit()
    made.close()
    with Sandbox(path) as sandbox:
        cells = read_cells(sandbox, from_sqlite(path))
        assert cells == {("t", "word"): ["a", "b"], ("t", 'odd "name'): ["p", "7", "q", "r"]}
        assert read_cells(sandbox, from_sqlite(path), most=1)["t", "word"] == ["a"]


@pytest.mark.slow
@pytest.mark.skipif("SLT_DATA" not in os.environ, reason="needs SLT_DATA, a folder that holds spider/")
def test_most_tables_that_spider_needs_are_linked(tmp_path: Path) -> None:
    spider = Path(os.environ["SLT_DATA"]) / "spider"
    if not spider.exists():
        pytest.skip(f"{spider} is not here")
    with zipfile.ZipFile(spider / "databases_dev.zip") as packed:
        packed.extractall(tmp_path)
    rows = [json.loads(line) for line in (spider / "dev.jsonl").read_text().splitlines()]
    paths = {name: tmp_path / name / f"{name}.sqlite" for name in dict.fromkeys(row["db_id"] for row in rows)}
    hits = {"question": 0, "question_synonym": 0}
    wanted, times, built = 0, [], time.perf_counter()
    with Sandbox(paths) as sandbox:
        indexes = {
            name: LinkIndex(schema, read_cells(sandbox, schema, database=name))
            for name, path in paths.items()
            for schema in [from_sqlite(path)]
        }
        built = time.perf_counter() - built
        for row in rows:
            columns = {
                (table.lower(), column.lower())
                for table, column in sandbox.check(row["query"], database=row["db_id"]).reads
                if column
            }
            wanted += len(columns)
            for version in hits:
                started = time.perf_counter()
                links = indexes[row["db_id"]].link(row[version])
                times.append(time.perf_counter() - started)
                hits[version] += len(
                    columns & {(link.table.lower(), link.column.lower()) for link in links if link.column}
                )
    shares = {version: round(count / wanted, 3) for version, count in hits.items()}
    print(
        f"{len(indexes)} indexes in {built:.2f} s; median {1e3 * statistics.median(times):.2f} ms a question; columns {shares}"
    )
    assert shares["question"] > 0.6
    assert shares["question_synonym"] < shares["question"]
    assert statistics.median(times) < 0.02
