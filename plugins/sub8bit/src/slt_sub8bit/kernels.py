"""Weight sites: where a model keeps the kernels that may be quantized, and what is left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from sltcore.errors import PluginError, did_you_mean

WHOLE_WEIGHT = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)
ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
GATES: Mapping[type[nn.Module], int] = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}


@dataclass(frozen=True, eq=False)
class Place:
    """One module that holds a kernel as its parameter `attribute`.

    `path` is the module's name in the model ("" for the model itself); `parent` the module around it, whose forward may
    read the weight of its child directly, as attention does with its projections.
    """

    path: str
    module: nn.Module
    attribute: str
    parent: nn.Module | None = None

    @property
    def name(self) -> str:
        """The parameter's name in the model."""
        return f"{self.path}.{self.attribute}" if self.path else self.attribute


@dataclass(frozen=True, eq=False)
class Kernel:
    """One parameter to quantize, at every place that holds it: tied weights are one kernel with several places.

    `name` is that of the first place; `shape` is kept, for the parameter is gone once the model is finished. `gates` is
    how many equal blocks of rows do different work: 4 in an LSTM, 3 in a GRU or a fused attention projection, else 1.
    """

    places: tuple[Place, ...]
    shape: tuple[int, ...]
    gates: int = 1

    @property
    def name(self) -> str:
        """The parameter's name at its first place."""
        return self.places[0].name

    @property
    def module(self) -> nn.Module:
        """The module of the first place."""
        return self.places[0].module

    @property
    def attribute(self) -> str:
        """The parameter's name within `module`."""
        return self.places[0].attribute

    @property
    def parameter(self) -> nn.Parameter:
        """The float parameter, while the model has it."""
        found = self.module._parameters[self.attribute]
        if found is None:
            raise PluginError(f"{self.name} has no float weight any more; it was taken out of the model")
        return found

    @property
    def rows(self) -> int:
        """Rows of the kernel as a matrix [rows columns]."""
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Columns of the kernel as a matrix [rows columns]: all further axes together."""
        return self.numel // self.rows

    @property
    def numel(self) -> int:
        """Number of weights."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    def matches(self, pattern: str) -> bool:
        """Whether the pattern names one of its places, or a module around one."""
        return any(_names(place.name, pattern) for place in self.places)


class Found(NamedTuple):
    """The kernels of a model, and the modules that keep a float matrix of their own."""

    kernels: tuple[Kernel, ...]
    untouched: tuple[str, ...]


