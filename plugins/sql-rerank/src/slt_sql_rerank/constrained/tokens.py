"""Tokenizers as llguidance wants them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sltcore.errors import PluginError, SpecError

_KNOWN: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def guided(tokenizer: Any) -> Any:
    """llguidance's own form of a tokenizer, made once: of a fast one of `transformers` (over bytes, or pieces with a sign for the
    space), or of one that lists the bytes of its tokens.

    **Raises** `PluginError` where llguidance is not installed, `SpecError` for a tokenizer of another kind.
    """
    try:
        found = _KNOWN.get(tokenizer)
    except TypeError:
        raise SpecError(_refusal(tokenizer, "it is no fast one of transformers")) from None
    try:
        if found is None:
            found = _KNOWN[tokenizer] = _made(tokenizer)
    except ImportError as error:
        raise PluginError(
            f"sql-constrained needs the package {error.name}, which cannot be imported. "
            "Next: pip install 'sltcore-sql-rerank[generate]'"
        ) from error
    return found


def _made(tokenizer: Any) -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    if isinstance(getattr(tokenizer, "vocabulary", None), Sequence):
        return LLTokenizer(TokenizerWrapper(_Listed(tokenizer)))
    from llguidance.hf import from_tokenizer
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise SpecError(_refusal(tokenizer, "it is no fast one of transformers"))
    if tokenizer.eos_token_id is None:
        raise SpecError(_refusal(tokenizer, "it has no end token (eos_token)"))
    decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"] or {}
    if decoder.get("type") == "Metaspace":
        return LLTokenizer(TokenizerWrapper(_Pieces(tokenizer, decoder["replacement"])))
    try:
        return from_tokenizer(tokenizer)
    except ValueError as error:
        why = str(error).splitlines()[0][:200]
        raise SpecError(_refusal(tokenizer, f"the bytes of its tokens cannot be told ({why})")) from error


def _refusal(tokenizer: Any, why: str) -> str:
    return f"sql-constrained cannot guide the tokenizer {type(tokenizer).__name__}: {why}"


class _Listed:
    """A tokenizer that lists the bytes of its tokens (`vocabulary`)."""

    bos_token_id = None

    def __init__(self, tokenizer: Any) -> None:
        self.eos_token_id = tokenizer.eos_token_id
        self.tokens = list(tokenizer.vocabulary)
        self.special_token_ids = [tokenizer.eos_token_id]
        self._encode = tokenizer.encode

    def __call__(self, text: str | bytes) -> list[int]:
        written = text if isinstance(text, str) else text.decode("utf-8", "replace")
        found: list[int] = self._encode(written)
        return found


class _Pieces:
    """A tokenizer whose tokens are text with a sign for the space, as T5's; llguidance reads only its likes over bytes."""

    bos_token_id = None

    def __init__(self, tokenizer: Any, space: str) -> None:
        known = tokenizer.get_vocab()
        written = dict.fromkeys(range(max(known.values()) + 1), "")
        written |= {number: piece for piece, number in known.items()}
        self.eos_token_id = tokenizer.eos_token_id
        self.special_token_ids = sorted(
            {number for number, piece in written.items() if not piece}
            | set(tokenizer.all_special_ids)
            | {number for number, added in tokenizer.added_tokens_decoder.items() if added.special}
        )
        self.tokens = [written[number].replace(space, " ").encode() for number in range(len(written))]
        self._encode = tokenizer.backend_tokenizer.encode

    def __call__(self, text: str | bytes) -> list[int]:
        written = text if isinstance(text, str) else text.decode("utf-8", "replace")
        return list(self._encode(written, add_special_tokens=False).ids)
