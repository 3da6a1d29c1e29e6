"""The constraint behind tokenizers of several kinds: what may follow depends on the bytes of tokens and on nothing else."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("llguidance")
pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from slt_sql_rerank.candidates.generate import Bytes, SqlGenerate, Writer, one_line
from slt_sql_rerank.constrained import constraint as constraints
from slt_sql_rerank.constrained.constraint import SqlConstraint, SqlLogits
from slt_sql_rerank.constrained.decoder import SqlConstrained, in_backticks
from slt_sql_rerank.constrained.tokens import guided
from slt_sql_rerank.schema import Schema, table
from sltcore.errors import DataError, PluginError, SpecError
from sltcore.types import Text

SCHEMA = Schema(
    "shop",
    [
        table("item", [("id", "int"), ("name", "text"), ("price", "real"), ("Größe", "int"), ("two  words", "int")]),
        table("maker", [("id", "int"), ("name", "text"), ("since", "int")]),
    ],
)
GOOD = [
    " select name from item",
    " SELECT count(*), avg(price) FROM item WHERE name LIKE '%té''s 名%' AND price >= 2.5",
    ' select größe, "two  words" from item order by größe desc limit 3'.replace("größe", "Größe"),
    " select distinct t2.name from item as t1 join maker as t2 on t1.id = t2.id group by t2.name having count(*) > 1",
    " select name from maker where id not in (select id from item) union select name from item",
]
BAD = [" select nome from item", " select name from item; drop", " insert into item", " select item.since from item"]
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}


def byte_level() -> PreTrainedTokenizerFast:
    """As of GPT-2: pieces of words, over bytes."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        GOOD, trainers.BpeTrainer(vocab_size=400, special_tokens=["</s>"], initial_alphabet=letters)
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")


def pieces() -> PreTrainedTokenizerFast:
    """As SentencePiece makes them for T5: words and signs, whose spaces are a sign, and no bytes."""
    words = sorted({f"▁{word}" for sql in GOOD for word in sql.split() if word.isalpha()})
    signs = sorted(set("".join(GOOD).replace(" ", "▁")))
    listed = [("</s>", 0.0), ("<unk>", 0.0), *((word, -1.0) for word in words), *((sign, -9.0) for sign in signs)]
    made = Tokenizer(models.Unigram(listed, unk_id=1))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module", params=[byte_level, pieces], ids=["byte-level", "pieces"])
def tokenizer(request: Any) -> Any:
    return request.param()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop") / "shop.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute('CREATE TABLE item (id INT, name TEXT, price REAL, "Größe" INT, "two  words" INT)')
        connection.execute("CREATE TABLE maker (id INT, name TEXT, since INT)")
    connection.close()
    return path


def ids_of(tokenizer: Any, sql: str) -> tuple[int, ...]:
    return tuple(
        tokenizer.encode(sql) if isinstance(tokenizer, Bytes) else tokenizer.encode(sql, add_special_tokens=False)
    )


@pytest.mark.parametrize("sql", GOOD)
def test_a_query_may_be_written_in_tokens_of_any_kind(tokenizer: Any, sql: str) -> None:
    constraint = SqlConstraint(SCHEMA, tokenizer)
    written = ids_of(tokenizer, sql)
    for size, token in enumerate(written):
        assert constraint.allowed(written[:size])[token], tokenizer.decode(written[: size + 1])
    assert constraint.allowed(written)[tokenizer.eos_token_id]
    assert constraint.accepts(written)


@pytest.mark.parametrize("sql", BAD)
def test_what_is_no_query_cannot_be_written_in_tokens_of_any_kind(tokenizer: Any, sql: str) -> None:
    constraint = SqlConstraint(SCHEMA, tokenizer)
    written = ids_of(tokenizer, sql)
    assert not constraint.accepts(written)
    assert not all(constraint.allowed(written[:size])[token] for size, token in enumerate(written))


def test_the_mask_of_tokens_is_what_their_bytes_say_one_by_one(tokenizer: Any) -> None:
    """Against a constraint over single bytes: behind random prefixes that the mask leads to, and where one text alone can
    follow, so that no token of it is favoured."""
    constraint, single = SqlConstraint(SCHEMA, tokenizer), SqlConstraint(SCHEMA, Bytes())
    guide, generator = guided(tokenizer), torch.Generator().manual_seed(0)
    spelled = [bytes(guide.decode_bytes([token])) for token in range(guide.vocab_size)]
    begins = [
        ids_of(tokenizer, text) for text in (" select t1", " select octet", " select Gr", ' select "two', GOOD[3])
    ]
    for begun in begins:
        written = begun
        for _ in range(8):
            mask = constraint.allowed(written)
            mask[constraint.end] = False
            prefix = b"".join(spelled[token] for token in written)
            for token, text in enumerate(spelled):
                by_bytes = all(single.begins(prefix + text[:size]) for size in range(1, len(text) + 1))
                expected = by_bytes and not guide.is_special_token(token)
                assert bool(mask[token]) == expected, (prefix, text)
            if not mask.any():
                break
            written += (int(torch.multinomial(mask.float(), 1, generator=generator)),)


