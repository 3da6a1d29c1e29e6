"""References from one place of a spec to another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from sltcore.errors import did_you_mean
from sltcore.spec.document import PathKey
from sltcore.spec.grammar import PipelineFields
from sltcore.spec.problems import Problem
from sltcore.spec.slots import Block, Ref

ORDER = ("encoder", "decoder", "reranker", "vocoder")


def reference_problems(fields: PipelineFields, prefix: PathKey = ()) -> Iterable[Problem]:
    """References must point at a slot that stands before them; what a component offers is checked when it is built."""
    order = [name for name in ORDER if getattr(fields, name) is not None]
    for path, reference in references(fields):
        first = _first(reference)
        if first not in order:
            yield _missing((*prefix, *path), first, order)
        elif path and isinstance(path[0], str) and path[0] in order and order.index(first) > order.index(path[0]):
            yield Problem(
                (*prefix, *path, "ref"),
                f"'{reference.ref}' is built after {path[0]}; a reference points at an earlier stage",
            )


def outer_problems(config: Any, prefix: PathKey, order: Iterable[str] = ORDER) -> Iterable[Problem]:
    """References of what stands beside a pipeline, such as an objective, must point into it; `order`: its stages."""
    order = list(order)
    for path, reference in references(config):
        if _first(reference) not in order:
            yield _missing((*prefix, *path), _first(reference), order)


def _first(reference: Ref) -> str:
    return reference.ref.partition(".")[0].partition("[")[0]


def _missing(path: PathKey, first: str, order: list[str]) -> Problem:
    has = f"it has: {', '.join(order)}" if order else "it has none"
    return Problem(
        (*path, "ref"), f"there is no '{first}' in this spec to refer to; {has}.{did_you_mean(first, order)}"
    )


def references(config: Any, prefix: PathKey = ()) -> Iterator[tuple[PathKey, Ref]]:
    """Every `{ref: …}` in a config and whatever it holds, with its path."""
    if isinstance(config, Ref):
        yield prefix, config
    elif isinstance(config, Block):
        yield from references(config.config, prefix)
    elif isinstance(config, BaseModel):
        for name, field in type(config).model_fields.items():
            yield from references(getattr(config, name), (*prefix, field.alias or name))
    elif isinstance(config, list | tuple):
        for index, item in enumerate(config):
            yield from references(item, (*prefix, index))
    elif isinstance(config, Mapping):
        for key, item in config.items():
            yield from references(item, (*prefix, str(key)))
