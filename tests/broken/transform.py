"""A good quantizer, accelerator and adapter, and one that breaks each promise of each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sltcore.errors import PluginError
from sltcore.interfaces import AcceleratorBackend, Adapter, Cost, Quantizer, Size, Transform

SMALL: dict[str, object] = {}


def ste(value: Tensor, x: Tensor) -> Tensor:
    """`value` with the gradient of x."""
    return value.detach() + (x - x.detach())


class SteppedLinear(nn.Linear):
    """A linear layer whose weight lies on multiples of a learned step."""

    step: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        codes = self.weight / self.step
        return nn.functional.linear(x, ste(codes.round(), codes) * self.step, self.bias)


class GoodQuantizer(Quantizer):
    """Weights on multiples of a learned step. Source: own, for tests."""

    distortion = 1.0

    def __init__(self) -> None:
        self.layers: dict[str, nn.Linear] = {}
        self.finished: dict[str, Tensor] = {}

    def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
        self.layers = {name: part for name, part in model.named_modules() if type(part) is nn.Linear}
        if not self.layers:
            raise PluginError("no linear layer")
        for layer in self.layers.values():
            layer.__class__ = SteppedLinear
            layer.step = nn.Parameter(layer.weight.detach().abs().amax() / 7)

    def detach(self) -> None:
        for layer in self.layers.values():
            layer.__class__ = nn.Linear
            del layer.step

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [layer.step for layer in self.layers.values()]}]

    def finish(self) -> None:
        for name, layer in self.layers.items():
            step = layer.step.detach()
            self.finished[name] = self.distortion * (layer.weight.detach() / step).round() * step
        self.detach()
        self.write()

    def write(self) -> None:
        for name, weight in self.finished.items():
            self.layers[name].weight.data = weight

    def state(self) -> Mapping[str, Tensor]:
        if self.finished:
            return {f"{name}.weight": weight for name, weight in self.finished.items()}
        return {f"{name}.step": layer.step for name, layer in self.layers.items()}

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        self.attach(model)
        if any(name.endswith(".weight") for name in state):
            self.detach()
            self.finished = {name: state[f"{name}.weight"] for name in self.layers}
            self.write()
        else:
            for name, layer in self.layers.items():
                layer.step.data = state[f"{name}.step"]

    def report(self, module: nn.Module) -> Size:
        quantized = {id(layer.weight) for layer in self.layers.values()}
        disk, memory, untouched = 0, 0, []
        for name, part in module.named_modules():
            own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
            full = sum(tensor.numel() * tensor.element_size() for tensor in own)
            if own and not any(id(tensor) in quantized for tensor in own):
                untouched.append(name)
            disk += full - sum(7 * tensor.numel() // 2 for tensor in own if id(tensor) in quantized)
            memory += full
        return Size(disk, memory, tuple(untouched))


class CoarseLinear(nn.Linear):
    """A linear layer whose inputs and weights lie on eighths."""

    def sums(self, x: Tensor) -> Tensor:
        return ste((8 * x).round(), 8 * x) @ ste((8 * self.weight).round(), 8 * self.weight).T

    def forward(self, x: Tensor) -> Tensor:
        found = self.sums(x) / 64
        return found if self.bias is None else found + self.bias


class CoarseIntegers(nn.Module):
    """The same in integers."""

    def __init__(self, layer: CoarseLinear) -> None:
        super().__init__()
        self.codes = (8 * layer.weight.detach()).round().long()
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        found = ((8 * x).round().long() @ self.codes.T).float() / 64
        return found if self.bias is None else found + self.bias


class GoodAccelerator(AcceleratorBackend):
    """Linear layers in eighths. Source: own, for tests."""

    integers: Callable[[CoarseLinear], nn.Module] = CoarseIntegers
    inputs_off = 0.0

    def __init__(self) -> None:
        self.layers: list[nn.Linear] = []
        self.offset = torch.zeros(1)

    def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
        self.layers = [part for part in model.modules() if type(part) is nn.Linear]
        if not self.layers:
            raise PluginError("no linear layer")
        for layer in self.layers:
            layer.__class__ = CoarseLinear
        self.hook = model.register_forward_hook(lambda module, x, out: out + self.offset)

    def detach(self) -> None:
        self.hook.remove()
        for layer in self.layers:
            layer.__class__ = nn.Linear

    def finish(self) -> None:
        return

    def state(self) -> Mapping[str, Tensor]:
        return {"offset": self.offset}

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        self.attach(model)
        self.offset = state["offset"]

    def lower(self, module: nn.Module) -> nn.Module:
        lowered = copy.deepcopy(module)
        for name, part in list(lowered.named_modules()):
            if isinstance(part, CoarseLinear):
                owner, _, own_name = name.rpartition(".")
                setattr(lowered.get_submodule(owner), own_name, type(self).integers(part))
        return lowered

    def cost(self, module: nn.Module, example: Any) -> Cost:
        macs = 0

        def count(layer: nn.Module, x: tuple[Tensor, ...], out: Tensor) -> None:
            nonlocal macs
            assert isinstance(layer, CoarseLinear)
            macs += x[0].numel() * layer.out_features

        hooks = [part.register_forward_hook(count) for part in module.modules() if isinstance(part, CoarseLinear)]
        module(example)
        for hook in hooks:
            hook.remove()
        return Cost(macs, macs, 2 * len(hooks))


class GoodAdapter(Adapter):
    """An affine map of the last layer's output. Source: own, for tests."""

    def __init__(self) -> None:
        self.hook: Any = None

    def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
        layer = [part for part in model.modules() if isinstance(part, nn.Linear)][-1:]
        if not layer:
            raise PluginError("no linear layer")
        self.gain = nn.Parameter(torch.ones(layer[0].out_features))
        self.shift = nn.Parameter(torch.zeros(layer[0].out_features))
        self.hook = layer[0].register_forward_hook(lambda module, x, out: self.gain * out + self.shift)

    def detach(self) -> None:
        self.hook.remove()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.gain, self.shift]}]

    def finish(self) -> None:
        return

    def state(self) -> Mapping[str, Tensor]:
        return {"gain": self.gain, "shift": self.shift}

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        self.attach(model)
        self.gain.data, self.shift.data = state["gain"], state["shift"]


