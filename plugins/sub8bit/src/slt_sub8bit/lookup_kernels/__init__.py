"""Inference from packed codes: the fastest kernels that this processor has, and portable ones elsewhere."""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import Tensor

from slt_sub8bit.lookup_kernels.compiled import kernels_of, room
from slt_sub8bit.lookup_kernels.portable import rows_of
from slt_sub8bit.packing import PackedWeight
from sltcore.errors import PluginError

WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
__all__ = ["decoded", "decoded_rows", "linear", "return_memory", "room"]


def decoded(packed: PackedWeight) -> Tensor:
    """The weight as a tensor of its own: `table[codes] * scale`, float32 of its shape."""
    return kernels_of(packed.bits).floats(packed)


def decoded_rows(packed: PackedWeight, rows: Tensor) -> Tensor:
    """The rows that integers `[...]` name, float32 `[... columns]`. **Raises** `IndexError` for a row that is not there,
    `PluginError` for other than whole numbers."""
    if rows.dtype not in WHOLE:
        raise PluginError(f"rows of a packed weight are named by {rows.dtype}, expected whole numbers, torch.int64")
    found = rows_of(packed, rows.reshape(-1).to(torch.int64))
    return found.view(*rows.shape, *packed.shape[1:])


def linear(packed: PackedWeight, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """x `[... columns]` times the weight `[rows columns]`, plus bias, in the type of x; in 8-bit integers where the weight
    says so. No gradient passes."""
    shape = x.shape
    if shape[-1:] != (packed.columns,) or not x.is_cpu:
        raise PluginError(
            f"a packed linear layer got {list(shape)} on {x.device}, expected [... {packed.columns}] on the CPU"
        )
    if bias is not None:
        if bias.numel() != packed.rows or not bias.is_cpu:
            raise PluginError(
                f"a packed linear layer has a bias {list(bias.shape)} on {bias.device}, expected [{packed.rows}] on the CPU"
            )
        bias = bias.detach().to(torch.float32).contiguous()
    if torch.is_autocast_enabled("cpu"):  # or products of decoded weights would be rounded to its type
        with torch.autocast("cpu", enabled=False):
            return linear(packed, x, bias)
    if x.is_neg() or x._is_zerotensor():  # whose memory is not what it says, or is none
        x = x.clone()
    y = torch.empty((*shape[:-1], packed.rows), dtype=torch.float32, device="cpu")
    if x.dtype is not torch.float32 or not x.is_contiguous():
        if not x.is_floating_point():
            raise PluginError(
                f"a packed linear layer got {x.dtype}, expected floating point activations, torch.float32"
            )
        return linear(packed, x.detach().to(torch.float32).contiguous(), bias).to(x.dtype)
    kernels = kernels_of(packed.bits)
    (kernels.integer_linear if packed.int8 else kernels.float_linear)(packed, x, bias, y)
    return y


def return_memory() -> None:
    """Give what the C library holds back to the system: small float weights leave holes that it would keep."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
        if trim is not None:
            trim(0)
