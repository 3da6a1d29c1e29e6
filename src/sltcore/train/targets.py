"""What is checked and spelled before the first step: targets of texts, side information from columns, and what cannot be
learned from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sltcore import ctc
from sltcore.context import GENERATOR, check_context, merge_keys
from sltcore.data.examples import Example
from sltcore.errors import ContextError, DataError, SpecError, VocabularyError, did_you_mean
from sltcore.interfaces import Decoder, Part
from sltcore.pipeline import Pipeline
from sltcore.pipeline.batches import units_per_s
from sltcore.types import ContextKey

_AT_ONCE = 1000


class Columns:
    """Which columns of the examples feed which context keys, and their values in the keys' types.

    A key is fed by the column that `context` names for it, else by a column of its own name; what an item knows itself
    (`id`, `text`, `speaker`) must be named. **Raises** `SpecError` for a key that nobody reads, for one that belongs to a
    whole call, and for a column that no example has.
    """

    def __init__(
        self, pipeline: Pipeline, examples: Sequence[Example], context: Mapping[str, str], also: Sequence[Part] = ()
    ) -> None:
        owners = [("the pipeline", tuple(pipeline.context_keys.values()))]
        owners += [(type(part).__name__, part.context_keys()) for part in also]
        self.keys: dict[str, ContextKey] = merge_keys(owners)
        present = {column for example in examples for column in example.item.extra}
        for name, column in context.items():
            self._check(name, column, present)
        automatic = {name: name for name, key in self.keys.items() if name in present and key.per_utterance}
        automatic.pop(GENERATOR, None)
        self.columns: dict[str, str] = {**automatic, **context}

    def _check(self, name: str, column: str, present: set[str]) -> None:
        if name not in self.keys:
            known = ", ".join(sorted(self.keys)) or "none"
            raise SpecError(
                f"context.{name}: no component of this run reads '{name}'; keys that are read: {known}."
                f"{did_you_mean(name, self.keys)}"
            )
        if not self.keys[name].per_utterance:
            raise SpecError(
                f"context.{name}: '{name}' is one value for a whole call, so a column cannot feed it; leave it out"
            )
        columns = sorted({"id", "text", "speaker", *present})
        if column not in columns:
            raise SpecError(
                f"context.{name}: no example has a column '{column}'; there are: {', '.join(columns)}."
                f"{did_you_mean(column, columns)}"
            )

    def context(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The context of a batch: a list with one value for each example under each key that is fed.

        **Raises** `ContextError` naming the example whose value has the wrong type.
        """
        return {
            name: [self._value(example, name, column) for example in examples] for name, column in self.columns.items()
        }

    def check(self, example: Example) -> None:
        """**Raises** `ContextError` where a value of the example has not its key's type."""
        try:
            check_context(self.context([example]), self.keys, batch=1)
        except ContextError as error:
            raise ContextError(f"'{example.item.id}': {error}") from None

    def _value(self, example: Example, name: str, column: str) -> Any:
        item = example.item
        own = {"id": item.id, "text": item.text, "speaker": item.speaker}
        value = own[column] if column in own and column not in item.extra else item.extra.get(column)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        try:
            return _typed(value, self.keys[name].type)
        except (TypeError, ValueError):
            raise ContextError(
                f"'{item.id}': column {column} is {str(value)[:60]!r}, which is no value for context '{name}' "
                f"({self.keys[name].type})"
            ) from None


def _typed(value: Any, kind: str) -> Any:
    """A cell as the type of a context key: cells of a csv are texts, lists in them JSON or parted by semicolons."""
    if kind == "text":
        return str(value)
    if kind == "number":
        return float(value)
    if kind in ("texts", "numbers"):
        if isinstance(value, str):
            listed = value.strip().startswith("[")
            value = json.loads(value) if listed else [part.strip() for part in value.split(";") if part.strip()]
        return [float(entry) for entry in value] if kind == "numbers" else list(value)
    if kind == "mapping" and isinstance(value, str):
        return dict(json.loads(value))
    return value


def spelled(
    pipeline: Pipeline, examples: Sequence[Example], columns: Columns, *, needs_targets: bool
) -> tuple[dict[int, list[int]], dict[int, str]]:
    """The label ids of each example that can be learned from, by its place, and why others cannot, by theirs.

    Without `needs_targets` the ids are empty and only the context is checked.
    """
    ids: dict[int, list[int]] = {}
    reasons: dict[int, str] = {}
    known: dict[tuple[str, str], list[int] | str] = {}
    decoder = pipeline.parts.get("decoder")
    for place, example in enumerate(examples):
        columns.check(example)
        if not needs_targets or not isinstance(decoder, Decoder):
            ids[place] = []
            continue
        if example.item.text is None:
            reasons[place] = "it has no text"
            continue
        context = columns.context([example])
        key = (example.item.text, repr(context))
        if key not in known:
            known[key] = _labels(decoder, example.item.text, context)
        found = known[key]
        if isinstance(found, str):
            reasons[place] = found
        else:
            ids[place] = found
    if needs_targets and isinstance(decoder, Decoder):
        for place, reason in _too_short(pipeline, decoder, examples, ids).items():
            reasons[place] = reason
            del ids[place]
    return ids, dict(sorted(reasons.items()))


def _labels(decoder: Decoder, text: str, context: Mapping[str, Any]) -> list[int] | str:
    try:
        targets = decoder.targets([text], context)
    except VocabularyError as error:
        return str(error)
    row: list[int] = targets.ids[0, : int(targets.lengths[0])].tolist()
    return row


def _too_short(
    pipeline: Pipeline, decoder: Decoder, examples: Sequence[Example], ids: Mapping[int, list[int]]
) -> dict[int, str]:
    """Examples with fewer encoder frames than their target needs, by place."""
    encoder, rate = pipeline.parts.get("encoder"), units_per_s(pipeline.consumes, pipeline.sample_rate_hz)
    if encoder is None or not rate:
        return {}
    found = {}
    places = sorted(ids)
    for start in range(0, len(places), _AT_ONCE):
        some = places[start : start + _AT_ONCE]
        units = torch.tensor([round(examples[place].seconds * rate) for place in some])
        frames = encoder.output_lengths(units).tolist()
        needed = decoder.frames_needed(ctc.pad_labels(ids[place] for place in some)).tolist()
        for place, has, needs in zip(some, frames, needed, strict=True):
            if needs > has:
                found[place] = (
                    f"its text needs {needs} encoder frames, but {examples[place].seconds:.2f} s give {has}: no alignment "
                    f"can exist"
                )
    return found


def refuse_nothing(total: int, skipped: Mapping[str, str]) -> None:
    """**Raises** `DataError` naming the first reason, when no example is left."""
    if not total:
        raise DataError("there is no utterance to learn from: every source of the data is optional and not at hand")
    first = f"; the first, '{next(iter(skipped))}': {next(iter(skipped.values()))}" if skipped else ""
    raise DataError(f"none of {total} utterances can be learned from{first}")