GOOD: Mapping[str, type[Transform]] = {
    "quantizer": GoodQuantizer,
    "accelerator": GoodAccelerator,
    "adapter": GoodAdapter,
}


def leaves_a_trace(good: type[Any]) -> type[Any]:
    class LeavesATrace(good):
        def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
            super().attach(model, calibration)
            self.model = model

        def detach(self) -> None:
            super().detach()
            if hasattr(self, "model"):
                self.model.register_buffer("trace", torch.zeros(1))

    return LeavesATrace


def loses_precision(good: type[Any]) -> type[Any]:
    class LosesPrecision(good):
        def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
            super().restore(model, {name: 1.0001 * tensor + 0.0001 for name, tensor in state.items()})

    return LosesPrecision


def has_idle_parameter(good: type[Any]) -> type[Any]:
    class HasIdleParameter(good):
        def parameter_groups(self) -> list[dict[str, Any]]:
            self.idle = nn.Parameter(torch.zeros(3, 4))
            return [*super().parameter_groups(), {"params": [self.idle]}]

    return HasIdleParameter


def wants_its_own(good: type[Any]) -> type[Any]:
    class WantsItsOwn(good):
        def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
            if not hasattr(model, "produces"):
                raise PluginError("the model has no port")
            super().attach(model, calibration)

    return WantsItsOwn


def draws_globally(good: type[Any]) -> type[Any]:
    class DrawsGlobally(good):
        starts_as_identity = False

        def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
            super().attach(model, calibration)
            self.noise = model.register_forward_hook(lambda module, x, out: out + 1e-6 * torch.rand(()))

        def detach(self) -> None:
            super().detach()
            self.noise.remove()

        def finish(self) -> None:
            noise, self.noise = self.noise, _Kept()
            super().finish()
            self.noise = noise

        def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
            super().restore(model, state)
            self.noise.remove()
            self.noise = model.register_forward_hook(lambda module, x, out: out + 1e-6 * torch.rand(()))

    return DrawsGlobally


class _Kept:
    def remove(self) -> None:
        return


def takes_any_progress(good: type[Any]) -> type[Any]:
    class TakesAnyProgress(good):
        def step(self, progress: float) -> None:
            return

    return TakesAnyProgress


class FinishesElsewhere(GoodQuantizer):
    distortion = 1.01


class CountsItsOwn(GoodQuantizer):
    def report(self, module: nn.Module) -> Size:
        size = sum(layer.weight.numel() for layer in self.layers.values())
        return Size(size, size)


class FloorsIntegers(CoarseIntegers):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((8 * x).floor() / 8)


class LowersOtherwise(GoodAccelerator):
    integers = FloorsIntegers


class CountsTwice(GoodAccelerator):
    def cost(self, module: nn.Module, example: Any) -> Cost:
        found = super().cost(module, example)
        return found._replace(macs=2 * found.macs)


class TrainsTheBase(GoodAdapter):
    def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
        super().attach(model, calibration)
        self.bias = list(model.parameters())[-1]

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [*super().parameter_groups(), {"params": [self.bias]}]


class StartsElsewhere(GoodAdapter):
    def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
        super().attach(model, calibration)
        self.shift.data += 0.1


COMMON = {
    "detach": (leaves_a_trace, "has other parameters or buffers: trace"),
    "restore": (loses_precision, "restored on a fresh copy of the base: entry"),
    "gradient": (has_idle_parameter, r"no gradient reaches a parameter of shape \(3, 4\)"),
    "foreign": (
        wants_its_own,
        "it refused every model: a plain Stack model: it raised PluginError: the model has no port",
    ),
    "deterministic": (draws_globally, "two calls with the same input differ: entry"),
    "progress": (takes_any_progress, r"step\(-0.01\) was accepted"),
}
OWN: Mapping[str, Mapping[str, tuple[type[Transform], str]]] = {
    "quantizer": {
        "finish": (FinishesElsewhere, "attached and finished: entry"),
        "report": (CountsItsOwn, "report grows by 0 bytes on disk and 0 in memory"),
    },
    "accelerator": {
        "lower": (LowersOtherwise, "emulated and lowered: entry"),
        "cost": (CountsTwice, "takes 240 multiply-accumulates, not 480"),
    },
    "adapter": {
        "frozen": (TrainsTheBase, "parameter_groups holds the base's own head.bias"),
        "identity": (StartsElsewhere, "with a freshly attached adapter: entry"),
    },
}
BROKEN = {
    kind: {**{name: (make(good), text) for name, (make, text) in COMMON.items()}, **OWN[kind]}
    for kind, good in GOOD.items()
}
