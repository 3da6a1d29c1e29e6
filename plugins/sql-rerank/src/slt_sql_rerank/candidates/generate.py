"""Decoder `sql-generate`: a language model of `transformers`, on this machine, writes candidates."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from slt_sql_rerank import databases
from slt_sql_rerank.candidates.distinct import distinct
from slt_sql_rerank.databases import DATABASE, schema_of
from slt_sql_rerank.simple.llm_judge import Source, describe
from sltcore.errors import DataError, SpecError
from sltcore.interfaces import Decoder
from sltcore.types import ContextKey, Hypothesis, NBest, Port, Text

if TYPE_CHECKING:
    from slt_sql_rerank.constrained.constraint import SqlConstraint

Search = Literal["beam", "sample"]
Per = Literal["query", "token"]
FIELDS = ("schema", "question")
SPACES = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\])|\s+""")
PROMPT = "{schema}\n\nQuestion: {question}\nSQL:"


class Writer(NamedTuple):
    """A model that generates, and its tokenizer, as `transformers` makes them."""

    model: Any
    tokenizer: Any


class SqlGenerate(Decoder):
    """The n best of a beam, or n samples, of a sequence-to-sequence or causal model.

        s = sum_t log p(token_t | prompt, tokens_<t), the end token among them where it was written

    in nats, of the model itself: computed again behind the search, so that neither length penalty nor temperature is in it;
    `per` token divides it by the number of tokens. Spellings of one query are merged (`distinct`), so a list may be shorter
    than `n`. A prompt that is longer than `tokens` loses its beginning. Sampling draws from the call's generator, or from
    one with seed 0. The model is no part of a bundle.

    **Source**: own around `generate` of transformers; n-best lists of a beam as in Zeng et al. 2022, arXiv:2210.10668.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        n: int = 10,
        search: Search = "beam",
        temperature: float = 1.0,
        per: Per = "query",
        prompt: str = "",
        new_tokens: int = 128,
        tokens: int = 1024,
    ) -> None:
        """**Raises** `SpecError` for a prompt with other fields than schema and question."""
        self.writer = writer
        self.n, self.search, self.temperature, self.per = n, search, temperature, per
        self.prompt = checked(prompt or PROMPT)
        self.new_tokens, self.tokens = new_tokens, tokens
        writer.model.eval()
        for parameter in writer.model.parameters():
            parameter.requires_grad_(False)

    @property
    def consumes(self) -> Port:
        """Questions."""
        return Port("Text")

    @property
    def produces(self) -> Port:
        """Candidates."""
        return Port("Hypotheses")

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`database`; only its schema is read."""
        return (DATABASE,)

    def decode(self, encoded: Text, context: Mapping[str, Any]) -> list[NBest]:
        """One list for each question. **Raises** `DataError` where a database cannot be read."""
        places = databases.given(context, len(encoded.texts))
        generator = context.get("generator") or torch.Generator().manual_seed(0)
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        found = []
        for question, place in zip(encoded.texts, places, strict=True):
            prompt = self.prompt.format(schema=describe(schema_of(place)), question=question)
            found.append(self.write(prompt, seed, self.constraint(place)))
        return found

    def constraint(self, place: Any) -> SqlConstraint | None:
        """What holds the model back for one database; nothing does here."""
        return None

    @torch.no_grad()
    def write(self, prompt: str, seed: int = 0, constraint: SqlConstraint | None = None) -> NBest:
        """The candidates behind one prompt, where there is a constraint only those that it accepts."""
        model, tokenizer = self.writer
        prompt_ids = tokenizer.encode(prompt)[-self.tokens :] or [tokenizer.eos_token_id]
        device = next(model.parameters()).device
        ids = torch.tensor([prompt_ids], device=device)
        asked: dict[str, Any] = {"num_return_sequences": self.n, "max_new_tokens": self.new_tokens}
        if self.search == "beam":
            asked |= {"num_beams": self.n, "do_sample": False}
        else:
            asked |= {"num_beams": 1, "do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        asked |= {"pad_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
        begin = 1 if model.config.is_encoder_decoder else len(prompt_ids)
        if constraint is not None:
            asked["logits_processor"] = [constraint.logits(begin)]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            rows = model.generate(ids, attention_mask=torch.ones_like(ids), **asked)
        found = self._scored(ids, rows, begin)
        if constraint is not None:
            end = tokenizer.eos_token_id
            ended = [one for one in found if one.tokens[-1:] == (end,) and constraint.accepts(one.tokens[:-1])]
            found = [one._replace(text=one_line(constraint.text(one.tokens[:-1]))) for one in ended]
        return distinct(found or [Hypothesis("", 0.0)])

    def _scored(self, prompt: Tensor, rows: Tensor, begin: int) -> list[Hypothesis]:
        """Hypotheses of generated rows [k l], whose answers start at `begin`."""
        end = self.writer.tokenizer.eos_token_id
        if self.writer.model.config.is_encoder_decoder:
            repeated = prompt.expand(len(rows), -1)
            logits = self.writer.model(input_ids=repeated, decoder_input_ids=rows).logits
        else:
            logits = self.writer.model(input_ids=rows).logits
        logs = logits[:, begin - 1 : -1].float().log_softmax(-1)
        answers = rows[:, begin:]
        points = logs.gather(2, answers[..., None])[..., 0]
        found = []
        for answer, point in zip(answers.tolist(), points, strict=True):
            length = answer.index(end) + 1 if end in answer else len(answer)
            text = self.writer.tokenizer.decode([token for token in answer[:length] if token != end])
            score = float(point[:length].sum())
            score = score / max(1, length) if self.per == "token" else score
            extra = {"ended": end in answer}
            found.append(Hypothesis(one_line(text), score, tuple(answer[:length]), extra=extra))
        return [one for one in found if math.isfinite(one.score)]


def one_line(text: str) -> str:
    """A query with single spaces, but for those in quotes, which are part of a name or a value.

    >>> one_line(" select  a\\n from t where b = 'x  y'")
    "select a from t where b = 'x  y'"
    """
    return SPACES.sub(lambda found: found[1] or " ", text).strip()


def checked(prompt: str) -> str:
    """The prompt. **Raises** `SpecError` where it cannot be filled in, or leaves out the question."""
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None}
    except ValueError as error:
        raise SpecError(f"sql-generate: the prompt cannot be filled in: {error}") from error
    unknown = sorted(fields - set(FIELDS))
    if unknown or "question" not in fields:
        what = f"has the field '{unknown[0]}'" if unknown else "does not hold {question}"
        raise SpecError(
            f"sql-generate: the prompt {what}; fields: {', '.join(FIELDS)}, of which question must be there"
        )
    return prompt


