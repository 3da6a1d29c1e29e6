"""What turns one float kernel into a quantized one, and the blocks of rows that share a scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import torch

from sltcore.types import TableWeight

if TYPE_CHECKING:
    from torch import Tensor, nn


class Scheme(Protocol):
    """The quantization of one kernel, from its start to its stored form.

    The weight is float32 of the kernel's own shape `[rows ...]` in every call; the quantizer casts other types. One scheme
    object belongs to one kernel, and is made by a `SchemeFactory`.
    """

    @property
    def is_hard(self) -> bool:
        """Whether training, too, uses the stored values by now (always, for a straight-through scheme)."""

    def start(self, weight: Tensor, bits: int) -> None:
        """Take the first values from the weight: scales, levels, clipping ranges."""

    def weight(self, weight: Tensor, *, hard: bool) -> Tensor:
        """What stands in the weight's place, differentiable; with `hard` exactly `table[indices] * scale` of `table`."""

    def table(self, weight: Tensor) -> TableWeight:
        """The stored form: `indices` uint8 of the weight's shape, all below 2^bits; `table` float32 [2^bits]; `scale`
        float32, one number `[]` or one for each row `[rows 1 ...]`."""

    def parameters(self) -> list[nn.Parameter]:
        """What training may change beside the weight: levels, steps."""

    def penalty(self, weight: Tensor) -> Tensor | None:
        """A term for the loss, one number, or None."""

    def step(self, progress: float) -> None:
        """Told before each training step how far training is, from 0 to 1."""

    def state(self) -> dict[str, Tensor]:
        """All that it has learned or measured; with `restore`, and the weight, all that its outputs depend on."""

    def restore(self, state: Mapping[str, Tensor], weight: Tensor, bits: int) -> None:
        """Stand where `state` was taken. The values of `weight` may not be read: a bundle fills them in later."""


SchemeFactory = Callable[[int], Scheme]
"""Makes the scheme of one kernel from the number of blocks of rows that have a scale of their own: 1 for the kernel, 4 for
the gates of an LSTM, or all rows. The number divides the rows."""


def blocks(weight: Tensor, groups: int) -> Tensor:
    """The weight `[rows ...]` as `[groups n]`, one row for each block that shares a scale."""
    return weight.reshape(groups, -1)


def spread(scale: Tensor, weight: Tensor) -> Tensor:
    """Scales `[groups]` as they multiply the weight `[rows ...]`: `[]` for one block, else one for each row `[rows 1 ...]`."""
    if scale.numel() == 1:
        return scale.reshape(())
    rows = scale.repeat_interleave(weight.shape[0] // scale.numel())
    return rows.reshape(-1, *[1] * (weight.ndim - 1))


def decoded(table: TableWeight) -> Tensor:
    """The weight that a table stands for, `table[indices] * scale`, float32: the one way in which it is ever computed."""
    return torch.take(table.table, table.indices.long()) * table.scale
