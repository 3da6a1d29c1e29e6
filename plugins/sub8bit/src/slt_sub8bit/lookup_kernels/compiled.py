"""The kernels of `products` and `tiles`, compiled for this processor at first use and tried before they are trusted."""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from slt_sub8bit.integer_linear import int8_linear
from slt_sub8bit.lookup_kernels import activations, products, tiles
from slt_sub8bit.lookup_kernels.calls import PythonFunctions
from slt_sub8bit.lookup_kernels.codes import Avx2, Avx512, Codes
from slt_sub8bit.lookup_kernels.portable import PortableKernels, groups
from slt_sub8bit.lookup_kernels.tiles import STRIP, TILE
from slt_sub8bit.packing import GROUP, PackedWeight, unpack
from sltcore.types import TableWeight

KINDS: tuple[type[Codes], ...] = (Avx512, Avx2)
FEW = 9
"""Rows of activations from which tiles are worth their making."""
MOST_STEPS = 32
"""Rows of activations up to which look-up kernels beat decoding to int8 and torch's product, where there are no tiles."""
MOST_STACK = 1 << 16
THREADED = 1 << 23
"""Products from which a layer is worth a second thread."""
MOST_TILES = 1 << 19
"""Bytes of activations that stay in the cache while all rows of a weight pass."""
MOST_SHAPES = 64
"""Shapes of activations that a layer remembers."""
CHUNK = 1 << 18
"""Weights decoded to floats at a time."""
ONE = torch.ones(1, dtype=torch.float32, device="cpu")
NOTHING = torch.tensor([-0.0], dtype=torch.float32, device="cpu")  # the bias of a layer without one


class Plan(NamedTuple):
    """How a layer computes some rows of activations: by which function, one, few or many, and in how many bytes of memory."""

    function: str
    room: int


