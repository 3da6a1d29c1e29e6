"""torchao's methods as quantizers of this plugin: PARQ, and quantization-aware training of linear layers.

torchao is optional; every error without it names what to install.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slt_sub8bit.lloyd_max import StraightThrough, nearest_level
from slt_sub8bit.quantizer import Sub8bit
from slt_sub8bit.scheme import decoded
from sltcore.errors import PluginError
from sltcore.types import TableWeight

Levels = Literal["auto", "uniform", "least-squares"]
PARTS_OF_TRAINING = 1_000_000
"""PARQ counts steps between the ends of its annealing; progress is counted in millionths."""


def torchao(module: str, user: str) -> Any:
    """A module of torchao. **Raises** `PluginError` where torchao is not installed, or has no such module."""
    try:
        return import_module(f"torchao.{module}")
    except ImportError as error:
        raise PluginError(
            f"{user} needs torchao with {module} ({error}); install it with: pip install torchao"
        ) from None


class ParqScheme:
    """One kernel whose parameter PARQ's optimizer draws onto levels; the parameter itself is what training sees.

    The levels are torchao's: `uniform` +-1/2, +-3/2, ... steps up to min(max|w|, bits mean|w|), or `least-squares` sums of
    +-v_1 ... +-v_bits chosen greedily; `auto` takes the second up to 2 bits. They follow the weights while training.
    """

    def __init__(self, groups: int = 1, *, levels: Levels = "auto", anneal_end: float = 0.8) -> None:
        self.kind, self.anneal_end = levels, anneal_end
        self.levels = torch.zeros(0)
        self.progress = 0.0

    @property
    def is_hard(self) -> bool:
        """Whether annealing is over, and with it the parameter on its levels."""
        return self.progress >= self.anneal_end

    def quantizer(self, bits: int) -> Any:
        """torchao's object that chooses levels."""
        quant = torchao("prototype.parq.quant", "parq")
        least_squares = self.kind == "least-squares" or (self.kind == "auto" and bits <= 2)
        return quant.LSBQuantizer(optimal=False) if least_squares else quant.UnifQuantizer()

    def start(self, weight: Tensor, bits: int) -> None:
        """Levels from the weight."""
        _, levels = self.quantizer(bits).quantize(weight.detach(), bits)
        self.take(levels)

    def take(self, levels: Tensor) -> None:
        """Other levels, as PARQ has them now."""
        self.levels = levels.detach().float().clone().sort().values

    def weight(self, weight: Tensor, *, hard: bool) -> Tensor:
        """The parameter as the optimizer left it; hard, its nearest levels."""
        if not hard and not self.is_hard:
            return weight
        found: Tensor = StraightThrough.apply(weight, decoded(self.table(weight)))  # type: ignore[no-untyped-call]
        return found

    def table(self, weight: Tensor) -> TableWeight:
        """Nearest levels."""
        levels = self.levels.to(weight.device)
        indices = nearest_level(weight.detach(), levels)
        return TableWeight(indices.to(torch.uint8), levels, torch.ones((), device=weight.device))

    def parameters(self) -> list[nn.Parameter]:
        """None."""
        return []

    def penalty(self, weight: Tensor) -> Tensor | None:
        """None: the proximal map is the regularizer."""
        return None

    def step(self, progress: float) -> None:
        """How far annealing is."""
        self.progress = progress

    def state(self) -> dict[str, Tensor]:
        """Levels."""
        return {"levels": self.levels}

    def restore(self, state: Mapping[str, Tensor], weight: Tensor, bits: int) -> None:
        """Levels."""
        self.levels = state["levels"].detach().clone().to(weight.device)


class TorchaoScheme:
    """One kernel under torchao's own fake quantization (`IntxFakeQuantizer`), symmetric, with one scale for each row.

    The range is that of the weights in every step, the gradient torchao's; there is nothing to learn or to keep. The levels
    are the integers -2^(bits-1) to 2^(bits-1) - 1, torchao's. Give it to `Sub8bit` with `scales="row"`.
    """

    def __init__(self, groups: int = 1) -> None:
        self.bits = 8
        self.quantizer: Any = None

    @property
    def is_hard(self) -> bool:
        """Always: training, too, sees the stored values."""
        return True

    def start(self, weight: Tensor, bits: int) -> None:
        """Make torchao's quantizer. **Raises** `PluginError` without torchao, and below 2 bits, where its levels are 0 and -1."""
        if bits < 2:
            raise PluginError(
                f"torchao's integers of {bits} bit are 0 and -1; choose 2 to 8 bits, or another quantizer"
            )
        qat = torchao("quantization.qat", "torchao's quantization-aware training")
        dtype = torch.int8 if bits == 8 else getattr(torch, f"int{bits}")
        config = qat.IntxFakeQuantizeConfig(dtype, "per_channel", is_symmetric=True)
        self.bits, self.quantizer = bits, qat.IntxFakeQuantizer(config)

    def weight(self, weight: Tensor, *, hard: bool) -> Tensor:
        """torchao's fake-quantized weight in training; hard, what is stored."""
        faked: Tensor = self.quantizer(weight.flatten(1)).view_as(weight)
        return faked + (decoded(self._table(weight, faked)) - faked).detach() if hard else faked

    def table(self, weight: Tensor) -> TableWeight:
        """Integers, and the scale of each row."""
        with torch.no_grad():
            return self._table(weight, self.quantizer(weight.flatten(1)).view_as(weight))

    def _table(self, weight: Tensor, faked: Tensor) -> TableWeight:
        lowest = -(2 ** (self.bits - 1))
        scale = self.quantizer.scale.detach().float().reshape(-1, *[1] * (weight.ndim - 1))
        places = (faked.detach() / scale).round().clamp(lowest, -lowest - 1)
        table = torch.arange(2**self.bits, dtype=torch.float32, device=weight.device) + lowest
        return TableWeight((places - lowest).to(torch.uint8), table, scale)

    def parameters(self) -> list[nn.Parameter]:
        """None."""
        return []

    def penalty(self, weight: Tensor) -> Tensor | None:
        """None."""
        return None

    def step(self, progress: float) -> None:
        """Nothing changes with time."""

    def state(self) -> dict[str, Tensor]:
        """Nothing: all follows from the weight."""
        return {}

    def restore(self, state: Mapping[str, Tensor], weight: Tensor, bits: int) -> None:
        """As `start`."""
        self.start(weight, bits)


