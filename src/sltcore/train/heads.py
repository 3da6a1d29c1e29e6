"""Output heads that begin with rows of another head, so that a new alphabet starts from sounds already known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sltcore.errors import SpecError, did_you_mean
from sltcore.pipeline import Pipeline
from sltcore.spec.training import CopyRows, Row
from sltcore.vocabulary import Vocabulary

START = "start."
_SHOWN = 8


class _Head(NamedTuple):
    """An output head by its path: `weight` [v d], `bias` [v] or None, and the labels of its rows."""

    path: str
    weight: Tensor
    bias: Tensor | None
    vocabulary: Vocabulary


def copy_rows(pipeline: Pipeline, entries: Sequence[CopyRows], *, start: Pipeline | None = None) -> list[str]:
    """Copy rows between output heads, label by label, and say what was copied: one line for each entry.

    `new.weight[i] = scale old.weight[j]`, `new.bias[i] = scale old.bias[j] + bias`. Labels that `rows` names are taken from
    the old label it names; of the others blank goes to blank, word boundary to word boundary, and equal labels to each
    other; the rest stays as it was initialised. `start` is the pipeline of the bundle that the run begins with, whose
    heads are called `start.PATH`.

    **Raises** `SpecError` for a head or label that does not exist, and for heads of different width.
    """
    return [_copied(pipeline, entry, f"copy_rows[{place}]", start) for place, entry in enumerate(entries)]


@torch.no_grad()
def _copied(pipeline: Pipeline, entry: CopyRows, where: str, start: Pipeline | None) -> str:
    old = _head(pipeline, start, entry.source, f"{where}.source")
    new = _head(pipeline, start, entry.to, f"{where}.to")
    _check_pair(old, new, entry, where)
    rows = _pairs(old.vocabulary, new.vocabulary, entry.rows, f"{where}.rows")
    known = old.weight.clone(), None if old.bias is None else old.bias.clone()
    for place, (source, scale, offset) in rows.items():
        new.weight[place] = scale * known[0][source].to(new.weight)
        if new.bias is not None:
            before = 0.0 if known[1] is None else float(known[1][source])
            new.bias[place] = scale * before + offset
        elif offset:
            label = new.vocabulary.labels[place]
            raise SpecError(f"{where}.rows.{label}: bias is {offset:g}, but {entry.to} has no bias; leave it out")
    left = [label for place, label in enumerate(new.vocabulary.labels) if place not in rows]
    more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
    fresh = f"; new: {' '.join(map(repr, left[:_SHOWN]))}{more}" if left else ""
    return f"{entry.to}: {len(rows)} of {len(new.vocabulary)} rows taken from {entry.source}{fresh}"


def _head(pipeline: Pipeline, start: Pipeline | None, path: str, where: str) -> _Head:
    """The head behind a path; a head and its labels stand beside each other, as `encoder.head` and `encoder.vocabulary`."""
    heads = {name: (pipeline, name) for name in _heads(pipeline.scope.offers())}
    if start is not None:
        heads |= {f"{START}{name}": (start, name) for name in _heads(start.scope.offers())}
    if path not in heads:
        if path.startswith(START) and start is None:
            raise SpecError(
                f"{where}: '{path}' is a head of a bundle, but the run begins with none; name a bundle as pipeline"
            )
        raise SpecError(
            f"{where}: there is no head '{path}'; heads with labels: {', '.join(sorted(heads)) or 'none'}."
            f"{did_you_mean(path, heads)}"
        )
    owner, name = heads[path]
    offers = owner.scope.offers()
    module, vocabulary = offers[name], offers[_beside(name)]
    weight, bias = module.weight, getattr(module, "bias", None)
    if weight.shape[0] != len(vocabulary):
        raise SpecError(
            f"{where}: '{path}' has {weight.shape[0]} rows for {len(vocabulary)} labels; they must be as many"
        )
    return _Head(path, weight, bias if isinstance(bias, Tensor) else None, vocabulary)


def _heads(offers: Mapping[str, Any]) -> list[str]:
    """Modules with rows [v d] on offer that have labels beside them."""
    return [
        name
        for name, value in offers.items()
        if isinstance(value, nn.Module)
        and isinstance(offers.get(_beside(name)), Vocabulary)
        and getattr(getattr(value, "weight", None), "ndim", 0) == 2
    ]


def _beside(path: str) -> str:
    return f"{path.rpartition('.')[0]}.vocabulary"


def _check_pair(old: _Head, new: _Head, entry: CopyRows, where: str) -> None:
    if old.weight is new.weight:
        raise SpecError(
            f"{where}: '{entry.to}' and '{entry.source}' are one head; give the decoder labels of its own (vocabulary or "
            f"characters), so that it gets a new one"
        )
    if old.weight.shape[1] != new.weight.shape[1]:
        raise SpecError(
            f"{where}: '{entry.source}' is {old.weight.shape[1]} wide and '{entry.to}' {new.weight.shape[1]}; rows can be "
            f"copied between heads of one width only"
        )
    if new.bias is None and old.bias is not None:
        raise SpecError(
            f"{where}: '{entry.source}' has a bias and '{entry.to}' has none, so its rows would change meaning"
        )


def _pairs(
    old: Vocabulary, new: Vocabulary, listed: Mapping[str, str | Row], where: str
) -> dict[int, tuple[int, float, float]]:
    """Row of the new head: row of the old one, its factor, and what is added to its bias."""
    olds = {label: place for place, label in enumerate(old.labels)}
    news = {label: place for place, label in enumerate(new.labels)}
    pairs = {news[label]: (olds[label], 1.0, 0.0) for label in news.keys() & olds.keys()}
    if old.boundary is not None and new.boundary is not None:
        pairs[new.boundary] = (old.boundary, 1.0, 0.0)
    pairs[new.blank] = (old.blank, 1.0, 0.0)
    for label, source in listed.items():
        row = source if isinstance(source, Row) else Row(label=source)
        if label not in news:
            raise SpecError(
                f"{where}: the new head has no label '{label}'; it has: {_listed(new)}.{did_you_mean(label, news)}"
            )
        if row.label not in olds:
            raise SpecError(
                f"{where}.{label}: the old head has no label '{row.label}'; it has: {_listed(old)}."
                f"{did_you_mean(row.label, olds)}"
            )
        pairs[news[label]] = (olds[row.label], row.scale, row.bias)
    return dict(sorted(pairs.items()))


def _listed(vocabulary: Vocabulary) -> str:
    names = " ".join(map(repr, vocabulary.labels[:40]))
    return names if len(vocabulary) <= 40 else f"{names} and {len(vocabulary) - 40} more"
