"""Finished modules: they hold packed weights in the place of parameters, and compute from them.

A module stays the object it was and becomes an instance of a subclass of its class. Plain linear layers compute from the
codes; an embedding decodes the rows it is asked for; every other module finds the decoded weight where its parameter was,
for as long as its forward runs. Whoever reads the attribute gets a freshly decoded tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, float32, get_num_threads, is_grad_enabled, nn
from torch._C import _get_tracing_state as tracing_state
from torch._C import _len_torch_dispatch_stack as dispatch_modes
from torch._C import _len_torch_function_stack as function_modes
from torch._C._functorch import peek_interpreter_stack as transforms
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook as has_global_hook
from torch.utils._python_dispatch import _disable_current_modes

from slt_sub8bit import lookup_kernels
from slt_sub8bit.integer_linear import int8_linear, int8_rows
from slt_sub8bit.kernels import Kernel
from slt_sub8bit.lookup_kernels import linear, room
from slt_sub8bit.packing import PARTS, PackedWeight
from sltcore.errors import PluginError
from sltcore.table_weights import mark_origin, offer_table
from sltcore.types import TableWeight

__all__ = [
    "Compute",
    "Packed",
    "computes_int8",
    "int8_linear",
    "int8_rows",
    "pack_model",
    "packed_state",
    "packed_weights",
    "restore_packed",
]

Compute = Literal["float", "int8"]
HELD = "_slt_packed"
KNOWN = "_slt_known"


def _empty(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(shape, stride, dtype=dtype)


empty = getattr(getattr(torch._C._dynamo, "guards", None), "_empty_strided_cpu", _empty)  # past torch's dispatcher


class Packed(nn.Module):
    """What every packed module can do, whatever class it was of."""

    _slt_packed: dict[str, tuple[str, PackedWeight]]
    """For each attribute the kernel's name in the model, and its packed weight."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        probe = fn(torch.empty(0, dtype=float32, device="cpu"))
        if probe.dtype != torch.float32 or probe.device.type != "cpu":
            names = ", ".join(name for name, _ in self._slt_packed.values())
            raise PluginError(
                f"packed {names} cannot become {probe.dtype} on {probe.device}: packed weights compute in float32 on the CPU; "
                "convert the model before it is finished"
            )
        done = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for attribute, (_, packed) in self._slt_packed.items():
            packed.moved()
            _hold_buffers(self, attribute, packed)
        return done

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        kind: Any = type(self)
        return _blank, (kind._slt_plain, tuple(self._slt_packed)), self.__getstate__()

    def _decoded(self, attribute: str) -> Tensor:
        """The weight as a tensor of its own, which says whose it is."""
        packed = self._slt_packed[attribute][1]
        with temporarily_clear_interpreter_stack(), _disable_current_modes():  # to all who watch it is a constant
            weight = lookup_kernels.decoded(packed)
        return mark_origin(weight, self, attribute)

    @contextmanager
    def _weights_in_place(self) -> Iterator[None]:
        """Decoded weights stand where the parameters were, each decoded once."""
        for attribute in self._slt_packed:
            self.__dict__[attribute] = self._decoded(attribute)
        try:
            yield
        finally:
            for attribute in self._slt_packed:
                self.__dict__.pop(attribute, None)


class _DecodedOnRead:
    """The attribute of a packed weight: reading it decodes, unless a decoded tensor stands in the module at the moment."""

    def __init__(self, attribute: str) -> None:
        self.attribute = attribute

    def __get__(self, module: Any, owner: type) -> Any:
        return self if module is None else module._decoded(self.attribute)


