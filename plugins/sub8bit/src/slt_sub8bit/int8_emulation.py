"""`compute: int8` while attached: linear layers answer as the finished ones will, and train as if rounding were smooth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from slt_sub8bit.activation_rounding import rounded_rows
from slt_sub8bit.integer_linear import int8_linear
from slt_sub8bit.kernels import Kernel, Place
from slt_sub8bit.packed import is_plain_linear
from slt_sub8bit.packing import on_int8_grid
from slt_sub8bit.scheme import decoded
from sltcore.types import TableWeight


class Int8Emulation:
    """Hooks on the linear layers of `kernels`, which compute in 8-bit integers once finished.

    In evaluation a layer's output is the integer layer's, bit for bit. In training its input is rounded to 8 bits row by
    row, with a straight-through gradient, and its weight to the 8-bit grid of the table as soon as the scheme is hard; a soft
    weight has no table yet.
    """

    def __init__(self, kernels: Sequence[Kernel], table: Callable[[str], TableWeight]) -> None:
        self.names = {kernel.name for kernel in kernels}
        self.table = table
        self.ready: dict[str, TableWeight] = {}
        self.handles: list[RemovableHandle] = []
        for kernel in kernels:
            for place in kernel.places:
                if is_plain_linear(place.module):
                    layer = _Layer(self, kernel.name, place)
                    module = place.module
                    self.handles.append(module.register_forward_pre_hook(layer.before, with_kwargs=True))
                    self.handles.append(module.register_forward_hook(layer.after, with_kwargs=True))

    def on_grid(self, name: str, weight: Tensor) -> Tensor:
        """The kernel's stored values on its 8-bit grid, with the gradient of `weight`, its hard weight."""
        table = on_int8_grid(self.table(name))
        self.ready[name] = table
        return decoded(table) + (weight - weight.detach())

    def grid(self, name: str) -> TableWeight:
        """The 8-bit table that this forward pass stands on."""
        return self.ready.pop(name) if name in self.ready else on_int8_grid(self.table(name))

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.ready.clear()


class _Layer:
    """The hooks of one linear layer."""

    def __init__(self, emulation: Int8Emulation, name: str, place: Place) -> None:
        self.emulation, self.name, self.place = emulation, name, place

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if not module.training:
            return None
        x = args[0] if args else kwargs["input"]
        rounded = rounded_rows(x)
        return ((rounded, *args[1:]), kwargs) if args else (args, {**kwargs, "input": rounded})

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
        if module.training:
            return None
        x = args[0] if args else kwargs["input"]
        with torch.no_grad():
            table = self.emulation.grid(self.name)
            integers = torch.take(table.table, table.indices.long()).to(torch.int8)
            exact = int8_linear(x.detach(), integers, table.scale, module._parameters["bias"])
        return exact.to(output.dtype) + (output - output.detach())
