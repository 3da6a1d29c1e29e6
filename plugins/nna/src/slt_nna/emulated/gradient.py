"""What all operators with a gradient of their own share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sltcore.errors import PluginError


class Operator(torch.autograd.Function):
    """An operator of the chip: `forward` in its arithmetic, `gradient` straight through.

    Gradients run in plain float32, out of reach of modes that intercept torch functions and of autocast. They have no
    gradients of their own: asking for these raises `PluginError`.
    """

    @staticmethod
    def gradient(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        """The gradients by the arguments of `forward`."""
        raise NotImplementedError

    @classmethod
    def backward(cls, ctx: Any, *gradients: Any) -> Any:
        device = next((each.device.type for each in gradients if each is not None), "cpu")
        with torch.no_grad(), torch._C.DisableTorchFunction(), torch.autocast(device, enabled=False):
            found = cls.gradient(ctx, *gradients)
        return found if not torch.is_grad_enabled() else _once(found)


class Once(torch.autograd.Function):
    """A gradient that has none of its own. **Raises** `PluginError` when one is asked for."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, anchor: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise PluginError(
            "nna: the gradient of a gradient was asked for (a gradient penalty, create_graph=True), and operators on the "
            "chip have one derivative only, which goes straight through rounding; exclude the modules that the penalty goes "
            "through, or compute it on a copy of the model in float"
        )


def _once(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Gradients in a graph, where operands that were saved would wrongly count as constants."""
    with torch._C.DisableTorchFunction():
        anchor = torch.zeros((), requires_grad=True)
        return tuple(None if each is None else Once.apply(each, anchor) for each in gradients)


def combined(mask: Tensor | None, other: Tensor | None) -> Tensor | None:
    """What neither of two masks says was clipped."""
    if mask is None:
        return other
    return mask if other is None else mask & other
