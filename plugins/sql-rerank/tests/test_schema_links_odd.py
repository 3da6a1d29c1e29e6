"""Names, cells and questions that are not plain English are linked too, and none stops the index."""

from __future__ import annotations

import time

import pytest

from slt_sql_rerank.linking import LinkIndex
from slt_sql_rerank.schema import Schema, table
from slt_sql_rerank.schema_linking.wants import asked

SCHEMA = Schema(
    "club",
    [
        table("Players", [("Song_release_year", "int"), ("hand", "char(1)")]),
        table("countries", [("name", "text"), ("continent", "text")]),
    ],
)


def targets(index: LinkIndex, question: str) -> set[tuple[str, str, str, str]]:
    return {(link.how, link.table, link.column, link.value) for link in index.link(question)}


FAR = Schema(
    "welt",
    [
        table("Straße", [("größe", "int"), ("Öffnungs_Zeit", "text"), ("КодСтраны", "text")]),
        table("学生", [("姓名", "text"), ("学生人数", "int"), ("学生联系电话号码", "text")]),
        table("छात्र", [("नाम", "text")]),
    ],
)
FAR_CELLS = {
    ("straße", "КодСтраны"): ["É", "Ελλάδα"],
    ("学生", "姓名"): ["王小明", "東京都"],
    ("छात्र", "नाम"): ["सीता"],
}


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("Welche STRASSE ist lang?", ("exact", "Straße", "", "")),
        ("die gro\u0308ße", ("exact", "Straße", "größe", "")),
        ("die Öffnungszeit", ("exact", "Straße", "Öffnungs_Zeit", "")),
        ("какой код страны", ("exact", "Straße", "КодСтраны", "")),
        ("στην ΕΛΛΆΔΑ", ("exact", "Straße", "КодСтраны", "Ελλάδα")),
        ("所有学生的姓名是什么", ("exact", "学生", "", "")),
        ("所有学生的姓名是什么", ("exact", "学生", "姓名", "")),
        ("他的学生联系电话号码", ("exact", "学生", "学生联系电话号码", "")),
        ("有多少人数", ("phrase", "学生", "学生人数", "")),
        ("东京都和王小明", ("exact", "学生", "姓名", "王小明")),
        ("छात्र का नाम", ("exact", "छात्र", "नाम", "")),
        ("सीता कहाँ है", ("exact", "छात्र", "नाम", "सीता")),
    ],
)
def test_names_and_cells_of_other_scripts_are_found(question: str, wanted: tuple[str, ...]) -> None:
    assert wanted in targets(LinkIndex(FAR, FAR_CELLS), question)


def test_one_sign_of_a_name_or_its_signs_turned_round_say_nothing_where_words_have_no_spaces() -> None:
    index = LinkIndex(FAR, FAR_CELLS)
    assert index.link("生日") == index.link("名姓") == []


def test_codes_are_compared_without_case_in_any_script() -> None:
    index = LinkIndex(SCHEMA, {("players", "hand"): ["ΑΣ", "Δ"]})
    assert ("code", "Players", "hand", "ΑΣ") in targets(index, "οι ΑΣΘΕΝΕΊΣ")


