"""Tokenizers as llguidance wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sltcore.errors import PluginError, SpecError

_KNOWN: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def guided(tokenizer: Any) -> Any:
    """llguidance's own form of a tokenizer, made once: of a fast one of `transformers`, or of one whose tokens are bytes.

    **Raises** `PluginError` where llguidance is not installed, `SpecError` for a tokenizer of another kind.
    """
    try:
        found = _KNOWN.get(tokenizer)
        if found is None:
            found = _KNOWN[tokenizer] = _made(tokenizer)
    except ImportError as error:
        raise PluginError(
            f"sql-constrained needs the package {error.name}, which cannot be imported. "
            "Next: pip install 'sltcore-sql-rerank[generate]'"
        ) from error
    return found


def _made(tokenizer: Any) -> Any:
    from llguidance import LLTokenizer

    if isinstance(getattr(tokenizer, "vocabulary", None), Sequence):
        from llguidance import TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(_Listed(tokenizer)))
    from llguidance.hf import from_tokenizer
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.eos_token_id is None:
        why = "it has no end token" if isinstance(tokenizer, PreTrainedTokenizerFast) else "it is no fast one"
        raise SpecError(f"sql-constrained cannot guide the tokenizer {type(tokenizer).__name__}: {why}")
    return from_tokenizer(tokenizer)


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
