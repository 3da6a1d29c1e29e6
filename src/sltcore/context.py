"""The side information of a call: which keys are read, what type each has, one value or one for each utterance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from sltcore.errors import ContextError, PortError, did_you_mean
from sltcore.types import CONTEXT_TYPES, ContextKey

GENERATOR = "generator"
SYNCHRONOUS = ("reference",)
"""Signals that run beside the input, sample by sample: cut where the input is cut, pushed with it when it is streamed.

Any other value of type `waveform` (a voice to imitate, say) belongs to the call as a whole.
"""


def merge_keys(owners: Iterable[tuple[str, Iterable[ContextKey]]]) -> dict[str, ContextKey]:
    """All keys of a pipeline by name; **Raises** `PortError` when two components read one name with different types."""
    merged: dict[str, ContextKey] = {}
    by: dict[str, str] = {}
    for owner, keys in owners:
        for key in keys:
            if key.type not in CONTEXT_TYPES:
                raise PortError(
                    f"{owner} reads context '{key.name}' of unknown type '{key.type}'; types: {', '.join(CONTEXT_TYPES)}"
                )
            known = merged.get(key.name)
            if known is not None and (known.type, known.per_utterance) != (key.type, key.per_utterance):
                raise PortError(
                    f"{by[key.name]} reads context '{key.name}' as {_form(known, key)}, but {owner} reads it as {_form(key, known)}; they do not fit into one pipeline"
                )
            merged.setdefault(key.name, key)
            by.setdefault(key.name, owner)
    return merged


def _form(key: ContextKey, other: ContextKey) -> str:
    if key.type != other.type:
        return key.type
    return f"{key.type} for {'each utterance' if key.per_utterance else 'the whole call'}"


def check_context(context: Mapping[str, Any], keys: Mapping[str, ContextKey], batch: int | None) -> None:
    """**Raises** `ContextError` for a key that nobody reads, a value of the wrong type, or lists of the wrong length
    (which is not checked where `batch` is None)."""
    check_lengths(context, keys, batch)
    for name, value in context.items():
        if name == GENERATOR:
            continue
        key = keys.get(name)
        if key is None:
            read = ", ".join(sorted(keys)) or "none"
            raise ContextError(
                f"context '{name}' is read by no component of this pipeline, so it would have no effect; keys that are read: {read}.{did_you_mean(name, keys)}"
            )
        if value is None:
            continue
        values = value if is_per_utterance(value, key) else [value]
        for item in values:
            if item is not None and not _has_type(item, key.type):
                raise ContextError(f"context '{name}' expects {CONTEXT_TYPES[key.type]}, got {_shown(item)}")


def check_lengths(context: Mapping[str, Any], keys: Mapping[str, ContextKey], batch: int | None) -> None:
    """**Raises** `ContextError` for a list that does not hold one value for each of `batch` inputs (None: unknown)."""
    for name, value in context.items():
        if batch is not None and name in keys and is_per_utterance(value, keys[name]) and len(value) != batch:
            raise ContextError(
                f"context '{name}' holds {len(value)} values for {batch} inputs; give one for each input, or one for all"
            )


def is_per_utterance(value: Any, key: ContextKey) -> bool:
    """Whether a value is a list with one entry for each utterance, rather than one value that all share."""
    if not key.per_utterance or not isinstance(value, list):
        return False
    if key.type in ("texts", "numbers"):
        return any(item is None or isinstance(item, list | tuple) or _is_prepared(item) for item in value)
    return key.type != "generator"


def per_utterance(context: Mapping[str, Any], key: ContextKey, batch: int) -> list[Any]:
    """The values of a key, one for each of `batch` utterances; None where the call gave none.

    Components call this instead of reading the context directly, so that both forms work everywhere.
    """
    value = context.get(key.name)
    if value is not None and is_per_utterance(value, key):
        check_lengths({key.name: value}, {key.name: key}, batch)
        return list(value)
    return [value] * batch


def select(context: Mapping[str, Any], keys: Mapping[str, ContextKey], indices: Sequence[int]) -> dict[str, Any]:
    """The context of some utterances of a call."""
    chosen = {}
    for name, value in context.items():
        key = keys.get(name)
        chosen[name] = [value[i] for i in indices] if key is not None and is_per_utterance(value, key) else value
    return chosen


def _is_prepared(item: Any) -> bool:
    return not isinstance(item, str | int | float | Mapping)


def _has_type(value: Any, name: str) -> bool:
    if name == "text":
        return isinstance(value, str)
    if name == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if name == "texts":
        if isinstance(value, str | bytes | int | float | Path | Mapping | Set | Iterator):
            return False  # anything else that is no list is what a decoder's prepare made of one
        return not isinstance(value, list | tuple) or all(isinstance(item, str | Mapping) for item in value)
    if name == "numbers":
        if isinstance(value, list | tuple):
            return all(isinstance(item, int | float) and not isinstance(item, bool) for item in value)
        return not isinstance(value, str | int | float)
    if name == "mapping":
        return isinstance(value, Mapping)
    if name == "waveform":
        return not isinstance(value, int | float)
    if name in ("tensor", "generator"):
        return type(value).__module__.partition(".")[0] in ("torch", "numpy")
    return True


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '…'}"
