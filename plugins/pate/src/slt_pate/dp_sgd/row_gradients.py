"""The gradients of the rows of a batch, each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from slt_pate.dp_sgd.clipped_sum import ClippedSum
from slt_pate.dp_sgd.sample_layers import RowsDiffer, rows_apart

MOST_ROWS = 8
MOST_BYTES = 256 * 2**20
"""For the gradients of a group in memory."""


class Unfit(Exception):
    """The model cannot be taken apart by row; the text says why."""


class RowGradients:
    """Gradients [b p] of the trained parameters of a model by row of a batch, in the order of a `ClippedSum`.

    Activations pass the model together, which is what batches are fast for; only the products that give the weights'
    gradients are taken row by row, without the sum that nobody needs. `most` rows fit.
    """

    def __init__(self, module: nn.Module, clipped: ClippedSum) -> None:
        self.module, self.clipped = module, clipped
        like = clipped.gradient
        self.most = int(min(MOST_ROWS, MOST_BYTES // (like.numel() * like.element_size())))
        self._flat = torch.zeros(self.most, like.numel(), dtype=like.dtype, device=like.device)
        self._place: dict[int, tuple[int, int]] = {}
        start = 0
        for parameter in clipped.parameters:
            self._place[id(parameter)] = (start, start + parameter.numel())
            start += parameter.numel()
        self._seen: set[int] = set()

    @contextmanager
    def collected(self, rows: int) -> Iterator[Tensor]:
        """Collects what is propagated back within; the tensor [rows p] holds it afterwards, until the next time.

        **Raises** `Unfit` for a layer that sees another number of rows, or a parameter that is used outside its layer.
        """
        self._seen.clear()
        for parameter in self.clipped.parameters:
            parameter.grad = None
        found = self._flat[:rows]
        try:
            with rows_apart(self.module, rows, lambda parameter, gradient: self._take(found, parameter, gradient)):
                yield found
        except RowsDiffer:
            raise Unfit("a layer's first axis is not that of the utterances") from None
        for parameter in self.clipped.parameters:
            if parameter.grad is not None:
                parameter.grad = None
                raise Unfit("a parameter is used outside the layer that holds it")
            if id(parameter) not in self._seen:
                start, stop = self._place[id(parameter)]
                found[:, start:stop] = 0

    def _take(self, found: Tensor, parameter: Tensor, gradient: Callable[..., Tensor]) -> None:
        start, stop = self._place[id(parameter)]
        part = found[:, start:stop].view(len(found), *parameter.shape)
        if id(parameter) in self._seen:
            part += gradient()
            return
        self._seen.add(id(parameter))
        given = gradient(out=part)
        if given is not part:
            part.copy_(given)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and each module's own mode afterwards."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode
