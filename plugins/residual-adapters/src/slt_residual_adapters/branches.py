"""What an update adds at one place: a bottleneck over the output, or a low-rank product over the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from sltcore.errors import PluginError

Activation = Literal["silu", "relu", "gelu", "tanh", "identity"]
Method = Literal["residual", "lora"]
EPS = 1e-5

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "identity": lambda hidden: hidden,
}
"""All of them work on one number at a time: that is what makes a sum of bottlenecks one bottleneck."""


class Piece(NamedTuple):
    """A branch as two matrices: `up act(down v + shift)` with v the normalised output (eps), or the input (eps None).

    `down` [r d], `shift` [r] or None, `up` [d r], float64.
    """

    down: Tensor
    shift: Tensor | None
    up: Tensor
    activation: str
    eps: float | None


class Branch(Protocol):
    """What an update adds at one place, as a module with parameters."""

    reads_input: bool

    def __call__(self, value: Tensor) -> Tensor: ...

    def piece(self) -> Piece: ...

    def parameters(self) -> object: ...


class Bottleneck(nn.Module):
    """`A(y) = up act(down LN(y))`: the residual adapter of one update at one place, without the residual.

    `LN` has gain g and bias b of its own [d]; `down` [r d] starts as a linear layer does, `up` [d r] at zero, so that a
    fresh update changes nothing.

    **Source**: Bapna & Firat, arXiv:1909.08478, section 3 (layer norm, bottleneck, zero start); in transducers: Tomanek et
    al., arXiv:2109.06952. No biases but that of the norm, whose effect a bias of the down-projection would repeat.
    """

    reads_input = False

    def __init__(
        self,
        d: int,
        rank: int,
        *,
        activation: Activation = "silu",
        eps: float = EPS,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        how = {"dtype": dtype, "device": device}
        self.gain = nn.Parameter(torch.ones(d, **how))  # type: ignore[arg-type]
        self.bias = nn.Parameter(torch.zeros(d, **how))  # type: ignore[arg-type]
        self.down = nn.Parameter(torch.empty(rank, d, **how))  # type: ignore[arg-type]
        self.up = nn.Parameter(torch.zeros(d, rank, **how))  # type: ignore[arg-type]
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.activation, self.eps = activation, eps

    def forward(self, value: Tensor) -> Tensor:
        """What is added [.. d] to the output `value` [.. d]."""
        normed = functional.layer_norm(value, self.gain.shape, self.gain, self.bias, self.eps)
        hidden = ACTIVATIONS[self.activation](functional.linear(normed, self.down))
        return functional.linear(hidden, self.up)

    def piece(self) -> Piece:
        """The gain goes into the down-projection, and `down b` is what the norm's bias adds in front of `act`."""
        down, up = self.down.detach().double(), self.up.detach().double()
        return Piece(
            down * self.gain.detach().double(), down @ self.bias.detach().double(), up, self.activation, self.eps
        )


class LowRank(nn.Module):
    """`scale up down x` beside a linear layer: LoRA. `down` [r i] starts as a linear layer does, `up` [d r] at zero.

    **Source**: Hu et al., arXiv:2106.09685, section 4.1; `scale` = alpha / r. Several of them are one of the summed rank,
    which is their exact sum in weight space.
    """

    reads_input = True

    def __init__(
        self,
        d_in: int,
        d: int,
        rank: int,
        *,
        scale: float = 1.0,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        how = {"dtype": dtype, "device": device}
        self.down = nn.Parameter(torch.empty(rank, d_in, **how))  # type: ignore[arg-type]
        self.up = nn.Parameter(torch.zeros(d, rank, **how))  # type: ignore[arg-type]
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scale = scale

    def forward(self, value: Tensor) -> Tensor:
        """What is added [.. d] for the input `value` [.. i]."""
        return functional.linear(functional.linear(value, self.down), self.up) * self.scale

    def piece(self) -> Piece:
        """The scale goes into the up-projection."""
        return Piece(self.down.detach().double(), None, self.up.detach().double() * self.scale, "identity", None)


def by_name(branches: Mapping[str, nn.Module]) -> nn.ModuleDict:
    """Modules by any name: `nn.ModuleDict` itself takes none that a method or attribute of its own has, such as "update"."""
    found = nn.ModuleDict()
    found._modules.update(branches)
    return found


def fill(branch: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy stored tensors into a branch. **Raises** `PluginError` for names or shapes that are not the branch's."""
    own = dict(branch.named_parameters())
    if set(own) != set(tensors):
        raise PluginError(
            f"{where}: the update holds {', '.join(sorted(tensors)) or 'nothing'}, expected {', '.join(sorted(own))}; write it "
            f"anew with the version that trained it"
        )
    for name, parameter in own.items():
        if parameter.shape != tensors[name].shape:
            raise PluginError(
                f"{where}: {name} of the update has shape {tuple(tensors[name].shape)}, but there it must be "
                f"{tuple(parameter.shape)}; the update is of another model"
            )
        with torch.no_grad():
            parameter.copy_(tensors[name])