def load_writer(source: Source) -> Writer:
    """The model at a source, of either family. **Raises** `DataError` where it is not here."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    options: dict[str, Any] = {
        "revision": source.revision,
        "local_files_only": not source.download,
        "trust_remote_code": False,
    }
    try:
        config = AutoConfig.from_pretrained(source.model, **options)
        family: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        tokenizer = AutoTokenizer.from_pretrained(source.model, **options)
        return Writer(family.from_pretrained(source.model, **options), tokenizer)
    except (OSError, ValueError, KeyError) as error:
        hint = "" if source.download else "; name a folder, or set download to fetch it from the hub"
        why = str(error).splitlines()[0]
        raise DataError(f"sql-generate: no language model '{source.model}' is here: {why}{hint}") from error


class Bytes:
    """A tokenizer whose tokens are the bytes of a text, with 0 as its end: for models made from a configuration alone."""

    eos_token_id = 0
    vocabulary = tuple(bytes([number]) for number in range(256))

    def encode(self, text: str) -> list[int]:
        """The bytes."""
        return list(text.encode("utf-8", "replace"))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some bytes; what is no UTF-8 is shown by its number."""
        return bytes(ids).decode("utf-8", "backslashreplace")


def fresh_writer(architecture: Mapping[str, Any]) -> Writer:
    """A model with random weights over bytes, from the fields of a `transformers` config. **Raises** `SpecError` for fields
    that make none."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    fields = dict(architecture)
    kind = str(fields.pop("model_type", None))
    try:
        config = AutoConfig.for_model(kind, **{**fields, "vocab_size": 256, "eos_token_id": 0, "pad_token_id": 0})
        if config.is_encoder_decoder:
            config.decoder_start_token_id = 0
        family: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        return Writer(family.from_config(config), Bytes())
    except (ValueError, TypeError, KeyError) as error:
        why = " ".join(str(error).split())[:300]
        raise SpecError(f"sql-generate: architecture makes no language model: {why}") from error
