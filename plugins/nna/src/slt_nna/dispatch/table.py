"""Handlers by torch function. What is not here runs on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from slt_nna.dispatch import arrangement, attention, elementwise, recurrent, weighted

Handler = Callable[..., Any]

HANDLERS: Mapping[str, Handler] = {
    "linear": weighted.linear,
    "conv1d": weighted.convolution,
    "conv2d": weighted.convolution,
    "layer_norm": weighted.layer_norm,
    "batch_norm": weighted.batch_norm,
    "embedding": weighted.embedding,
    "_weight_norm": weighted.weight_norm,
    "lstm": recurrent.lstm,
    "gru": recurrent.gru,
    "lstm_cell": recurrent.cell_lstm,
    "gru_cell": recurrent.cell_gru,
    "matmul __matmul__ bmm mm": attention.matmul,
    "addmm baddbmm": attention.matmul_added,
    "softmax": attention.softmax,
    "scaled_dot_product_attention": attention.attention,
    "multi_head_attention_forward": attention.multi_head,
    "add add_ __add__ __radd__ __iadd__": elementwise.add,
    "sub sub_ subtract subtract_ __sub__ __isub__": elementwise.subtract,
    "rsub __rsub__": elementwise.subtract_from,
    "mul mul_ multiply multiply_ __mul__ __rmul__ __imul__": elementwise.multiply,
    "div div_ divide divide_ true_divide true_divide_ __truediv__ __itruediv__": elementwise.divide,
    "neg neg_ negative negative_ __neg__": elementwise.negate,
    "masked_fill masked_fill_": elementwise.masked_fill,
    "where": elementwise.where,
    "relu relu_": elementwise.rectified,
    "relu6": elementwise.rectified_to_six,
    "hardtanh hardtanh_": elementwise.hard_tanh,
    "clamp clamp_ clip clip_ clamp_min clamp_min_": elementwise.clamped,
    "sigmoid sigmoid_": elementwise.sigmoid,
    "tanh tanh_": elementwise.tanh,
    "silu": elementwise.silu,
    "gelu": elementwise.gelu,
    "glu": elementwise.glu,
    "dropout dropout1d dropout2d": elementwise.dropout,
    "pad": arrangement.padded,
    "cat concat concatenate stack": arrangement.concatenated,
    "__setitem__": arrangement.assigned,
    "to float type type_as cpu cuda": arrangement.converted,
    "new_zeros new_ones new_full new_empty new_tensor zeros_like ones_like full_like empty_like rand_like randn_like": (
        arrangement.made
    ),
}
"""By the functions' names in torch, torch.Tensor, torch.nn.functional and torch's inner modules."""

OPERATORS: Mapping[Handler, str] = {
    weighted.linear: "linear",
    weighted.convolution: "convolution",
    weighted.layer_norm: "layer_norm",
    weighted.batch_norm: "batch_norm",
    weighted.embedding: "embedding",
    recurrent.lstm: "lstm",
    recurrent.gru: "gru",
    recurrent.cell_lstm: "lstm",
    recurrent.cell_gru: "gru",
    attention.matmul: "matmul",
    attention.matmul_added: "matmul",
    attention.softmax: "softmax",
    elementwise.add: "add",
    elementwise.subtract: "add",
    elementwise.subtract_from: "add",
    elementwise.multiply: "multiply",
    elementwise.divide: "multiply",
    elementwise.negate: "multiply",
    elementwise.rectified: "relu",
    elementwise.rectified_to_six: "relu",
    elementwise.hard_tanh: "relu",
    elementwise.clamped: "relu",
    elementwise.sigmoid: "lookup",
    elementwise.tanh: "lookup",
    elementwise.silu: "gate",
    elementwise.gelu: "gate",
    elementwise.glu: "gate",
    arrangement.concatenated: "concatenate",
}
"""What the chip calls the operator of a handler; by this name it is told when it runs on the host."""

ARRANGEMENTS = (
    "view reshape view_as reshape_as transpose transpose_ permute movedim moveaxis swapaxes swapdims t squeeze unsqueeze "
    "flatten unflatten expand expand_as broadcast_to repeat repeat_interleave tile chunk split split_with_sizes "
    "tensor_split unbind narrow select index_select gather take_along_dim masked_select __getitem__ roll flip contiguous "
    "clone detach unfold diagonal tril triu atleast_2d atleast_3d max_pool1d max_pool2d _pad_packed_sequence "
    "_pack_padded_sequence squeeze_ unsqueeze_ adjoint"
)
TRANSPOSES = ("T", "mT", "H", "mH", "data")

QUERIES = (
    "dim size stride numel nelement element_size is_contiguous is_floating_point is_complex storage_offset data_ptr "
    "ndimension get_device __len__ __hash__ requires_grad_ register_hook retain_grad backward is_pinned is_nonzero_ "
    "_is_view"
)
ATTRIBUTES = (
    "shape dtype device requires_grad ndim is_cuda is_cpu is_nested is_sparse is_leaf grad_fn layout is_quantized is_mps "
    "is_meta _version output_nr itemsize nbytes is_mkldnn names _base _backward_hooks"
)


@cache
def handlers() -> dict[Any, Handler]:
    """The handler of every function that has one."""
    found: dict[Any, Handler] = {}
    for names, handler in HANDLERS.items():
        for name in names.split():
            for function in _functions(name):
                found[function] = handler
    for name in ARRANGEMENTS.split():
        for function in _functions(name):
            found[function] = arrangement.shape
    for name in TRANSPOSES:
        found[getattr(torch.Tensor, name).__get__] = arrangement.shape
    found[functional.max_pool1d_with_indices] = _host
    return found


@cache
def queries() -> frozenset[Any]:
    """Functions that read no values: they see tensors as they are."""
    found: set[Any] = set()
    for name in QUERIES.split():
        found.update(_functions(name))
    for name in ATTRIBUTES.split():
        attribute = getattr(torch.Tensor, name, None)
        if hasattr(attribute, "__get__"):
            found.add(attribute.__get__)  # type: ignore[union-attr]
    return frozenset(found)


def _host(d: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
    return NotImplemented


def _functions(name: str) -> list[Any]:
    """Every function that torch keeps under a name."""
    places = (torch, torch.Tensor, functional, torch._C._nn, torch._C._VariableFunctions)
    return [each for each in (getattr(place, name, None) for place in places) if callable(each)]
