"""Nested state of plain values and tensors as JSON data beside named tensors, so that nothing is ever pickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sltcore.errors import TrainError

TENSOR, MAP, TUPLE = "tensor", "map", "tuple"


def pack(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """`value` as JSON data; its tensors go to `tensors` under names that begin with `name`.

    Maps may have whole numbers as keys. **Raises** `TrainError` for a value that is neither plain nor a tensor.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, Mapping):
        return {MAP: [[key, pack(inner, tensors, f"{name}.{key}")] for key, inner in value.items()]}
    if isinstance(value, tuple):
        return {TUPLE: [pack(inner, tensors, f"{name}.{place}") for place, inner in enumerate(value)]}
    if isinstance(value, list):
        return [pack(inner, tensors, f"{name}.{place}") for place, inner in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TrainError(
        f"{name} is a {type(value).__name__}, which a checkpoint cannot keep; a state holds numbers, texts and tensors"
    )


def unpack(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `pack` was given."""
    if isinstance(data, list):
        return [unpack(inner, tensors) for inner in data]
    if not isinstance(data, dict):
        return data
    ((kind, inner),) = data.items()
    if kind == TENSOR:
        return tensors[inner]
    if kind == MAP:
        return {key: unpack(value, tensors) for key, value in inner}
    return tuple(unpack(value, tensors) for value in inner)