def test_the_check_and_the_candidate_have_the_text_that_the_grammar_read(shop: Path) -> None:
    """`decode` of many tokenizers tidies: it drops spaces before signs and joins "do not"."""

    class Tidy(Bytes):
        def decode(self, ids: Sequence[int]) -> str:
            return " ".join(super().decode(ids).replace(" do not", " don't").split())

    asked: list[str] = []
    constraint = SqlConstraint(SCHEMA, Tidy(), lambda text: not asked.append(text))
    sql = "select \"two  words\" from item where name = 'I do not'"
    assert constraint.accepts(sql.encode())
    assert asked == [sql]
    assert constraint.text(sql.encode()) == sql


def test_the_candidate_keeps_the_spaces_of_names_and_values() -> None:
    sql = "select \"two  words\" from item where name = 'a  b'"

    class Only(SqlConstraint):
        def allowed(self, written: tuple[int, ...]) -> torch.Tensor:
            follows = torch.zeros(256, dtype=torch.bool)
            follows[[*sql.encode(), self.end][len(written)]] = True
            return super().allowed(written) & follows

    decoder = SqlGenerate(writer_of(Bytes()), n=1, search="sample", new_tokens=80)
    assert [one.text for one in decoder.write("q", constraint=Only(SCHEMA, Bytes()))] == [sql]


def test_spaces_in_quotes_stay() -> None:
    assert one_line(" select\n\t\"two  words\"  from item where a =  'x\u00a0\u00a0y' ") == (
        "select \"two  words\" from item where a = 'x\u00a0\u00a0y'"
    )


def test_a_name_in_double_quotes_that_no_table_here_has_is_no_string(shop: Path) -> None:
    """SQLite compiles it as a string, and the query would compare or return the name itself."""
    with sqlite3.connect(shop) as connection:
        connection.execute('EXPLAIN SELECT "since" FROM item')
    connection.close()
    constraint = SqlConstrained(Writer(writer_of(Bytes()).model, Bytes())).constraint(str(shop))
    assert constraint is not None
    assert not constraint.accepts(b'select "since" from item')
    assert constraint.accepts(b'select "since" from maker')
    assert constraint.accepts(b'select "two  words" from item')


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ('select "a""b" from t', 'select `a"b` from t'),
        ('select "a`b" from t', "select `a``b` from t"),
        ("select '\"a\"' from t", "select '\"a\"' from t"),
        ("select 'it''s \"a\"', \"b\" from t", "select 'it''s \"a\"', `b` from t"),
    ],
)
def test_names_in_double_quotes_stand_in_backticks_before_the_database_sees_them(sql: str, found: str) -> None:
    assert in_backticks(sql) == found


