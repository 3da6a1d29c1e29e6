"""Layers whose backward pass leaves a gradient of the weights for each row of the batch in place of their sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from slt_pate.dp_sgd import kernels

Sink = Callable[[Tensor, Callable[..., Tensor]], None]
"""Takes a parameter and a function that gives its gradients [b ...] by row, into the tensor `out` where it is given one."""


class RowsDiffer(Exception):
    """A layer was called with another number of rows than the group has."""


def has_rule(module: nn.Module) -> bool:
    """Whether the gradients of this layer's own parameters can be told apart by row."""
    if isinstance(module, _ConvNd):
        return module.padding_mode == "zeros" and not module.transposed and not isinstance(module.padding, str)
    if isinstance(module, nn.Embedding):
        return module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
    return type(module) in (nn.Linear, nn.LayerNorm)


def uncovered(module: nn.Module) -> list[str]:
    """Names of trained parameters that stand in a layer without a rule."""
    return [
        f"{name}.{own}".lstrip(".")
        for name, child in module.named_modules()
        for own, parameter in child.named_parameters(recurse=False)
        if parameter.requires_grad and not has_rule(child)
    ]


@contextmanager
def rows_apart(module: nn.Module, rows: int, sink: Sink) -> Iterator[None]:
    """While it is entered, layers of `module` with trained parameters give gradients by row to `sink`.

    **Raises** `RowsDiffer` within, from a backward pass, where a layer's first axis has not `rows` entries.
    """
    changed = [
        child
        for child in module.modules()
        if has_rule(child)
        and "forward" not in child.__dict__
        and any(one.requires_grad for one in child.parameters(recurse=False))
    ]
    for child in changed:
        child.forward = partial(_forward, child, rows, sink)
    try:
        yield
    finally:
        for child in changed:
            del child.forward


def _forward(module: Any, rows: int, sink: Sink, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return type(module).forward(module, x)  # type: ignore[no-any-return]
    function: Any = _Embedding if isinstance(module, nn.Embedding) else _Convolution
    function = {nn.Linear: _Linear, nn.LayerNorm: _LayerNorm}.get(type(module), function)
    if x.dim() == 0 or x.shape[0] != rows:
        raise RowsDiffer
    bias = getattr(module, "bias", None)
    found: Tensor = function.apply(x, module.weight, bias, module, sink)
    return found


def _give(sink: Sink, parameter: Tensor | None, gradient: Callable[..., Tensor]) -> None:
    if parameter is not None and parameter.requires_grad:
        sink(parameter, gradient)


def _flat(x: Tensor) -> Tensor:
    """[b ... d] as [b n d]."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, module: Any, sink: Sink) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias, ctx.sink = bias, sink
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        g = _flat(gradient)
        _give(ctx.sink, weight, lambda out=None: torch.bmm(g.transpose(1, 2), _flat(x), out=out))
        _give(ctx.sink, ctx.bias, lambda out=None: torch.sum(g, 1, out=out))
        return gradient @ weight if ctx.needs_input_grad[0] else None, None, None, None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, module: Any, sink: Sink) -> Tensor:
        out, mean, rstd = torch.native_layer_norm(x, module.normalized_shape, weight, bias, module.eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.bias, ctx.sink, ctx.shape = bias, sink, module.normalized_shape
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, mean, rstd = ctx.saved_tensors
        (gradient,) = gradients
        between = tuple(range(1, x.dim() - len(ctx.shape)))
        _give(ctx.sink, weight, lambda out=None: _of_norm(x, mean, rstd, gradient, between))
        _give(ctx.sink, ctx.bias, lambda out=None: _sum(gradient, between))
        wanted = None
        if ctx.needs_input_grad[0]:
            mask = [True, False, False]
            wanted = torch.ops.aten.native_layer_norm_backward(
                gradient, x, ctx.shape, mean, rstd, weight, ctx.bias, mask
            )[0]
        return wanted, None, None, None, None


def _of_norm(x: Tensor, mean: Tensor, rstd: Tensor, gradient: Tensor, axes: Sequence[int]) -> Tensor:
    """sum over axes of gradient (x - mean) rstd."""
    parts = (x, mean, rstd, gradient)
    if (
        any(part.device.type != "cpu" or part.dtype != torch.float32 or part.dim() != 3 for part in parts)
        or len(axes) != 1
    ):
        return _sum((x - mean).mul_(rstd).mul_(gradient), axes)
    out = torch.empty(x.shape[0], x.shape[2])
    x, gradient = x.detach().contiguous(), gradient.contiguous()
    kernels.of_norm(x.numpy(), mean[..., 0].numpy(), rstd[..., 0].numpy(), gradient.numpy(), out.numpy())
    return out


def _sum(x: Tensor, axes: Sequence[int]) -> Tensor:
    return x.sum(tuple(axes)) if axes else x


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, module: Any, sink: Sink) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias, ctx.sink = bias, sink
        ctx.terms = (module.stride, module.padding, module.dilation)
        ctx.groups = module.groups
        zeros = [0] * len(module.stride)
        stride, padding, dilation = ctx.terms
        return torch.convolution(x, weight, bias, stride, padding, dilation, False, zeros, module.groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        rows, zeros = x.shape[0], [0] * len(ctx.terms[0])

        def of_weight(out: Tensor | None = None) -> Tensor:
            # Rows become groups of one convolution, whose weights then have a gradient for each row.
            wide = weight.expand(rows, *weight.shape).flatten(0, 1)
            found = torch.ops.aten.convolution_backward(
                gradient.reshape(1, -1, *gradient.shape[2:]),
                x.reshape(1, -1, *x.shape[2:]),
                wide,
                None,
                *ctx.terms,
                False,
                zeros,
                ctx.groups * rows,
                [False, True, False],
            )[1]
            return found.view(rows, *weight.shape)  # type: ignore[no-any-return]

        _give(ctx.sink, weight, of_weight)
        _give(ctx.sink, ctx.bias, lambda out=None: gradient.flatten(2).sum(2))
        wanted = None
        if ctx.needs_input_grad[0]:
            mask = [True, False, False]
            wanted = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, *ctx.terms, False, zeros, ctx.groups, mask
            )[0]
        return wanted, None, None, None, None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: None, module: Any, sink: Sink) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.sink, ctx.padding = sink, module.padding_idx
        return functional.embedding(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        rows, size = x.shape[0], weight.shape[0]

        def of_weight(out: Tensor | None = None) -> Tensor:
            places = x.reshape(rows, -1) + size * torch.arange(rows, device=x.device)[:, None]
            found: Tensor = gradient.new_zeros(rows * size, weight.shape[1])
            found.index_add_(0, places.flatten(), gradient.reshape(-1, weight.shape[1]))
            found = found.view(rows, *weight.shape)
            if ctx.padding is not None:
                found[:, ctx.padding] = 0
            return found

        _give(ctx.sink, weight, of_weight)
        return None, None, None, None, None
