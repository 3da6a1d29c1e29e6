"""Promises of schemas, whatever they are read from."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from slt_sql_rerank.schema import ForeignKey, Schema, family, from_engine, from_spider, from_sqlite, table
from sltcore.errors import DataError

DDL = """
CREATE TABLE Singer (Singer_ID INTEGER PRIMARY KEY, "Full Name" VARCHAR(20), born DATE, active BOOL, odd);
CREATE TABLE concert (id INT, year YEAR, fee DECIMAL(5, 2), PRIMARY KEY (year, id));
CREATE TABLE part (concert_id INT, concert_year YEAR, singer_id INT REFERENCES singer, lost INT REFERENCES gone(id),
  total INT GENERATED ALWAYS AS (singer_id + 1), FOREIGN KEY (concert_id, concert_year) REFERENCES concert (id, year));
CREATE VIEW names AS SELECT "Full Name" AS n FROM Singer;
CREATE INDEX i ON part (singer_id);
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = sqlite3.connect(tmp_path / "shows.sqlite")
    made.executescript(DDL)
    made.close()
    return tmp_path / "shows.sqlite"


def test_a_file_gives_tables_types_and_keys(path: Path) -> None:
    schema = from_sqlite(path)
    assert schema.name == "shows"
    assert [(t.name, t.is_view) for t in schema.tables] == [
        ("Singer", False),
        ("concert", False),
        ("part", False),
        ("names", True),
    ]
    assert [(c.name, c.family) for c in schema.table("SINGER").columns] == [
        ("Singer_ID", "number"),
        ("Full Name", "text"),
        ("born", "time"),
        ("active", "boolean"),
        ("odd", "other"),
    ]
    assert schema.table("concert").primary_key == ("id", "year")
    assert schema.column("part", "TOTAL").type == "INT"
    assert schema.foreign_keys == (
        ForeignKey("part", ("singer_id",), "Singer", ("Singer_ID",)),
        ForeignKey("part", ("concert_id", "concert_year"), "concert", ("id", "year")),
    )


def test_keys_make_columns_equal(path: Path) -> None:
    schema = from_sqlite(path)
    assert schema.representative("part", "Singer_ID") == schema.representative("singer", "singer_id")
    assert schema.representative("part", "concert_id") == schema.representative("concert", "id")
    assert schema.representative("part", "concert_id") != schema.representative("concert", "year")
    assert schema.representative("singer", "born") == ("singer", "born")


def test_sqlalchemy_sees_what_the_file_says(path: Path) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    plain, other = from_sqlite(path), from_engine(sqlalchemy.create_engine(f"sqlite:///{path}"), name="shows")
    assert {t.name: [c.name for c in t.columns] for t in other.tables} == {
        t.name: [c.name for c in t.columns] for t in plain.tables
    }
    keys = {(key.table, key.columns, key.other_table.lower()) for key in plain.foreign_keys}
    assert {(key.table, key.columns, key.other_table.lower()) for key in other.foreign_keys} <= keys
    assert ("part", ("concert_id", "concert_year"), "concert") in keys


def test_nothing_is_written_while_reading(path: Path) -> None:
    before = path.read_bytes()
    from_sqlite(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["shows.sqlite"]


def test_names_that_are_not_there_are_told_with_those_that_are() -> None:
    schema = Schema("shop", [table("item", [("id", "int"), ("label", "text")])])
    with pytest.raises(DataError, match=r"database 'shop' has no table 'itms'; it has item\. Did you mean 'item'\?"):
        schema.table("itms")
    with pytest.raises(
        DataError, match=r"table 'item' of database 'shop' has no column 'lable'; it has id, label\. Did you mean"
    ):
        schema.column("item", "lable")
    with pytest.raises(DataError, match=r"database 'shop' has two tables of one name among \['a', 'A'\]"):
        Schema("shop", [table("a", []), table("A", [])])
    with pytest.raises(DataError, match="has no table 'gone'"):
        Schema("shop", schema.tables, [ForeignKey("item", ("id",), "gone", ("id",))])


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    with pytest.raises(
        DataError,
        match=r"broken\.sqlite\S* cannot be opened: (file is not a database|database disk image is malformed)",
    ):
        from_sqlite(broken)
    with pytest.raises(DataError, match="has no usable 'table_names_original'; expected Spider's format"):
        from_spider({"db_id": "x"})


@pytest.mark.parametrize(
    ("declared", "wanted"),
    [("INT UNSIGNED", "number"), ("timestamp", "time"), ("nvarchar(9)", "text"), ("BLOB", "other")],
)
def test_families_of_types(declared: str, wanted: str) -> None:
    assert family(declared) == wanted


@pytest.mark.skipif("SLT_DATA" not in os.environ, reason="needs SLT_DATA, a folder that holds spider/")
def test_every_spider_schema_is_read() -> None:
    tables = Path(os.environ["SLT_DATA"]) / "spider" / "tables.json"
    if not tables.exists():
        pytest.skip(f"{tables} is not here")
    entries = json.loads(tables.read_text())
    for entry in entries:
        schema = from_spider(entry)
        assert len(list(schema.columns)) <= len(entry["column_names_original"]) - 1
        assert len(schema.foreign_keys) == len(entry["foreign_keys"])
