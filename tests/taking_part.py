"""Small but whole techniques that take part in training: none of them has a loop of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sltcore.errors import PluginError, PortError, PrivacyError
from sltcore.interfaces import (
    AcceleratorBackend,
    Adapter,
    Augmentation,
    Cost,
    Encoder,
    Objective,
    PrivacyMechanism,
    Quantizer,
    Size,
    Transform,
)
from sltcore.plugin import Component, Ports, hookimpl
from sltcore.registry import Registry
from sltcore.spec import Config
from sltcore.types import Port, PrivacyCost, Waveform

EVENTS: list[tuple[Any, ...]] = []
"""What was called, in order."""


def linear_layers(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """Every linear layer with its owner and its name there."""
    found = [
        (owner, name, child)
        for owner in model.modules()
        for name, child in owner.named_children()
        if type(child) is nn.Linear
    ]
    if not found:
        raise PluginError("the model has no linear layer to attach to")
    return found


class Replacing(Transform):
    """Puts a module of its own in the place of each linear layer."""

    def __init__(self) -> None:
        self.replaced: list[tuple[nn.Module, str, nn.Linear]] = []

    def put(self, model: nn.Module, make: Any) -> None:
        """Replace, once."""
        if self.replaced:
            raise PluginError(f"{type(self).__name__} is attached already")
        self.replaced = linear_layers(model)
        for place, (owner, name, layer) in enumerate(self.replaced):
            setattr(owner, name, make(layer, place))

    @property
    def own(self) -> list[Any]:
        """The modules that were put in."""
        return [getattr(owner, name) for owner, name, _ in self.replaced]

    def detach(self) -> None:
        """Put the same layers back."""
        for owner, name, layer in self.replaced:
            setattr(owner, name, layer)
        self.replaced = []

    def step(self, progress: float) -> None:
        """Write it down."""
        super().step(progress)
        EVENTS.append(("progress", progress))


# A quantizer: weights become numbers of a few bits, more of each the further training is.


def codes_of(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The nearest multiples of each row's largest weight over 2^(bits-1) - 1: int8 [o i] and scales [o 1]."""
    most = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / most
    return (weight / scale).round().clamp(-most, most).to(torch.int8), scale


class Rounding(nn.Module):
    """w + share (round(w) - w), the gradient of w straight through."""

    def __init__(self, inner: nn.Linear, bits: int) -> None:
        super().__init__()
        self.inner = inner
        self.bits = bits
        self.share = 0.0

    def forward(self, x: Tensor) -> Tensor:
        codes, scale = codes_of(self.inner.weight, self.bits)
        rounded = self.inner.weight + self.share * (codes * scale - self.inner.weight).detach()
        return functional.linear(x, rounded, self.inner.bias)


class Packed(nn.Module):
    """The deployed form: codes and scales."""

    def __init__(self, inner: nn.Linear, bits: int) -> None:
        super().__init__()
        codes, scale = codes_of(inner.weight.detach(), bits)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.bias = inner.bias

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.codes * self.scale, self.bias)


