"""Another tensor in the place of a parameter, for as long as a forward pass reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from slt_sub8bit.kernels import Kernel, Place
from sltcore.table_weights import mark_origin

Value = Callable[[Kernel, Place], Tensor | None]
"""Gives what stands in a kernel's place in this forward pass, or None to leave the parameter."""


class _Spot:
    """One place of one kernel, and which module's forward holds the substitute there at the moment."""

    def __init__(self, kernel: Kernel, place: Place) -> None:
        self.kernel, self.place = kernel, place
        self.holder: nn.Module | None = None

    def put(self, tensor: Tensor) -> None:
        """Hide the parameter behind `tensor`: a name in the instance is found before those of `_parameters`."""
        module, attribute = self.place.module, self.place.attribute
        module.__dict__[attribute] = mark_origin(tensor, module, attribute)
        self._show(tensor)

    def take_back(self) -> None:
        """The parameter, which never left, is seen again."""
        module, attribute = self.place.module, self.place.attribute
        module.__dict__.pop(attribute, None)
        self._show(module._parameters.get(attribute))
        self.holder = None

    def _show(self, tensor: Tensor | None) -> None:
        """An RNN's forward reads a list of its own."""
        module = self.place.module
        if isinstance(module, nn.RNNBase) and tensor is not None:
            flat = module.__dict__["_flat_weights"]
            flat[module._flat_weights_names.index(self.place.attribute)] = tensor


class _Owner:
    """The hooks of one module: the substitutes stand from before its forward until after it, raised errors included."""

    def __init__(self, module: nn.Module, spots: list[_Spot], substitution: Substitution) -> None:
        self.module, self.spots, self.substitution = module, spots, substitution

    def before(self, module: nn.Module, args: Any) -> None:
        for spot in self.spots:
            if spot.holder is None or spot.holder is self.module:
                tensor = self.substitution.tensor(spot)
                if tensor is not None:
                    spot.put(tensor)
                    spot.holder = self.module

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        for spot in self.spots:
            if spot.holder is self.module:
                spot.take_back()


class Substitution:
    """Hooks that put `value(kernel, place)` in the place of every kernel while a module that reads it runs.

    Those are the kernel's own module and the module around it, which may read the weight of a child without calling the
    child (attention does, and so does a head that shares an embedding). The parameter stays where it is for `state_dict`,
    optimizers and `parameters()`; only attribute access during the forward pass finds the substitute. The substitute of a
    tied kernel is computed once for all places that need it at the same time. Hooks are methods of objects that hold their
    modules, so that a deep copy of the model is quantized as the original is.
    """

    def __init__(self, kernels: Sequence[Kernel], value: Value) -> None:
        self.value = value
        self.spots = [_Spot(kernel, place) for kernel in kernels for place in kernel.places]
        self.handles: list[RemovableHandle] = []
        by_owner: dict[int, tuple[nn.Module, list[_Spot]]] = {}
        for spot in self.spots:
            for owner in (spot.place.parent, spot.place.module):
                if owner is not None:
                    by_owner.setdefault(id(owner), (owner, []))[1].append(spot)
        for module, spots in by_owner.values():
            owner_hooks = _Owner(module, spots, self)
            self.handles.append(module.register_forward_pre_hook(owner_hooks.before))
            self.handles.append(module.register_forward_hook(owner_hooks.after, always_call=True))

    def tensor(self, spot: _Spot) -> Tensor | None:
        """What to put at a spot now: what stands at another place of the same kernel already, or a new value."""
        for other in self.spots:
            if other.kernel is spot.kernel and other is not spot and other.holder is not None:
                standing: Tensor = other.place.module.__dict__[other.place.attribute]
                return standing.view_as(standing)
        return self.value(spot.kernel, spot.place)

    def remove(self) -> None:
        """Take the hooks away, and what an interrupted forward pass left standing."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        for spot in self.spots:
            if spot.holder is not None:
                spot.take_back()