def find_kernels(model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Found:
    """The kernels of `model` that patterns choose.

    Known are the weights of Linear, Conv1d, Conv2d, Embedding, `transformers`' Conv1D, the input, recurrent and projection
    kernels of LSTM, GRU, RNN and their cells, and attention's projections. Any other float parameter of two or more axes
    is taken when the last part of a pattern of `include` names it without wildcards. A pattern is compared with the
    parameter's name and with the modules around it: `encoder`, `encoder.*`, `*.weight_hh_l0`.

    **Raises** `PluginError` for a pattern that matches nothing, and when nothing is left.
    """
    known = _kernels(model)
    for what, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            refuse_idle(pattern, [kernel for kernel, _ in known], what)
    chosen = [
        kernel
        for kernel, is_known in known
        if _included(kernel, include, is_known=is_known) and not any(kernel.matches(p) for p in exclude)
    ]
    if not chosen:
        raise PluginError(
            f"nothing to quantize in {type(model).__name__}: include {list(include) or 'everything'}, exclude "
            f"{list(exclude)}; its matrices are: {_listed([kernel for kernel, _ in known])}"
        )
    return Found(tuple(chosen), untouched(model, chosen))


def untouched(model: nn.Module, quantized: Sequence[Kernel]) -> tuple[str, ...]:
    """Names of modules with an own float parameter of two or more axes that is no kernel of `quantized`."""
    return tuple(left_alone(model, quantized))


def left_alone(model: nn.Module, quantized: Sequence[Kernel]) -> dict[str, str]:
    """Why each module of `untouched` keeps a float matrix, by its name."""
    taken = {(id(place.module), place.attribute) for kernel in quantized for place in kernel.places}
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and _is_matrix(parameter) and (id(module), name) not in taken:
                found.setdefault(path, _why(Place(path, module, name)))
    return found


def _why(place: Place) -> str:
    """Why nobody quantizes a float matrix."""
    module, own = place.module, place.attribute
    if isinstance(module, ParametrizationList):
        makers = ", ".join(type(each).__name__.strip("_") for each in module)
        return f"{makers} makes its weight anew in each call; remove_parametrizations makes it a plain one"
    if {f"{own[:-2]}_g", f"{own[:-2]}_v"} <= set(module._parameters):
        return "weight_norm makes its weight anew in each call; remove_weight_norm makes it a plain one"
    if _is_known(place):
        return "left out by include, exclude or 32 bits, or by another quantizer"
    return f"{type(module).__name__}.{own} is of no known kind; include names it"


def refuse_idle(pattern: str, kernels: Sequence[Kernel], what: str) -> None:
    """**Raises** `PluginError` for a pattern that names none of the kernels; `what` says where it stands."""
    if not any(kernel.matches(pattern) for kernel in kernels):
        near = [name for kernel in kernels for place in kernel.places for name in _prefixes(place.name)]
        raise PluginError(
            f"{what}: no weight is named like '{pattern}'; weights are: {_listed(kernels)}."
            f"{did_you_mean(pattern, dict.fromkeys(near))}"
        )


def _kernels(model: nn.Module) -> list[tuple[Kernel, bool]]:
    """Every float matrix of the model, tied ones once, and whether its module is of a known kind."""
    found: dict[int, list[Place]] = {}
    parents = {id(child): module for module in model.modules() for child in module.children()}
    for path, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None and _is_matrix(parameter):
                place = Place(path, module, attribute, parents.get(id(module)))
                found.setdefault(id(parameter), []).append(place)
    return [_kernel(places) for places in found.values()]


def _kernel(places: list[Place]) -> tuple[Kernel, bool]:
    gates = max(_gates(place) for place in places)
    known = any(_is_known(place) for place in places)
    first = places[0]
    parameter = first.module._parameters[first.attribute]
    assert parameter is not None
    shape = tuple(parameter.shape)
    return Kernel(tuple(places), shape, gates if shape[0] % gates == 0 else 1), known


def _is_matrix(parameter: nn.Parameter) -> bool:
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        return False
    return parameter.ndim >= 2 and parameter.is_floating_point() and parameter.numel() > 0


def _is_known(place: Place) -> bool:
    module, attribute = place.module, place.attribute
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return attribute.startswith("weight_")
    if isinstance(module, nn.MultiheadAttention):
        return attribute in ATTENTION
    if isinstance(module, WHOLE_WEIGHT) or _is_transposed_linear(module):
        return attribute == "weight"
    return False


def _is_transposed_linear(module: nn.Module) -> bool:
    """GPT-2's linear layer, which keeps its weight as [in out]; recognized without importing transformers."""
    return any(c.__name__ == "Conv1D" and c.__module__.startswith("transformers.") for c in type(module).__mro__)


def _gates(place: Place) -> int:
    if place.attribute == "in_proj_weight":
        return 3
    if place.attribute.startswith("weight_hr"):  # the projection of an LSTM has no gates
        return 1
    return next((count for kind, count in GATES.items() if isinstance(place.module, kind)), 1)


def _included(kernel: Kernel, include: Sequence[str], *, is_known: bool) -> bool:
    if is_known:
        return not include or any(kernel.matches(pattern) for pattern in include)
    return any(_spells(place.name, pattern) for place in kernel.places for pattern in include)


def _spells(name: str, pattern: str) -> bool:
    """Whether the pattern matches and its last part is the name's own, letter by letter."""
    last = pattern.rpartition(".")[2]
    return fnmatchcase(name, pattern) and last == name.rpartition(".")[2]


def _names(name: str, pattern: str) -> bool:
    return any(fnmatchcase(prefix, pattern) for prefix in _prefixes(name))


def _prefixes(name: str) -> list[str]:
    """The name and the modules around it: a.b.weight, a.b, a."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(len(parts), 0, -1)]


def _listed(kernels: Sequence[Kernel], most: int = 8) -> str:
    names = [kernel.name for kernel in kernels]
    return (", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")) or "none"
