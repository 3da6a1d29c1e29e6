"""The experiment's first pass: rows that share a schema, a Llama whose beams share what they read, and the search."""

from __future__ import annotations

import itertools
import json
import sqlite3
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sltcore.errors import DataError

FOLDER = Path(__file__).parents[1] / "experiments" / "first_pass"
END = 2


@pytest.fixture(scope="module")
def first_pass() -> Iterator[SimpleNamespace]:
    pytest.importorskip("transformers")
    names = ("beam", "fetch", "llama", "packing", "pool", "prompts", "spider")
    before = {name: sys.modules.pop(name, None) for name in names}
    sys.path.insert(0, str(FOLDER))
    try:
        import beam
        import llama
        import packing
        import prompts

        yield SimpleNamespace(beam=beam, llama=llama, packing=packing, prompts=prompts)
    finally:
        sys.path.remove(str(FOLDER))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update({name: module for name, module in before.items() if module is not None})


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=4,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    for weight in model.parameters():
        weight.data.normal_(0, 0.5).requires_grad_(False)
    return model.requires_grad_(False)


SCHEMA = [3, 4, 5, 6]
QUESTIONS = [[1, 2, 3], [4], [7, 8, 9, 1, 2]]


def log_probability(model: Any, before: list[int], answer: tuple[int, ...]) -> float:
    ids = torch.tensor([[*before, *answer, END]])
    logs = model(ids).logits.log_softmax(-1)[0]
    return sum(float(logs[len(before) - 1 + k, token]) for k, token in enumerate([*answer, END]))


def test_a_wide_beam_finds_every_answer_in_the_order_of_its_probability(
    first_pass: SimpleNamespace, model: Any
) -> None:
    llama = first_pass.llama.Llama(model)
    found = first_pass.beam.search(llama, llama.schema(SCHEMA), QUESTIONS, first_pass.beam.Beam(1100, 3, END, 1100))
    others = [token for token in range(11) if token != END]
    for question, written in zip(QUESTIONS, found, strict=True):
        answers = [answer for size in range(3) for answer in itertools.product(others, repeat=size)]
        expected = sorted(((log_probability(model, SCHEMA + question, a), a) for a in answers), reverse=True)
        assert [one.tokens for one in written] == [answer for _, answer in expected]
        assert [one.score for one in written] == pytest.approx([score for score, _ in expected], abs=1e-4)


def test_scores_are_those_of_the_model_alone_after_many_steps(first_pass: SimpleNamespace, model: Any) -> None:
    """Long answers, so that tokens are dropped from the pool, questions leave it, and beams change places."""
    llama = first_pass.llama.Llama(model)
    found = first_pass.beam.search(llama, llama.schema(SCHEMA), QUESTIONS, first_pass.beam.Beam(6, 40, END, 6))
    assert max(len(one.tokens) for written in found for one in written) > 15
    for question, written in zip(QUESTIONS, found, strict=True):
        assert [one.score for one in written] == sorted((one.score for one in written), reverse=True)
        for one in written:
            assert one.score == pytest.approx(log_probability(model, SCHEMA + question, one.tokens), abs=2e-4)


def test_the_beam_is_that_of_transformers(first_pass: SimpleNamespace, model: Any) -> None:
    llama = first_pass.llama.Llama(model)
    found = first_pass.beam.search(llama, llama.schema(SCHEMA), QUESTIONS, first_pass.beam.Beam(6, 40, END, 6))
    for question, written in zip(QUESTIONS, found, strict=True):
        ids = torch.tensor([SCHEMA + question])
        best = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_beams=6,
            max_new_tokens=40,
            eos_token_id=END,
            pad_token_id=0,
            length_penalty=0.0,
            early_stopping="never",
            do_sample=False,
        )[0, ids.shape[1] :].tolist()
        assert list(written[0].tokens) == best[: best.index(END)]


def test_questions_together_get_what_each_gets_alone(first_pass: SimpleNamespace, model: Any) -> None:
    llama = first_pass.llama.Llama(model)
    beam = first_pass.beam.Beam(5, 30, END, 4)
    together = first_pass.beam.search(llama, llama.schema(SCHEMA), QUESTIONS, beam)
    for question, written in zip(QUESTIONS, together, strict=True):
        (alone,) = first_pass.beam.search(llama, llama.schema(SCHEMA), [question], beam)
        assert [one.tokens for one in alone[:4]] == [one.tokens for one in written[:4]]


