"""What all operators with a gradient of their own share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Operator(torch.autograd.Function):
    """An operator of the chip: `forward` in its arithmetic, `gradient` straight through.

    Gradients run in plain float32, out of reach of modes that intercept torch functions and of autocast.
    """

    @staticmethod
    def gradient(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        """The gradients by the arguments of `forward`."""
        raise NotImplementedError

    @classmethod
    def backward(cls, ctx: Any, *gradients: Any) -> Any:
        device = next((each.device.type for each in gradients if each is not None), "cpu")
        with torch._C.DisableTorchFunction(), torch.autocast(device, enabled=False):
            return cls.gradient(ctx, *gradients)


def combined(mask: Tensor | None, other: Tensor | None) -> Tensor | None:
    """What neither of two masks says was clipped."""
    if mask is None:
        return other
    return mask if other is None else mask & other