class Rounds(Replacing, Quantizer):
    """Rounds weights, by and by."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.finished = False

    def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
        self.put(model, lambda layer, _: Rounding(layer, self.bits))

    def step(self, progress: float) -> None:
        super().step(progress)
        for module in self.own:
            module.share = progress

    def finish(self) -> None:
        EVENTS.append(("finish",))
        if not self.finished:
            self.step(1.0)
            self._pack()

    def _pack(self) -> None:
        for owner, name, layer in self.replaced:
            setattr(owner, name, Packed(layer, self.bits))
        self.finished = True

    def state(self) -> Mapping[str, Tensor]:
        share = 1.0 if self.finished else self.own[0].share
        return {"finished": torch.tensor(self.finished), "share": torch.tensor(share)}

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        self.attach(model)
        if bool(state["finished"]):
            self._pack()
            return
        for module in self.own:
            module.share = float(state["share"])

    def report(self, module: nn.Module) -> Size:
        size = sum(p.numel() * p.element_size() for p in [*module.parameters(), *module.buffers()])
        return Size(size, size)


# A chip: 8-bit inputs and weights, sums of integers.


class Emulated(nn.Module):
    """round(x / a) round(w / c) a c, as floats that hold integers, the gradient straight through."""

    def __init__(self, inner: nn.Linear, step: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("input_step", step)

    def weight_step(self) -> Tensor:
        return self.inner.weight.detach().abs().max() / 127

    def forward(self, x: Tensor) -> Tensor:
        weight_step = self.weight_step()
        inputs = (x / self.input_step).round().clamp(-127, 127)
        weights = (self.inner.weight / weight_step).round()
        exact = functional.linear(inputs, weights) * (self.input_step * weight_step)
        exact = exact if self.inner.bias is None else exact + self.inner.bias
        plain = self.inner(x)
        return plain + (exact - plain).detach() if torch.is_grad_enabled() else exact


class Integers(nn.Module):
    """The same with integers."""

    def __init__(self, emulated: Emulated) -> None:
        super().__init__()
        self.input_step = emulated.input_step.clone()
        self.weight_step = emulated.weight_step()
        self.weights = (emulated.inner.weight.detach() / self.weight_step).round().to(torch.int64)
        bias = emulated.inner.bias
        self.bias = torch.zeros(()) if bias is None else bias.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        inputs = (x / self.input_step).round().clamp(-127, 127).to(torch.int64)
        return (inputs @ self.weights.T).float() * (self.input_step * self.weight_step) + self.bias


class Chip(Replacing, AcceleratorBackend):
    """Emulates the chip on every linear layer; the inputs' range is measured on calibration data."""

    def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
        layers = linear_layers(model)
        highest = [torch.tensor(1.0) for _ in layers]
        seen = 0
        if calibration is not None:
            hooks = [
                layer.register_forward_pre_hook(_highest(highest, place)) for place, (_, _, layer) in enumerate(layers)
            ]
            for batch in calibration:
                seen += len(batch.lengths)
                with torch.no_grad():
                    frames = model.encoder(batch, {}).values  # type: ignore[operator]
                    model.decoder.head(frames)  # type: ignore[union-attr, operator]
            for hook in hooks:
                hook.remove()
        EVENTS.append(("calibrated", seen))
        self.put(model, lambda layer, place: Emulated(layer, highest[place] / 127))

    def state(self) -> Mapping[str, Tensor]:
        return {f"step{place}": module.input_step for place, module in enumerate(self.own)}

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        self.put(model, lambda layer, place: Emulated(layer, state[f"step{place}"].clone()))

    def finish(self) -> None:
        EVENTS.append(("finish",))

    def lower(self, module: nn.Module) -> nn.Module:
        if not isinstance(module, Emulated):
            raise PluginError(f"{type(module).__name__} does not run on the chip")
        return Integers(module)

    def cost(self, module: nn.Module, example: Any) -> Cost:
        positions = example.numel() // example.shape[-1]
        assert isinstance(module, Emulated | nn.Linear)
        layer = module.inner if isinstance(module, Emulated) else module
        return Cost(positions * layer.weight.numel(), layer.weight.numel() + example.numel(), 2)


def _highest(found: list[Tensor], place: int) -> Any:
    def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        found[place] = torch.maximum(found[place], arguments[0].abs().max())

    return hook


# An adapter: a product of two thin matrices beside each linear layer.


class LowRank(nn.Module):
    """inner(x) + x A B, B zero at first."""

    def __init__(self, inner: nn.Linear, rank: int) -> None:
        super().__init__()
        self.inner = inner
        self.down = nn.Parameter(torch.randn(inner.in_features, rank) / math.sqrt(inner.in_features))
        self.up = nn.Parameter(torch.zeros(rank, inner.out_features))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x) + x @ self.down @ self.up
        return result