class CompiledKernels(PortableKernels):
    """Look-up kernels of one width, in machine code for one kind of processor."""

    def __init__(self, bits: int, kind: type[Codes] = Avx512) -> None:
        self.bits, self.kind, self.name = bits, kind, kind.name
        self.library = library = _library(bits, kind)
        names = ("one", "few", "many") if kind.has_tiles else ("one", "few")
        self.calls = {name: PythonFunctions(name, library.address(f"call_{name}"), library) for name in names}
        self.parts = {name: library.function(f"{name}_rows", 9) for name in names[1:]}
        self.bytes_out = library.function("decode_bytes", 5)
        self.floats_out = library.function("decode_floats", 7)
        self.multiply_floats = library.function("multiply_floats", 11)

    def plan(self, packed: PackedWeight, steps: int) -> Plan | None:
        """How `steps` rows of activations are computed; None: by decoding the weight."""
        columns, has_tiles = packed.columns, self.kind.has_tiles
        if steps == 1 and columns <= MOST_STACK:
            return Plan("one", 0)
        if steps < (FEW if has_tiles else MOST_STEPS + 1):
            return Plan("few", steps * (activations.padded_stride(columns) + 4))
        return Plan("many", tiles.room_bytes(steps, columns)) if has_tiles else None

    def decode_bytes(self, packed: PackedWeight, target: Tensor) -> None:
        table = _bytes_table(packed)
        self.bytes_out(packed.codes.data_ptr(), table.data_ptr(), target.data_ptr(), 0, groups(packed))

    def floats(self, packed: PackedWeight) -> Tensor:
        target = torch.empty(groups(packed) * GROUP, dtype=torch.float32, device="cpu")
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
        if not steps:
            return
        layer: Layer = packed.layer
        if layer is None or layer.codes_at != packed.codes.data_ptr():
            layer = _prepared(self, packed)
        most = max(TILE, MOST_TILES // packed.columns // TILE * TILE)
        plan = self.plan(packed, min(steps, most))
        if plan is None:
            super().integer_linear(packed, x, bias, y)
            return
        add = 0 if bias is None else bias.data_ptr()
        is_long = steps * packed.count >= THREADED
        for start in range(0, steps, most):
            x_at, y_at = x.data_ptr() + 4 * start * packed.columns, y.data_ptr() + 4 * start * packed.rows
            count = min(most, steps - start)
            if is_long and torch.get_num_threads() > 1:
                self._threaded(packed, layer, (x_at, y_at, count), add, (x, bias, y))
            else:
                layer.calls[plan.function](add, x_at, y_at, count, room(plan.room))
        if steps <= most:
            if len(layer.shapes) >= MOST_SHAPES:
                layer.shapes.clear()
            call = layer.calls[plan.function]
            layer.shapes[x.shape] = Known(tuple(y.shape), y.stride(), call, steps, plan.room, is_long)

    def float_linear(self, packed: PackedWeight, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        if x.numel() != packed.columns or packed.columns % GROUP or packed.rows % products.ROWS_FLOAT or self.bits > 5:
            self._float_product(packed, x, bias, y)
            return
        add, add_step = (bias.data_ptr(), 1) if bias is not None else (NOTHING.data_ptr(), 0)
        table, scale = _floats_table(packed), packed.scale
        pointers = (packed.codes.data_ptr(), table.data_ptr(), packed.columns, scale.data_ptr(), int(scale.numel() > 1))
        self.multiply_floats(*pointers, add, add_step, x.data_ptr(), y.data_ptr(), 0, packed.rows)

    def _float_product(self, packed: PackedWeight, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        """Decode some rows of the weight, let torch multiply, and so on, so that what is decoded stays in the cache."""
        with torch.no_grad():
            flat, target = x.reshape(-1, packed.columns), y.view(-1, packed.rows)
            for begin, end in _shares(packed, CHUNK):
                space = _room("floats", (end - begin) * packed.columns + GROUP, torch.float32)
                part = None if bias is None else bias[begin:end]
                target[:, begin:end] = F.linear(flat, self._float_rows(packed, begin, end, space), part)

    def _threaded(
        self,
        packed: PackedWeight,
        layer: Layer,
        given: tuple[int, int, int],
        bias: int,
        held: tuple[Tensor | None, ...],
    ) -> None:
        """The rows of the weight, shared out among torch's number of threads, each of which keeps what it works on: an
        interrupt takes the caller away while they write."""
        count, plan = torch.get_num_threads(), self.plan(packed, max(2, given[2]))
        assert plan is not None
        rows_of_plan, share = self.parts[plan.function], -(-packed.rows // count // STRIP) * STRIP
        pointers = (bias, 1) if bias else (NOTHING.data_ptr(), 0)

        def work(begin: int, _: tuple[object, ...]) -> None:
            rows_of_plan(layer.address, *pointers, *given, room(plan.room), begin, min(begin + share, packed.rows))

        waiting = [_pool(count).submit(work, begin, (layer, held)) for begin in range(share, packed.rows, share)]
        work(0, (layer, held))
        for one in waiting:
            one.result()


_own = threading.local()
_making = threading.RLock()
"""Held while code is compiled or a layer prepared, so that two threads never make, and one never drops, the same."""


def _room(name: str, count: int, dtype: torch.dtype) -> Tensor:
    """`count` values of memory that the thread keeps from call to call: fresh memory costs more than decoding."""
    kept: Tensor | None = getattr(_own, name, None)
    if kept is None or kept.numel() < count:
        with torch.inference_mode(False):  # a tensor made inside could not be written to outside
            kept = torch.empty(count, dtype=dtype, device="cpu")
        setattr(_own, name, kept)
    return kept[:count]


def room(size: int) -> int:
    """The address of `size` bytes, at a whole line, that the thread keeps until it asks for more."""
    return _room("layer", size, torch.uint8).data_ptr() if size else 0


def _shares(packed: PackedWeight, weights: int) -> Iterator[tuple[int, int]]:
    """First and last rows of parts of about `weights`, in multiples of 64 rows, so that each begins with a group."""
    rows = max(1, weights // (packed.columns * GROUP)) * GROUP
    return ((begin, min(begin + rows, packed.rows)) for begin in range(0, packed.rows, rows))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="lookup-kernels")


def _after_fork() -> None:
    """A forked process has the locks and the pool of its parent, but not the threads that would serve them."""
    global _making
    _making = threading.RLock()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Library:
    """Machine code, and the functions in it."""

    def __init__(self, text: str, cpu: str | None) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        parsed = llvm.parse_assembly(text)
        parsed.verify()
        features = "" if cpu else llvm.get_host_cpu_features().flatten()
        target = llvm.Target.from_default_triple()
        machine = target.create_target_machine(cpu=cpu or llvm.get_host_cpu_name(), features=features, opt=3, jit=True)
        self.engine = llvm.create_mcjit_compiler(parsed, machine)
        self.engine.finalize_object()

    def function(self, name: str, count: int) -> Any:
        """A function of `count` integers and addresses; calling it lets other threads run."""
        return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * count)(self.address(name))

    def address(self, name: str) -> int:
        """Where a function begins."""
        found: int = self.engine.get_function_address(name)
        return found


@cache
def _library(bits: int, kind: type[Codes]) -> _Library:
    return _Library(products.source(bits, kind), kind.cpu)


def is_supported(kind: type[Codes] = Avx512) -> bool:
    """Whether this processor has every instruction that the kernels of a kind use."""
    try:
        found = llvm.get_host_cpu_features()
    except RuntimeError:  # not known on this platform
        return False
    return all(found.get(name, False) for name in kind.features)


@cache
def kernels_of(bits: int) -> PortableKernels:
    """The fastest kernels of a width that give right results here."""
    with _making, torch._C.DisableTorchFunction(), _disable_current_modes():  # no mode of the caller's sees the trial
        return _found(bits)


def _found(bits: int) -> PortableKernels:
    for kind in KINDS:
        if not is_supported(kind):
            continue
        try:
            kernels = CompiledKernels(bits, kind)
        except RuntimeError as error:  # an LLVM that reads this assembly differently
            return _without(bits, str(error).splitlines()[0])
        return kernels if agrees(kernels) else _without(bits, "they give other results than the portable kernels")
    return PortableKernels()


def _without(bits: int, why: str) -> PortableKernels:
    warnings.warn(f"look-up kernels of {bits} bits are not used on this machine: {why}", stacklevel=3)
    return PortableKernels()


def agrees(kernels: CompiledKernels) -> bool:
    """Whether kernels give what the formulas give, on a small layer of whole groups and one of odd size."""
    generator, float32 = torch.Generator().manual_seed(kernels.bits), torch.float32
    for rows, columns, scales in ((7, 128, 7), (5, 83, 1)):
        indices = torch.randint(0, 2**kernels.bits, (rows, columns), generator=generator, dtype=torch.uint8)
        table = torch.randn(2**kernels.bits, generator=generator, dtype=float32)
        weight = TableWeight(indices, table, torch.rand(scales, 1, generator=generator, dtype=float32) + 0.5)
        x = torch.randn(50, columns, generator=generator, dtype=float32)
        bias = torch.randn(rows, generator=generator, dtype=float32)
        packed, whole = PackedWeight.of(weight), PackedWeight.of(weight, int8=True)
        if not torch.equal(kernels.floats(packed), packed.reference()):
            return False
        integers = torch.take(whole.table, unpack(whole.codes, whole.bits, whole.count).long()).view(rows, columns)
        for steps in (1, 6, 50):
            expected = int8_linear(x[:steps], integers.to(torch.int8), whole.scale, bias)
            y = torch.empty(steps, rows, dtype=float32)
            kernels.integer_linear(whole, x[:steps], bias, y)
            if not torch.equal(y, expected):
                return False
        y = torch.empty(1, rows, dtype=float32)
        kernels.float_linear(packed, x[:1], bias, y)
        if not torch.allclose(y, F.linear(x[:1], packed.reference(), bias), atol=1e-4):
            return False
    return True


def _bytes_table(packed: PackedWeight) -> Tensor:
    """The table as int8, with room for the registers that hold it."""
    if "bytes_table" not in packed.derived:
        table = torch.zeros(128, dtype=torch.int8, device="cpu")
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
        table = torch.zeros(size, dtype=torch.float32, device="cpu")
        table[: len(packed.table)] = packed.table
        packed.derived["floats_table"] = table
    return packed.derived["floats_table"]


class Known(NamedTuple):
    """What a layer does with activations of one shape."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    call: Any
    steps: int
    room: int
    is_long: bool
    """Whether it is worth more threads than one."""


class Layer:
    """The record of a layer, at an address that stays, and the functions that compute with it.

    It holds what the record points to, and so does each of its functions. It is never copied with a module, and is dropped
    when a tensor may have moved, or its codes have.
    """

    __slots__ = ("address", "calls", "codes_at", "held", "record", "shapes")

    def __init__(self, calls: Mapping[str, PythonFunctions], held: tuple[Tensor, ...], *fields: int) -> None:
        self.held = tuple(tensor.detach() for tensor in held)  # whose memory stays theirs, whatever `data` is set to
        self.record = (ctypes.c_int64 * len(products.RECORD))(*fields)
        self.address, self.codes_at = ctypes.addressof(self.record), fields[0]
        owner = (self.record, self.held)
        self.calls = {name: functions.bound(self.address, owner) for name, functions in calls.items()}
        self.shapes: dict[torch.Size, Known] = {}

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def _prepared(kernels: CompiledKernels, packed: PackedWeight) -> Layer:
    """The record of a layer, and what it points to; made once, whatever number of threads asks."""
    with _making, torch._C.DisableTorchFunction():
        layer: Layer | None = packed.layer
        if layer is None or layer.codes_at != packed.codes.data_ptr():
            packed.moved()
            packed.layer = layer = _layer(kernels, packed)
        return layer


def _layer(kernels: CompiledKernels, packed: PackedWeight) -> Layer:
    integers = torch.empty(groups(packed) * GROUP, dtype=torch.int8)
    kernels.decode_bytes(packed, integers)
    total = torch.zeros(groups(packed) + 1, dtype=torch.int64)
    torch.cumsum(integers.view(-1, GROUP).sum(1), 0, out=total[1:])
    start = torch.arange(packed.rows) * packed.columns
    sums = (total[(start + packed.columns + GROUP - 1) // GROUP] - total[start // GROUP]) * 128
    packed.derived["sums"] = sums = sums.to(torch.int32)
    row_sums = sums
    if packed.columns % GROUP:
        own = integers[: packed.count].view(packed.rows, -1).sum(1) * 128
        packed.derived["row_sums"] = row_sums = own.to(torch.int32)
    table, stride = _bytes_table(packed), activations.padded_stride(packed.columns)
    whole = packed.rows if packed.columns % GROUP == 0 else 0
    scale_step = int(packed.scale.numel() > 1)
    fields = (packed.codes.data_ptr(), table.data_ptr(), packed.columns, packed.scale.data_ptr(), scale_step)
    held = (packed.codes, table, packed.scale, sums, row_sums)
    rest = (sums.data_ptr(), packed.rows, stride, whole, NOTHING.data_ptr(), row_sums.data_ptr())
    return Layer(kernels.calls, held, *fields, *rest)
