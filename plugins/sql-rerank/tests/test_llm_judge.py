"""A language model on this machine judges candidates; its scores are those of asking it by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from slt_sql_rerank.schema import ForeignKey, Schema, table
from slt_sql_rerank.simple.llm_judge import Judge, LlmJudge, Source, describe, fresh_judge, load_judge
from sltcore.errors import DataError, SpecError
from sltcore.types import Hypothesis

SCHEMA = Schema(
    "shop",
    [table("item", [("id", "int"), ("label", "text")]), table("sale", [("item_id", "int")])],
    [ForeignKey("sale", ("item_id",), "item", ("id",))],
)
TINY = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 2048,
}
CANDIDATES = [
    Hypothesis("SELECT label FROM item", -1.0),
    Hypothesis("SELECT count(*) FROM sale WHERE item_id = 3", -2.0),
]
QUESTION = "How many sales were there?"


@pytest.fixture(scope="module")
def judge() -> Judge:
    torch.manual_seed(0)
    found = fresh_judge(TINY)
    with torch.no_grad():
        for parameter in found.model.parameters():
            parameter.mul_(4)
    return found


def by_hand(judge: Judge, prompt: str, answer: str) -> float:
    """Sum of log-probabilities, token by token, without padding."""
    prompt_ids, ids = list(prompt.encode()), list(answer.encode())
    total = 0.0
    for place, token in enumerate(ids):
        with torch.no_grad():
            logits = judge.model(input_ids=torch.tensor([prompt_ids + ids[:place]])).logits[0, -1]
        total += float(logits.log_softmax(-1)[token])
    return total


def test_yes_and_no_are_weighed_as_by_hand(judge: Judge) -> None:
    found = LlmJudge(judge, prompt="{schema}|{question}|{sql}|").score(QUESTION, CANDIDATES, {"database": SCHEMA})
    for score, hypothesis in zip(found, CANDIDATES, strict=True):
        prompt = f"{describe(SCHEMA)}|{QUESTION}|{hypothesis.text}|"
        expected = by_hand(judge, prompt, " yes") - by_hand(judge, prompt, " no")
        assert score == pytest.approx(expected, abs=1e-3)


def test_the_question_is_weighed_as_by_hand(judge: Judge) -> None:
    reranker = LlmJudge(judge, ask="question", prompt="{schema}|{sql}|", batch=1)
    found = reranker.score(QUESTION, CANDIDATES, {"database": SCHEMA})
    for score, hypothesis in zip(found, CANDIDATES, strict=True):
        answer = f" {QUESTION}"
        expected = by_hand(judge, f"{describe(SCHEMA)}|{hypothesis.text}|", answer) / len(answer)
        assert score == pytest.approx(expected, abs=1e-4)


def test_scores_do_not_depend_on_the_others(judge: Judge) -> None:
    reranker = LlmJudge(judge)
    together = reranker.score(QUESTION, CANDIDATES, {"database": SCHEMA})
    alone = [reranker.score(QUESTION, [one], {"database": SCHEMA})[0] for one in CANDIDATES]
    assert together == pytest.approx(alone, abs=1e-3)


def test_a_long_prompt_loses_its_beginning(judge: Judge) -> None:
    cut = LlmJudge(judge, prompt="{schema}{sql}", tokens=30).score(QUESTION, CANDIDATES[:1], {"database": SCHEMA})
    end = f"{describe(SCHEMA)}{CANDIDATES[0].text}"
    expected = by_hand(judge, end[-(30 - 4) :], " yes") - by_hand(judge, end[-(30 - 3) :], " no")
    assert cut[0] == pytest.approx(expected, abs=1e-3)


def test_the_first_pass_counts_by_its_weight(judge: Judge) -> None:
    plain = LlmJudge(judge).score(QUESTION, CANDIDATES, {})
    weighted = LlmJudge(judge, weight=2.0).score(QUESTION, CANDIDATES, {})
    assert [b - a for a, b in zip(plain, weighted, strict=True)] == pytest.approx([-2.0, -4.0], abs=1e-5)


def test_a_folder_is_loaded_and_nothing_is_fetched(tmp_path: Path, judge: Judge) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"<0x{byte:02X}>": byte for byte in range(256)}
    inner = Tokenizer(models.BPE(vocab=words, merges=[], byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=inner).save_pretrained(tmp_path)
    judge.model.save_pretrained(tmp_path)
    loaded = load_judge(Source(str(tmp_path)))
    found = LlmJudge(loaded).score(QUESTION, CANDIDATES, {"database": SCHEMA})
    assert found == pytest.approx(LlmJudge(judge).score(QUESTION, CANDIDATES, {"database": SCHEMA}), abs=1e-3)
    with pytest.raises(DataError, match="no causal language model 'nobody/nothing' is here: .*set download to fetch"):
        load_judge(Source("nobody/nothing"))


def test_the_schema_is_described_with_its_keys() -> None:
    assert describe(SCHEMA) == "item(id, label)\nsale(item_id)\nsale.item_id = item.id"
    assert describe(None) == ""


@pytest.mark.parametrize(
    ("prompt", "ask", "problem"),
    [
        ("{sql} {rows}", "yes-no", "the prompt has the field 'rows'; fields: schema, question, sql"),
        ("{question}", "yes-no", "the prompt does not hold {sql}"),
        ("{sql} {", "yes-no", "the prompt cannot be filled in: "),
        ("{sql} {question}", "question", "must not hold {question}, which is what is scored"),
    ],
)
def test_a_prompt_that_cannot_work_is_refused(prompt: str, ask: Any, problem: str, judge: Judge) -> None:
    with pytest.raises(SpecError) as error:
        LlmJudge(judge, prompt=prompt, ask=ask)
    assert problem in str(error.value)


def test_an_architecture_that_makes_no_model_is_refused() -> None:
    with pytest.raises(SpecError, match="llm-judge: architecture makes no causal model"):
        fresh_judge({"model_type": "no-such-thing"})
    with pytest.raises(SpecError, match="vocab_size is 10; expected at least 256"):
        fresh_judge({**TINY, "vocab_size": 10})
