"""What modules return: the tensor in it that an adapter adds to, and the same output with another tensor there."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from sltcore.errors import PluginError


def first_tensor(output: Any, site: str) -> Tensor:
    """The tensor itself, or the first entry of a tuple, list, NamedTuple, mapping, dataclass or `ModelOutput`, at any
    depth; of a `PackedSequence` its data. **Raises** `PluginError` where there is none."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, PackedSequence):
        return output.data
    key = _first_key(output)
    if key is None:
        raise PluginError(
            f"{site} returns {_shown(output)}, but an adapter adds to a tensor, or to the first entry of what is returned; "
            f"place it at another module"
        )
    return first_tensor(_entry(output, key), site)


def with_first_tensor(output: Any, tensor: Tensor) -> Any:
    """`output` with `tensor` where `first_tensor` found one; what was returned is not changed."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, PackedSequence):
        return PackedSequence(tensor, output.batch_sizes, output.sorted_indices, output.unsorted_indices)
    key = _first_key(output)
    inner = with_first_tensor(_entry(output, key), tensor)
    if isinstance(output, Mapping):
        changed: Any = copy.copy(output)
        changed[key] = inner
        return changed
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return dataclasses.replace(output, **{str(key): inner})
    if hasattr(output, "_replace"):
        return output._replace(**{output._fields[0]: inner})
    return type(output)([inner, *output[1:]])


def _first_key(output: Any) -> Any:
    """The key, field or place of the first entry that is not None; None where there is none."""
    if isinstance(output, Mapping):
        return next((key for key, value in output.items() if value is not None), None)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        fields = dataclasses.fields(output)
        return fields[0].name if fields and getattr(output, fields[0].name) is not None else None
    if isinstance(output, tuple | list) and output and output[0] is not None:
        return 0
    return None


def _entry(output: Any, key: Any) -> Any:
    if dataclasses.is_dataclass(output) and not isinstance(output, Mapping):
        return getattr(output, key)
    return output[key]


def _shown(output: Any) -> str:
    name = type(output).__name__
    return f"an empty {name}" if isinstance(output, tuple | list | Mapping) and not output else f"a {name}"


def row_axis(value: Tensor, utterances: int, *, batch_first: bool, site: str) -> int:
    """The axis of `value` that runs over the utterances of a call. **Raises** `PluginError` where it does not: a search, for
    one, may ask about hypotheses, or about those utterances alone that still go on."""
    axis = 0 if batch_first else 1
    if axis < value.ndim - 1 and value.shape[axis] == utterances:
        return axis
    raise PluginError(
        f"{site}: its output has shape {tuple(value.shape)}, whose {'first' if batch_first else 'second'} axis does not run over "
        f"the {utterances} utterances of the call, so 'updates' cannot differ between them; give one list for all, or call one "
        f"utterance at a time"
    )
