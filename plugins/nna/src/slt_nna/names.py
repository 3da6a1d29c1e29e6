"""Which parameter a tensor is: by identity, by the mark of a quantizer, or by the module that is running."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, NamedTuple

from sltcore.table_weights import origin_of
from sltcore.types import TableWeight

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

DERIVED = "_nna_parameter"


class Place(NamedTuple):
    """A parameter's or buffer's qualified name, and the place of its module among all of the model."""

    name: str
    order: int

    @property
    def site(self) -> str:
        """The qualified name of what holds it; `<module>:l0` for the kernels of layer 0 of an LSTM, `:l0r` backwards."""
        module, _, own = self.name.rpartition(".")
        for kind in ("weight_ih_l", "weight_hh_l", "weight_hr_l"):
            if own.startswith(kind):
                layer = own.removeprefix(kind).replace("_reverse", "r")
                return f"{module}:l{layer}" if module else f"l{layer}"
        return module or "model"


class _Running(threading.local):
    """What runs in one thread."""

    def __init__(self) -> None:
        self.modules: list[Module] = []


class Names:
    """The parameters and buffers of a model, and of its copies, by name."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[weakref.ref[Tensor], Place]] = {}
        self._modules: dict[int, tuple[weakref.ref[Module], str]] = {}
        self._orders: dict[str, int] = {}
        self._roots: list[tuple[weakref.ref[Module], str]] = []
        self._running = _Running()

    @property
    def running(self) -> list[Module]:
        """The modules that run in this thread, the innermost last."""
        return self._running.modules

    def learn(self, model: Module, prefix: str = "") -> None:
        """Take up all modules, parameters and buffers of a model, of a copy of it, or of a part of one, whose qualified
        name is `prefix`."""
        if all(ref() is not model for ref, _ in self._roots):
            self._roots = [*(each for each in self._roots if each[0]() is not None), (weakref.ref(model), prefix)]
        for name, module in model.named_modules(prefix=prefix):
            self._modules[id(module)] = (weakref.ref(module), name)
            self._orders.setdefault(name, len(self._orders))
        for name, value in [*model.named_parameters(prefix), *model.named_buffers(prefix)]:
            self._places[id(value)] = (weakref.ref(value), self._named(name))

    def knows(self, module: Module) -> bool:
        """Whether a module belongs to a model that was taken up."""
        found = self._modules.get(id(module))
        return found is not None and found[0]() is module

    def place(self, value: Tensor) -> Place | None:
        """Which parameter or buffer a tensor is or stands for, or None."""
        found = self._places.get(id(value))
        if found is not None and found[0]() is value:
            return found[1]
        origin = origin_of(value)
        if origin is not None:
            return self._of_module(*origin)
        derived: str | None = getattr(value, DERIVED, None)
        if derived is not None:
            return self._named(derived)
        return self._of_running(value)

    def derive(self, value: Tensor, source: Tensor) -> Tensor:
        """Let a tensor computed from a parameter (weight norm) stand for the weight of the parameter's module."""
        place = self.place(source)
        if place is not None:
            before, parametrized, _ = place.name.partition(".parametrizations.")
            full = f"{before if parametrized else place.name.rpartition('.')[0]}.weight".removeprefix(".")
            setattr(value, DERIVED, full)
        return value

    def _named(self, name: str) -> Place:
        """The order is that of the module: it stays when a quantizer packs its parameters away."""
        return Place(name, self._orders.get(name.rpartition(".")[0], -1))

    def _of_module(self, module: Module, own: str) -> Place | None:
        if not self.knows(module):
            for ref, prefix in list(self._roots):  # modules may have been put in place of others since
                root = ref()
                if root is not None:
                    self.learn(root, prefix)
        found = self._modules.get(id(module))
        if found is None or found[0]() is not module:
            return None
        name = f"{found[1]}.{own}" if found[1] else own
        return self._named(name)

    def _of_running(self, value: Tensor) -> Place | None:
        """Parameters that were put in place of others (functional_call, averaged weights)."""
        if not self.running:
            return None
        module = self.running[-1]
        for held in (module._parameters, module._buffers):
            for own in held:
                if getattr(module, own, None) is value:
                    return self._of_module(module, own)
        return None


def rows(table: TableWeight | None, start: int, stop: int) -> TableWeight | None:
    """The codebook of some rows of a weight."""
    if table is None:
        return None
    scale = table.scale
    if scale.ndim and scale.shape[0] == table.indices.shape[0] > 1:
        scale = scale[start:stop]
    return TableWeight(table.indices[start:stop], table.table, scale)
