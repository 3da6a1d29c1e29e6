"""Candidates from a call, a file or a model: best first, each query once, with the model's own log-probability."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from slt_sql_rerank.candidates.distinct import canonical, distinct
from slt_sql_rerank.candidates.generate import SqlGenerate, Writer, fresh_writer, load_writer
from slt_sql_rerank.candidates.given import Candidates
from slt_sql_rerank.simple.llm_judge import Source
from sltcore.errors import ContextError, DataError, SpecError
from sltcore.types import Hypothesis, Text

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
T5 = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
QUESTION = "How many?"


@pytest.fixture(scope="module", params=[LLAMA, T5], ids=["llama", "t5"])
def writer(request: Any) -> Writer:
    torch.manual_seed(0)
    found = fresh_writer(request.param)
    with torch.no_grad():
        for parameter in found.model.parameters():
            parameter.mul_(3)
    return found


def by_hand(writer: Writer, prompt: str, tokens: tuple[int, ...]) -> float:
    """Sum of log-probabilities, one call of the model for each token."""
    begun, total = list(prompt.encode()), 0.0
    for place, token in enumerate(tokens):
        before = list(tokens[:place])
        with torch.no_grad():
            if writer.model.config.is_encoder_decoder:
                ids = torch.tensor([[0, *before]])
                logits = writer.model(input_ids=torch.tensor([begun]), decoder_input_ids=ids).logits
            else:
                logits = writer.model(input_ids=torch.tensor([begun + before])).logits
        total += float(logits[0, -1].log_softmax(-1)[token])
    return total


@pytest.mark.parametrize("search", ["beam", "sample"])
def test_scores_are_the_models_own_log_probabilities(writer: Writer, search: Any) -> None:
    decoder = SqlGenerate(writer, n=4, search=search, temperature=2.0, new_tokens=5)
    nbest = decoder.decode(Text([QUESTION]), {})[0]
    prompt = decoder.prompt.format(schema="", question=QUESTION)
    assert len(nbest) > 1
    for one in nbest:
        assert one.score == pytest.approx(by_hand(writer, prompt, one.tokens), abs=1e-3)


def test_by_token_the_score_is_divided_by_the_tokens(writer: Writer) -> None:
    whole = {h.tokens: h.score for h in SqlGenerate(writer, n=3, new_tokens=4).write(QUESTION)}
    for one in SqlGenerate(writer, n=3, new_tokens=4, per="token").write(QUESTION):
        assert one.score == pytest.approx(whole[one.tokens] / len(one.tokens), abs=1e-4)


def test_samples_come_from_the_calls_generator_and_leave_the_programs_alone(writer: Writer) -> None:
    decoder = SqlGenerate(writer, n=4, search="sample", new_tokens=5)
    before = torch.get_rng_state()
    once, again, other = (
        decoder.decode(Text([QUESTION]), {"generator": torch.Generator().manual_seed(seed)}) for seed in (1, 1, 2)
    )
    assert once == again != other
    assert torch.equal(before, torch.get_rng_state())


def test_one_query_written_twice_is_one_candidate() -> None:
    found = distinct(
        [
            Hypothesis("select T2.id from shop as T1 join item as T2 on T1.id = T2.id", -3.0),
            Hypothesis("SELECT b.ID  FROM Shop AS a JOIN Item AS b ON a.id = b.id", -1.0),
            Hypothesis("SELECT a.ID FROM Shop AS a JOIN Item AS b ON a.id = b.id", -2.0),
        ]
    )
    assert [(one.score, one.extra["merged"]) for one in found] == [(-1.0, 2), (-2.0, 1)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT id FROM t WHERE a = 'X'", "SELECT id FROM t WHERE a = 'x'"),
        ('SELECT id FROM t WHERE a = "X"', 'SELECT id FROM t WHERE a = "x"'),
        ("SELECT DISTINCT id FROM t", "SELECT id FROM t"),
        ("SELECT id FROM t LIMIT 1", "SELECT id FROM t LIMIT 2"),
        ("no query", "No query"),
    ],
)
def test_what_may_differ_stays_apart(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


def test_candidates_of_the_call_go_before_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "lists.jsonl"
    file.write_text(json.dumps({"question": QUESTION, "candidates": ["SELECT 1", "SELECT 2"]}) + "\n")
    decoder = Candidates(str(file))
    asked = Text([QUESTION, "another"])
    assert [[h.text for h in one] for one in decoder.decode(asked, {})] == [["SELECT 1", "SELECT 2"], [""]]
    given = [None, [{"sql": "SELECT 3", "score": -2.0}, {"sql": "SELECT 4", "score": -1.0}]]
    found = decoder.decode(asked, {"candidates": given})
    assert [[h.text for h in one] for one in found] == [["SELECT 1", "SELECT 2"], ["SELECT 4", "SELECT 3"]]


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContextError, match="has a str for a question; expected a list of candidates for each"):
        Candidates().decode(Text([QUESTION]), {"candidates": ["SELECT 1"]})
    with pytest.raises(DataError, match=r"context 'candidates': candidates\[0\] is a int"):
        Candidates().decode(Text([QUESTION]), {"candidates": [[3]]})
    file = tmp_path / "twice.jsonl"
    lines = [{"question": QUESTION, "candidates": [f"SELECT {k}"]} for k in range(2)]
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match="holds the question 'How many.' twice, with other candidates"):
        Candidates(str(file))


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ("{question} {rows}", "the prompt has the field 'rows'; fields: schema, question"),
        ("{schema}", "the prompt does not hold {question}"),
        ("{question} {", "the prompt cannot be filled in: "),
    ],
)
def test_a_prompt_that_cannot_work_is_refused(prompt: str, problem: str, writer: Writer) -> None:
    with pytest.raises(SpecError) as error:
        SqlGenerate(writer, prompt=prompt)
    assert problem in str(error.value)


def test_a_model_that_is_not_here_is_refused() -> None:
    with pytest.raises(DataError, match="no language model 'nobody/nothing' is here: .*set download to fetch"):
        load_writer(Source("nobody/nothing"))
    with pytest.raises(SpecError, match="sql-generate: architecture makes no language model"):
        fresh_writer({"model_type": "no-such-thing"})
