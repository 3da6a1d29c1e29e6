"""Specs as plain data: filled, compared, and as `sltcore.load` takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sltcore.spec.document import PathKey
from sltcore.spec.grammar import SPEC_VERSION, PipelineFields
from sltcore.spec.overrides import setting_text


def fill(model: BaseModel, *, portable: bool = False) -> dict[str, Any]:
    """A part of the grammar as plain data, every default written out; loading it gives an equal model.

    A null that is the default anyway is left out, but inside a component's block it stands. `portable` keeps only the
    names of files, as a bundle does.
    """
    filled: dict[str, Any] = model.model_dump(mode="json", by_alias=True, context={"portable": portable})
    return _without_nulls(model, filled)


def _without_nulls(model: BaseModel, filled: dict[str, Any]) -> dict[str, Any]:
    result = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if value is not None or field.is_required() or field.get_default(call_default_factory=True) is not None:
            key = field.alias or name
            result[key] = _below(value, filled[key])
    return result


def _below(value: Any, filled: Any) -> Any:
    if isinstance(value, BaseModel):
        return _without_nulls(value, filled)
    if isinstance(value, list):
        return [_below(item, entry) for item, entry in zip(value, filled, strict=True)]
    if isinstance(value, dict):
        return {key: _below(item, filled[key]) for key, item in value.items()}
    return filled


def spec_of_fields(fields: PipelineFields) -> dict[str, Any]:
    """The `kind: pipeline` spec of a pipeline that stands inside another spec, filled."""
    filled = fill(fields)
    return {
        "slt": SPEC_VERSION,
        "kind": "pipeline",
        **{key: filled[key] for key in filled if key not in ("slt", "kind")},
    }


def pipeline_source(
    pipeline: PipelineFields | Path, settings: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any] | str, list[str]]:
    """What `sltcore.load` takes for the `pipeline` and the `set` of a run or stage: its source, and its overrides."""
    source = str(pipeline) if isinstance(pipeline, Path) else spec_of_fields(pipeline)
    return source, [setting_text(path, value) for path, value in (settings or {}).items()]


def flatten(data: Any, prefix: PathKey = ()) -> dict[PathKey, Any]:
    """Leaf values by path; empty maps and lists count as leaves."""
    if isinstance(data, dict) and data:
        parts: Iterable[tuple[str | int, Any]] = data.items()
    elif isinstance(data, list) and data:
        parts = enumerate(data)
    else:
        return {prefix: data}
    result: dict[PathKey, Any] = {}
    for key, value in parts:
        result.update(flatten(value, (*prefix, key)))
    return result


def diff(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[PathKey, Any, Any]]:
    """Paths at which two filled specs differ, with both values; `MISSING` where one has none."""
    left, right = flatten(dict(first)), flatten(dict(second))
    return [
        (path, left.get(path, MISSING), right.get(path, MISSING))
        for path in dict.fromkeys([*left, *right])
        if left.get(path, MISSING) != right.get(path, MISSING)
    ]


MISSING = "(not there)"