def writer_of(tokenizer: Any) -> Writer:
    """A causal model of random weights whose answers are short: it likes whole words and the end."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    size = 256 if isinstance(tokenizer, Bytes) else len(tokenizer) + 7
    config = AutoConfig.for_model(**LLAMA, vocab_size=size, eos_token_id=tokenizer.eos_token_id)
    model = AutoModelForCausalLM.from_config(config)
    head = torch.nn.Linear(16, size)
    with torch.no_grad():
        head.weight.copy_(torch.randn(size, 16))
        head.bias.zero_()
        head.bias[list(ids_of(tokenizer, GOOD[0]))] = 9.0
        head.bias[tokenizer.eos_token_id] = 12.0
    model.lm_head = head
    return Writer(model, tokenizer)


@pytest.mark.parametrize("search", ["beam", "sample"])
def test_models_with_tokens_of_any_kind_write_queries_that_compile(tokenizer: Any, search: Any, shop: Path) -> None:
    """The model has more outputs than the tokenizer has tokens, as models padded to a round number do."""
    decoder = SqlConstrained(writer_of(tokenizer), n=16, search=search, new_tokens=60, tokens=64)
    texts = [one.text for one in decoder.decode(Text(["q"]), {"database": str(shop)})[0]]
    assert any(texts)
    with sqlite3.connect(shop) as connection:
        for text in filter(None, texts):
            connection.execute("EXPLAIN " + text)
    connection.close()


def test_questions_of_a_batch_are_held_back_each_by_what_it_wrote(tokenizer: Any) -> None:
    model = writer_of(tokenizer).model.eval()
    constraint = SqlConstraint(SCHEMA, tokenizer)
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    for options in ({"num_beams": 5}, {"do_sample": True}):
        torch.manual_seed(1)
        rows = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=60,
            num_return_sequences=5,
            pad_token_id=0,
            logits_processor=[constraint.logits(4)],
            **options,
        )
        answers = [row[: row.index(constraint.end)] for row in rows[:, 4:].tolist() if constraint.end in row]
        assert len(rows) == 10
        assert len([answer for answer in answers if constraint.accepts(answer)]) > 2
        assert all(map(constraint.accepts, answers))


@pytest.mark.parametrize("temperature", [0.05, 0.5, 20.0])
def test_a_sample_that_gets_stuck_ends_at_any_temperature(temperature: float) -> None:
    class Stuck(SqlConstraint):
        def allowed(self, written: tuple[int, ...]) -> torch.Tensor:
            return super().allowed(written) & torch.tensor(len(written) < 3)

    decoder = SqlGenerate(writer_of(Bytes()), n=4, search="sample", temperature=temperature, new_tokens=9)
    assert [one.text for one in decoder.write("q", constraint=Stuck(SCHEMA, Bytes()))] == [""]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_the_score_of_a_stuck_row_is_finite_in_every_precision_and_twice_over(kind: torch.dtype) -> None:
    found = SqlLogits(SqlConstraint(SCHEMA, Bytes()), 0)(
        torch.tensor([list(b"select nome")]), torch.zeros(1, 256, dtype=kind)
    )
    assert (found[0, 0] * 2).isfinite()
    assert found.isfinite().sum() == 1


def test_few_states_in_memory_change_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SqlConstraint(SCHEMA, Bytes())
    monkeypatch.setattr(constraints, "STATES_BYTES", 1)
    monkeypatch.setattr(constraints, "FEWEST_STATES", 2)
    monkeypatch.setattr(constraints, "MOST_TEXTS", 2)
    small = SqlConstraint(SCHEMA, Bytes(), lambda text: True)
    rows = [tuple(sql.encode()) for sql in (GOOD[0], GOOD[3], GOOD[4])]
    for size in range(40):
        for row in rows:
            assert torch.equal(small.allowed(row[:size]), whole.allowed(row[:size]))
    assert len(small._states) == 2
    assert len(small._accepted) <= 2


def test_every_prefix_that_is_allowed_leads_on() -> None:
    """A walk at random never meets a prefix behind which there is neither a token nor the end."""
    constraint, generator = SqlConstraint(SCHEMA, Bytes()), torch.Generator().manual_seed(3)
    for _ in range(20):
        written: tuple[int, ...] = ()
        for _ in range(60):
            mask = constraint.allowed(written)
            assert mask.any(), bytes(written)
            token = int(torch.multinomial(mask.float(), 1, generator=generator))
            if token == constraint.end:
                break
            written += (token,)


def without_end() -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer)


def of_words() -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"select": 0, "</s>": 1}, unk_token="</s>")), eos_token="</s>"
    )


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (without_end, r"TokenizersBackend|PreTrainedTokenizerFast: it has no end token \(eos_token\)$"),
        (of_words, r": the bytes of its tokens cannot be told \(.*\)$"),
        (lambda: byte_level().backend_tokenizer, r"the tokenizer Tokenizer: it is no fast one of transformers$"),
    ],
)
def test_a_tokenizer_that_cannot_be_guided_is_refused_in_one_line(made: Any, problem: str) -> None:
    with pytest.raises(SpecError, match=problem) as error:
        SqlConstraint(SCHEMA, made())
    assert str(error.value).startswith("sql-constrained cannot guide the tokenizer ")
    assert "\n" not in str(error.value)


def test_without_llguidance_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(
        PluginError, match=r"^sql-constrained needs the package llguidance, which cannot be imported\. "
    ) as error:
        SqlConstraint(SCHEMA, Bytes())
    assert str(error.value).endswith("Next: pip install 'sltcore-sql-rerank[generate]'")


def test_a_schema_that_is_too_large_for_a_grammar_is_refused_in_one_line() -> None:
    wide = [table(f"t{k}", [(f"column {k} {c}", "int") for c in range(300)]) for k in range(300)]
    with pytest.raises(DataError, match=r"^the schema of database 'wide' makes no grammar: ") as error:
        SqlConstraint(Schema("wide", wide), Bytes())
    assert "\n" not in str(error.value)
