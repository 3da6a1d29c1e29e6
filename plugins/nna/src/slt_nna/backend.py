"""What computes on the chip: one method for each operator, in three forms: float, emulated, in integers.

The dispatch (`slt_nna.dispatch`) decides what runs where, on which grids and under which names; a backend only computes.
Chip tensors are `torch.Tensor` objects of the backend's own making: values q * scale in float32 for the emulation, and a
tensor subclass around integer codes for the reference. The grid of each is handed over beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from slt_nna.grid import Grid
    from sltcore.types import TableWeight


class Weight(NamedTuple):
    """A weight in use: its qualified name, its float value, and its codebook where a quantizer made one."""

    name: str
    value: Tensor
    table: TableWeight | None = None


class Kernels(NamedTuple):
    """The weights of one layer and direction of an LSTM (gates i f g o) or GRU (r z n), biases apart.

    `weight_ih` [gates*d f], `weight_hh` [gates*d p], `projection` [p d] or None (then p = d), biases [gates*d] or None.
    """

    weight_ih: Weight
    weight_hh: Weight
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    projection: Weight | None = None


class RecurrentGrids(NamedTuple):
    """The grids inside one layer and direction: of h, of the gates before their tables, of c (LSTM), and of the output
    before a projection (LSTM with one)."""

    hidden: Grid
    preactivation: Grid
    state: Grid | None = None
    cell: Grid | None = None


class Backend(Protocol):
    """The chip's operators. `site` and `operator` are set before each call, `site` to a grid's name before `enter`.

    `out` is the grid of the result. Weights and biases are float; codes of them are the backend's matter. Excluded
    entries (of masks before a softmax) are -inf in the emulation, and stay excluded through every method.
    """

    site: str
    operator: str

    def enter(self, x: Tensor, out: Grid) -> Tensor:
        """A host tensor in float, brought to the chip."""

    def leave(self, x: Tensor, grid: Grid) -> Tensor:
        """A chip tensor as host float32: code times scale, rounded to float32 once."""

    def constant(self, value: Tensor, bits: int) -> tuple[Tensor, Grid]:
        """A parameter, buffer or number as a symmetric constant with a scale of its own."""

    def linear(self, x: Tensor, gx: Grid, weight: Weight, bias: Tensor | None, out: Grid) -> Tensor:
        """x [... f], weight [g f] -> [... g]."""

    def convolution(
        self,
        x: Tensor,
        gx: Grid,
        weight: Weight,
        bias: Tensor | None,
        out: Grid,
        *,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> Tensor:
        """One or two dimensions, by weight.ndim - 2; x always has a batch axis; the padding is symmetric, with zeros."""

    def embedding(self, indices: Tensor, weight: Weight) -> tuple[Tensor, Grid]:
        """Rows of the weight's codes."""

    def matmul(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, out: Grid, *, factor: float = 1.0) -> Tensor:
        """torch.matmul(a, b) * factor, the factor folded into the rescaling."""

    def add(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, out: Grid, *, sign: int = 1) -> Tensor:
        """a + sign * b, broadcast."""

    def multiply(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, out: Grid) -> Tensor:
        """a * b, broadcast."""

    def scale(self, a: Tensor, ga: Grid, factor: float, out: Grid) -> Tensor:
        """a * factor by requantization; negative factors negate the codes first, 0 gives zeros."""

    def relabel(self, a: Tensor, ga: Grid, factor: float) -> tuple[Tensor, Grid]:
        """a * factor with the codes as they are, on the grid (scale * factor, bits); factor > 0."""

    def negate(self, a: Tensor, ga: Grid) -> Tensor:
        """-a on its own grid; the least code saturates or wraps."""

    def relu(self, a: Tensor, ga: Grid, *, most: float | None = None) -> Tensor:
        """max(a, 0), and min(., most) where given, on its own grid."""

    def lookup(self, a: Tensor, ga: Grid, function: str) -> tuple[Tensor, Grid]:
        """ "sigmoid" or "tanh" by table, on the table's grid."""

    def gate(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, function: str, out: Grid) -> Tensor:
        """a * LUT(b): "sigmoid" for silu (b is a) and glu, "phi" for gelu."""

    def softmax(self, a: Tensor, ga: Grid, dim: int) -> tuple[Tensor, Grid]:
        """Probabilities along `dim` on the grid (2^-(bits-1), bits), bits = words.probability."""

    def exclude(self, a: Tensor, ga: Grid, mask: Tensor) -> Tensor:
        """`a` with the entries where `mask` (bool, broadcast against `a`) is true excluded."""

    def settle(self, a: Tensor, ga: Grid) -> Tensor:
        """`a` with the least code, or the least number, in the place of excluded entries."""

    def fill(self, a: Tensor, ga: Grid, mask: Tensor, value: float) -> Tensor:
        """`a` with the entries where `mask` (bool, broadcast) is true set to `value`, entered onto the grid of `a`."""

    def layer_norm(
        self, a: Tensor, ga: Grid, weight: Tensor | None, bias: Tensor | None, eps: float, out: Grid
    ) -> Tensor:
        """Over the last axis."""

    def batch_norm(
        self,
        a: Tensor,
        ga: Grid,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        out: Grid,
        *,
        axis: int = 1,
    ) -> Tensor:
        """With the running statistics, channels on `axis`."""

    def requantize(self, a: Tensor, ga: Grid, out: Grid) -> Tensor:
        """The same values on another grid; a copy where the grids are equal."""

    def lstm(
        self,
        x: Tensor,
        gx: Grid,
        kernels: Kernels,
        grids: RecurrentGrids,
        state: tuple[Tensor, Tensor] | None,
        *,
        reverse: bool = False,
        batch_sizes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer and direction: x [t b f] -> h [t b p], last h [b p], last c [b d].

        With `batch_sizes` [t] (packed, descending) x is [sum f], h [sum p], and last h and c are each sequence's own.
        `reverse` runs from the last frame of each sequence to its first; h stays in the order of x. `state` is (h [b p],
        c [b d]) on grids.hidden and grids.state, None for zeros.
        """

    def gru(
        self,
        x: Tensor,
        gx: Grid,
        kernels: Kernels,
        grids: RecurrentGrids,
        state: Tensor | None,
        *,
        reverse: bool = False,
        batch_sizes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `lstm`, without c: h [t b d], last h [b d]."""

    def shape(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """A torch function that only arranges entries of chip tensors of one grid (and zeros): reshape, slice, pad, cat.

        `args` and `kwargs` are those of the call; chip tensors are found in them (lists included) by class or mark. The
        result is a chip tensor, or a tuple or list of them, without a mark.
        """

    def overwrite(self, x: Tensor, result: Tensor, grid: Grid) -> None:
        """Give `x` (a chip tensor of this backend, or a host tensor) the values of the chip tensor `result`, in place,
        for code that holds on to `x` after an in-place operator."""
