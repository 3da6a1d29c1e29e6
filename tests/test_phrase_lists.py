"""Lists of phrases from files: every form gives the same phrases, and what cannot be read is named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sltcore.data import read_phrases
from sltcore.errors import DataError

SAME = [
    "Anna",
    {"text": "Amazon Queen", "weight": 2.0},
    {"text": "Nguyen", "weight": 0.5, "spellings": ["win", "new yen"]},
    {"text": "Žofie", "bonus": 8.0},
]
CSV = "text,weight,bonus,spellings\nAnna,,,\nAmazon Queen,2,,\nNguyen,0.5,,win; new yen\nŽofie,,8,\n"
FORMS = {
    "names.csv": CSV,
    "semicolons.csv": 'Text;Weight;Bonus;Spellings\nAnna;;;\nAmazon Queen;2;;\n\nNguyen;0.5;;"win;new yen"\nŽofie;;8;\n',
    "tabs.csv": "spellings\ttext\tweight\tbonus\n\tAnna\n\tAmazon Queen\t2\nwin|new yen\tNguyen\t0.5\n\tŽofie\t\t8.0\n",
    "names.tsv": CSV.replace(",", "\t"),
    "names.json": json.dumps(SAME),
    "map.json": json.dumps(
        {
            "Anna": None,
            "Amazon Queen": 2,
            "Nguyen": {"weight": 0.5, "spellings": ["win", "new yen"]},
            "Žofie": {"bonus": 8.0},
        }
    ),
    "names.jsonl": "\n".join(json.dumps(item, ensure_ascii=False) for item in SAME),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_form_gives_the_same_phrases(tmp_path: Path, name: str, ends: str, mark: str):
    (tmp_path / name).write_bytes((mark + FORMS[name]).replace("\n", ends).encode())
    assert read_phrases(tmp_path / name) == SAME


def test_text_has_a_phrase_on_each_line_and_its_weight_behind_a_tab(tmp_path: Path):
    (tmp_path / "names.txt").write_bytes("\ufeff# remark\r\nAnna\r\n\r\n  C#  \r\nAmazon Queen\t2.5\r\n".encode())
    assert read_phrases(tmp_path / "names.txt") == ["Anna", "C#", {"text": "Amazon Queen", "weight": 2.5}]
    assert read_phrases(str(tmp_path / "names.txt"))[0] == "Anna"


def test_a_list_of_no_phrase_says_so_in_json_and_in_a_table(tmp_path: Path):
    for name, text in {"a.json": "[]", "b.json": "{}", "c.csv": "text,weight\n"}.items():
        (tmp_path / name).write_text(text)
        assert read_phrases(tmp_path / name) == []


def test_spellings_and_names_of_a_map_may_be_single(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"Nguyen": "win", "Xhosa": ["kosa", "hosa"]}')
    assert read_phrases(tmp_path / "a.json") == [
        {"text": "Nguyen", "spellings": ["win"]},
        {"text": "Xhosa", "spellings": ["kosa", "hosa"]},
    ]


def test_twenty_thousand_phrases_and_more_are_read(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text,weight\n" + "".join(f"name {i},1.5\n" for i in range(25_000)))
    assert len(read_phrases(tmp_path / "a.csv")) == 25_000


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "# nothing\n\n", r"a\.txt: holds no phrase; write one a line"),
        ("a.txt", "Anna\nBert\theavy\n", r"a\.txt:2: weight is 'heavy', expected a number from 0, such as 1\.5"),
        ("a.txt", "Bert\t-1\n", r"a\.txt:1: weight is '-1', expected a number from 0"),
        ("a.csv", "", r"a\.csv:\d: the first line is '', expected the names of columns: text"),
        ("a.csv", "Anna\nBert\n", r"a\.csv:1: the first line is 'Anna', expected the names of columns: text, and any of "),
        ("a.csv", "text,wieght\nAnna,2\n", r"a\.csv:1: no column is named 'wieght', .*Did you mean 'weight'\?"),
        ("a.csv", "text,text\n", r"a\.csv:1: the column 'text' stands there twice"),
        ("a.csv", "\n\ntext,weight\nAnna,\n\nBert,x\n", r"a\.csv:6: weight is 'x'"),
        ("a.csv", "text,weight\nAnna,nan\n", r"a\.csv:2: weight is 'nan'"),
        ("a.csv", "text;weight\nAnna;1,5\n", r"a\.csv:2: weight is '1,5', expected a number from 0, such as 1\.5"),
        ("a.csv", "text,weight\n,2\n", r"a\.csv:2: the text is empty"),
        ("a.csv", "text\nAnna,Bert\n", r"a\.csv:2: has 2 cells, but there are 1 columns; put quotes around a cell"),
        ("a.csv", 'text\n"Anna\n', r"a\.csv:\d: cannot be read as a table: .*; check its quotes"),
        ("a.json", '["Anna",\n 3', r"a\.json:2: is no JSON \(.*\); expected a list of phrases such as"),
        ("a.json", '["Anna", 3]', r"a\.json: item 1 is 3, expected a text or a map"),
        ("a.json", '"Anna"', r"a\.json: holds 'Anna', expected a list of phrases, or a map from text to weight"),
        ("a.json", '{"Anna": true}', r"a\.json: 'Anna' has true, expected its weight, its spellings, or a map"),
        ("a.json", '{"Anna": {"text": "Bert"}}', r"a\.json: 'Anna' has \{\"text\": \"Bert\"\}, expected"),
        ("a.jsonl", '"Anna"\n3\n', r"a\.jsonl:2: '3' is no JSON text or map, such as"),
        ("a.txt", "Anna\nBert\0\n", r"a\.txt:2: holds a zero byte, so it is no text"),
        ("a.json", "[" * 100_000, r"a\.json: is nested too deep; expected a list of phrases such as"),
        ("a.jsonl", '"Anna"\n' + "[" * 100_000, r"a\.jsonl:2: is nested too deep"),
        ("a.json", '{"Anna": 2, "Bert": 1, "Anna": 3}', r"a\.json: 'Anna' stands there twice in one map; keep one"),
        ("a.json", '[{"text": "Anna", "weight": 2, "weight": 3}]', r"a\.json: 'weight' stands there twice in one map"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_with_its_line(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_phrases(tmp_path / name)
    assert len(str(error.value).splitlines()) == 1


def test_other_encodings_and_missing_files_are_named(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes("text\nZoë\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"a\.csv: is not UTF-8 text; save it as UTF-8, one phrase a line"):
        read_phrases(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"--phrases b\.txt: cannot be read: No such file"):
        read_phrases(tmp_path / "b.txt", named="--phrases b.txt")
