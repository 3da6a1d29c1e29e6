"""The constrained decoder: whatever a model wants to write, what comes out is a query that the database accepts."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlglot
import torch

pytest.importorskip("llguidance")
pytest.importorskip("transformers")

from slt_sql_rerank.candidates.generate import Bytes, SqlGenerate, Writer, fresh_writer
from slt_sql_rerank.constrained.constraint import SqlConstraint, SqlLogits
from slt_sql_rerank.constrained.decoder import SqlConstrained
from slt_sql_rerank.constrained.grammar import grammar_of
from slt_sql_rerank.schema import Schema, from_sqlite, table
from slt_sql_rerank.simple.llm_judge import describe
from sltcore.errors import ContextError, DataError, SpecError
from sltcore.types import Text

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
NOWHERE = Schema("nowhere", [])
T5 = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
SHOP = (
    "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL, maker INTEGER REFERENCES maker(id))",
    "CREATE TABLE maker (id INTEGER PRIMARY KEY, name TEXT, since INTEGER)",
    "INSERT INTO maker VALUES (1, 'Ann''s', 1990), (2, 'Bo', 2001)",
    "INSERT INTO item VALUES (1, 'tea', 2.5, 1), (2, 'pot', 9, 2)",
)
ODD = (
    'CREATE TABLE "order" ("group" TEXT, "two words" INT, "a""b" TEXT, "größe" REAL, "select" INT, key INT)',
    'CREATE TABLE "名" ("値段" INT, "x.y" INT, "100%" INT)',
)
WIDE = ("CREATE TABLE wide (" + ", ".join(f"column_{number} INT" for number in range(300)) + ")",)
GOOD = [
    "select name from item",
    " SELECT Name, PRICE FROM Item WHERE price >= 2.5 AND name LIKE '%t''s%'",
    "select count(*) from item as t1 join maker as t2 on t1.maker = t2.id where t2.since < 2000 group by t2.name having count(*) > 1",
    "select distinct t2.name from item t1, maker t2 where t1.maker = t2.id order by t2.since desc, t2.name limit 3",
    "select name from item where maker in (select id from maker where since = (select max(since) from maker))",
    "select name from item union select name from maker except select name from item where price between 1 and 3",
    "select avg(price) - min(price), item.name from item left join maker using (id) where not (since is null or item.id = 1)",
    "select case when price > 3 then 'dear' else 'cheap' end as k from item order by k",
    'select "name", "item"."price" from "item" where id not in (1, 2, -3)',
    "select name from maker where not exists (select id from item where item.maker = maker.id)",
    "select max(n.price) from (select price from item where price != 3) as n",
    "select cast(price as integer) from item limit 1 offset 2",
    "select distinct(name) from item",
]
BAD = [
    "select nome from item",
    "select name from items",
    "select item.since from item",
    "select name from item; drop table item",
    "select name from item -- more",
    "select name from item /* more */",
    "insert into item values (3, 'x', 1, 1)",
    "pragma table_info(item)",
    "attach 'x' as y",
    "select load_extension('x') from item",
    "select readfile('x') from item",
    "select name from sqlite_master",
    "selectname from item",
    "select name fromitem",
    "select 1--1 from item",
    "select name from item where name = \"tea\"",
    "with a as (select 1) select name from item",
    "select name",
    "\u017felect name from item",
    "select row_number() from item",
    "select t1 from item",
    "",
]  # fmt: skip
BAD_AT_THE_END = [
    "select t1.name from item",
    "select since from item",
    "select t1.name from item as t2",
    "select name from item join maker on item.maker = maker.id",
    "select sum(name, price) from item",
    "select name, count(*) from item group by t3.name",
]


def made(path: Path, statements: tuple[str, ...]) -> Path:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("shop") / "shop.sqlite", SHOP)


def explains(path: Path, sql: str) -> bool:
    connection = sqlite3.connect(path)
    try:
        connection.execute("EXPLAIN " + sql)
    except sqlite3.Error:
        return False
    finally:
        connection.close()
    return True


def of_file(path: Path, *, checked: bool = True) -> SqlConstraint:
    return SqlConstraint(from_sqlite(path), Bytes(), (lambda text: explains(path, text)) if checked else None)


class Words(Bytes):
    """Bytes, of which those that no ASCII text has stand for words."""

    def __init__(self, names: Sequence[str]) -> None:
        quoted = ['"' + name.replace('"', '""') + '"' for name in names]
        words = [
            "select ",
            " from ",
            " where ",
            " group by ",
            " order by ",
            "count(*)",
            " join ",
            " on ",
            *names,
            *quoted,
        ]
        self.vocabulary = (
            *Bytes.vocabulary[:128],
            *(word.encode() for word in words[:128]),
            *Bytes.vocabulary[128 + len(words) :],
        )

    def encode(self, text: str) -> list[int]:
        return list(text.encode("ascii", "replace"))

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self.vocabulary[token] for token in ids).decode("utf-8", "backslashreplace")


def wild(architecture: dict[str, Any], seed: int, schema: Schema) -> Writer:
    """Random weights, with a liking for whole words and the end."""
    torch.manual_seed(seed)
    model = fresh_writer(architecture).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if architecture is LLAMA else 0.5)
        head = torch.nn.Linear(16, 256)
        head.weight.copy_(model.get_output_embeddings().weight)
        head.bias.zero_()
        head.bias[128:] = 4.0
        head.bias[129] = 7.0
        head.bias[Bytes.eos_token_id] = 9.0
    model.lm_head = head
    return Writer(model, Words([*(entry.name for entry in schema.tables), *sorted(schema.column_names)][:40]))


@pytest.mark.parametrize("sql", GOOD)
def test_a_query_over_the_schema_may_be_written_token_by_token(shop: Path, sql: str) -> None:
    constraint = of_file(shop)
    assert explains(shop, sql)
    written: tuple[int, ...] = ()
    for token in Bytes().encode(sql):
        assert constraint.allowed(written)[token], f"{sql[: len(written)]!r} and then {chr(token)!r}"
        written += (token,)
    assert constraint.allowed(written)[0]
    assert constraint.accepts(written)


@pytest.mark.parametrize("sql", BAD)
def test_what_is_no_query_over_the_schema_cannot_be_written(shop: Path, sql: str) -> None:
    constraint = of_file(shop, checked=False)
    tokens = tuple(Bytes().encode(sql))
    assert not constraint.accepts(tokens)
    refused = [not constraint.allowed(tokens[:k])[token] for k, token in enumerate(tokens)]
    assert any(refused) or not constraint.allowed(tokens)[0]


@pytest.mark.parametrize("sql", BAD_AT_THE_END)
def test_what_only_the_database_knows_to_be_wrong_cannot_end(shop: Path, sql: str) -> None:
    tokens = tuple(Bytes().encode(sql))
    assert of_file(shop, checked=False).accepts(tokens)
    assert not of_file(shop).accepts(tokens)
    assert not of_file(shop).allowed(tokens)[0]


@pytest.mark.parametrize("statements", [SHOP, ODD, WIDE], ids=["shop", "odd", "wide"])
@pytest.mark.parametrize("search", ["beam", "sample"])
@pytest.mark.parametrize("architecture", [LLAMA, T5], ids=["llama", "t5"])
def test_models_of_random_weights_write_queries_that_run(
    tmp_path: Path, statements: tuple[str, ...], search: Any, architecture: dict[str, Any]
) -> None:
    path = made(tmp_path / "some.sqlite", statements)
    found = 0
    for seed in range(3):
        decoder = SqlConstrained(wild(architecture, seed, from_sqlite(path)), n=12, search=search, new_tokens=100)
        for one in decoder.decode(Text([f"question {seed}"]), {"database": str(path)})[0]:
            if not one.text:
                continue
            found += 1
            assert explains(path, one.text), one.text
            assert len(sqlglot.parse(one.text, dialect="sqlite")) == 1
            assert one.extra["ended"]
    assert found > 0


@pytest.mark.parametrize("architecture", [LLAMA, T5], ids=["llama", "t5"])
def test_scores_are_those_of_the_model_without_the_constraint(shop: Path, architecture: dict[str, Any]) -> None:
    writer = wild(architecture, 1, from_sqlite(shop))
    nbest = SqlConstrained(writer, n=4, new_tokens=50).decode(Text(["q"]), {"database": str(shop)})[0]
    prompt = writer.tokenizer.encode(
        SqlGenerate(writer).prompt.format(schema=describe(from_sqlite(shop)), question="q")
    )
    assert len(nbest) > 1
    for one in nbest:
        total = 0.0
        for place, token in enumerate(one.tokens):
            before = list(one.tokens[:place])
            with torch.no_grad():
                if writer.model.config.is_encoder_decoder:
                    ids = torch.tensor([[0, *before]])
                    logits = writer.model(input_ids=torch.tensor([prompt]), decoder_input_ids=ids).logits
                else:
                    logits = writer.model(input_ids=torch.tensor([prompt + before])).logits
            total += float(logits[0, -1].log_softmax(-1)[token])
        assert one.score == pytest.approx(total, abs=2e-3)


def test_the_mask_is_what_trying_each_token_says(shop: Path) -> None:
    """Against matchers that take the prefix and one token anew, for prefixes of every length."""
    from llguidance import LLMatcher

    from slt_sql_rerank.constrained.tokens import guided

    constraint = of_file(shop, checked=False)
    start = LLMatcher(guided(Bytes()), LLMatcher.grammar_from_lark(grammar_of(from_sqlite(shop))))
    for sql in GOOD[1:6]:
        tokens = Bytes().encode(sql)
        for size in range(0, len(tokens), 7):
            mask = constraint.allowed(tuple(tokens[:size]))
            for token in range(1, 256):
                assert start.deep_copy().try_consume_tokens([*tokens[:size], token]) == size + int(mask[token])


def test_beams_may_change_places_between_steps(shop: Path) -> None:
    """One constraint that sees rows in changing order, and twice, masks as one that sees each prefix alone."""
    constraint = of_file(shop)
    logits = SqlLogits(constraint, 2)
    rows = [Bytes().encode(sql) for sql in (GOOD[0], GOOD[4], GOOD[5])]
    generator = torch.Generator().manual_seed(0)
    for size in range(1, 21):
        order = torch.randint(len(rows), (5,), generator=generator).tolist()
        ids = torch.tensor([[9, 9, *rows[row][:size]] for row in order])
        scores = torch.randn(5, 256, generator=generator)
        found = logits(ids, scores)
        for place, row in enumerate(order):
            alone = of_file(shop).allowed(tuple(rows[row][:size]))
            assert torch.equal(found[place].isfinite(), alone)
            assert torch.equal(found[place][alone], scores[place][alone])


def test_where_nothing_may_follow_the_row_ends_and_is_dropped(shop: Path) -> None:
    constraint = of_file(shop)
    ids = torch.tensor([Bytes().encode("select nome")])
    found = SqlLogits(constraint, 0)(ids, torch.zeros(1, 256))
    assert found.argmax() == 0
    assert found.isfinite().sum() == 1
    assert not constraint.accepts(Bytes().encode("select nome"))


def test_a_list_without_any_query_holds_the_empty_text(shop: Path) -> None:
    decoder = SqlConstrained(wild(LLAMA, 0, from_sqlite(shop)), n=3, new_tokens=2)
    assert [one.text for one in decoder.decode(Text(["q"]), {"database": str(shop)})[0]] == [""]


def test_a_schema_alone_is_enough(shop: Path) -> None:
    schema = from_sqlite(shop)
    decoder = SqlConstrained(wild(LLAMA, 2, schema), n=8, new_tokens=100)
    texts = [one.text for one in decoder.decode(Text(["q"]), {"database": schema})[0]]
    assert any(texts)
    assert all(explains(shop, text) for text in texts if text)


def test_a_question_gets_the_same_list_beside_others(shop: Path) -> None:
    decoder = SqlConstrained(wild(LLAMA, 3, from_sqlite(shop)), n=4, new_tokens=50)
    both = decoder.decode(Text(["one", "two"]), {"database": str(shop)})
    assert [decoder.decode(Text([text]), {"database": str(shop)})[0] for text in ("one", "two")] == list(both)


def test_without_a_database_it_says_what_is_missing() -> None:
    with pytest.raises(
        ContextError, match=r"^decoder 'sql-constrained' writes queries over a schema; the call gives no context"
    ):
        SqlConstrained(wild(LLAMA, 0, NOWHERE), n=2).decode(Text(["q"]), {})


def test_a_schema_without_columns_is_refused() -> None:
    with pytest.raises(DataError, match=r"^database 'none' has no table with columns; a query has nothing to name$"):
        grammar_of(Schema("none", [table("empty", [])]))


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    class Slow:
        eos_token_id = 1

    with pytest.raises(
        SpecError, match=r"^sql-constrained cannot guide the tokenizer Slow: it is no fast one of transformers$"
    ):
        SqlConstraint(Schema("a", [table("t", [("c", "int")])]), Slow())


@pytest.mark.skipif(
    not (Path(os.environ.get("SLT_DATA", "")) / "spider" / "dev.jsonl").is_file(),
    reason="SLT_DATA names no folder with spider",
)
def test_nearly_every_gold_query_of_spider_may_be_written(tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "experiments" / "first_pass"
    sys.path.insert(0, str(folder))
    try:
        from prompts import plain_sql
        from spider import Spider
    finally:
        sys.path.remove(str(folder))
    spider = Spider(Path(os.environ["SLT_DATA"]) / "spider", tmp_path)
    constraints: dict[str, SqlConstraint] = {}
    questions = [*spider.questions("dev"), *spider.questions("tune")]
    refused = []
    for question in questions:
        if question.db_id not in constraints:
            constraints[question.db_id] = of_file(spider.database(question.db_id))
        if not constraints[question.db_id].accepts(Bytes().encode(plain_sql(question.query))):
            refused.append(question.query)
    assert len(refused) <= 0.02 * len(questions), refused
