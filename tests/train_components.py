"""Components that take part in training and write down what happened to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sltcore.errors import PluginError, PortError
from sltcore.interfaces import Adapter, Encoder, Objective, PrivacyMechanism, Quantizer
from sltcore.interfaces.transform import Size
from sltcore.plugin import Component, Ports, hookimpl
from sltcore.registry import Registry
from sltcore.spec import Config
from sltcore.types import Port, PrivacyCost

SLT_API = (1, 0)


class Energy(Objective, nn.Module):
    """Mean square of the frames, through a linear map of its own, plus what the generator says times `noise`."""

    def __init__(self, *, d: int, noise: float) -> None:
        super().__init__()
        self.map = nn.Linear(d, 1)
        self.noise = noise

    @property
    def consumes(self) -> Port:
        return Port("Waveform")

    def check(self, encoder: Encoder) -> None:
        if encoder.produces.attributes.get("d") != self.map.in_features:
            raise PortError(f"energy needs an encoder with d = {self.map.in_features}, got {encoder.produces}")

    def loss(self, encoder: Encoder, batch: Any, context: Mapping[str, Any]) -> Tensor:
        encoded = encoder(batch, context)
        inside = torch.arange(encoded.values.shape[1]) < encoded.lengths[:, None]
        values = self.map(encoded.values)[..., 0].square() * inside
        drawn = torch.rand((), generator=context["generator"])
        return values.sum(1) / encoded.lengths + self.noise * drawn


class Scaled(nn.Module):
    """A linear layer times a learned number; what it reads of the call's context is added."""

    def __init__(self, inner: nn.Module, owner: Scale) -> None:
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.ones(()))
        self.owner = [owner]

    def forward(self, x: Tensor) -> Tensor:
        assert self.owner[0].inside, "called outside of use(context)"
        result: Tensor = self.inner(x) * self.scale
        return result


class Transforming:
    """Wraps the decoder's head by `Scaled`, and notes every call."""

    events: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        self.model: Any = None
        self.inside = False
        self.finished = False
        self.measured = torch.zeros(())

    def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
        seen = 0 if calibration is None else sum(len(batch.lengths) for batch in calibration)
        self.events.append(("attach", seen))
        self._wrap(model, torch.tensor(float(seen)))

    def _wrap(self, model: Any, measured: Tensor) -> None:
        if self.model is not None:
            raise PluginError("attached already")
        self.model, self.measured = model, measured
        model.decoder.head = Scaled(model.decoder.head, self)  # type: ignore[arg-type]

    def detach(self) -> None:
        self.model.decoder.head = self.model.decoder.head.inner

    def state(self) -> Mapping[str, Tensor]:
        return {"measured": self.measured}

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        self.events.append(("restore", float(state["measured"])))
        self._wrap(model, state["measured"])

    @contextmanager
    def use(self, context: Mapping[str, Any]) -> Iterator[None]:
        self.inside = True
        try:
            yield
        finally:
            self.inside = False

    def step(self, progress: float) -> None:
        self.events.append(("step", progress))

    def penalty(self) -> Tensor | None:
        assert self.inside
        penalty: Tensor = 50.0 * self.model.decoder.head.scale.square()
        return penalty

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [] if self.model is None else [{"params": [self.model.decoder.head.scale], "lr": 0.05}]

    def wrap_optimizer(self, optimizer: Any) -> Any:
        self.events.append(("optimizer", type(optimizer).__name__))
        return optimizer

    def finish(self) -> None:
        self.events.append(("finish", round(self.model.decoder.head.scale.item(), 6)))
        self.finished = True

    def report(self, module: nn.Module) -> Size:
        return Size(0, 0)


class Scale(Transforming, Quantizer):
    """As a quantizer."""


class Gain(Transforming, Adapter):
    """As an adapter."""