def test_tokens_that_are_not_allowed_are_never_written(first_pass: SimpleNamespace, model: Any) -> None:
    asked: list[tuple[int, tuple[int, ...]]] = []

    def allowed(question: int, text: tuple[int, ...]) -> torch.Tensor:
        asked.append((question, text))
        tokens = torch.arange(11)
        return tokens == END if len(text) == 3 else (tokens < question + 4) & (tokens != END)

    llama = first_pass.llama.Llama(model)
    beam = first_pass.beam.Beam(6, 10, END, 6)
    found = first_pass.beam.search(llama, llama.schema(SCHEMA), QUESTIONS, beam, allowed)
    for question, written in enumerate(found):
        assert written
        assert all(len(one.tokens) == 3 and max(one.tokens) < question + 4 for one in written)
    assert {question for question, _ in asked} == {0, 1, 2}


def test_no_question_of_a_row_sees_another(first_pass: SimpleNamespace, model: Any) -> None:
    packing = first_pass.packing
    pieces = [packing.Piece([1, 7], [8, 9, END]), packing.Piece([4], [5, END]), packing.Piece([6, 6, 3], [1, END])]
    row = packing.pack(SCHEMA, pieces)
    mask = torch.zeros(row.tokens.shape[0], row.tokens.shape[0]).masked_fill(~packing.seen(row.segments)[0, 0], -1e9)
    logs = model(
        input_ids=row.tokens[None], attention_mask=mask[None, None], position_ids=row.positions[None]
    ).logits.log_softmax(-1)[0]
    told = row.targets >= 0
    together = logs[told].gather(1, row.targets[told][:, None]).sum()
    alone = sum(log_probability(model, SCHEMA + one.question, tuple(one.answer[:-1])) for one in pieces)
    assert float(together) == pytest.approx(alone, abs=1e-3)


@pytest.mark.parametrize(
    ("sql", "plain"),
    [
        (
            'SELECT  T1.Name FROM a AS T1 WHERE T1.x = "O\'Neil  B" ;',
            "select t1.name from a as t1 where t1.x = 'O''Neil  B'",
        ),
        ("SELECT count ( DISTINCT x ) FROM b WHERE y!=3", "select count(distinct x) from b where y != 3"),
        (
            "SELECT a ,b FROM c WHERE d NOT IN ( SELECT e FROM f )",
            "select a, b from c where d not in (select e from f)",
        ),
    ],
)
def test_queries_are_written_in_one_way(first_pass: SimpleNamespace, sql: str, plain: str) -> None:
    assert first_pass.prompts.plain_sql(sql) == plain


def test_spider_is_laid_out_from_hub_and_archive(first_pass: SimpleNamespace, tmp_path: Path) -> None:
    """A data set of `datasets` in a folder stands for the hub; databases come from a zip of the official form."""
    from fetch import main
    from spider import Spider

    shop = tmp_path / "shop.sqlite"
    with sqlite3.connect(shop) as connection:
        connection.executescript(
            "CREATE TABLE item (id INT, name TEXT); INSERT INTO item VALUES (1, 'tea'), (2, 'pot')"
        )
    connection.close()
    with zipfile.ZipFile(tmp_path / "spider_data.zip", "w") as archive:
        archive.write(shop, "spider_data/database/shop/shop.sqlite")
        archive.writestr("spider_data/tables.json", json.dumps([{"db_id": "shop"}]))
    hub = tmp_path / "hub"
    hub.mkdir()
    questions = [
        ("shop", "Names?", "SELECT name FROM item"),
        ("shop", "Bad?", "SELECT nome FROM item"),
        ("none", "?", "SELECT 1"),
    ]
    rows = "".join(json.dumps({"db_id": d, "question": q, "query": s, "more": [1]}) + "\n" for d, q, s in questions)
    for split in ("train", "validation"):
        (hub / f"{split}.jsonl").write_text(rows, encoding="utf-8")
    main(["--archive", str(tmp_path / "spider_data.zip"), "--hub", str(hub), "--out", str(tmp_path / "out")])
    spider = Spider(tmp_path / "out", tmp_path / "unpacked")
    assert [question.question for question in spider.questions("dev")] == ["Names?"]
    assert [question.question for question in spider.questions("tune")] == ["Names?"]
    assert spider.questions("train") == []
    assert spider.database("shop").read_bytes() == shop.read_bytes()
    found = [json.loads(line) for line in (tmp_path / "out" / "dev.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["executes"], row["database_here"], row["rows"]) for row in found] == [
        (True, True, 2),
        (False, True, 0),
        (False, False, 0),
    ]


def test_an_archive_without_databases_is_told(first_pass: SimpleNamespace, tmp_path: Path) -> None:
    from fetch import main

    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("tables.json", "[]")
    with pytest.raises(
        DataError, match=r"other.zip holds no database/NAME/NAME.sqlite; expected the archive of https://"
    ):
        main(["--archive", str(tmp_path / "other.zip"), "--out", str(tmp_path / "out")])
