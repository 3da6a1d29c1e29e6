"""Operators without weights on single entries: sums, products, masks, activations, dropout."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from slt_nna.dispatch.dispatcher import MASKED, Dispatcher
from slt_nna.dispatch.in_place import remember
from slt_nna.dispatch.masks import kept, mask_of, summed
from slt_nna.grid import Grid, relabels
from slt_nna.tags import Tag, behind, put, tag_of

MOST_DROPPED_BITS = 4
"""Most bits that dropout adds to a word in training; what is larger by more is clipped."""


class Binary(NamedTuple):
    """Two operands of an operator, on their grids."""

    site: str
    order: int
    a: Tensor
    ga: Grid
    b: Tensor
    gb: Grid


def add(d: Dispatcher, function: Any, input: Any, other: Any, *, alpha: Any = 1) -> Any:
    """Sum; a host tensor of zeros and numbers below -1e4 is a mask, and excludes."""
    return _sum(d, input, other, alpha, 1)


def subtract(d: Dispatcher, function: Any, input: Any, other: Any, *, alpha: Any = 1) -> Any:
    """Difference."""
    return _sum(d, input, other, alpha, -1)


def subtract_from(d: Dispatcher, function: Any, input: Any, other: Any, *, alpha: Any = 1) -> Any:
    """`other - alpha * input`."""
    return _sum(d, other, input, alpha, -1)


def _sum(d: Dispatcher, a: Any, b: Any, alpha: Any, sign: int) -> Any:
    if not (_grid(a) or _grid(b)) or not _real(a, b):
        return NotImplemented
    if alpha != 1:
        if isinstance(b, Tensor):
            return NotImplemented
        b = alpha * b
    if _number(d, b) == 0.0:
        return _same(d, a)
    if _number(d, a) == 0.0 and sign == 1:
        return _same(d, b)
    for index, part in enumerate((1, sign)):
        chip, host = (b, a) if index == 0 else (a, b)
        mask = mask_of(d, host, part) if _grid(chip) else None
        if mask is None:
            continue
        if mask.pure and (sign == 1 or index == 1) and not summed(d, chip, index):
            return excluded(d, chip, mask.low)
        if bool(mask.low.any()):
            chip, host = excluded(d, chip, mask.low), mask.rest
            a, b = (host, chip) if index == 0 else (chip, host)
    found = _operands(d, "add", a, b)
    if found is None:
        return NotImplemented
    out = d.grid(found.site, d.chip.words.residual)
    value = d.begin("add", found.site).add(found.a, found.ga, found.b, found.gb, out, sign=sign)
    return _result(d, value, "add", found, out)


def multiply(d: Dispatcher, function: Any, input: Any, other: Any) -> Any:
    """Product; by a number it only changes the scale where the chip can, by a mask of 0 and 1 it only blanks."""
    if not (_grid(input) or _grid(other)) or not _real(input, other, boolean=True):
        return NotImplemented
    for chip, host in ((input, other), (other, input)):
        if not _grid(chip):
            continue
        factor = _number(d, host)
        if factor is not None:
            return scaled(d, chip, factor)
        mask = kept(d, host)
        if mask is not None and _fits(chip, mask):
            return _renamed(d, _filled(d, chip, ~mask, 0.0), "multiply", d.chip.words.activation)
        if isinstance(host, Tensor) and host.dtype == torch.bool:
            return NotImplemented
    found = _operands(d, "multiply", input, other)
    if found is None:
        return NotImplemented
    out = d.grid(found.site, d.chip.words.activation)
    value = d.begin("multiply", found.site).multiply(found.a, found.ga, found.b, found.gb, out)
    return _result(d, value, "multiply", found, out)


def divide(d: Dispatcher, function: Any, input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """Quotient by a number."""
    factor = _number(d, other)
    if rounding_mode is not None or not factor or not _grid(input):
        return NotImplemented
    return scaled(d, input, 1.0 / factor)


def scaled(d: Dispatcher, x: Tensor, factor: float) -> Any:
    """A product with a number."""
    tag = _tag(x)
    site = behind(tag, "multiply")
    if not d.runs("multiply", site) or not math.isfinite(factor):
        return d.host(torch.mul, (x, factor), {}, operator="multiply", site=site)
    if factor == 1.0:
        return _same(d, x)
    assert tag.grid is not None
    backend, grid = d.begin("multiply", site), tag.grid
    if relabels(d.chip, abs(factor)):
        if factor < 0:
            x = backend.negate(x, grid)
        value, grid = backend.relabel(x, grid, abs(factor)) if factor != -1.0 else (x, grid)
        return put(value, tag._replace(site=site, grid=grid))
    out = d.grid(site, d.chip.words.activation)
    value = backend.scale(x, grid, factor, out)
    d.result(value, "multiply", site, out, tag.order, ((x, grid),))
    return put(value, tag._replace(site=site, grid=out))


def negate(d: Dispatcher, function: Any, input: Tensor) -> Any:
    """Minus."""
    return scaled(d, input, -1.0) if _grid(input) else NotImplemented


def masked_fill(d: Dispatcher, function: Any, input: Tensor, mask: Tensor, value: Any) -> Any:
    """A number below -1e4 excludes the entries, another one is put in their place."""
    number = _number(d, value)
    if not _grid(input) or number is None:
        return NotImplemented
    if not _fits(input, mask):
        return NotImplemented
    return _filled(d, input, mask, number)


def where(d: Dispatcher, function: Any, condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """A choice between a chip tensor and a number, or between two chip tensors."""
    from slt_nna.dispatch.arrangement import joined

    for chip, value, inverted in ((input, other, True), (other, input, False)):
        if not _grid(chip):
            continue
        number = _number(d, value)
        mask = ~condition if inverted else condition
        if number is not None and _fits(chip, mask):
            return _filled(d, chip, mask, number)
    if not (_grid(input) or _grid(other)) or not isinstance(input, Tensor) or not isinstance(other, Tensor):
        return NotImplemented
    parts, hidden = [input, other], None
    for index, value in enumerate(parts):
        low = None if _grid(value) else mask_of(d, value, 1)
        if low is not None and bool(low.low.any()):
            hidden = low.low & (~condition if index else condition)
            parts[index] = low.rest
    result = joined(d, parts, lambda parts: (torch.where, (condition, *parts), {}))
    return result if hidden is None or not _grid(result) else excluded(d, result, hidden)


def excluded(d: Dispatcher, x: Tensor, mask: Tensor) -> Any:
    """`x` without the entries where `mask` is true; `x` may grow by broadcasting."""
    tag = _tag(x)
    shape = _joint(x, mask)
    assert tag.grid is not None
    if shape != x.shape:
        x = d.backend.shape(torch.Tensor.expand, (x, shape), {})
    return put(d.begin("softmax", tag.site).exclude(x, tag.grid, mask), tag._replace(masked=True))


def rectified(d: Dispatcher, function: Any, input: Tensor, inplace: bool = False) -> Any:
    """relu."""
    return _relu(d, function, input, None)


def rectified_to_six(d: Dispatcher, function: Any, input: Tensor, inplace: bool = False) -> Any:
    """relu6."""
    return _relu(d, function, input, 6.0)


def clamped(
    d: Dispatcher, function: Any, input: Tensor, min: Any = None, max: Any = None, inplace: bool = False
) -> Any:
    """clamp with a lower bound of 0."""
    if min is None or isinstance(min, Tensor) or isinstance(max, Tensor) or min != 0 or (max is not None and max < 0):
        return NotImplemented
    return _relu(d, functional.hardtanh if max is not None else torch.relu, input, None if max is None else float(max))


def hard_tanh(
    d: Dispatcher, function: Any, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Any:
    """hardtanh from 0."""
    return clamped(d, function, input, min_val, max_val)


def _relu(d: Dispatcher, function: Any, x: Tensor, most: float | None) -> Any:
    tag = tag_of(x)
    if tag is None or tag.grid is None:
        return NotImplemented
    site = behind(tag, "relu")
    if not d.runs("relu", site):
        args = (x,) if most is None or function is functional.relu6 else (x, 0.0, most)
        return d.host(function, args, {}, operator="relu", site=site)
    value = d.begin("relu", site).relu(x, tag.grid, most=most)
    return d.result(value, "relu", site, tag.grid, tag.order, ((x, tag.grid),), measured=False)


def sigmoid(d: Dispatcher, function: Any, input: Tensor) -> Any:
    """sigmoid, by table."""
    return _lookup(d, function, input, "sigmoid")


def tanh(d: Dispatcher, function: Any, input: Tensor) -> Any:
    """tanh, by table."""
    return _lookup(d, function, input, "tanh")


def _lookup(d: Dispatcher, function: Any, x: Tensor, name: str) -> Any:
    tag = tag_of(x)
    if tag is None or tag.grid is None:
        return NotImplemented
    site = behind(tag, name)
    if getattr(d.chip.tables, name) is None or not d.runs("lookup", site):
        return d.host(function, (x,), {}, operator="lookup", site=site)
    value, grid = d.begin("lookup", site).lookup(d.settled(x, tag), tag.grid, name)
    return d.result(value, "lookup", site, grid, tag.order, ((x, tag.grid),), measured=False)


def silu(d: Dispatcher, function: Any, input: Tensor, inplace: bool = False) -> Any:
    """x sigmoid(x)."""
    return _gate(d, functional.silu, (input,), {}, input, input, "silu", "sigmoid")


def gelu(d: Dispatcher, function: Any, input: Tensor, *, approximate: str = "none") -> Any:
    """x phi(x), for both variants."""
    return _gate(d, functional.gelu, (input,), {"approximate": approximate}, input, input, "gelu", "phi")


def glu(d: Dispatcher, function: Any, input: Tensor, dim: int = -1) -> Any:
    """a sigmoid(b) of the two halves."""
    tag = tag_of(input)
    if tag is None or tag.grid is None:
        return NotImplemented
    a, b = d.backend.shape(torch.chunk, (input, 2, dim), {})
    return _gate(d, functional.glu, (input, dim), {}, put(a, tag), put(b, tag), "glu", "sigmoid")


def _gate(
    d: Dispatcher,
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    a: Tensor,
    b: Tensor,
    name: str,
    table: str,
) -> Any:
    tag = tag_of(a)
    if tag is None or tag.grid is None:
        return NotImplemented
    site = behind(tag, name)
    if getattr(d.chip.tables, table) is None or not d.runs("gate", site):
        return d.host(function, args, kwargs, operator="gate", site=site)
    out = d.grid(site, d.chip.words.activation)
    if tag.masked:
        a, b = (d.settled(a, tag),) * 2 if a is b else (d.settled(a, tag), d.settled(b, tag))
    value = d.begin("gate", site).gate(a, tag.grid, b, tag.grid, table, out)
    return d.result(value, "gate", site, out, tag.order, ((args[0], tag.grid),))


def dropout(
    d: Dispatcher, function: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """Dropout: nothing in evaluation; in training the enlarged values come back to their scale, in a word as much wider as
    they are larger. A chip, which never drops anything, needs no such word, and none of what is enlarged is clipped."""
    tag = tag_of(input)
    if tag is None or tag.grid is None:
        return NotImplemented
    if not training or p == 0.0:
        alias = put(d.backend.shape(torch.Tensor.view_as, (input, input), {}), tag)
        remember(alias, input)
        return alias
    dropped = function(d.backend.leave(d.settled(input, tag), tag.grid), p, training)
    wider = tag.grid._replace(bits=tag.grid.bits + _more_bits(p))
    return put(d.enter_on(dropped, tag.site, wider, silent=True)[0], tag._replace(grid=wider, masked=False))


def _more_bits(p: float) -> int:
    """Bits for values 1 / (1 - p) times as large."""
    return min(math.ceil(-math.log2(1.0 - p)), MOST_DROPPED_BITS) if p < 1.0 else 0


def _filled(d: Dispatcher, x: Tensor, mask: Tensor, number: float) -> Any:
    if number <= MASKED:
        return excluded(d, x, mask)
    tag = _tag(x)
    assert tag.grid is not None
    return put(d.begin("multiply", tag.site).fill(x, tag.grid, mask, number), tag)


def _renamed(d: Dispatcher, x: Tensor, operator: str, bits: int) -> Tensor:
    """The result of a mask under the name that a sum or product with other numbers would have, and with a range for it:
    what is a mask in one call may be none in the next."""
    tag = _tag(x)
    site = behind(tag, operator)
    if d.ranges.observing:
        d.grid(site, bits)
        d.ranges.observe(site, x)
    return put(x, tag._replace(site=site))


def _operands(d: Dispatcher, operator: str, a: Any, b: Any) -> Binary | None:
    """Both operands on the chip under the site of the later one; None where the operator runs on the host."""
    lead = d.lead((a, b))
    if lead is None:
        return None
    site = behind(lead, operator)
    if not d.runs(operator, site):
        return None
    d.begin(operator, site)
    device = next(each.device for each in (a, b) if isinstance(each, Tensor))
    found = [operand(d, value, site, index, device, settled=False) for index, value in enumerate((a, b))]
    return Binary(site, lead.order, *found[0], *found[1])


def operand(
    d: Dispatcher, value: Any, site: str, index: int, device: Any = None, *, settled: bool = True
) -> tuple[Tensor, Grid]:
    """A chip tensor as it is, or `settled`; parameters, buffers and numbers as constants; another tensor entered."""
    if not isinstance(value, Tensor):
        return d.backend.constant(torch.tensor(float(value), device=device), d.chip.words.weight)
    tag = tag_of(value)
    if tag is not None and tag.grid is not None:
        return d.settled(value, tag) if settled else value, tag.grid
    if tag is None and d.names.place(value) is not None:
        return d.backend.constant(value, d.chip.words.weight)
    return d.enter(value, f"{site}:input{index}", d.chip.words.activation)


def _result(d: Dispatcher, value: Tensor, operator: str, found: Binary, out: Grid) -> Tensor:
    inputs = ((found.a, found.ga), (found.b, found.gb))
    d.result(value, operator, found.site, out, found.order, inputs)
    masked = any(tag is not None and tag.masked for tag in map(tag_of, (found.a, found.b)))
    return put(value, Tag(found.site, out, found.order, masked)) if masked else value


def _same(d: Dispatcher, x: Tensor) -> Tensor:
    """Another tensor with the same entries and mark."""
    return put(d.backend.shape(torch.Tensor.clone, (x,), {}), _tag(x))


def _tag(x: Tensor) -> Tag:
    tag = tag_of(x)
    assert tag is not None
    return tag


def _grid(value: Any) -> Grid | None:
    tag = tag_of(value)
    return None if tag is None else tag.grid


def _real(*values: Any, boolean: bool = False) -> bool:
    """Whether all operands are real numbers or tensors of them."""
    for value in values:
        if isinstance(value, Tensor):
            if not (value.is_floating_point() or (boolean and value.dtype == torch.bool)):
                return value.ndim == 0 and not value.is_complex()
        elif not isinstance(value, int | float):
            return False
    return True


def _joint(x: Tensor, other: Tensor) -> tuple[int, ...]:
    """The shape of both, broadcast."""
    shape: tuple[int, ...] = torch.broadcast_shapes(x.shape, other.shape)  # type: ignore[no-untyped-call]
    return shape


def _fits(x: Tensor, other: Tensor) -> bool:
    """Whether `x` stays as large as it is beside another tensor."""
    return tuple(_joint(x, other)) == tuple(x.shape)


def _number(d: Dispatcher, value: Any) -> float | None:
    """A number, or a lone host tensor that is neither parameter nor buffer nor to be trained; else None."""
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, Tensor) or value.ndim or value.requires_grad or tag_of(value) is not None:
        return None
    return None if value.is_complex() or d.names.place(value) is not None else float(value)