class Mechanism(PrivacyMechanism):
    """What the mechanisms here have in common: they count releases."""

    delta = 1e-6

    def __init__(self) -> None:
        self.releases = 0

    def release(self, *args: Any, **options: Any) -> Any:
        self.releases += 1

    def spent(self, delta: float) -> PrivacyCost:
        return PrivacyCost(0.1 * self.releases, delta, "utterance", False)

    def plan(self, delta: float, **sizes: int) -> PrivacyCost:
        return self.spent(delta)


class Whole(Mechanism):
    """All utterances in every step, and the mean gradient, taken by itself."""

    def train(self, fit: Any, private: Any, public: Any) -> Any:
        everything = [list(range(len(private)))] * 6

        def gradient(module: nn.Module, losses: Tensor) -> None:
            assert losses.shape == (len(private),)
            self.releases += 1
            parameters = [p for p in module.parameters() if p.requires_grad]
            found = torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
            for parameter, value in zip(parameters, found, strict=True):
                parameter.grad = value

        return fit(private, sampler=everything, gradient=gradient)


class Teachers(Mechanism):
    """Two teachers on halves of the private data label the public data, from which a student learns."""

    def train(self, fit: Any, private: Sequence[Any], public: Sequence[Any]) -> Any:
        teachers = [fit(private[part::2]) for part in range(2)]
        said = [[output.value.text for output in t.run([e.item for e in public])] for t in teachers]
        labelled = []
        for example, votes in zip(public, zip(*said, strict=True), strict=True):
            self.releases += 1
            labelled.append(example._replace(item=example.item._replace(text=max(votes) or "a")))
        return fit(labelled)


class Sparse(Mechanism):
    """Steps without any utterance, whose gradient is noise alone."""

    def train(self, fit: Any, private: Any, public: Any) -> Any:
        def gradient(module: nn.Module, losses: Tensor) -> None:
            assert losses.shape in ((0,), (2,))
            for parameter in module.parameters():
                parameter.grad = torch.full_like(parameter, 0.01)

        return fit(private, sampler=[[], [0, 1], []], gradient=gradient)


class Strange(Mechanism):
    """Returns something that fit never made."""

    def train(self, fit: Any, private: Any, public: Any) -> Any:
        fit(private)
        return "a model"


class NoFields(Config):
    """Nothing to choose."""


class EnergyFields(Config):
    """How much noise."""

    noise: float = 0.0
    width: int | None = None


def energy(config: EnergyFields, ports: Ports) -> Energy:
    assert ports.upstream is not None
    return Energy(d=config.width or int(ports.upstream.attributes["d"]), noise=config.noise)


def scale(config: NoFields, ports: Ports) -> Scale:
    return Scale()


def gain(config: NoFields, ports: Ports) -> Gain:
    return Gain()


def whole(config: NoFields, ports: Ports) -> Whole:
    return Whole()


def teachers(config: NoFields, ports: Ports) -> Teachers:
    return Teachers()


def sparse(config: NoFields, ports: Ports) -> Sparse:
    return Sparse()


def strange(config: NoFields, ports: Ports) -> Strange:
    return Strange()


@hookimpl
def slt_components() -> list[Component]:
    """All of them."""
    listed = [
        ("objective", "energy", "energy", "EnergyFields"),
        ("quantizer", "scale", "scale", "NoFields"),
        ("adapter", "gain", "gain", "NoFields"),
        ("privacy", "whole", "whole", "NoFields"),
        ("privacy", "teachers", "teachers", "NoFields"),
        ("privacy", "sparse", "sparse", "NoFields"),
        ("privacy", "strange", "strange", "NoFields"),
    ]
    return [
        Component(kind, name, impl=f"train_components:{impl}", config=f"train_components:{config}", summary=name)
        for kind, name, impl, config in listed
    ]


def train_registry(site: Any, monkeypatch: Any) -> Registry:
    """A registry of the installed plugins and these components; `site` is a folder like site-packages."""
    site.add("train-toys", "from train_components import SLT_API, slt_components\n")
    monkeypatch.syspath_prepend(str(site.folder))
    return Registry()
