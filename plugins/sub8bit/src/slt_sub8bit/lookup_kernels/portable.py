"""Kernels for any processor: codes are decoded by numba, torch multiplies."""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from slt_sub8bit.integer_linear import int8_linear
from slt_sub8bit.packing import GROUP, PackedWeight


class PortableKernels:
    """What a packed weight can do: be decoded, and multiply rows of activations."""

    name = "portable"

    def integers(self, packed: PackedWeight) -> Tensor:
        """The codes as integers of the int8 grid, int8 `[rows columns]`."""
        target = torch.empty(groups(packed) * GROUP, dtype=torch.int8, device="cpu")
        self.decode_bytes(packed, target)
        return target[: packed.count].view(packed.rows, packed.columns)

    def decode_bytes(self, packed: PackedWeight, target: Tensor) -> None:
        """Write the integers of all groups into `target`, int8 of 64 for each group."""
        table = np.zeros(256, np.int8)
        table[: len(packed.table)] = packed.table.numpy().astype(np.int8)
        _decode(packed.codes.numpy(), packed.bits, table, target.numpy())

    def floats(self, packed: PackedWeight) -> Tensor:
        """The weight, float32 `[rows ...]`: `table[codes] * scale`."""
        table = np.zeros(256, np.float32)
        table[: len(packed.table)] = packed.table.numpy()
        target = torch.empty(groups(packed) * GROUP, dtype=torch.float32, device="cpu")
        _decode(packed.codes.numpy(), packed.bits, table, target.numpy())
        found = target[: packed.count].view(packed.rows, packed.columns)
        return found.mul_(packed.scale.view(-1, 1)).view(packed.shape)

    def integer_linear(self, packed: PackedWeight, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        """y `[... rows]` of x float32 `[... columns]` in 8-bit integers; x, bias and y are contiguous."""
        y.copy_(int8_linear(x.detach(), self.integers(packed), packed.scale, None if bias is None else bias.detach()))

    def float_linear(self, packed: PackedWeight, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        """y `[... rows]` of x float32 `[... columns]`."""
        weight = self.floats(packed).view(packed.rows, packed.columns)
        with torch.no_grad():
            y.copy_(F.linear(x, weight, bias))


def groups(packed: PackedWeight) -> int:
    """Groups of 64 codes."""
    return packed.codes.numel() // (8 * packed.bits)


def rows_of(packed: PackedWeight, rows: Tensor) -> Tensor:
    """Some rows of a packed weight, float32 `[n columns]`. **Raises** `IndexError` for a row that it does not have."""
    wanted = rows.numpy()
    if wanted.size and not 0 <= int(wanted.min()) <= int(wanted.max()) < packed.rows:
        raise IndexError(
            f"index out of range: {int(wanted.min())} to {int(wanted.max())}, there are {packed.rows} rows"
        )
    found = np.empty((wanted.size, packed.columns), np.float32)
    _gather(packed.codes.numpy(), packed.bits, packed.table.numpy(), packed.scale.numpy(), wanted, found)
    return torch.from_numpy(found)


@numba.njit(nogil=True, cache=True)
def _decode(codes: NDArray[np.uint8], bits: int, table: NDArray[np.generic], target: NDArray[np.generic]) -> None:
    if bits == 8:
        for place in range(len(codes)):
            target[place] = table[codes[place]]
        return
    for group in range(len(codes) // (8 * bits)):
        start = group * 8 * bits
        for byte in range(8):
            word = np.uint64(0)  # byte p: eight bits of plane p
            for plane in range(bits):
                word |= np.uint64(codes[start + 8 * plane + byte]) << np.uint64(8 * plane)
            word = _transposed(word)  # byte j: code j
            for code in range(8):
                index = (word >> np.uint64(8 * code)) & np.uint64(0xFF)
                target[group * 64 + 8 * byte + code] = table[index]


@numba.njit(nogil=True, cache=True, inline="always")
def _transposed(word: np.uint64) -> np.uint64:
    """The 8 x 8 matrix of bits in a word, transposed. **Source**: Warren, Hacker's Delight, section 7-3."""
    for shift, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
        move = (word ^ (word >> np.uint64(shift))) & np.uint64(mask)
        word = word ^ move ^ (move << np.uint64(shift))
    return word


@numba.njit(nogil=True, cache=True)
def _gather(
    codes: NDArray[np.uint8],
    bits: int,
    table: NDArray[np.float32],
    scale: NDArray[np.float32],
    rows: NDArray[np.int64],
    target: NDArray[np.float32],
) -> None:
    columns = target.shape[1]
    for place in range(len(rows)):
        row = rows[place]
        factor = scale[row] if len(scale) > 1 else scale[0]
        for column in range(columns):
            position = row * columns + column
            if bits == 8:
                code = np.int64(codes[position])
            else:
                start, inside = position // 64 * 8 * bits, position % 64
                code = np.int64(0)
                for plane in range(bits):
                    code |= np.int64(codes[start + 8 * plane + inside // 8] >> (inside % 8) & 1) << plane
            target[place, column] = table[code] * factor
