"""Masks that are added to scores: what they exclude, and what else they hold."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from slt_nna.dispatch.dispatcher import MASKED, Dispatcher
from slt_nna.tags import MASK, behind, put, tag_of


class Mask(NamedTuple):
    """A host tensor as a mask: true where it excludes, its other numbers with zeros there, and whether those are zeros."""

    low: Tensor
    rest: Tensor
    pure: bool


def mask_of(d: Dispatcher, value: Any, sign: int) -> Mask | None:
    """What a host operand of a sum (`sign` -1: what is subtracted) excludes by numbers below -1e4; None where that is
    nothing, and it is not all zeros.

    A parameter is no mask, and neither are zeros that are computed from parameters, or a buffer of them: what they are is
    not for good.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point() or isinstance(value, torch.nn.Parameter):
        return None
    tag = tag_of(value)
    if (tag is not None and tag.grid is not None) or not value.numel():
        return None
    low: Tensor = value <= MASKED if sign > 0 else value >= -MASKED
    found = bool(low.any())
    if not found and (value.requires_grad or tag is not None or d.names.place(value) is not None):
        return None
    pure = bool((low | (value == 0)).all())
    if not found and not pure:
        return None
    rest = value.masked_fill(low, 0.0)
    return Mask(low, rest if tag is None else put(rest, tag), pure)


def summed(d: Dispatcher, chip: Tensor, index: int) -> bool:
    """Whether calibration saw other numbers than those of a mask as that operand: zeros are then a sum as they were."""
    tag = tag_of(chip)
    return tag is not None and f"{behind(tag, 'add')}:input{index}" in d.ranges.limits


def kept(d: Dispatcher, value: Any) -> Tensor | None:
    """What a mask keeps: a bool tensor, or zeros and ones made of bools or integers; None for any other tensor."""
    if not _mask_like(d, value):
        return None
    if value.dtype == torch.bool:
        return value  # type: ignore[no-any-return]
    if not getattr(value, MASK, False):
        return None
    ones: Tensor = value == 1
    return ones if bool((ones | (value == 0)).all()) else None


def _mask_like(d: Dispatcher, value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and not value.requires_grad
        and tag_of(value) is None
        and d.names.place(value) is None
        and value.numel() > 0
    )
