"""The kernels of `avx512`, compiled for this processor at first use and tried before they are trusted."""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Any

import llvmlite.binding as llvm
import torch
from torch import Tensor
from torch.nn import functional as F

from slt_sub8bit.integer_linear import MOST_COLUMNS, int8_linear
from slt_sub8bit.lookup_kernels import activations, avx512
from slt_sub8bit.lookup_kernels.portable import PortableKernels, groups
from slt_sub8bit.packing import GROUP, PackedWeight, unpack
from sltcore.types import TableWeight

MOST_STEPS = 32
"""Rows of activations up to which the look-up kernels beat decoding to int8 and torch's matrix product."""
MOST_STACK = 1 << 16
THREADED = 1 << 23
"""Products from which a layer is worth a second thread."""
CHUNK = 1 << 20
"""Bytes decoded at a time."""
MOST_ROWS = 512
"""Rows of activations multiplied at a time."""
ONE = torch.ones(1)
NOTHING = torch.tensor([-0.0])  # the bias of a layer without one


class CompiledKernels(PortableKernels):
    """Look-up kernels of one width, in machine code."""

    name = "avx512"

    def __init__(self, bits: int) -> None:
        self.bits = bits
        library = _library(bits)
        shared = _library(0)
        self.layer_one = library.function("layer_one", 4)
        self.layer_rows = library.function("layer_rows", 9)
        self.bytes_out = library.function("decode_bytes", 5)
        self.floats_out = library.function("decode_floats", 7)
        self.multiply_floats = library.function("multiply_floats", 11)
        self.round_padded = shared.function("round_padded", 6)
        self.round_plain = shared.function("round_plain", 6)
        self.scaled = shared.function("scaled", 10)

    def decode_bytes(self, packed: PackedWeight, target: Tensor) -> None:
        table = _bytes_table(packed)
        self.bytes_out(packed.codes.data_ptr(), table.data_ptr(), target.data_ptr(), 0, groups(packed))

    def floats(self, packed: PackedWeight) -> Tensor:
        target = torch.empty(groups(packed) * GROUP)
        return self._float_rows(packed, 0, packed.rows, target).view(packed.shape)

    def _float_rows(self, packed: PackedWeight, begin: int, end: int, target: Tensor) -> Tensor:
        """Rows `begin`, a multiple of 64, to `end` of the decoded weight, in `target`, which has room for whole groups."""
        columns, bits, scale = packed.columns, self.bits, packed.scale
        codes = packed.codes.data_ptr() + begin * columns // GROUP * 8 * bits
        whole = columns % GROUP == 0
        many = -(-(end - begin) * columns // GROUP)
        shape = (end - begin, columns // GROUP) if whole else (1, many)
        alone = scale.numel() == 1
        factor = scale if alone else scale[begin:end] if whole else ONE
        table = _floats_table(packed)
        self.floats_out(codes, table.data_ptr(), target.data_ptr(), *shape, factor.data_ptr(), int(whole and not alone))
        found = target[: (end - begin) * columns].view(end - begin, columns)
        return found if whole or alone else found.mul_(scale[begin:end, None])

    def integer_linear(self, packed: PackedWeight, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        steps = x.numel() // packed.columns
        layer: Layer = packed.layer or _prepared(self, packed)
        add, add_step = (bias.data_ptr(), 1) if bias is not None else (NOTHING.data_ptr(), 0)
        if steps * packed.count >= THREADED and torch.get_num_threads() > 1 and steps <= MOST_STEPS:
            self._threaded(packed, layer, x, (add, add_step), y)
        elif steps == 1 and packed.columns <= MOST_STACK:
            self.layer_one(layer.address, add if add_step else 0, x.data_ptr(), y.data_ptr())
        elif steps <= MOST_STEPS:
            bytes_in, step = self._rounded(packed, x)
            pointers = (add, add_step, bytes_in.data_ptr(), step.data_ptr(), steps, y.data_ptr())
            self.layer_rows(layer.address, *pointers, 0, packed.rows)
        else:
            self._product(packed, x, (add, add_step), y)

    def float_linear(self, packed: PackedWeight, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        if x.numel() > packed.columns or packed.columns % GROUP or packed.rows % avx512.ROWS_FLOAT or self.bits > 5:
            self._float_product(packed, x, bias, y)
            return
        add, add_step = (bias.data_ptr(), 1) if bias is not None else (NOTHING.data_ptr(), 0)
        table, scale = _floats_table(packed), packed.scale
        pointers = (packed.codes.data_ptr(), table.data_ptr(), packed.columns, scale.data_ptr(), int(scale.numel() > 1))
        self.multiply_floats(*pointers, add, add_step, x.data_ptr(), y.data_ptr(), 0, packed.rows)

    def _rounded(self, packed: PackedWeight, x: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = x.numel() // packed.columns, packed.columns
        stride = activations.padded_stride(columns)
        bytes_in, step = torch.empty(rows * stride, dtype=torch.uint8), torch.empty(rows)
        self.round_padded(x.data_ptr(), rows, columns, bytes_in.data_ptr(), stride, step.data_ptr())
        return bytes_in, step

    def _product(self, packed: PackedWeight, x: Tensor, bias: tuple[int, int], y: Tensor) -> None:
        """Many rows of activations: decode some rows of the weight to int8, let torch multiply, and so on.

        What is decoded stays in the cache, in memory that each thread keeps: fresh memory costs more than decoding.
        """
        rows, columns, outputs = x.numel() // packed.columns, packed.columns, packed.rows
        room, step = torch.empty(rows * columns + 16, dtype=torch.int8), torch.empty(rows)
        self.round_plain(x.data_ptr(), rows, columns, room.data_ptr(), columns, step.data_ptr())
        x8 = room[: rows * columns].view(rows, columns)
        table, scale, scale_step = _bytes_table(packed), packed.scale.data_ptr(), int(packed.scale.numel() > 1)
        for begin, end in _shares(packed, CHUNK):
            space, first = _room("weight", (end - begin) * columns + GROUP, torch.int8), begin * columns
            last = -(-end * columns // GROUP)
            self.bytes_out(packed.codes.data_ptr(), table.data_ptr(), space.data_ptr() - first, first // GROUP, last)
            weight = space[: (end - begin) * columns].view(end - begin, columns).t()
            for t in range(0, rows, MOST_ROWS):
                some = x8[t : t + MOST_ROWS]
                sums = _room("sums", len(some) * (end - begin), torch.int32).view(len(some), end - begin)
                torch._int_mm(some, weight, out=sums)
                factors = (scale + 4 * begin * scale_step, scale_step, bias[0] + 4 * begin * bias[1], bias[1])
                place = y.data_ptr() + 4 * (t * outputs + begin)
                self.scaled(sums.data_ptr(), len(some), end - begin, step.data_ptr() + 4 * t, *factors, place, outputs)

    def _float_product(self, packed: PackedWeight, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        """As `_product`, in float32."""
        with torch.no_grad():
            flat, target = x.reshape(-1, packed.columns), y.view(-1, packed.rows)
            for begin, end in _shares(packed, CHUNK // 4):
                space = _room("floats", (end - begin) * packed.columns + GROUP, torch.float32)
                part = None if bias is None else bias[begin:end]
                target[:, begin:end] = F.linear(flat, self._float_rows(packed, begin, end, space), part)

    def _threaded(self, packed: PackedWeight, layer: Layer, x: Tensor, bias: tuple[int, int], y: Tensor) -> None:
        """The rows of the weight, shared out among torch's number of threads."""
        bytes_in, step = self._rounded(packed, x)
        count = torch.get_num_threads()
        share = -(-packed.rows // count // 4) * 4
        pointers = (*bias, bytes_in.data_ptr(), step.data_ptr(), len(step), y.data_ptr())

        def work(begin: int) -> None:
            self.layer_rows(layer.address, *pointers, begin, min(begin + share, packed.rows))

        waiting = [_pool(count).submit(work, begin) for begin in range(share, packed.rows, share)]
        work(0)
        for one in waiting:
            one.result()


_own = threading.local()


def _room(name: str, count: int, dtype: torch.dtype) -> Tensor:
    """`count` values of memory that the thread keeps from call to call."""
    kept: Tensor | None = getattr(_own, name, None)
    if kept is None or kept.numel() < count:
        kept = torch.empty(count, dtype=dtype)
        setattr(_own, name, kept)
    return kept[:count]


def _shares(packed: PackedWeight, weights: int) -> Iterator[tuple[int, int]]:
    """First and last rows of parts of about `weights`, in multiples of 64 rows, so that each begins with a group."""
    rows = max(1, weights // (packed.columns * GROUP)) * GROUP
    return ((begin, min(begin + rows, packed.rows)) for begin in range(0, packed.rows, rows))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="lookup-kernels")


class _Library:
    """Machine code, and the functions in it."""

    def __init__(self, text: str) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        parsed = llvm.parse_assembly(text)
        parsed.verify()
        features = llvm.get_host_cpu_features().flatten()
        target = llvm.Target.from_default_triple()
        machine = target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True)
        self.engine = llvm.create_mcjit_compiler(parsed, machine)
        self.engine.finalize_object()

    def function(self, name: str, count: int) -> Any:
        """A function of `count` integers and addresses; calling it lets other threads run."""
        return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * count)(self.engine.get_function_address(name))


@cache
def _library(bits: int) -> _Library:
    return _Library(avx512.source(bits) if bits else activations.source())


def is_supported() -> bool:
    """Whether this processor has every instruction that the kernels use."""
    try:
        found = llvm.get_host_cpu_features()
    except RuntimeError:  # not known on this platform
        return False
    return all(found.get(name, False) for name in avx512.FEATURES)


@cache
def kernels_of(bits: int) -> PortableKernels:
    """The fastest kernels of a width that give right results here."""
    if not is_supported():
        return PortableKernels()
    try:
        kernels = CompiledKernels(bits)
    except RuntimeError as error:  # an LLVM that reads this assembly differently
        return _without(bits, str(error).splitlines()[0])
    return kernels if agrees(kernels) else _without(bits, "they give other results than the portable kernels")


def _without(bits: int, why: str) -> PortableKernels:
    warnings.warn(f"look-up kernels of {bits} bits are not used on this machine: {why}", stacklevel=3)
    return PortableKernels()


def agrees(kernels: CompiledKernels) -> bool:
    """Whether kernels give what the formulas give, on a small layer of whole groups and one of odd size."""
    generator = torch.Generator().manual_seed(kernels.bits)
    for rows, columns, scales in ((7, 128, 7), (5, 83, 1)):
        indices = torch.randint(0, 2**kernels.bits, (rows, columns), generator=generator, dtype=torch.uint8)
        table = torch.randn(2**kernels.bits, generator=generator)
        weight = TableWeight(indices, table, torch.rand(scales, 1, generator=generator) + 0.5)
        x, bias = torch.randn(6, columns, generator=generator), torch.randn(rows, generator=generator)
        packed, whole = PackedWeight.of(weight), PackedWeight.of(weight, int8=True)
        if not torch.equal(kernels.floats(packed), packed.reference()):
            return False
        integers = torch.take(whole.table, unpack(whole.codes, whole.bits, whole.count).long()).view(rows, columns)
        for steps in (1, 6):
            expected = int8_linear(x[:steps], integers.to(torch.int8), whole.scale, bias)
            y = torch.empty(steps, rows)
            kernels.integer_linear(whole, x[:steps], bias, y)
            if not torch.equal(y, expected):
                return False
        y = torch.empty(1, rows)
        kernels.float_linear(packed, x[:1], bias, y)
        if not torch.allclose(y, F.linear(x[:1], packed.reference(), bias), atol=1e-4):
            return False
    return True


def _bytes_table(packed: PackedWeight) -> Tensor:
    """The table as int8, with room for the registers that hold it."""
    if "bytes_table" not in packed.derived:
        table = torch.zeros(128, dtype=torch.int8)
        if packed.bits < 8:
            table[: len(packed.table)] = packed.table.to(torch.int8)
        packed.derived["bytes_table"] = table
    return packed.derived["bytes_table"]


def _floats_table(packed: PackedWeight) -> Tensor:
    """The table, with room for the registers that hold it."""
    size = max(16, 2**packed.bits)
    if len(packed.table) == size:
        return packed.table
    if "floats_table" not in packed.derived:
        packed.derived["floats_table"] = torch.cat([packed.table, torch.zeros(size - len(packed.table))])
    return packed.derived["floats_table"]


class Layer:
    """The record of a layer, at an address that stays, and the function that computes one row of it, where there is one."""

    def __init__(self, *fields: int) -> None:
        self.one: Any = None
        self.shapes: dict[torch.Size, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        """Shapes that came in as one row, and the shape and strides of what goes out."""
        self.record = (ctypes.c_int64 * len(avx512.RECORD))(*fields)
        self.address = ctypes.addressof(self.record)


def _prepared(kernels: CompiledKernels, packed: PackedWeight) -> Layer:
    """The record of a layer, and what it points to."""
    assert packed.columns < MOST_COLUMNS
    integers = torch.empty(groups(packed) * GROUP, dtype=torch.int8)
    kernels.decode_bytes(packed, integers)
    total = torch.zeros(groups(packed) + 1, dtype=torch.int64)
    torch.cumsum(integers.view(-1, GROUP).sum(1), 0, out=total[1:])
    start = torch.arange(packed.rows) * packed.columns
    sums = (total[(start + packed.columns + GROUP - 1) // GROUP] - total[start // GROUP]) * 128
    packed.derived["sums"] = held = sums.to(torch.int32)
    table, stride = _bytes_table(packed), activations.padded_stride(packed.columns)
    whole = packed.rows if packed.columns % GROUP == 0 else 0
    scale_step = int(packed.scale.numel() > 1)
    fields = (packed.codes.data_ptr(), table.data_ptr(), packed.columns, packed.scale.data_ptr(), scale_step)
    layer = Layer(*fields, held.data_ptr(), packed.rows, stride, whole, NOTHING.data_ptr())
    if packed.columns <= MOST_STACK and packed.count < THREADED:
        layer.one = kernels.layer_one
    packed.layer = layer
    return layer
