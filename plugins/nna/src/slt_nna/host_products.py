"""Multiply-accumulates of torch functions that run on the host, from their operands' shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

Count = Callable[[Sequence[Any], Sequence[Tensor], Tensor], int]


def work(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Mapping[str, Any]:
    """The `options` of the event of a call on the host."""
    macs = host_macs(function, args, kwargs, result)
    return {} if macs is None else {"macs": macs}


def host_macs(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> int | None:
    """How many multiply-accumulates a call's dot products take; None where no formula is known for the function.

    A function's arguments by name come behind the others, in the order of the call.
    """
    count = COUNTS.get(str(getattr(function, "__name__", "")).strip("_"))
    given = [*args, *kwargs.values()]
    tensors = [each for each in given if isinstance(each, Tensor)]
    several = result if isinstance(result, tuple | list) else (result,)
    outputs = [each for each in several if isinstance(each, Tensor)]
    if count is None or not outputs:
        return None
    try:
        return count(given, tensors, outputs[0])
    except (IndexError, KeyError, ValueError):  # called in a way that the formula does not know
        return None


def einsum(given: Sequence[Any], tensors: Sequence[Tensor], out: Tensor) -> int:
    """Two operands at a time, from the left, or in the order of opt_einsum where torch asks it: the product of the lengths of
    all their indices. What stands in one operand alone and not behind it is summed first.

    **Raises** `ValueError` for an equation in another form than text.
    """
    equation, operands = given[0], list(tensors)
    if not isinstance(equation, str):
        raise ValueError("an equation in numbers")
    if len(given) == 2 and isinstance(given[1], list | tuple):
        operands = list(given[1])
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms: list[list[str]] = []
    sizes: dict[str, int] = {}
    for spelled, operand in zip(left.split(","), operands, strict=True):
        names = _names(spelled, operand.ndim)
        terms.append(names)
        for name, size in zip(names, operand.shape, strict=True):
            sizes[name] = max(sizes.get(name, 1), size)
    kept = (
        set(_names(right, out.ndim)) if arrow else {each for each in sizes if sum(each in term for term in terms) == 1}
    )
    left_over, macs = [set(term) for term in terms], 0
    for pair in _order(equation, operands):
        first, second = (left_over[place] for place in pair)
        left_over = [term for place, term in enumerate(left_over) if place not in pair]
        later = kept.union(*left_over)
        second = {name for name in second if name in first | later}
        first = {name for name in first if name in second | later}
        macs += math.prod(sizes[name] for name in first | second)
        left_over.insert(0, (first | second) & later)
    return macs


def _order(equation: str, operands: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Which two operands are multiplied, step by step, as places among those left, of which a product is the first."""
    import torch.backends.opt_einsum as backend

    if len(operands) < 3 or not backend.enabled or not backend.is_available():
        return [(0, 1)] * (len(operands) - 1)
    shapes = [tuple(operand.shape) for operand in operands]
    path, _ = backend.get_opt_einsum().contract_path(equation, *shapes, shapes=True, optimize=backend.strategy)
    left, found = list(range(len(operands))), []
    theirs = list(left)
    for step in path:
        chosen = [theirs[place] for place in step]
        found.append((left.index(chosen[0]), left.index(chosen[1])))
        made = len(operands) + len(found)
        theirs = [one for one in theirs if one not in chosen] + [made]
        left = [made, *(one for one in left if one not in chosen)]
    return found


def _names(term: str, count: int) -> list[str]:
    """Names of a term's axes; those of an ellipsis are counted from behind."""
    before, dots, behind = term.partition("...")
    missing = count - len(before) - len(behind)
    return [*before, *(f"...{missing - each}" for each in range(missing if dots else 0)), *behind]


def _matmul(given: Sequence[Any], tensors: Sequence[Tensor], out: Tensor) -> int:
    return out.numel() * tensors[0].shape[-1]


def _added(given: Sequence[Any], tensors: Sequence[Tensor], out: Tensor) -> int:
    second = tensors[2]
    return tensors[1].numel() * (second.shape[-1] if second.ndim > 1 else 1)


def _tensordot(given: Sequence[Any], tensors: Sequence[Tensor], out: Tensor) -> int:
    """Each index stands in two of the three, so that their entries together are the square of the products."""
    return math.isqrt(tensors[0].numel() * tensors[1].numel() * out.numel())


def _convolution(given: Sequence[Any], tensors: Sequence[Tensor], out: Tensor) -> int:
    return out.numel() * math.prod(tensors[1].shape[1:])


def _transposed(given: Sequence[Any], tensors: Sequence[Tensor], out: Tensor) -> int:
    return tensors[0].numel() * math.prod(tensors[1].shape[1:])


def _attention(given: Sequence[Any], tensors: Sequence[Tensor], out: Tensor) -> int:
    query, key, value = tensors[:3]
    return math.prod(out.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _recurrent(given: Sequence[Any], tensors: Sequence[Tensor], out: Tensor) -> int:
    """Frames times all kernels, which are the last of the lists among the first arguments."""
    kernels = [each for each in given[:4] if isinstance(each, list | tuple)][-1]
    return _frames(tensors[0]) * _entries(kernels)


def _cell(given: Sequence[Any], tensors: Sequence[Tensor], out: Tensor) -> int:
    return _frames(tensors[0]) * _entries(given[2:4])


def _frames(x: Tensor) -> int:
    return math.prod(x.shape[:-1])


def _entries(kernels: Iterable[Tensor]) -> int:
    return sum(each.numel() for each in kernels if each.ndim == 2)


COUNTS: Mapping[str, Count] = {
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner", "linear"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv"), _added),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _cell),
    "scaled_dot_product_attention": _attention,
    "einsum": einsum,
    "tensordot": _tensordot,
}
"""By the function's name without underscores around it."""
