"""Operators that torch's ONNX exporter writes for one length only, or not at all, in the words of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Traceable(TorchFunctionMode):
    """While it is entered, `unflatten`, `unfold` and `take_along_dim` run as reshapes, index lookups and `gather`.

    The values are the same; in a traced graph sizes then follow the input.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replacement = REPLACEMENTS.get(func)
        return (replacement or func)(*args, **(kwargs or {}))


def unflatten(x: Tensor, dim: int, sizes: Any) -> Tensor:
    """Axis `dim` as several."""
    dim = dim % x.ndim
    shape = [x.shape[place] for place in range(x.ndim)]
    return x.reshape([*shape[:dim], *sizes, *shape[dim + 1 :]])


def unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` along an axis, one in every `step`; the windows' own axis comes last."""
    dimension = dimension % x.ndim
    starts = torch.arange(0, x.shape[dimension] - size + 1, step, device=x.device)
    places = starts[:, None] + torch.arange(size, device=x.device)
    taken = x.index_select(dimension, places.reshape(-1))
    return unflatten(taken, dimension, (-1, size)).movedim(dimension + 1, -1)


def take_along_dim(x: Tensor, indices: Tensor, dim: int) -> Tensor:
    """`gather` with indices that broadcast."""
    dim = dim % x.ndim
    shape = [indices.shape[place] if place == dim else x.shape[place] for place in range(x.ndim)]
    return x.gather(dim, indices.expand(shape))


REPLACEMENTS: dict[Any, Callable[..., Tensor]] = {
    torch.unflatten: unflatten,
    Tensor.unflatten: unflatten,
    Tensor.unfold: unfold,
    torch.take_along_dim: take_along_dim,
    Tensor.take_along_dim: take_along_dim,
}