class Lora(Replacing, Adapter):
    """An update of low rank beside every linear layer."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
        self.put(model, lambda layer, _: LowRank(layer, self.rank))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for module in self.own for p in (module.down, module.up)]}]

    def state(self) -> Mapping[str, Tensor]:
        return {f"{name}{i}": getattr(m, name).detach() for i, m in enumerate(self.own) for name in ("down", "up")}

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        self.attach(model)
        with torch.no_grad():
            for place, module in enumerate(self.own if state else ()):
                module.down.copy_(state[f"down{place}"])
                module.up.copy_(state[f"up{place}"])

    def finish(self) -> None:
        EVENTS.append(("finish",))


# Privacy: gradients of single utterances clipped, noise added, utterances drawn by Poisson sampling.


class ClippedSums(PrivacyMechanism):
    """Each step takes every utterance with probability `rate`; (sum of clipped gradients + noise) / (rate n).

    Spent is the Gaussian mechanism composed, without what sampling adds: rho = steps / (2 noise^2), and
    epsilon = rho + 2 sqrt(rho ln(1 / delta)) (Bun and Steinke 2016, arXiv:1605.02065, propositions 1.3 and 1.6).
    """

    delta = 1e-6
    drawn: ClassVar[list[list[int]]] = []
    losses: ClassVar[list[list[float]]] = []
    norms: ClassVar[list[list[float]]] = []

    def __init__(self, *, steps: int, rate: float, clip: float, noise: float, leave_out: int | None) -> None:
        self.steps, self.rate, self.clip, self.noise, self.leave_out = steps, rate, clip, noise, leave_out
        self.taken = 0

    def train(self, fit: Any, private: Sequence[Any], public: Any) -> Any:
        for log in (self.drawn, self.losses, self.norms):
            log.clear()
        draws, noises = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
        for _ in range(self.steps):
            chosen = (torch.rand(len(private), generator=draws) < self.rate).nonzero()[:, 0].tolist()
            self.drawn.append([place for place in chosen if place != self.leave_out])
        expected = self.rate * len(private)

        def gradient(module: nn.Module, losses: Tensor) -> None:
            parameters = [p for p in module.parameters() if p.requires_grad]
            sums = [torch.zeros_like(p) for p in parameters]
            norms = []
            for loss in losses:
                found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
                own = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
                factor = min(1.0, self.clip / max(float(nn.utils.get_total_norm(own)), 1e-12))
                norms.append(factor * float(nn.utils.get_total_norm(own)))
                for total, part in zip(sums, own, strict=True):
                    total += factor * part
            for parameter, total in zip(parameters, sums, strict=True):
                drawn = torch.randn(total.shape, generator=noises)
                parameter.grad = (total + self.noise * self.clip * drawn) / expected
            self.losses.append(losses.tolist())
            self.norms.append(norms)
            self.taken += 1

        return fit(private, sampler=self.drawn, gradient=gradient)

    def release(self, *args: Any, **options: Any) -> Any:
        raise PrivacyError("this mechanism releases models only")

    def spent(self, delta: float) -> PrivacyCost:
        rho = math.inf if self.taken and not self.noise else self.taken / (2 * max(self.noise, 1e-12) ** 2)
        return PrivacyCost(rho + 2 * math.sqrt(rho * math.log(1 / delta)), delta, "utterance", False)

    def plan(self, delta: float, **sizes: int) -> PrivacyCost:
        return self.spent(delta)


class Votes(PrivacyMechanism):
    """Teachers on disjoint parts of the private data; the student learns what most of them say of the public data.

    Spent: each label is a noisy maximum of votes with Laplace noise of scale b, 2 / b for each (Papernot et al. 2017,
    arXiv:1610.05755, section 3.1, with basic composition).
    """

    delta = 1e-6
    shards: ClassVar[list[list[str]]] = []
    labels: ClassVar[dict[str, str]] = {}

    def __init__(self, *, teachers: int, scale: float) -> None:
        self.teachers, self.scale = teachers, scale
        self.released = 0
        self.noise = torch.Generator().manual_seed(3)

    def train(self, fit: Any, private: Sequence[Any], public: Sequence[Any]) -> Any:
        self.shards.clear()
        self.labels.clear()
        models = []
        for part in range(self.teachers):
            shard = private[part :: self.teachers]
            self.shards.append([example.item.id for example in shard])
            models.append(fit(shard))
        said = [[output.value.text for output in m.run([e.item for e in public])] for m in models]
        for example, votes in zip(public, zip(*said, strict=True), strict=True):
            self.labels[example.item.id] = self.release(votes)
        return fit([e._replace(item=e.item._replace(text=self.labels[e.item.id])) for e in public])

    def release(self, *args: Any, **options: Any) -> Any:
        (votes,) = args
        self.released += 1
        best, text = -math.inf, ""
        for candidate in sorted({*votes, "a"} - {""}):
            uniform = float(torch.rand((), generator=self.noise)) - 0.5
            noise = -self.scale * math.copysign(math.log1p(-2 * abs(uniform)), uniform)
            if votes.count(candidate) + noise > best:
                best, text = votes.count(candidate) + noise, candidate
        return text

    def spent(self, delta: float) -> PrivacyCost:
        return PrivacyCost(2 * self.released / self.scale, delta, "utterance", False)

    def plan(self, delta: float, **sizes: int) -> PrivacyCost:
        return PrivacyCost(2 * sizes["labels"] / self.scale, delta, "utterance", False)


# An objective: each frame tells how loud the sound under it is.


class Loudness(Objective, nn.Module):
    """Mean square error of a linear guess, from each frame, of the clean sound's log energy in its hop; a share of
    frames is left out, drawn anew in each step."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.guess = nn.Linear(d, 1)

    @property
    def consumes(self) -> Port:
        return Port("Waveform")

    def check(self, encoder: Encoder) -> None:
        if encoder.produces.attributes.get("d") != self.guess.in_features:
            raise PortError(f"loudness needs d = {self.guess.in_features}, the encoder gives {encoder.produces}")

    def loss(self, encoder: Encoder, batch: Any, context: Mapping[str, Any]) -> Tensor:
        encoded = encoder(batch, context)
        clean: Waveform = context["clean"]
        frames = encoded.values.shape[1]
        hop = round(encoded.frame_shift_s * clean.sample_rate_hz)
        padded = functional.pad(clean.samples, (0, max(0, frames * hop - clean.samples.shape[1])))[:, : frames * hop]
        energy = padded.reshape(len(padded), frames, hop).square().mean(-1).add(1e-6).log()
        inside = torch.arange(frames) < encoded.lengths[:, None]
        kept = inside & (torch.rand(inside.shape, generator=context["generator"]) < 0.8)
        error = (self.guess(encoded.values)[..., 0] - energy).square() * kept
        return error.sum(1) / kept.sum(1).clamp_min(1)


