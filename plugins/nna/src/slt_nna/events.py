"""What the interception tells those who listen: one event for each operator, and for each value that crosses over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from slt_nna.backend import Weight

ENTER, LEAVE = "enter", "leave"


class Event(NamedTuple):
    """One operator that ran, on the chip or on the host, or one crossing.

    - `operator`: a name of `slt_nna.chip.Operator` where the chip knows one, else the torch function's name; `ENTER`
      and `LEAVE` for crossings. Functions that only arrange values (reshape, slice, transpose) have no event.
    - `site`: the operator's site; of `ENTER` the grid's name, of `LEAVE` the site of the value.
    - `on_chip`: whether it ran in the chip's arithmetic; True for crossings.
    - `inputs`, `outputs`: tensors as torch saw them, without weights; of an LSTM one sequence each, for each layer and
      direction; scaled dot-product attention is matmul, softmax, matmul.
    - `bits`: word sizes of the inputs, then of the outputs, 32 for float.
    - `weights`: of a linear, convolution, embedding, LSTM or GRU: the kernels, without biases, norms' gains included.
    - `options`: the keyword arguments that shapes do not show, such as `groups`; on the host `macs`, the
      multiply-accumulates of the call, where they are known.
    """

    operator: str
    site: str
    on_chip: bool
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    bits: tuple[int, ...]
    weights: tuple[Weight, ...] = ()
    options: Mapping[str, Any] = {}
