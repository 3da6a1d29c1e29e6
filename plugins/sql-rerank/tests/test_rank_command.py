"""One command: a JSONL of candidates and a SQLite file in, a ranking with reasons out."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from slt_sql_rerank.ranking import listed
from sltcore.cli.app import run
from sltcore.errors import DataError

QUESTION = "How many singers are from France?"
CANDIDATES: list[Any] = [
    "SELECT count(*) FROM singers WHERE country = 'France'",
    {"sql": "SELECT count(*) FROM singer", "score": -0.5},
    {"sql": "SELECT count(*) FROM singer WHERE country = 'France'", "score": -0.7},
    "DELETE FROM singer",
]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "music.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, country TEXT);"
        "INSERT INTO singer VALUES (1, 'Ada', 'France'), (2, 'Bo', 'Spain'), (3, 'Cy', 'France');"
    )
    connection.close()
    return path


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    path = tmp_path / "candidates.jsonl"
    path.write_text(json.dumps({"id": "a1", "question": QUESTION, "candidates": CANDIDATES}) + "\n\n")
    return path


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run([str(word) for word in words])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_a_ranking_with_reasons_and_the_file_stays(
    database: Path, lists: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashlib.sha256(database.read_bytes()).hexdigest()
    code, out, _ = call(capsys, "rank", database, lists, "--by", "schema-linking", "--execute")
    assert code == 0
    rows = [line for line in out.splitlines() if line[:1].isdigit()]
    assert "WHERE country = 'France'" in rows[0]
    assert "FROM singer " in rows[0]
    assert "'France' is cell 'France' of singer.country" in rows[1]
    assert "impossible: no such table: singers" in out
    assert "impossible: " in rows[3]
    assert "1 rows\n2\n" in out
    assert hashlib.sha256(database.read_bytes()).hexdigest() == before
    assert sorted(path.name for path in database.parent.iterdir()) == ["candidates.jsonl", "music.sqlite"]


def test_json_holds_every_reason(database: Path, lists: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "rank", database, lists, "--by", "schema-linking", "--json")
    found = json.loads(out)
    assert [one["was"] for one in found["ranked"]] == [3, 2, 1, 4]
    assert found["ranked"][0]["reasons"]["schema-linking"]["broken"] == []
    assert "'singers' is table singer (exact)" in found["links"]
    assert "result" not in found


def test_explain_rank_tells_one_question(database: Path, lists: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "explain-rank", database, lists, "--id", "a1", "--by", "schema-linking")
    assert code == 0
    assert "  link: 'France' is cell 'France' of singer.country (exact)" in out
    assert "1 missing-cell: 'France' is cell" in out
    code, _, err = call(capsys, "explain-rank", database, lists, "--id", "b", "--by", "schema-linking")
    assert (code, "has no line with id 'b'" in err) == (2, True)


def test_a_reranker_of_a_spec_file(
    database: Path, lists: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("reranker: {use: schema-linking, rule: hard}\n")
    code, out, _ = call(capsys, "rank", database, lists, "--by", tmp_path / "mine.yaml", "--json")
    assert (code, json.loads(out)["ranked"][0]["was"]) == (0, 3)
    (tmp_path / "none.yaml").write_text("use\n")
    _, _, err = call(capsys, "rank", database, lists, "--by", tmp_path / "none.yaml")
    assert "none.yaml has no reranker; expected a spec with one" in err
    _, _, err = call(capsys, "rank", database, lists, "--by", "schema-linkin")
    assert "no reranker is named 'schema-linkin'; there are: weighted" in err
    assert "Did you mean 'schema-linking'?" in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "x:1: no JSON"),
        ("[" * 100_000, "x:1: no JSON"),
        ("[1]", "x:1: a list; expected an object with question and candidates"),
        ('{"questoin": "a", "candidates": ["b"]}', r"question is None; expected a text\. Did you mean 'questoin'\?"),
        ('{"question": " ", "candidates": ["b"]}', "question is ' '; expected a text"),
        ('{"question": "a"}', "candidates is missing; expected a list of at least one"),
        ('{"question": "a", "candidates": []}', "candidates is empty; expected a list of at least one"),
        ('{"question": "a", "candidates": "b"}', "candidates is a str"),
        ('{"question": "a", "candidates": ["b", 3]}', r"candidates\[1\] is a int; expected a text, or"),
        ('{"question": "a", "candidates": [{"sql": "b", "score": "c"}]}', r"candidates\[0\].score is 'c'"),
        ('{"question": "a", "candidates": [{"sql": "b", "score": NaN}]}', r"candidates\[0\].score is nan"),
        ('{"question": "a", "candidates": [{"sql": "b", "score": true}]}', r"candidates\[0\].score is True"),
    ],
)
def test_a_line_that_is_no_list_is_told_with_its_place(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        listed(line, "x:1", "1")


def test_files_that_cannot_be_read_are_told(
    database: Path, lists: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "caf\xe9"}')
    cases = {
        (database, tmp_path / "missing.jsonl"): "missing.jsonl cannot be read: No such file or directory",
        (database, tmp_path / "empty.jsonl"): "empty.jsonl is empty; expected a line of JSON",
        (database, tmp_path / "latin.jsonl"): "latin.jsonl is not UTF-8 at byte 17",
        (tmp_path / "missing.sqlite", lists): "missing.sqlite is no file",
        (lists, lists): "is no SQLite database",
    }
    for (where, what), message in cases.items():
        code, _, err = call(capsys, "rank", where, what, "--by", "schema-linking")
        assert (code, message in err) == (2, True), err
        assert len(err.strip().splitlines()) == 1
