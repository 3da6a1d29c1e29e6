"""Codes of 1 to 8 bits in bytes, and the weight they stand for.

The layout is the same in a file and in memory. The weights of a kernel, in row-major order, are cut into groups of 64; the
last group is filled up with code 0. Below 8 bits a group is b little-endian words of 64 bits, and bit j of word p is bit p of
the group's code j (**bit planes**). At 8 bits a group is its 64 codes, one byte each. A kernel of n weights takes
ceil(n / 64) * 8 b bytes: at most 8 b - 1 / 8 bytes more than n b / 8.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from slt_sub8bit.scheme import decoded
from sltcore.errors import PluginError
from sltcore.types import TableWeight

GROUP = 64
MOST_LEVEL = 127
MOST_COLUMNS = 2**31 // (MOST_LEVEL + 1) ** 2
"""Columns from which a sum of products might leave 32 bits."""
PARTS = ("codes", "table", "scale")
CHUNK = 1 << 20  # groups packed at once


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` codes: ceil(count / 64) * 8 * bits."""
    return -(-count // GROUP) * 8 * bits


def needed_bits(levels: int) -> int:
    """Bits of a code that chooses between `levels` values, at least 1."""
    return max(1, (levels - 1).bit_length())


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8, of any shape, as bytes uint8 `[packed_bytes]`. **Raises** `PluginError` for a code of more than b bits."""
    if not 1 <= bits <= 8:
        raise PluginError(f"pack: {bits} bits, expected 1 to 8")
    flat = codes.detach().reshape(-1).numpy()
    if flat.dtype != np.uint8:
        raise PluginError(f"pack: codes are {codes.dtype}, expected torch.uint8")
    if flat.size and int(flat.max()) >> bits:
        raise PluginError(f"pack: a code is {int(flat.max())}, {bits} bits hold 0 to {2**bits - 1}")
    packed = np.zeros((packed_bytes(flat.size, 1) // 8, bits, 8), np.uint8)
    for start in range(0, len(packed), CHUNK):
        part = flat[start * GROUP : (start + CHUNK) * GROUP]
        groups = np.zeros((-(-part.size // GROUP), GROUP), np.uint8)
        groups.reshape(-1)[: part.size] = part
        if bits == 8:
            packed[start : start + CHUNK] = groups.reshape(-1, 8, 8)
            continue
        for plane in range(bits):
            packed[start : start + CHUNK, plane] = np.packbits(groups >> plane & 1, axis=1, bitorder="little")
    return torch.from_numpy(packed.reshape(-1))


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes, uint8 `[count]`; the inverse of `pack`, written for clarity and not for speed."""
    groups = packed.numpy().reshape(-1, bits, 8)
    if bits == 8:
        return torch.from_numpy(groups.reshape(-1)[:count].copy())
    codes = np.zeros((len(groups), GROUP), np.uint8)
    for plane in range(bits):
        codes |= np.unpackbits(groups[:, plane], axis=1, bitorder="little") << plane
    return torch.from_numpy(codes.reshape(-1)[:count].copy())


def aligned(codes: Tensor) -> Tensor:
    """The same bytes in memory that begins where a cache line does, as torch's own does: a load of 64 bytes is then one."""
    if codes.data_ptr() % GROUP == 0 and codes.is_contiguous() and codes.untyped_storage().nbytes() == codes.numel():
        return codes
    return torch.empty_like(codes, memory_format=torch.contiguous_format).copy_(codes)


class Levels(NamedTuple):
    """A table on an 8-bit grid: integers of -127 to 127, int8 `[levels]`, and their step, float32 `[]`."""

    integers: Tensor
    step: Tensor


def int8_levels(table: Tensor) -> Levels:
    """The table rounded to 8 bits: step = max|table| / 127, half to even. A table that is on the integers already keeps
    them, with a step of 1, so that rounding twice changes nothing."""
    if bool((table == table.round()).all()) and bool((table.abs() <= MOST_LEVEL).all()):
        return Levels(table.to(torch.int8), torch.ones((), dtype=torch.float32))
    step = table.abs().amax() / MOST_LEVEL
    return Levels((table / step).round().clamp(-MOST_LEVEL, MOST_LEVEL).to(torch.int8), step)


def on_int8_grid(weight: TableWeight) -> TableWeight:
    """The same codes over a table of whole numbers from -127 to 127; the step goes into the scale."""
    levels = int8_levels(weight.table)
    return TableWeight(weight.indices, levels.integers.float(), weight.scale * levels.step)


def _as_bytes(weight: TableWeight) -> TableWeight:
    """An 8-bit weight whose codes are its integers plus 128, so that no table is needed to compute with it."""
    indices = torch.take(weight.table + 128, weight.indices.long()).to(torch.uint8)
    return TableWeight(indices, _all_bytes(), weight.scale)


def _all_bytes() -> Tensor:
    return torch.arange(-128, 128, dtype=torch.float32, device="cpu")


@dataclass(eq=False)
class PackedWeight:
    """A weight kept as packed codes, a table and a scale: `table[codes] * scale`.

    `codes` uint8 `[packed_bytes]`; `table` float32 `[levels]`; `scale` float32 `[1]` or `[rows]`; `shape` is the weight's
    `[rows ...]`. With `int8` the table holds whole numbers from -127 to 127, and linear layers compute in integers.
    """

    codes: Tensor
    table: Tensor
    scale: Tensor
    shape: tuple[int, ...]
    int8: bool = False
    derived: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """What kernels hold for it beside its tensors, made at first use: its table as they read it, sums of rows."""
    layer: Any = field(default=None, repr=False)
    """The record that kernels read, made at first use."""

    def __post_init__(self) -> None:
        self.bits = needed_bits(len(self.table))
        self.count = math.prod(self.shape)
        if not self.count:
            raise PluginError(
                f"a weight of shape {list(self.shape)} cannot be packed: it has no values; leave the layer out"
            )
        self.rows = self.shape[0]
        self.columns = self.count // self.rows  # as a matrix, all axes but the first together
        if self.int8 and self.columns >= MOST_COLUMNS:
            raise PluginError(
                f"a packed weight of shape {list(self.shape)} cannot compute in 8-bit integers: its sums of {self.columns} "
                f"products may leave 32 bits, {MOST_COLUMNS - 1} cannot; use compute: float"
            )
        self.codes = aligned(self.codes)

    @property
    def storage_bytes(self) -> int:
        """Bytes of its tensors, in memory as on disk."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.codes, self.table, self.scale))

    @property
    def derived_bytes(self) -> int:
        """Bytes that kernels hold for it beside its tensors, once it has been used."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.derived.values())

    def moved(self) -> None:
        """Forget where its tensors lie: they may have been given other memory."""
        if self.layer is not None:
            self.layer.shapes.clear()
            self.layer = None

    @classmethod
    def of(cls, weight: TableWeight, *, int8: bool = False) -> PackedWeight:
        """Pack a codebook weight. With `int8` its table is rounded to the int8 grid first; at 8 bits it becomes the grid."""
        if int8:
            weight = on_int8_grid(weight)
            if needed_bits(len(weight.table)) == 8:
                weight = _as_bytes(weight)
        shape = tuple(weight.indices.shape)
        scale = weight.scale.detach().float().reshape(-1)
        if scale.numel() not in (1, shape[0]):
            raise PluginError(
                f"a packed weight of shape {list(shape)} has scale {list(weight.scale.shape)}, expected one or one a row"
            )
        codes = pack(weight.indices.contiguous(), needed_bits(len(weight.table)))
        if codes.numel() and int(weight.indices.max()) >= len(weight.table):
            raise PluginError(
                f"a packed weight has an index {int(weight.indices.max())}, its table has {len(weight.table)} values"
            )
        return cls(codes, weight.table.detach().float().clone(), scale.clone(), shape, int8)

    @classmethod
    def restored(cls, state: Mapping[str, Tensor], name: str, shape: tuple[int, ...], *, int8: bool) -> PackedWeight:
        """The weight whose parts `state` holds under `name.codes`, `name.table` and `name.scale`.

        **Raises** `PluginError` when a part is missing, or cannot belong to a weight of this shape.
        """
        missing = [part for part in PARTS if f"{name}.{part}" not in state]
        if missing:
            raise PluginError(
                f"packed {name}: the state has no {name}.{missing[0]}; it belongs to another model or place"
            )
        codes, table, scale = (state[f"{name}.{part}"] for part in PARTS)
        found = cls(codes.clone(), table.clone(), scale.clone(), shape, int8)  # what was loaded may be the file itself
        found._check(name)
        return found

    def _check(self, name: str) -> None:
        """**Raises** `PluginError` for parts that do not fit each other."""
        if self.table.ndim != 1 or not 2 <= len(self.table) <= 256 or self.table.dtype != torch.float32:
            raise PluginError(
                f"packed {name}: its table is {self.table.dtype} {list(self.table.shape)}, expected float32 [2 to 256]"
            )
        expected = packed_bytes(self.count, self.bits)
        if self.codes.dtype != torch.uint8 or self.codes.numel() != expected:
            raise PluginError(
                f"packed {name}: {self.codes.numel()} bytes of codes ({self.codes.dtype}), expected {expected} of uint8: "
                f"{self.count} weights of {self.bits} bits; the file is damaged or of another model"
            )
        if self.scale.numel() not in (1, self.rows) or self.scale.dtype != torch.float32:
            raise PluginError(f"packed {name}: its scale is {list(self.scale.shape)}, expected [1] or [{self.rows}]")
        for part, values in (("table", self.table), ("scale", self.scale)):
            if not bool(values.isfinite().all()):
                raise PluginError(f"packed {name}: its {part} has values that are not finite; the file is damaged")
        if self.int8 and not bool((self.table == self.table.round()).all() and (self.table.abs() <= 128).all()):
            raise PluginError(f"packed {name}: its table is no int8 grid; it was packed with compute: float")
        if self.int8 and self.bits == 8 and not torch.equal(self.table, _all_bytes()):  # kernels do not look it up
            raise PluginError(
                f"packed {name}: its table of 8 bits is not -128 to 127; it was packed with compute: float"
            )
        self._check_codes(name)

    def _check_codes(self, name: str) -> None:
        last = unpack(self.codes[-8 * self.bits :], self.bits, GROUP)
        if bool(last[(self.count - 1) % GROUP + 1 :].any()):
            raise PluginError(f"packed {name}: bits are set behind its last weight; the file is damaged")
        if len(self.table) < 2**self.bits and int(unpack(self.codes, self.bits, self.count).max()) >= len(self.table):
            raise PluginError(
                f"packed {name}: a code points behind its table of {len(self.table)}; the file is damaged"
            )

    def state(self, name: str) -> dict[str, Tensor]:
        """Its parts, for `restored`."""
        return {f"{name}.codes": self.codes, f"{name}.table": self.table, f"{name}.scale": self.scale}

    def table_weight(self) -> TableWeight:
        """Codes, table and scale as an accelerator wants them."""
        indices = unpack(self.codes, self.bits, self.count).reshape(self.shape)
        scale = (
            self.scale.reshape(()) if self.scale.numel() == 1 else self.scale.reshape(-1, *[1] * (len(self.shape) - 1))
        )
        return TableWeight(indices, self.table, scale)

    def reference(self) -> Tensor:
        """The decoded weight, float32 of its shape, by the formula alone; kernels must agree with it bit for bit."""
        return decoded(self.table_weight())

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled. Sending a tensor to another process moves it into shared memory: its addresses are forgotten."""
        self.moved()
        return {**self.__dict__, "derived": {}}

    def __deepcopy__(self, memo: dict[int, object]) -> PackedWeight:
        codes, table, scale = (copy.deepcopy(tensor, memo) for tensor in (self.codes, self.table, self.scale))
        copied = PackedWeight(codes, table, scale, self.shape, self.int8)
        memo[id(self)] = copied
        return copied