# An augmentation: louder or softer.


class Volume(Augmentation):
    """Samples times a factor between 1/2 and 2."""

    @property
    def consumes(self) -> Port:
        return Port("Waveform")

    @property
    def produces(self) -> Port:
        return Port("Waveform")

    def __call__(self, x: Waveform, context: Mapping[str, Any], generator: torch.Generator) -> Waveform:
        factor = 2 ** (2 * torch.rand(len(x.lengths), generator=generator) - 1)
        EVENTS.extend(
            ("volume", round(float(row.sum()), 4), round(float(by), 6))
            for row, by in zip(x.samples, factor, strict=True)
        )
        return x._replace(samples=x.samples * factor[:, None])


class Bits(Config):
    """Bits of a weight."""

    bits: int = 4


class Rank(Config):
    """Rank of an update."""

    rank: int = 2


class Noise(Config):
    """What clipping, sampling and noise are."""

    steps: int = 4
    rate: float = 0.5
    clip: float = 1.0
    noise: float = 0.0
    leave_out: int | None = None


class Teaching(Config):
    """How many teachers, and the noise on their votes."""

    teachers: int = 2
    scale: float = 4.0


class NoFields(Config):
    """Nothing to choose."""


def rounds(config: Bits, ports: Ports) -> Rounds:
    return Rounds(config.bits)


def chip(config: NoFields, ports: Ports) -> Chip:
    return Chip()


def lora(config: Rank, ports: Ports) -> Lora:
    return Lora(config.rank)


def clipped(config: Noise, ports: Ports) -> ClippedSums:
    return ClippedSums(**config.model_dump())


def votes(config: Teaching, ports: Ports) -> Votes:
    return Votes(teachers=config.teachers, scale=config.scale)


def loudness(config: NoFields, ports: Ports) -> Loudness:
    assert ports.upstream is not None
    return Loudness(int(ports.upstream.attributes["d"]))


def volume(config: NoFields, ports: Ports) -> Volume:
    return Volume()


SLT_API = (1, 0)


@hookimpl
def slt_components() -> list[Component]:
    """All of them."""
    listed = [
        ("quantizer", "rounds", "rounds", "Bits"),
        ("accelerator", "chip", "chip", "NoFields"),
        ("adapter", "rank-update", "lora", "Rank"),
        ("privacy", "clipped", "clipped", "Noise"),
        ("privacy", "votes", "votes", "Teaching"),
        ("objective", "loudness", "loudness", "NoFields"),
        ("augmentation", "louder", "volume", "NoFields"),
    ]
    return [
        Component(kind, name, impl=f"taking_part:{impl}", config=f"taking_part:{config}", summary=f"test {name}")
        for kind, name, impl, config in listed
    ]


def registry_of(site: Any, monkeypatch: Any) -> Registry:
    """The installed plugins and these components; `site` is a folder like site-packages."""
    site.add("taking-part", "from taking_part import SLT_API, slt_components\n")
    monkeypatch.syspath_prepend(str(site.folder))
    return Registry()
