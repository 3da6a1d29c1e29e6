"""Layers with weights: linear, convolution, norms, embedding. They run on the chip where their weight is the model's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from slt_nna.backend import Weight
from slt_nna.dispatch.dispatcher import Dispatcher
from slt_nna.tags import behind, tag_of


def linear(d: Dispatcher, function: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """functional.linear."""
    place = d.names.place(weight)
    if place is None:
        return NotImplemented
    return placed_linear(d, input, d.weight(weight, place), bias, place.site, place.order)


def placed_linear(d: Dispatcher, input: Tensor, weight: Weight, bias: Tensor | None, site: str, order: int) -> Tensor:
    """A linear layer under a given site."""
    if not d.runs("linear", site):
        result: Tensor = d.host(
            functional.linear,
            (input, weight.value, bias),
            {},
            operator="linear",
            site=site,
            order=order,
            weights=(weight,),
        )
        return result
    x, gx = d.operand(input, f"{site}:input", d.chip.words.activation)
    out = d.grid(site, d.output_bits(site))
    value = d.begin("linear", site).linear(x, gx, weight, bias, out)
    return d.result(value, "linear", site, out, order, ((x, gx),), weights=(weight,))


def convolution(
    d: Dispatcher,
    function: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """functional.conv1d and conv2d."""
    place = d.names.place(weight)
    if place is None:
        return NotImplemented
    site, order, named = place.site, place.order, d.weight(weight, place)
    if not d.runs("convolution", site):
        args = (input, weight, bias, stride, padding, dilation, groups)
        return d.host(function, args, {}, operator="convolution", site=site, order=order, weights=(named,))
    sizes = weight.ndim - 2
    dilated = _each(dilation, sizes)
    x, gx = d.operand(input, f"{site}:input", d.chip.words.activation)
    single = x.ndim == sizes + 1
    if single:
        x = d.backend.shape(torch.unsqueeze, (x, 0), {})
    if isinstance(padding, str):
        total = [rate * (size - 1) * (padding == "same") for rate, size in zip(dilated, weight.shape[2:], strict=True)]
        if any(each % 2 for each in total):
            sides = [side for each in reversed(total) for side in (each // 2, each - each // 2)]
            x, total = d.backend.shape(functional.pad, (x, sides), {}), [0] * sizes
        padding = tuple(each // 2 for each in total)
    out = d.grid(site, d.output_bits(site))
    value = d.begin("convolution", site).convolution(
        x,
        gx,
        named,
        bias,
        out,
        stride=_each(stride, sizes),
        padding=_each(padding, sizes),
        dilation=dilated,
        groups=groups,
    )
    if single:
        value = d.backend.shape(torch.squeeze, (value, 0), {})
    return d.result(value, "convolution", site, out, order, ((x, gx),), weights=(named,), options={"groups": groups})


def layer_norm(
    d: Dispatcher,
    function: Any,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    """functional.layer_norm over the last axis; over several axes it runs on the host."""
    site, order = _norm_site(d, "layer_norm", input, weight, bias)
    if site is None or (weight is None and not _on_chip(input)):
        return NotImplemented
    args = (input, normalized_shape, weight, bias, eps)
    several = not isinstance(normalized_shape, int) and len(normalized_shape) != 1
    weights = _gains(d, weight)
    if several or not d.runs("layer_norm", site):
        return d.host(function, args, {}, operator="layer_norm", site=site, order=order, weights=weights)
    x, gx = d.operand(input, f"{site}:input", d.chip.words.activation)
    out = d.grid(site, d.output_bits(site))
    value = d.begin("layer_norm", site).layer_norm(x, gx, weight, bias, eps, out)
    return d.result(value, "layer_norm", site, out, order, ((x, gx),), weights=weights)


def batch_norm(
    d: Dispatcher,
    function: Any,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """functional.batch_norm, with the running statistics in training too: on the chip they are part of the weights."""
    site, order = _norm_site(d, "batch_norm", input, weight, bias, running_mean)
    if site is None:
        return NotImplemented
    weights = _gains(d, weight)
    if running_mean is None or running_var is None or not d.runs("batch_norm", site):
        args = (input, running_mean, running_var, weight, bias, training, momentum, eps)
        return d.host(function, args, {}, operator="batch_norm", site=site, order=order, weights=weights)
    x, gx = d.operand(input, f"{site}:input", d.chip.words.activation)
    out = d.grid(site, d.output_bits(site))
    value = d.begin("batch_norm", site).batch_norm(x, gx, running_mean, running_var, weight, bias, eps, out)
    return d.result(value, "batch_norm", site, out, order, ((x, gx),), weights=weights)


def embedding(
    d: Dispatcher, function: Any, input: Tensor, weight: Tensor, padding_idx: Any = None, *rest: Any, **more: Any
) -> Any:
    """functional.embedding."""
    place = d.names.place(weight)
    if place is None:
        return NotImplemented
    site, order, named = place.site, place.order, d.weight(weight, place)
    renormed = (rest and rest[0] is not None) or more.get("max_norm") is not None
    if renormed or not d.runs("embedding", site):
        args = (input, weight, padding_idx, *rest)
        return d.host(function, args, more, operator="embedding", site=site, order=order, weights=(named,))
    value, grid = d.begin("embedding", site).embedding(input, named)
    if padding_idx is not None and value.requires_grad:  # its row is no parameter to torch, and gets no gradient
        row = padding_idx if padding_idx >= 0 else weight.shape[0] + padding_idx
        value = torch.where((input == row)[..., None], value.detach(), value)
    return d.result(value, "embedding", site, grid, order, (), measured=False, weights=(named,))


def weight_norm(d: Dispatcher, function: Any, v: Tensor, g: Tensor, dim: int = 0) -> Any:
    """torch._weight_norm: its result stands for the weight of the module that it is computed for."""
    return d.names.derive(function(v, g, dim), v)


def _norm_site(d: Dispatcher, operator: str, input: Tensor, *held: Tensor | None) -> tuple[str | None, int]:
    for value in held:
        place = None if value is None else d.names.place(value)
        if place is not None:
            return place.site, place.order
    lead = tag_of(input)
    return (None, -1) if lead is None else (behind(lead, operator), lead.order)


def _gains(d: Dispatcher, weight: Tensor | None) -> tuple[Weight, ...]:
    place = None if weight is None else d.names.place(weight)
    return () if weight is None or place is None else (d.weight(weight, place),)


def _on_chip(value: Tensor) -> bool:
    tag = tag_of(value)
    return tag is not None and tag.grid is not None


def _each(value: Any, sizes: int) -> tuple[int, ...]:
    found = (value,) * sizes if isinstance(value, int) else tuple(int(each) for each in value)
    return found * sizes if len(found) == 1 else found
