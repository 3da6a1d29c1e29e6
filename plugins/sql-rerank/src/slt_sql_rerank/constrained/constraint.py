"""Which tokens may follow, so that what is written ends as a query that the database accepts."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slt_sql_rerank.constrained.grammar import grammar_of
from slt_sql_rerank.constrained.tokens import guided
from slt_sql_rerank.schema import Schema
from sltcore.errors import DataError

STATES_BYTES = 2**26
"""Kept for matchers behind prefixes, of which each has its own automaton: 13 kB for two tables, 0.7 MB for 5,000 columns."""
FEWEST_STATES = 256
MOST_TEXTS = 16_384
LOWEST = -1e9
Check = Callable[[str], bool]


class SqlConstraint:
    """The tokens that may follow a prefix of a query over one schema.

    A token is allowed where the grammar (`grammar_of`) has a query that begins so; the end token where the text is a whole
    query and `check` accepts it. States are kept by what was written, so beams may change places between steps.

    **Source**: the task of PICARD, Scholak et al. 2021, arXiv:2109.05093. We mask the whole vocabulary and not the best
    few tokens, and ask the database itself at the end instead of keeping scopes on the way.
    """

    def __init__(self, schema: Schema, tokenizer: Any, check: Check | None = None) -> None:
        """**Raises** `DataError` for a schema that makes no grammar, `PluginError` without llguidance."""
        self.check, self._guide = check, guided(tokenizer)
        self.end = int(tokenizer.eos_token_id)
        from llguidance import LLMatcher

        grammar = grammar_of(schema)
        start = LLMatcher(self._guide, LLMatcher.grammar_from_lark(grammar), log_level=0)
        if start.is_error():
            raise DataError(
                f"the schema of database '{schema.name}' makes no grammar: {start.get_error().splitlines()[0]}"
            )
        self._states: OrderedDict[tuple[int, ...], Any] = OrderedDict({(): start})
        self._start = start
        self._most = max(FEWEST_STATES, STATES_BYTES // (16_384 + 2 * len(grammar)))
        self._accepted: OrderedDict[str, bool] = OrderedDict()

    def allowed(self, written: tuple[int, ...]) -> Tensor:
        """Which tokens may follow those written so far, [v] bool with v the tokenizer's size; none behind what is no prefix."""
        state = self._state(written)
        size = int(self._guide.vocab_size)
        if state is None:
            return torch.zeros(size, dtype=torch.bool)
        bits = np.frombuffer(state.compute_bitmask(), np.uint8)
        mask = torch.from_numpy(np.unpackbits(bits, bitorder="little")[:size].astype(bool))
        mask[self.end] = state.is_accepting() and self.complete(self.text(written))
        return mask

    def accepts(self, written: Iterable[int]) -> bool:
        """Whether tokens, without the end token, are a whole query that may end."""
        tokens = tuple(written)
        state = self._state(tokens)
        return state is not None and bool(state.is_accepting()) and self.complete(self.text(tokens))

    def begins(self, written: Iterable[int]) -> bool:
        """Whether some query begins with these tokens."""
        return self._state(tuple(written)) is not None

    def text(self, written: Iterable[int]) -> str:
        """What the grammar reads of some tokens: their bytes, which `decode` of a tokenizer may tidy up."""
        return bytes(self._guide.decode_bytes(list(written))).decode("utf-8", "backslashreplace")

    def logits(self, begin: int) -> SqlLogits:
        """For `generate` of transformers; `begin` is where a row's answer starts."""
        return SqlLogits(self, begin)

    def complete(self, text: str) -> bool:
        """Whether the check accepts a text; the last ones are remembered."""
        if self.check is None:
            return True
        if text not in self._accepted:
            self._accepted[text] = self.check(text.strip())
            while len(self._accepted) > MOST_TEXTS:
                self._accepted.popitem(last=False)
        return self._accepted[text]

    def _state(self, written: tuple[int, ...]) -> Any:
        """The matcher behind a prefix; None where no query begins so."""
        if written in self._states:
            self._states.move_to_end(written)
            return self._states[written]
        parent = written[:-1]
        state, left = (self._states[parent], written[-1:]) if parent in self._states else (self._start, written)
        if state is not None:
            state = state.deep_copy()
            if self.end in left or not state.consume_tokens(list(left)):
                state = None
        self._states[written] = state
        while len(self._states) > self._most:
            self._states.popitem(last=False)
        return state


class SqlLogits:
    """A `LogitsProcessor` of `transformers`: scores of tokens that the constraint forbids become minus infinity.

    `begin` is where a row's answer starts. Where nothing may follow, the end token alone is left, with a score that
    ranks the row last and that a temperature may still divide; it is no whole query, which `SqlConstraint.accepts` tells.
    """

    def __init__(self, constraint: SqlConstraint, begin: int) -> None:
        self.constraint, self.begin = constraint, begin

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Rows of tokens [r l] and scores [r v] to scores [r v]."""
        end = self.constraint.end
        forbidden = torch.ones(scores.shape, dtype=torch.bool)
        stuck = torch.zeros(len(scores), dtype=torch.bool)
        for row, tokens in enumerate(input_ids[:, self.begin :].tolist()):
            if end in tokens:
                forbidden[row, end] = False
                continue
            mask = self.constraint.allowed(tuple(tokens))
            forbidden[row, : len(mask)] = ~mask[: scores.shape[1]]
            stuck[row] = bool(forbidden[row].all())
        scores = scores.masked_fill(forbidden.to(scores.device), -math.inf)
        scores[stuck.to(scores.device), end] = max(LOWEST, torch.finfo(scores.dtype).min / 4)
        return scores
