"""Functions that only arrange entries: codes and grid stay, and so do the marks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from slt_nna.dispatch.dispatcher import MASKED, Dispatcher, gather
from slt_nna.dispatch.in_place import observe, remember
from slt_nna.grid import Grid
from slt_nna.tags import KEPT, MASK, Tag, behind, put, tag_of

Arrange = Callable[[Sequence[Tensor]], tuple[Any, tuple[Any, ...], dict[str, Any]]]


def shape(d: Dispatcher, function: Any, *args: Any, **kwargs: Any) -> Any:
    """reshape, slices, transposes and the like: the first tensor is arranged, others are indices."""
    value: Any = args[0] if args else next(iter(kwargs.values()), None)
    tag = tag_of(value)
    if tag is None:
        if not getattr(value, MASK, False):
            return NotImplemented
        result = function(*args, **kwargs)
        if isinstance(result, Tensor):
            setattr(result, MASK, True)
        return result
    if tag.grid is None:
        result = function(*args, **kwargs)
        if isinstance(result, Tensor) and hasattr(value, KEPT):
            setattr(result, KEPT, getattr(value, KEPT))
    else:
        result = d.backend.shape(function, args, kwargs)
        remember(result, value)
    _mark(result, tag)
    return result


def converted(d: Dispatcher, function: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`to` and its kin: an arrangement as long as the numbers stay float32."""
    tag = tag_of(input)
    if tag is None:
        if input.is_floating_point():
            return shape(d, function, input, *args, **kwargs)
        result = function(input, *args, **kwargs)
        if result.is_floating_point():
            setattr(result, MASK, True)
        return result
    wanted = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.dtype | Tensor)]
    types = [each if isinstance(each, torch.dtype) else each.dtype for each in wanted]
    if any(each != torch.float32 for each in types):
        return d.host(function, (input, *args), kwargs, operator="convert")
    if tag.grid is not None:  # a chip's codes are no float numbers: what is left to do is to move them
        args = tuple(each for each in args if not isinstance(each, torch.dtype))
        kwargs = {key: each for key, each in kwargs.items() if not isinstance(each, torch.dtype)}
        places = [each for each in (*args, *kwargs.values()) if isinstance(each, str | torch.device | Tensor)]
        if function is torch.Tensor.float or not places:
            return shape(d, torch.Tensor.view_as, input, input)
    return shape(d, function, input, *args, **kwargs)


def made(d: Dispatcher, function: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`new_zeros`, `zeros_like` and their kin, which ask a tensor for its shape and device alone: the result is new, on the
    host."""
    if tag_of(input) is None:
        return NotImplemented
    return function(torch.empty(1, device=input.device).expand(input.shape), *args, **kwargs)


def padded(
    d: Dispatcher, function: Any, input: Tensor, pad: Any, mode: str = "constant", value: float | None = None
) -> Any:
    """functional.pad with zeros or with what is there."""
    if mode == "constant" and value:
        return NotImplemented
    return shape(d, function, input, pad, mode, value)


def concatenated(d: Dispatcher, function: Any, tensors: Any, dim: int = 0, **more: Any) -> Any:
    """cat and stack."""
    if more or not any(_grid(each) for each in tensors) or any(not each.is_floating_point() for each in tensors):
        return NotImplemented
    return joined(d, list(tensors), lambda parts: (function, (list(parts), dim), {}))


def joined(d: Dispatcher, tensors: Sequence[Tensor], arrange: Arrange) -> Any:
    """Chip tensors put together on one grid.

    Host tensors (zeros before the first frame, what a stream remembers) enter on the grid of the first chip tensor.
    Chip tensors of one site keep its name, so that a stream's memory is named as offline. Those of several sites have a
    name of their own, and a grid where theirs differ; where the chip cannot requantize, they leave.
    """
    lead = d.lead(tensors)
    grids = [grid for grid in map(_grid, tensors) if grid is not None]
    assert lead is not None
    assert grids
    first = next(tag for tag in map(tag_of, tensors) if tag is not None and tag.grid is not None)
    parts = []
    for value in tensors:
        if _grid(value) is None:
            value = d.enter_on(value, f"{first.site}:joined", grids[0])[0]
            put(value, first)
        parts.append(value)
    masked = any(tag.masked for tag in map(tag_of, parts) if tag is not None)
    alike = all(grid == grids[0] for grid in grids)
    one = len({tag.site for tag in map(tag_of, tensors) if tag is not None}) == 1
    site = lead.site if one else behind(lead, "concatenate")
    if alike:
        function, args, kwargs = arrange(parts)
        result = d.backend.shape(function, args, kwargs)
        if d.ranges.observing and not one and d.chip.scales == "free":
            d.grid(site, d.chip.words.activation)  # products of free scales may be equal by their rounding, or just not
            d.ranges.observe(site, result)
        return put(result, Tag(site, grids[0], lead.order, masked))
    site = behind(lead, "concatenate")
    if not d.runs("concatenate", site):
        function, args, kwargs = arrange(parts)
        return d.host(function, args, kwargs, operator="concatenate", site=site)
    out = d.grid(site, d.chip.words.activation)
    backend = d.begin("concatenate", site)
    inputs = [(part, _grid(part) or grids[0]) for part in parts]
    function, args, kwargs = arrange([backend.requantize(part, grid, out) for part, grid in inputs])
    result = d.result(backend.shape(function, args, kwargs), "concatenate", site, out, lead.order, inputs)
    return put(result, Tag(site, out, lead.order, masked))


def assigned(d: Dispatcher, function: Any, target: Tensor, index: Any, value: Any) -> Any:
    """`target[index] = value` for a target on the chip: the value comes to the target's grid."""
    tag, grid = tag_of(target), _grid(target)
    if tag is None or grid is None:
        return NotImplemented
    number = not isinstance(value, Tensor)
    if number:
        value = torch.tensor(float(value), device=target.device)
    own, hidden = _grid(value), None
    if own is None:
        low = value <= MASKED
        if bool(low.any()):  # excluded, as masked_fill would
            hidden = torch.zeros(target.shape, dtype=torch.bool, device=target.device)
            hidden[index] = low
            value = value.masked_fill(low, 0.0)
        observe(d, tag, value)
        value = d.enter_on(value.float(), tag.site, grid, silent=number)[0]
    elif own != grid:
        observe(d, tag, value)
        value = d.begin("concatenate", tag.site).requantize(value, own, grid)
    changed = target
    if torch.is_grad_enabled():
        changed = put(d.backend.shape(torch.clone, (target,), {}), tag)
    d.backend.shape(function, (changed, index, value), {})
    if hidden is not None:
        tag = tag._replace(masked=True)
        changed = put(d.begin("softmax", tag.site).exclude(changed, grid, hidden), tag)
    d.replaced(target, changed)
    return None


def _grid(value: Any) -> Grid | None:
    tag = tag_of(value)
    return None if tag is None else tag.grid


def _mark(result: Any, tag: Tag) -> None:
    if isinstance(result, Tensor):
        if result.is_floating_point():
            put(result, tag)
        return
    found: list[Tensor] = []
    gather(result, found)
    for each in found:
        if each.is_floating_point():
            put(each, tag)
