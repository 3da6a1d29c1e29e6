"""Reranker `llm-judge`: a causal language model of `transformers`, on this machine, reads each candidate and says how good it is."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from slt_sql_rerank import databases
from slt_sql_rerank.databases import DATABASE, schema_of
from slt_sql_rerank.schema import Schema
from sltcore.errors import DataError, SpecError
from sltcore.interfaces import Reranker
from sltcore.types import ContextKey, Hypothesis

Ask = Literal["yes-no", "question"]
FIELDS = ("schema", "question", "sql")
PROMPTS: Mapping[str, str] = {
    "yes-no": "{schema}\n\nQuestion: {question}\nSQL: {sql}\n\nDoes the SQL answer the question? Reply yes or no.\nReply:",
    "question": "{schema}\n\nSQL: {sql}\n\nThe question that this SQL answers:",
}
ANSWERS = (" yes", " no")


class Judge(NamedTuple):
    """A causal language model and its tokenizer, as `transformers` makes them."""

    model: Any
    tokenizer: Any


class Source(NamedTuple):
    """A folder that `save_pretrained` wrote, or a name on the hub, which `download` allows to fetch; no code of theirs runs."""

    model: str
    revision: str | None = None
    download: bool = False


class LlmJudge(Reranker):
    """Scores each candidate by a language model.

        yes-no:    log P(" yes" | prompt) - log P(" no" | prompt)
        question:  sum_t log P(question_t | prompt, question_<t) / number of its tokens, the prompt holding the SQL

    plus `weight` times the first-pass score. Answers of several tokens are scored whole. A prompt that is longer than
    `tokens` loses its beginning, which is the schema's, and keeps question and SQL. The model runs in evaluation, is no part
    of a bundle, and sees no rows. Scores do not depend on the other candidates of the list up to rounding.

    **Source**: own prompts; judging by the next token as in Kadavath et al. 2022, arXiv:2207.05221, and by the question's
    likelihood as in Sachan et al. 2022, arXiv:2204.07496.
    """

    def __init__(
        self,
        judge: Judge,
        *,
        ask: Ask = "yes-no",
        prompt: str = "",
        weight: float = 0.0,
        tokens: int = 1024,
        batch: int = 16,
    ) -> None:
        """`prompt` replaces the built-in one; **raises** `SpecError` where it has other fields than schema, question, sql."""
        self.judge = judge
        self.ask = ask
        self.prompt = checked(prompt or PROMPTS[ask], ask)
        self.weight = weight
        self.tokens = tokens
        self.batch = batch
        judge.model.eval()
        for parameter in judge.model.parameters():
            parameter.requires_grad_(False)

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`database`; only its schema is read."""
        return (DATABASE,)

    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[float]:
        """Log-odds, or nats for each token of the question."""
        (database,) = databases.given(context)
        described = describe(schema_of(database))
        question = str(query or "")
        prompts = [
            self.prompt.format(schema=described, question=question, sql=hypothesis.text) for hypothesis in hypotheses
        ]
        if self.ask == "yes-no":
            yes, no = (self._log_probs(prompts, answer, mean=False) for answer in ANSWERS)
            judged = [a - b for a, b in zip(yes, no, strict=True)]
        else:
            judged = self._log_probs(prompts, f" {question}", mean=True)
        return [
            value + self.weight * h.score if self.weight else value for value, h in zip(judged, hypotheses, strict=True)
        ]

    def _log_probs(self, prompts: Sequence[str], answer: str, *, mean: bool) -> list[float]:
        """Of the answer behind each prompt."""
        ids = self._ids(answer)
        if not ids:
            return [0.0] * len(prompts)
        found: list[float] = []
        rows = [(self._ids(prompt)[-max(1, self.tokens - len(ids)) :], ids) for prompt in prompts]
        for start in range(0, len(rows), self.batch):
            found += self._forward(rows[start : start + self.batch])
        return [value / len(ids) for value in found] if mean else found

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self.judge.tokenizer.encode(text, add_special_tokens=False)
        return found

    @torch.no_grad()
    def _forward(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """Summed log-probability of the second part behind the first; rows are padded on the right, which no causal model sees."""
        device = next(self.judge.model.parameters()).device
        longest = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.int64, device=device)
        mask = torch.zeros_like(ids)
        for row, (prompt, answer) in enumerate(rows):
            whole = torch.tensor(prompt + answer, device=device)
            ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
        logits: Tensor = self.judge.model(input_ids=ids, attention_mask=mask).logits.float()
        found = []
        for row, (prompt, answer) in enumerate(rows):
            places = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
            logs = logits[row, places].log_softmax(dim=-1)
            found.append(float(logs.gather(1, torch.tensor(answer, device=device)[:, None]).sum()))
        return found


def checked(prompt: str, ask: Ask) -> str:
    """The prompt. **Raises** `SpecError` where it cannot be filled in, or leaves out the SQL."""
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None}
    except ValueError as error:
        raise SpecError(f"llm-judge: the prompt cannot be filled in: {error}") from error
    unknown = sorted(fields - set(FIELDS))
    if unknown or "sql" not in fields:
        what = f"has the field '{unknown[0]}'" if unknown else "does not hold {sql}"
        raise SpecError(f"llm-judge: the prompt {what}; fields: {', '.join(FIELDS)}, of which sql must be there")
    if ask == "question" and "question" in fields:
        raise SpecError("llm-judge: with ask 'question' the prompt must not hold {question}, which is what is scored")
    return prompt


def describe(schema: Schema | None) -> str:
    """Tables and columns, a line for each table, and keys.

    >>> from slt_sql_rerank.schema import table
    >>> describe(Schema("shop", [table("item", [("id", "int"), ("label", "text")])]))
    'item(id, label)'
    """
    if schema is None:
        return ""
    lines = [f"{table.name}({', '.join(column.name for column in table.columns)})" for table in schema.tables]
    for key in schema.foreign_keys:
        pairs = zip(key.columns, key.other_columns, strict=True)
        lines += [f"{key.table}.{here} = {key.other_table}.{there}" for here, there in pairs]
    return "\n".join(lines)


def load_judge(source: Source) -> Judge:
    """The model at a source. **Raises** `DataError` where it is not here."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = source.model
    options: dict[str, Any] = {"revision": source.revision, "local_files_only": not source.download}
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False, **options)
        loaded = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError) as error:
        hint = "" if source.download else "; name a folder, or set download to fetch it from the hub"
        raise DataError(
            f"llm-judge: no causal language model '{model}' is here: {str(error).splitlines()[0]}{hint}"
        ) from error
    return Judge(loaded, tokenizer)


class Bytes:
    """A tokenizer whose tokens are the bytes of a text: for models that are made from a configuration alone."""

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """The bytes."""
        return list(text.encode("utf-8", "replace"))


def fresh_judge(architecture: Mapping[str, Any]) -> Judge:
    """A model with random weights over bytes, from the fields of a `transformers` config. **Raises** `SpecError` for fields
    that make none."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict(architecture)
    factory: Any = AutoModelForCausalLM
    kind = fields.pop("model_type", None)
    try:
        config = AutoConfig.for_model(str(kind), **{"vocab_size": 256, **fields})
        model = factory.from_config(config)
    except (ValueError, TypeError, KeyError) as error:
        raise SpecError(
            f"llm-judge: architecture makes no causal model: {' '.join(str(error).split())[:300]}"
        ) from error
    if config.vocab_size < 256:
        raise SpecError(f"llm-judge: vocab_size is {config.vocab_size}; expected at least 256, one for each byte")
    return Judge(model, Bytes())
