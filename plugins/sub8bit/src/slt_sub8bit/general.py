"""The General Quantizer: levels that train together with the weights they stand for, annealed from soft to hard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slt_sub8bit.hard_weight import hard_weight, nearest_codes
from slt_sub8bit.scheme import blocks, spread
from slt_sub8bit.soft_weight import compand, expand, soft_weight
from sltcore.types import TableWeight

SMALLEST_SPACING = 1e-6  # of companded levels that have collapsed onto one point
RESEED_EVERY = 50  # steps; counting costs about one forward pass
WEIGHTS_PER_LEVEL = 32  # a kernel with fewer has empty levels by nature


class GeneralScheme:
    """One kernel under learned levels.

        u = w / a,  y = sgn(u) ln(1 + mu |u|) / ln(1 + mu),  p_ij = softmax_j(-kappa / D |y_i - z_j|),
        w~_i = a expand(sum_j p_ij z_j)

    The levels z [2^bits] are parameters in the companded domain; the scale a is the largest |w| at the start (or a quantile
    of |w|), then frozen; D is the mean spacing of the levels now, a constant for gradients, so that sharpness means the same
    at every width. kappa grows exponentially over the first `anneal` of training; after that, and in every evaluation, each
    weight is its nearest level: straight-through gradient for w, the true one for z. Levels that hold too few weights
    are put where the squared error is largest, while soft.

    The gradient of z, a sum over n weights, is divided by sqrt(n / 2^bits), so that one step of SGD moves a level about as
    far as a weight; Adam does not notice.

    Companding is off by default (mu = 0, y = u), and levels start where Lloyd and Max put them, because both were measured to
    be nearer to the weights: on Gaussian and Laplace weights, levels trained for squared error end 0 to 1.5 dB lower with
    mu = 15 and 0 to 3 dB lower with mu = 255, since the nearest level in a companded space is not the nearest weight; and
    at 8 bits quantiles start 14 to 19 dB below Lloyd-Max.

    `kappa_start` 8 and `anneal` 0.5 were chosen on development data: a Conformer of 2 bits after 60 steps has WER 44.2 with
    them and 54.8 with 2 and 0.75; hard from the start gives 43.9, as does the best uniform quantizer. **Source**: Zhen et al. 2022, arXiv:2210.09188; what the paper leaves open
    (initial levels, schedule, re-seeding) is ours.
    """

    def __init__(
        self,
        groups: int = 1,
        *,
        mu: float = 0.0,
        start: Literal["quantile", "lloyd-max"] = "lloyd-max",
        scale_quantile: float = 1.0,
        kappa_start: float = 8.0,
        kappa_end: float = 50.0,
        anneal: float = 0.5,
        learn_levels: bool = True,
        dead: float = 0.001,
    ) -> None:
        self.groups, self.mu, self.first, self.scale_quantile = groups, mu, start, scale_quantile
        self.kappa_start, self.kappa_end, self.anneal = kappa_start, kappa_end, anneal
        self.learn_levels, self.dead = learn_levels, dead
        self.z = nn.Parameter(torch.zeros(0), requires_grad=False)
        self.scale = torch.ones(groups)
        self.progress, self.steps, self.counted = 0.0, 0, 0

    @property
    def is_hard(self) -> bool:
        """Whether annealing is over."""
        return self.progress >= self.anneal

    @property
    def kappa(self) -> float:
        """Sharpness now: the logarithm of the mass ratio of two neighbours, on one of them."""
        done = 1.0 if self.is_hard else self.progress / self.anneal
        return self.kappa_start * math.pow(self.kappa_end / self.kappa_start, done)

    def start(self, weight: Tensor, bits: int) -> None:
        """Scale from the largest weights, levels from the weights' distribution."""
        weight = weight.detach()
        size = blocks(weight, self.groups).abs()
        largest = size.amax(1) if self.scale_quantile >= 1.0 else _quantiles(size, self.scale_quantile)
        self.scale = largest.clamp_min(torch.finfo(torch.float32).tiny * 1e8)
        u = (weight / spread(self.scale, weight)).flatten()
        levels = 2**bits
        if self.first == "lloyd-max":
            from slt_sub8bit.lloyd_max import lloyd_max_levels

            z = compand(lloyd_max_levels(u, levels).to(u), self.mu)
        else:
            middles = (torch.arange(levels, device=u.device) + 0.5) / levels
            z = _at_ranks(compand(u, self.mu).sort().values, middles)
        self.z = nn.Parameter(z.float().sort().values, requires_grad=self.learn_levels)

    def weight(self, weight: Tensor, *, hard: bool) -> Tensor:
        """The soft weight while annealing, else every weight's nearest level."""
        scale = spread(self.scale.to(weight.device), weight)
        if not hard and not self.is_hard and torch.is_grad_enabled():
            self._reseed(weight, scale)
        z = self._levels(weight)
        if hard or self.is_hard:
            table, factor = self._table(z, scale)
            return hard_weight(weight, self._codes(weight, z, scale), table, factor)
        spacing = ((z[-1] - z[0]) / (len(z) - 1)).item()
        return soft_weight(weight, z, scale, mu=self.mu, alpha=self.kappa / max(spacing, SMALLEST_SPACING))

    def table(self, weight: Tensor) -> TableWeight:
        """Nearest levels in the companded domain; one scale for the kernel is part of the table."""
        with torch.no_grad():
            scale = spread(self.scale.to(weight.device), weight)
            z = self._levels(weight)
            table, factor = self._table(z, scale)
            return TableWeight(self._codes(weight, z, scale), table, factor)

    def parameters(self) -> list[nn.Parameter]:
        """The levels, unless they are frozen."""
        return [self.z] if self.learn_levels else []

    def penalty(self, weight: Tensor) -> Tensor | None:
        """None: no regularizer is the point of the method."""
        return None

    def step(self, progress: float) -> None:
        """Sharpen."""
        self.progress = progress
        self.steps += 1

    def state(self) -> dict[str, Tensor]:
        """Levels and scale."""
        return {"levels": self.z.detach(), "scale": self.scale}

    def restore(self, state: Mapping[str, Tensor], weight: Tensor, bits: int) -> None:
        """Levels and scale."""
        self.z = nn.Parameter(state["levels"].detach().clone().to(weight.device), requires_grad=self.learn_levels)
        self.scale = state["scale"].clone().to(weight.device)

    def _levels(self, weight: Tensor) -> Tensor:
        """Sorted levels on the weight's device, with the gradient of a mean-sized weight."""
        factor = (weight.numel() / len(self.z)) ** -0.5
        scaled: Tensor = _ScaledGradient.apply(self.z.to(weight.device), min(1.0, factor))  # type: ignore[no-untyped-call]
        return scaled.sort().values

    def _table(self, z: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        table = expand(z, self.mu)
        return (table * scale, torch.ones_like(scale)) if scale.ndim == 0 else (table, scale)

    def _codes(self, weight: Tensor, z: Tensor, scale: Tensor) -> Tensor:
        """The nearest level in the companded domain: its borders, the middles between levels, are expanded instead of
        companding every weight."""
        z = z.detach()
        return nearest_codes(weight, scale, expand((z[1:] + z[:-1]) / 2, self.mu))

    @torch.no_grad()
    def _reseed(self, weight: Tensor, scale: Tensor) -> None:
        """Put levels with too few weights in the middle of the outer half of the cell with the largest squared error."""
        levels = len(self.z)
        due = self.steps // RESEED_EVERY
        if not self.learn_levels or due == self.counted or weight.numel() < WEIGHTS_PER_LEVEL * levels:
            return
        self.counted = due
        z, order = self.z.to(weight.device).sort()
        y = compand(weight.detach() / scale, self.mu).flatten()
        index = self._codes(weight, z, scale).flatten().long()
        counts = torch.bincount(index, minlength=levels)
        error = torch.bincount(index, weights=(y - z[index]).double().square(), minlength=levels)
        few = (
            weight.numel() * self.dead * min(1.0, 8 / levels)
        )  # Lloyd-Max's own outer cells are smaller for more levels
        for empty in torch.nonzero(counts < few).flatten().tolist():
            worst = int(error.argmax())
            if worst == empty or error[worst] <= 0:
                return
            cell = y[index == worst]
            self.z[order[empty]] = cell[cell > z[worst]].mean() if bool((cell > z[worst]).any()) else cell.mean()
            error[worst] = 0.0


def _quantiles(size: Tensor, share: float) -> Tensor:
    """The quantile of every row [groups n]; torch.quantile refuses more than 16 million values."""
    return _at_ranks(size.sort(dim=1).values, torch.tensor([share], device=size.device)).squeeze(-1)


def _at_ranks(ordered: Tensor, shares: Tensor) -> Tensor:
    """Values of sorted `ordered` [... n] at shares of its length, between neighbours in proportion."""
    places = (shares.double() * (ordered.shape[-1] - 1)).clamp(0, ordered.shape[-1] - 1)
    below = places.floor().long()
    above = (below + 1).clamp_max(ordered.shape[-1] - 1)
    part = (places - below).to(ordered.dtype)
    return ordered[..., below] * (1 - part) + ordered[..., above] * part


class _ScaledGradient(torch.autograd.Function):
    """The same values; their gradient times a constant."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:  # type: ignore[override]
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return upstream[0] * ctx.factor, None