ODD = Schema(
    "odd",
    [
        table("order", [("select", "text"), ("to", "text"), ("IDs", "int"), ("São_João", "text")]),
        table("Match_2014", [("address1", "text"), ("address2", "text"), ("h264Codec", "text"), ("userID", "int")]),
        table("_", [("!", "text")]),
        table("", [("", "text")]),
    ],
)
ODD_CELLS = {("order", "to"): ["", "  ", "!!", "L", "R"], ("order", "São_João"): ["İzmir", "Côte d'Ivoire", "1,000"]}


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("which orders", ("exact", "order", "", "")),
        ("what do they select", ("exact", "order", "select", "")),
        ("all ids", ("exact", "order", "IDs", "")),
        ("the id", ("exact", "order", "IDs", "")),
        ("user ids", ("exact", "Match_2014", "userID", "")),
        ("match 2014", ("exact", "Match_2014", "", "")),
        ("address two", ("exact", "Match_2014", "address2", "")),
        ("the second address", ("turned", "Match_2014", "address2", "")),
        ("h264 codec", ("exact", "Match_2014", "h264Codec", "")),
        ("sao joao", ("accents", "order", "São_João", "")),
        ("the São", ("part", "order", "São_João", "")),
        ("to Izmir", ("accents", "order", "São_João", "İzmir")),
        ("from Cote", ("cell-part", "order", "São_João", "Côte d'Ivoire")),
        ("people of Cote d'Ivoire", ("accents", "order", "São_João", "Côte d'Ivoire")),
        ("one thousand", ("exact", "order", "São_João", "1,000")),
    ],
)
def test_names_with_digits_capitals_accents_and_reserved_words_are_found(
    question: str, wanted: tuple[str, ...]
) -> None:
    assert wanted in targets(LinkIndex(ODD, ODD_CELLS), question)


def test_a_name_without_accents_is_found_with_them() -> None:
    schema = Schema("plain", [table("cafe", [("resume", "text")])])
    found = targets(LinkIndex(schema, {("cafe", "resume"): ["Zurich"]}), "résumés of the café in Zürich")
    assert {
        ("accents", "cafe", "", ""),
        ("accents", "cafe", "resume", ""),
        ("accents", "cafe", "resume", "Zurich"),
    } == found
    index = LinkIndex(schema, {("cafe", "resume"): ["Zurich Main"]})
    assert ("cell-part", "cafe", "resume", "Zurich Main") in targets(index, "in Zürich")


def test_names_and_cells_without_a_word_link_nothing() -> None:
    index = LinkIndex(ODD, {("order", "to"): ["", "  ", "!!"]})
    assert [link for text in ("", "_", "!!", "  ", "\x00") for link in index.link(text)] == []


def test_initials_of_words_that_say_nothing_are_no_abbreviation() -> None:
    assert [(link.table, link.column) for link in LinkIndex(ODD).link("the order")] == [("order", "")]
    index = LinkIndex(Schema("shop", [table("sale", [("po", "int"), ("ins", "int")])]))
    assert index.link("price of") == []
    assert targets(index, "post office") == {("abbreviation", "sale", "po", "")}
    assert targets(index, "all ins") == {("exact", "sale", "ins", "")}


def test_a_cell_that_begins_like_a_word_does_not_hide_a_name_nearly_spelled_so() -> None:
    cells = {("countries", "continent"): ["con"]}
    assert ("fuzzy", "countries", "", "") in targets(LinkIndex(SCHEMA, cells), "every contry")


@pytest.fixture(scope="module")
def crowded() -> LinkIndex:
    return LinkIndex(SCHEMA, {("countries", "name"): [f"cell number {number}" for number in range(2_000)]})


@pytest.mark.parametrize(
    "question",
    [
        " ".join(["show the release year of players from cell number one near contry"] * 900),
        "two" + " million" * 10_000,
        "漢字" * 5_000,
        "x" * 1_000_000,
        "country" * 100_000,
        "1," * 10_000 + "1",
    ],
    ids=["words", "millions", "unspaced", "one word", "one known word", "number"],
)
def test_a_question_of_ten_thousand_words_is_linked_in_seconds(crowded: LinkIndex, question: str) -> None:
    started = time.process_time()
    asked(question, crowded.link(question), SCHEMA)
    assert time.process_time() - started < 8


def test_a_cell_of_a_megabyte_is_indexed_and_found_by_its_words() -> None:
    cells = ["x" * 500_000 + " y", "zqx " * 100_000, "漢" * 10_000, "\u0301" * 100_000]
    started = time.process_time()
    index = LinkIndex(SCHEMA, {("countries", "name"): cells})
    assert ("cell-part", "countries", "name", cells[1]) in targets(index, "the zqx")
    assert time.process_time() - started < 10
