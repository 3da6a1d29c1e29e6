"""What LSTM and GRU share: frames of padded and packed sequences, recurrent products, tables on the gates' grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slt_nna.emulated.linear import accumulated
from slt_nna.emulated.passes import Passes, array
from slt_nna.emulated.weights import Codes, exact_type, operand, overflows
from slt_nna.grid import Grid

if TYPE_CHECKING:
    from slt_nna.emulated.maps import Lookup


class Frames(NamedTuple):
    """Rows of all frames one after the other: how many each has, in which order they run, and of how many sequences."""

    sizes: list[int]
    starts: list[int]
    reverse: bool
    batch: int

    def forwards(self) -> Iterator[tuple[int, int]]:
        """The first row of each frame, and its rows, in the order of running."""
        pairs = list(zip(self.starts, self.sizes, strict=True))
        return iter(reversed(pairs) if self.reverse else pairs)

    def backwards(self) -> Iterator[tuple[int, int]]:
        """The same against that order."""
        pairs = list(zip(self.starts, self.sizes, strict=True))
        return iter(pairs if self.reverse else reversed(pairs))


def frames_of(x: Tensor, batch_sizes: Tensor | None, reverse: bool) -> Frames:
    """The frames of x [t b f], or of packed x [sum f]."""
    sizes = [x.shape[1]] * x.shape[0] if batch_sizes is None else [int(each) for each in batch_sizes.tolist()]
    starts = np.concatenate([[0], np.cumsum(sizes)])[:-1].astype(int).tolist() if sizes else []
    batch = x.shape[1] if batch_sizes is None else max(sizes, default=0)
    return Frames(sizes, starts, reverse, batch)


class Recurrent:
    """The product of h with its kernel, frame after frame."""

    def __init__(self, passes: Passes, codes: Codes, grid: Grid, rows: int, *, bias: Tensor | None = None) -> None:
        self.passes, self.codes, self.grid, self.bias = passes, codes, grid, bias
        start = 0.0 if bias is None or not bias.numel() else float(bias.abs().max())
        bound = codes.largest * (1 << (grid.bits - 1))
        tile = passes.arithmetic.chip.accumulator.tile
        self.tiled = tile is not None and tile < codes.operand.shape[1] and overflows(passes.arithmetic, bound + start)
        kind = exact_type(bound)
        self.weight = codes.operand.to(kind).t()
        self.room = torch.empty(rows, codes.operand.shape[0], dtype=kind)
        self.masks: list[Tensor] = []

    def __call__(self, h: Tensor) -> tuple[npt.NDArray[Any], float]:
        """Products [n g] of h [n p], and the factor that makes codes of them; with tiles the bias is in them."""
        if self.tiled:
            codes = self.codes
            found = accumulated(self.passes, h, self.grid, codes.operand, codes.unit, codes.largest, self.bias)
            if found.mask is None:
                found = found._replace(acc=_with_bias(found.acc, found.inverse, self.bias), inverse=1.0)
                found = found._replace(mask=torch.ones(found.acc.shape, dtype=torch.uint8))
            assert found.mask is not None
            self.masks.append(found.mask)
            return array(found.acc), found.inverse
        given, scale = operand(self.passes, h, self.grid)
        out = self.room[: len(h)]
        torch.mm(given.to(self.weight.dtype), self.weight, out=out)
        return array(out), 1.0 / (scale * self.codes.unit)

    def kept(self, frames: Frames) -> Tensor | None:
        """What tiles never overflowed, in the order of the rows; None where there were no tiles."""
        if not self.masks:
            return None
        return torch.cat(self.masks[::-1] if frames.reverse else self.masks)

    @property
    def bias_array(self) -> npt.NDArray[np.int64]:
        """The bias that is still to be added."""
        if self.bias is None or self.tiled:
            return np.zeros(self.codes.operand.shape[0], np.int64)
        return array(self.bias)


def _with_bias(acc: Tensor, inverse: float, bias: Tensor | None) -> Tensor:
    codes = torch.round(acc.double() * inverse)
    return codes if bias is None else codes + bias


def both(found: Lookup) -> npt.NDArray[np.float32]:
    """Values and slopes [2 codes] of a table."""
    return np.stack([array(found.values), array(found.slopes)])


def words(passes: Passes, *grids: Grid | None) -> npt.NDArray[np.int64]:
    """The least and largest codes of grids; None is the accumulator."""
    limits = [passes.arithmetic.accumulator if grid is None else passes.arithmetic.limits(grid.bits) for grid in grids]
    return np.array([each[:2] for each in limits], dtype=np.int64)


def state_of(given: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """A state, or the gradient of one, to go on from: a copy, zeros where there is none."""
    return torch.zeros(shape) if given is None else given.detach().clone(memory_format=torch.contiguous_format)
