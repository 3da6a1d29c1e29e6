"""The sum of clipped gradients as whole numbers, and its release with noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from slt_pate.dp_sgd import kernels
from slt_pate.dp_sgd.random_stream import RandomStream
from slt_pate.dp_sgd.vector_noise import CHUNK, whole_gaussian
from sltcore.errors import PrivacyError

RESOLUTION_BITS = 32
RESOLUTION = 2**RESOLUTION_BITS
"""Grid steps in a clip. Sums of up to 2**20 units are exact in float64."""
MOST_UNITS = 2**20
CELLS = 1024
"""Least number of cells of a release in a standard deviation of its noise."""
MARGIN = 2.0**-22
"""By which clipped norms stay below the clip, more than two roundings in float32 add; rounding to the grid comes on top."""

LayersName = Literal["flat", "uniform", "dimension"]


class Layer(NamedTuple):
    """The weights of one module: their place in the flat gradient, and the largest norm they may have."""

    name: str
    start: int
    stop: int
    clip: float


class ClippedSum:
    """A step's sum of units' gradients, each of norm at most `clip`, in whole numbers of grid steps.

    s = sum_u round(g_u min(1, clip / |g_u|) (1 - m) 2**32 / clip); with layers, each layer l has a norm of its own, clip_l, and
    sum_l clip_l^2 = clip^2: `uniform` clip / sqrt(L), `dimension` clip sqrt(p_l / p).

    The margin m, some 1e-6, is what rounding can add to a norm, so that none exceeds 2**32; sums of whole numbers in float64 are exact, so neither their
    order nor who else is in the step changes a digit. `release` adds noise on the same grid and rounds to cells of at most
    1/1024 of its standard deviation. A unit whose gradient is not finite counts as zero and stands in `dropped`.

    **Source**: Abadi et al. 2016, arXiv:1607.00133, algorithm 1; layers: McMahan et al. 2018, arXiv:1710.06963, section 3.1
    (there `uniform`), and Pelikan et al. 2025, arXiv:2310.00098, whose clipping by dimension is `dimension`.
    """

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], *, clip: float, layers: LayersName = "flat") -> None:
        self.parameters = [parameter for _, parameter in named]
        kinds = {(parameter.dtype, parameter.device) for parameter in self.parameters}
        if not self.parameters:
            raise PrivacyError("nothing is trained: no parameter takes a gradient; choose some in `trainable`")
        if len(kinds) > 1 or self.parameters[0].dtype not in (torch.float32, torch.float64):
            found = ", ".join(sorted(f"{dtype} on {device}".removeprefix("torch.") for dtype, device in kinds))
            raise PrivacyError(
                f"trained parameters are {found}; expected all of them float32, on one device: set precision, which keeps weights "
                f"in float32"
            )
        first = self.parameters[0]
        size = sum(parameter.numel() for parameter in self.parameters)
        self.clip = clip
        sizes = [(name, parameter.numel()) for name, parameter in named]
        self.layers = _layers(sizes, clip, layers)
        self.modules = _layers(sizes, clip, "uniform")
        self.gradient = torch.zeros(size, dtype=first.dtype, device=first.device)
        self.total = torch.zeros(size, dtype=torch.float64, device=first.device)
        self._released = torch.zeros(size, dtype=first.dtype)
        self._margin = MARGIN + math.sqrt(size) / 2 / RESOLUTION
        self._is_host = first.device.type == "cpu"
        self._views = []
        start = 0
        for parameter in self.parameters:
            stop = start + parameter.numel()
            self._views.append(self.gradient[start:stop].view_as(parameter))
            start = stop
        self.count = 0
        self.dropped = 0

    @contextmanager
    def unit(self) -> Iterator[None]:
        """Collects what is propagated back within into one gradient; then it is clipped and added."""
        with self.collected():
            yield
        self.add()

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Collects what is propagated back within in `gradient`."""
        self.gradient.zero_()
        for parameter, view in zip(self.parameters, self._views, strict=True):
            parameter.grad = view
        yield
        for parameter, view in zip(self.parameters, self._views, strict=True):
            if parameter.grad is not None and parameter.grad.data_ptr() != view.data_ptr():
                view.add_(parameter.grad)  # a backward pass that puts a tensor of its own there
            parameter.grad = None

    def add(self) -> None:
        """Clip what stands in `gradient` and add it, as one unit's."""
        self.add_rows(self.gradient[None])

    def add_rows(self, gradients: Tensor) -> None:
        """Clip flat gradients [u p], one of each unit, and add them."""
        self.count += len(gradients)
        if self.count > MOST_UNITS:
            raise PrivacyError(f"a step has over {MOST_UNITS:,} units, expected fewer; lower rate")
        norms = np.array([[self._norm(row[layer.start : layer.stop]) for layer in self.layers] for row in gradients])
        is_finite = np.isfinite(norms).all(1)
        self.dropped += int((~is_finite).sum())
        for place, layer in enumerate(self.layers):
            own = norms[:, place]
            shares = np.minimum(1.0, np.divide(layer.clip, own, out=np.ones_like(own), where=own > layer.clip))
            factors = np.where(is_finite, shares * (1 - self._margin) * RESOLUTION / self.clip, 0.0)
            self._add(gradients[:, layer.start : layer.stop], factors, self.total[layer.start : layer.stop])

    def _norm(self, part: Tensor) -> float:
        if self._is_host:
            return math.sqrt(kernels.squares(part.numpy()))
        return float(torch.linalg.vector_norm(part, dtype=torch.float64))

    def _add(self, gradients: Tensor, factors: np.ndarray, total: Tensor) -> None:
        if self._is_host:
            values = gradients.numpy()
            kernels.add_whole(values, factors.astype(values.dtype), total.numpy())
            return
        for row, factor in zip(gradients, factors.tolist(), strict=True):
            if factor:
                total.add_(torch.mul(row, factor).round_())

    def release(self, noise: float, divisor: float) -> None:
        """Leave (sum + N(0, (noise clip)^2)) / divisor in `.grad` and begin anew; without noise for `noise` 0. The gradients
        of an earlier release are overwritten.

        The noise comes from `whole_gaussian`, a cryptographic source keyed by the operating system for each release.
        """
        total, out = self.total.cpu().numpy(), self._released.numpy()
        deviation, scale = noise * RESOLUTION, self.clip / RESOLUTION / divisor
        cell = 2.0 ** math.floor(math.log2(deviation / CELLS)) if noise else 1.0
        nothing = np.zeros(min(CHUNK, total.size))
        with RandomStream() as stream:
            for start in range(0, total.size, CHUNK):
                part = slice(start, min(start + CHUNK, total.size))
                size = part.stop - start
                drawn = whole_gaussian(deviation, size, stream).numpy() if noise else nothing[:size]
                kernels.finish(total[part], drawn, cell, scale, out[part])
        self._leave(self._released.to(self.gradient.device))
        if not self._is_host:
            self.total.zero_()
        self.count = 0

    def _leave(self, released: Tensor) -> None:
        start = 0
        for parameter in self.parameters:
            stop = start + parameter.numel()
            parameter.grad = released[start:stop].view_as(parameter)
            start = stop


def _layers(sizes: Sequence[tuple[str, int]], clip: float, kind: LayersName) -> list[Layer]:
    """Neighbouring parameters of one module are a layer."""
    found: list[tuple[str, int, int]] = []
    start = 0
    for name, size in sizes:
        owner = name.rpartition(".")[0]
        if found and (kind == "flat" or found[-1][0] == owner):
            found[-1] = (found[-1][0], found[-1][1], start + size)
        else:
            found.append((owner, start, start + size))
        start += size
    shares = [1.0 / len(found) if kind == "uniform" else (stop - begin) / start for _, begin, stop in found]
    return [Layer(*entry, clip * math.sqrt(share)) for entry, share in zip(found, shares, strict=True)]