class Parq(Sub8bit):
    """torchao's PARQ: an optimizer whose proximal map draws weights onto levels, ever more steeply, until they lie there.

    The optimizer of training is wrapped (`wrap_optimizer`); training sees its projected parameters, evaluation and
    `finish` their nearest levels. The slope of the map goes from 1 to 0 between `anneal_start` and `anneal_end` of training,
    as the `step` of the transform counts it. **Source**: Jin et al. 2025, arXiv:2503.15748, by torchao's implementation;
    deviation: annealing follows progress instead of a number of steps known beforehand.
    """

    def __init__(
        self,
        *,
        bits: int = 4,
        bits_of: Mapping[str, int] | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        levels: Levels = "auto",
        anneal_start: float = 0.1,
        anneal_end: float = 0.8,
        steepness: float = 10.0,
        every: int = 10,
        **settings: Any,
    ) -> None:
        if not 0.0 <= anneal_start < anneal_end <= 1.0:
            raise PluginError(
                f"parq: anneal_start is {anneal_start} and anneal_end {anneal_end}; give 0 <= anneal_start < anneal_end <= 1"
            )
        make = partial(ParqScheme, levels=levels, anneal_end=anneal_end)
        super().__init__(make, bits=bits, bits_of=bits_of, include=include, exclude=exclude, **settings)
        self.anneal_start, self.anneal_end, self.steepness, self.levels_every = (
            anneal_start,
            anneal_end,
            steepness,
            every,
        )
        self.progress = 0.0

    def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
        """See `Sub8bit.attach`. **Raises** `PluginError` also without torchao, and for kernels that are not float32."""
        torchao("prototype.parq", "parq")
        super().attach(model, calibration)
        for name, kernel in self.kernels.items():
            if kernel.parameter.dtype != torch.float32:
                self.detach()
                raise PluginError(
                    f"parq: {name} is {kernel.parameter.dtype}; its optimizer projects float32 weights in place: convert the "
                    f"model to float32, or exclude it"
                )

    def step(self, progress: float) -> None:
        """Tell the proximal map, too."""
        super().step(progress)
        self.progress = progress

    def wrap_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """PARQ around the optimizer, whose groups are divided into one for each width and the rest."""
        optimizer = super().wrap_optimizer(optimizer)
        if self.is_finished or not self._divide(optimizer):
            return optimizer
        parq = torchao("prototype.parq.optim", "parq")
        of_group = {
            place: ParqScheme(levels=self._levels()).quantizer(bits)
            for place, bits in enumerate(g["quant_bits"] for g in optimizer.param_groups if "quant_bits" in g)
        }
        wrapped: Optimizer = parq.QuantOptimizer(
            optimizer,
            of_group[0],
            _progressive(parq)(self),
            quant_period=self.levels_every,
            group_quantizer_map=of_group,
        )
        return wrapped

    def _levels(self) -> Levels:
        scheme = next(iter(self.schemes.values()))
        assert isinstance(scheme, ParqScheme)
        return scheme.kind

    def _divide(self, optimizer: Optimizer) -> int:
        """Put the kernels of each width into groups of their own, with all settings of the group they were in."""
        bits_of = {id(kernel.parameter): self.widths[name] for name, kernel in self.kernels.items()}
        divided = 0
        for group in list(optimizer.param_groups):
            rest = [parameter for parameter in group["params"] if id(parameter) not in bits_of]
            for bits in sorted({bits_of[id(p)] for p in group["params"] if id(p) in bits_of}):
                taken = [parameter for parameter in group["params"] if bits_of.get(id(parameter)) == bits]
                optimizer.param_groups.append({**group, "params": taken, "quant_bits": bits})
                divided += 1
            group["params"] = rest
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return divided


def _progressive(parq: Any) -> Callable[[Parq], Any]:
    """torchao's proximal map, told of progress instead of steps, which hands its levels to the schemes."""

    class Progressive(parq.ProxMap):  # type: ignore[misc]
        def __init__(self, quantizer: Parq) -> None:
            self.owner = quantizer
            ends = (round(end * PARTS_OF_TRAINING) for end in (quantizer.anneal_start, quantizer.anneal_end))
            self.map = parq.ProxPARQ(*ends, steepness=quantizer.steepness)

        def apply_(self, p: Tensor, q: Tensor, Q: Tensor, step_count: int, dim: int | None = None) -> Any:
            inverse_slope = self.map.apply_(p, q, Q, round(self.owner.progress * PARTS_OF_TRAINING), dim=dim)
            for name, kernel in self.owner.kernels.items():
                if kernel.parameter.data_ptr() == p.data_ptr():
                    scheme = self.owner.schemes[name]
                    assert isinstance(scheme, ParqScheme)
                    scheme.take(Q)
            return inverse_slope

    return Progressive
