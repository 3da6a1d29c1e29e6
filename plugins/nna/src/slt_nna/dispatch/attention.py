"""Matrix products of activations, softmax, and attention out of both."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from slt_nna.backend import Weight
from slt_nna.dispatch.dispatcher import Dispatcher
from slt_nna.dispatch.elementwise import dropout, operand
from slt_nna.dispatch.weighted import placed_linear
from slt_nna.names import rows
from slt_nna.tags import Tag, behind, put, tag_of


def matmul(d: Dispatcher, function: Any, input: Any, other: Any = None, *, mat2: Any = None) -> Any:
    """matmul, bmm, mm; the latter two call their second operand `mat2`."""
    return product(d, input, mat2 if other is None else other)


def product(
    d: Dispatcher, a: Any, b: Any, *, factor: float = 1.0, name: str = "matmul", float_too: bool = False
) -> Any:
    """A matrix product times a number; `float_too` computes it on the host when it has no place on the chip."""
    lead = d.lead((a, b))
    tensors = isinstance(a, Tensor) and isinstance(b, Tensor) and a.is_floating_point() and b.is_floating_point()
    vectors = tensors and (a.ndim < 2 or b.ndim < 2)
    if lead is None or not tensors or vectors or not (_on_chip(a) or _on_chip(b)):
        return _float_product(d, a, b, factor) if float_too else NotImplemented
    site = behind(lead, name)
    if not d.runs("matmul", site):
        result = d.host(torch.matmul, (a, b), {}, operator="matmul", site=site)
        return result if factor == 1.0 else put(result * factor, Tag(site, None, lead.order))
    backend = d.begin("matmul", site)
    (left, ga), (right, gb) = operand(d, a, site, 0), operand(d, b, site, 1)
    out = d.grid(site, d.chip.words.activation)
    backend.operator, backend.site = "matmul", site
    value = backend.matmul(left, ga, right, gb, out, factor=factor)
    return d.result(value, "matmul", site, out, lead.order, ((left, ga), (right, gb)))


def _float_product(d: Dispatcher, a: Tensor, b: Tensor, factor: float) -> Tensor:
    result: Tensor = d.host(torch.matmul, (a, b), {}, operator="matmul")
    return result if factor == 1.0 else result * factor


def matmul_added(d: Dispatcher, function: Any, input: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """addmm, baddbmm: beta * input + alpha * a @ b."""
    if beta != 1 or not (_on_chip(a) or _on_chip(b)):
        return NotImplemented
    return d.run(torch.add, input, product(d, a, b, factor=float(alpha)))


def softmax(
    d: Dispatcher, function: Any, input: Tensor, dim: int | None = None, *rest: Any, dtype: Any = None, **more: Any
) -> Any:
    """softmax along any axis."""
    tag = tag_of(input)
    kinds = [each for each in (*rest, dtype) if isinstance(each, torch.dtype)]
    if tag is None or tag.grid is None or dim is None or any(each != torch.float32 for each in kinds):
        return NotImplemented
    site = behind(tag, "softmax")
    if d.chip.tables.exp is None or not d.runs("softmax", site):
        return d.host(torch.softmax, (input, dim), {}, operator="softmax", site=site)
    value, grid = d.begin("softmax", site).softmax(input, tag.grid, dim)
    return d.result(value, "softmax", site, grid, tag.order, ((input, tag.grid),), measured=False)


def attention(
    d: Dispatcher,
    function: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """functional.scaled_dot_product_attention, as product, mask, softmax, product."""
    if not any(_on_chip(each) for each in (query, key, value)) or not query.is_floating_point():
        return NotImplemented
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key = d.run(torch.Tensor.repeat_interleave, key, groups, -3)
        value = d.run(torch.Tensor.repeat_interleave, value, groups, -3)
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    mixed, _ = _attend(d, query, key, value, attn_mask, factor, dropout_p=dropout_p, causal=is_causal)
    return mixed


def _attend(
    d: Dispatcher,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    factor: float,
    *,
    dropout_p: float,
    causal: bool = False,
) -> tuple[Tensor, Tensor]:
    scores = product(d, query, d.run(torch.Tensor.transpose, key, -2, -1), factor=factor, name="scores", float_too=True)
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = d.run(torch.Tensor.masked_fill, scores, ~seen, -math.inf)
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = d.run(torch.Tensor.masked_fill, scores, ~mask, -math.inf)
        else:
            scores = d.run(torch.add, scores, mask)
    weights = d.run(torch.softmax, scores, -1)
    if dropout_p:
        weights = _dropped(d, weights, dropout_p)
    return product(d, weights, value, float_too=True), weights


def _dropped(d: Dispatcher, weights: Tensor, p: float) -> Tensor:
    result = dropout(d, functional.dropout, weights, p, True)
    dropped: Tensor = d.host(functional.dropout, (weights, p, True), {}) if result is NotImplemented else result
    return dropped


def multi_head(
    d: Dispatcher,
    function: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    """functional.multi_head_attention_forward as its three projections, attention, and the output projection."""
    kernels = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else (in_proj_weight,)
    odd = bias_k is not None or bias_v is not None or add_zero_attn or static_k is not None or static_v is not None
    if odd or any(each is None or d.names.place(each) is None for each in (*kernels, out_proj_weight)):
        return NotImplemented
    single = query.ndim == 2
    if single:
        query, key, value = (d.run(torch.unsqueeze, each, 1) for each in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    heads = []
    for index, x in enumerate((query, key, value)):
        weight, bias, site, order = _projection(d, kernels, in_proj_bias, index, embed_dim_to_check)
        y = placed_linear(d, x, weight, bias, site, order)
        y = d.run(torch.Tensor.unflatten, y, -1, (num_heads, -1))
        heads.append(d.run(torch.Tensor.permute, y, 1, 2, 0, 3))
    mask = _merged(attn_mask, key_padding_mask, num_heads)
    factor = 1.0 / math.sqrt(embed_dim_to_check // num_heads)
    q, k, v = heads
    mixed, weights = _attend(d, q, k, v, mask, factor, dropout_p=dropout_p if training else 0.0)
    mixed = d.run(torch.Tensor.flatten, d.run(torch.Tensor.permute, mixed, 2, 0, 1, 3), 2)
    place = d.names.place(out_proj_weight)
    assert place is not None
    out = placed_linear(d, mixed, d.weight(out_proj_weight, place), out_proj_bias, place.site, place.order)
    shown = _shown(d, weights, average_attn_weights) if need_weights else None
    if single:
        return d.run(torch.squeeze, out, 1), None if shown is None else shown.squeeze(0)
    return out, shown


def _projection(
    d: Dispatcher, kernels: tuple[Tensor | None, ...], bias: Tensor | None, index: int, width: int
) -> tuple[Weight, Tensor | None, str, int]:
    """Weight, bias, site and order of the projection of queries, keys or values."""
    kernel = kernels[index] if len(kernels) == 3 else kernels[0]
    assert kernel is not None
    place = d.names.place(kernel)
    assert place is not None
    weight = d.weight(kernel, place)
    start, stop = index * width, (index + 1) * width
    if len(kernels) == 1:
        weight = Weight(f"{place.name}:{'qkv'[index]}", kernel[start:stop], rows(weight.table, start, stop))
    return weight, None if bias is None else bias[start:stop], f"{place.site}:{'qkv'[index]}", place.order


def _merged(mask: Tensor | None, padding: Tensor | None, heads: int) -> Tensor | None:
    """One mask for scores [b h q k]: true where a key is seen, or numbers to add."""
    found = None if mask is None else _seen(mask)
    if found is not None and found.ndim == 3:
        found = found.view(-1, heads, *found.shape[1:])
    if padding is None:
        return found
    keys = _seen(padding)[:, None, None, :]
    if found is None:
        return keys
    if found.dtype == keys.dtype == torch.bool:
        return found & keys
    return _numbers(found) + _numbers(keys)


def _seen(mask: Tensor) -> Tensor:
    return ~mask if mask.dtype == torch.bool else mask


def _numbers(mask: Tensor) -> Tensor:
    return (
        torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else mask
    )


def _shown(d: Dispatcher, weights: Tensor, average: bool) -> Tensor:
    """The attention weights that the module returns beside its output, in float."""
    tag = tag_of(weights)
    shown = weights if tag is None or tag.grid is None else d.backend.leave(weights, tag.grid)
    result: Tensor = shown.mean(1) if average else shown * 1.0
    return result


def _on_chip(value: Any) -> bool:
    tag = tag_of(value)
    return tag is not None and tag.grid is not None