class _Other(Packed):
    """A module whose own forward runs on decoded weights."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        with self._weights_in_place():
            return super().forward(*inputs, **named)


class _Linear(Packed):
    """A linear layer that computes from its codes."""

    def forward(self, input: Tensor) -> Tensor:
        packed: PackedWeight = self.__dict__[HELD]["weight"][1]
        bias: Tensor | None = self.bias  # type: ignore[assignment]
        if _is_watched() or (type(input) is not Tensor and type(input) is not nn.Parameter):
            return F.linear(input, self._decoded("weight"), bias)
        if is_grad_enabled() and (input.requires_grad or (bias is not None and bias.requires_grad)):
            return _differentiable(input, packed, bias)
        y = linear(packed, input, bias)
        if (
            (layer := packed.layer) is not None
            and self._parameters.get("bias", self) is bias  # which is no parameter where it is computed
            and (bias is None or (bias.dtype is float32 and bias.is_contiguous()))
        ):
            self.__dict__[KNOWN] = _Known(layer, packed.codes, bias)
        return y


class _Known:
    """How a linear layer computes activations of shapes that came before; a copy of the module finds its own."""

    __slots__ = ("bias", "bias_at", "codes", "codes_at", "held", "shapes")

    def __init__(self, layer: Any, codes: Tensor, bias: Tensor | None) -> None:
        self.shapes, self.bias, self.codes, self.codes_at = layer.shapes, bias, codes, layer.codes_at
        self.held = None if bias is None else bias.detach()  # nothing else can come to lie where it did
        self.bias_at = 0 if bias is None else bias.data_ptr()

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def _call(self: nn.Module, *inputs: Any, **named: Any) -> Any:
    """`nn.Module.__call__`, which activations of a shape that came before need not pass through, where nobody hooks, wraps,
    follows or compiles the module.

    Streaming comes here for every layer and step, while the weights that pass have put Python's own memory out of the
    caches: each object that is looked at costs as much as thousands of weights.
    """
    own = self.__dict__
    known = own[KNOWN]
    if (
        known is not None
        and len(inputs) == 1
        and type(x := inputs[0]) is Tensor
        and (found := known.shapes.get(x.shape)) is not None
        and not (
            named
            or own["_forward_hooks"]
            or own["_forward_pre_hooks"]
            or own["_backward_hooks"]
            or own["_backward_pre_hooks"]
            or "forward" in own
            or "_compiled_call_impl" in own
            or has_global_hook()
            or function_modes()  # `_is_watched` without `transforms`, which costs as much as all others
            or dispatch_modes()
            or forward_ad._current_level >= 0
            or tracing_state() is not None
            or is_compiling()
        )
        and x.dtype is float32
        and x.is_cpu
        and (bias := own["_parameters"].get("bias", own)) is known.bias
        and (bias_at := 0 if bias is None else bias.data_ptr()) == known.bias_at
        and known.codes.data_ptr() == known.codes_at
        and not (is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)))
    ):
        shape, stride, call, steps, size, is_long = found
        if not is_long or get_num_threads() == 1:
            if not x.is_contiguous():
                x = x.contiguous()
            try:
                x_at = x.data_ptr()
            except RuntimeError:  # what torch.func wraps has no memory
                x_at = 0
            if x_at:
                y: Tensor = empty(shape, stride, float32)
                call(bias_at, x_at, y.data_ptr(), steps, size and room(size))
                return y
    return nn.Module.__call__(self, *inputs, **named)


class _Embedding(Packed):
    """An embedding that decodes the rows it is asked for."""

    def forward(self, input: Tensor) -> Tensor:
        if _is_watched() or type(input) is not Tensor or self.max_norm is not None:
            with self._weights_in_place():
                found: Tensor = super().forward(input)
            return found
        return lookup_kernels.decoded_rows(self._slt_packed["weight"][1], input)


class _Recurrent(_Other):
    """An LSTM, GRU or RNN, which reads its weights from a list of its own."""

    _flat_weights_names: list[str]

    @contextmanager
    def _weights_in_place(self) -> Iterator[None]:
        with super()._weights_in_place():
            self.__dict__["_flat_weights"] = [getattr(self, name) for name in self._flat_weights_names]
            try:
                yield
            finally:
                self._init_flat_weights()

    def _init_flat_weights(self) -> None:
        """Keep neither the weights nor references by which torch would look for changed ones."""
        self.__dict__.pop("_flat_weights", None)
        self.__dict__["_flat_weight_refs"] = [None] * len(self._flat_weights_names)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._init_flat_weights()


class _FlatWeightsOnRead:
    """The list of a recurrent module's weights: reading it decodes them all, outside of forward."""

    def __get__(self, module: Any, owner: type) -> Any:
        return self if module is None else [getattr(module, name) for name in module._flat_weights_names]


class _Attention(_Other):
    """Attention, which reads the weight of its output projection, a module of its own, too."""

    @contextmanager
    def _weights_in_place(self) -> Iterator[None]:
        with super()._weights_in_place():
            output = self.out_proj
            if not isinstance(output, Packed):
                yield
                return
            with output._weights_in_place():
                yield


def computes_int8(kernel: Kernel, compute: Compute) -> bool:
    """Whether the kernel's layer computes in 8-bit integers once finished: only plain linear layers do."""
    return compute == "int8" and any(is_plain_linear(place.module) for place in kernel.places)


def is_plain_linear(module: nn.Module) -> bool:
    """Whether the module is a linear layer whose own forward runs, and is torch's."""
    if not isinstance(module, nn.Linear) or isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return False
    return type(module).forward in (nn.Linear.forward, _Linear.forward)


def pack_model(
    model: nn.Module, kernels: Sequence[Kernel], tables: Mapping[str, TableWeight], compute: Compute = "float"
) -> None:
    """Put packed weights in the places of `kernels`, for good; `tables` are by kernel name."""
    packed = {k.name: PackedWeight.of(tables[k.name], int8=computes_int8(k, compute)) for k in kernels}
    _place(model, kernels, packed)


def restore_packed(
    model: nn.Module, kernels: Sequence[Kernel], state: Mapping[str, Tensor], compute: Compute = "float"
) -> None:
    """Put the packed weights of `packed_state` in the places of `kernels`. **Raises** `PluginError` for a state that does
    not fit them, before the model is changed."""
    packed = {k.name: PackedWeight.restored(state, k.name, k.shape, int8=computes_int8(k, compute)) for k in kernels}
    _place(model, kernels, packed)
    lookup_kernels.return_memory()


def packed_weights(model: nn.Module) -> dict[str, PackedWeight]:
    """The packed weights of a model by kernel name, tied ones once."""
    return {name: packed for module in model.modules() for name, packed in module.__dict__.get(HELD, {}).values()}


def packed_state(model: nn.Module) -> dict[str, Tensor]:
    """Codes, tables and scales by name; `restore_packed` takes them."""
    return {key: value for name, packed in packed_weights(model).items() for key, value in packed.state(name).items()}


def _place(model: nn.Module, kernels: Sequence[Kernel], packed: Mapping[str, PackedWeight]) -> None:
    for kernel in kernels:
        for place in kernel.places:
            _give(place.module, place.attribute, kernel.name, packed[kernel.name])
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and packed_weights(module):
            module.register_forward_pre_hook(_nothing)  # or torch's fused layer would run on decoded weights


def _nothing(module: nn.Module, inputs: Any) -> None:
    """A hook that does nothing; a module with a hook runs its own forward."""


def _give(module: nn.Module, attribute: str, name: str, packed: PackedWeight) -> None:
    """Take a parameter out of a module, and put a packed weight in its place."""
    module._parameters.pop(attribute, None)
    module.__dict__.setdefault(HELD, {})[attribute] = (name, packed)
    module.__dict__[KNOWN] = None
    kind = type(module)
    plain: type[nn.Module] = getattr(kind, "_slt_plain", kind)
    module.__class__ = packed_class(plain, tuple(module.__dict__[HELD]))  # type: ignore[arg-type]
    _hold_buffers(module, attribute, packed)
    if isinstance(module, _Recurrent):
        module._init_flat_weights()
    offer_table(module, attribute, packed.table_weight)


def _hold_buffers(module: nn.Module, attribute: str, packed: PackedWeight) -> None:
    """Codes, table and scale as buffers that `state_dict` leaves out: the transform's own state holds them."""
    for part in PARTS:
        module.register_buffer(f"{attribute}_{part}", None, persistent=False)
        module._buffers[f"{attribute}_{part}"] = getattr(packed, part)


@cache
def packed_class(kind: type[nn.Module], attributes: tuple[str, ...]) -> type[nn.Module]:
    """The packed form of a module class, with these attributes packed."""
    base: type[Packed] = _Other
    content: dict[str, Any] = {attribute: _DecodedOnRead(attribute) for attribute in attributes}
    if issubclass(kind, nn.RNNBase):
        base = _Recurrent
        content["_flat_weights"] = _FlatWeightsOnRead()
    elif issubclass(kind, nn.MultiheadAttention):
        base = _Attention
    elif issubclass(kind, nn.Linear) and kind.forward is nn.Linear.forward:
        base = _Linear
        if kind.__call__ is nn.Module.__call__:
            content["__call__"] = _call
    elif issubclass(kind, nn.Embedding) and kind.forward is nn.Embedding.forward:
        base = _Embedding
    content |= {"_slt_plain": kind, "__module__": __name__, "__qualname__": f"Packed{kind.__name__}"}
    return type(f"Packed{kind.__name__}", (base, kind), content)


def _blank(kind: Any, attributes: tuple[str, ...]) -> nn.Module:
    """A packed module without content, for unpickling."""
    packed = packed_class(kind, attributes)
    return packed.__new__(packed)


def _is_watched() -> object:
    """Whether somebody follows the operations: an emulated accelerator, an export, a compiler, forward derivatives."""
    return (
        function_modes()
        or dispatch_modes()
        or transforms() is not None
        or forward_ad._current_level >= 0
        or tracing_state() is not None
        or is_compiling()
    )


class _IntegerLinear(torch.autograd.Function):
    """The integer layer, with the gradients of the float layer of the same weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, packed: PackedWeight) -> Tensor:
        ctx.packed = packed
        return linear(packed, x, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        wanted = grad @ lookup_kernels.decoded(ctx.packed) if ctx.needs_input_grad[0] else None
        bias = grad.reshape(-1, grad.shape[-1]).sum(0) if ctx.needs_input_grad[1] else None
        return wanted, bias, None


def _differentiable(x: Tensor, packed: PackedWeight, bias: Tensor | None) -> Tensor:
    single, added = x.to(float32), None if bias is None else bias.to(float32)
    if packed.int8:
        y: Tensor = _IntegerLinear.apply(single, added, packed)  # type: ignore[no-untyped-call]
        return y.to(x.dtype)
    return F.linear(single, lookup_kernels.decoded(packed), added).to(x.dtype)
