"""Every kernel gives what the formulas give, to the bit where sums are integers."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from slt_sub8bit import lookup_kernels
from slt_sub8bit.integer_linear import int8_linear, int8_rows
from slt_sub8bit.lookup_kernels import compiled
from slt_sub8bit.lookup_kernels.codes import Codes
from slt_sub8bit.lookup_kernels.portable import PortableKernels
from slt_sub8bit.packing import PackedWeight, unpack
from sltcore.errors import PluginError
from sltcore.types import TableWeight

SIZES = [(9, 64), (8, 128), (1, 1), (3, 70), (17, 144), (5, 512), (2, 33), (70, 640), (20, 1)]
KINDS = [
    "portable",
    *(
        pytest.param(kind, marks=pytest.mark.skipif(not compiled.is_supported(kind), reason=f"no {kind.name}"))
        for kind in compiled.KINDS
    ),
]
Kind = str | type[Codes]


@cache
def kernels(kind: Kind, bits: int) -> PortableKernels:
    return PortableKernels() if isinstance(kind, str) else compiled.CompiledKernels(bits, kind)


def make(rows: int, columns: int, bits: int, *, int8: bool = False, per_row: bool = False) -> PackedWeight:
    indices = torch.randint(0, 2**bits, (rows, columns), dtype=torch.uint8)
    scale = torch.rand(rows, 1) + 0.5 if per_row else torch.tensor(0.7)
    return PackedWeight.of(TableWeight(indices, torch.randn(2**bits), scale), int8=int8)


def multiplied(kernel: Callable[..., None], packed: PackedWeight, x: Tensor, bias: Tensor | None) -> Tensor:
    y = torch.full((*x.shape[:-1], packed.rows), torch.nan)
    kernel(packed, x, bias, y)
    return y


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_decoding_is_the_formula(kind: Kind, bits: int) -> None:
    torch.manual_seed(bits)
    for rows, columns in SIZES:
        for per_row in (False, True):
            packed = make(rows, columns, bits, per_row=per_row)
            assert torch.equal(kernels(kind, bits).floats(packed), packed.reference())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_integer_layers_are_exact_for_every_size_and_number_of_rows(kind: Kind, bits: int) -> None:
    torch.manual_seed(bits)
    for index, (rows, columns) in enumerate(SIZES):
        packed = make(rows, columns, bits, int8=True, per_row=index % 2 == 0)
        integers = torch.take(packed.table, unpack(packed.codes, packed.bits, packed.count).long()).view(rows, columns)
        bias = torch.randn(rows) if index % 3 else None
        for steps in (1, 2, 4, 7, 8, 9, 16, 17, 40, 49):
            x = torch.randn(steps, columns)
            x8, step = int8_rows(x)
            sums = (x8.double() @ integers.double().t()).float()  # exact: whole numbers below 2^53
            expected = sums * step * packed.scale
            expected = expected if bias is None else expected + bias
            found = multiplied(kernels(kind, bits).integer_linear, packed, x, bias)
            assert torch.equal(found, expected), (rows, columns, steps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_float_layers_agree_with_the_decoded_weight(kind: Kind, bits: int) -> None:
    torch.manual_seed(bits)
    for rows, columns in SIZES:
        packed, bias = make(rows, columns, bits, per_row=True), torch.randn(rows)
        for steps in (1, 5):
            x = torch.randn(steps, columns)
            found = multiplied(kernels(kind, bits).float_linear, packed, x, bias)
            torch.testing.assert_close(found, F.linear(x, packed.reference(), bias), rtol=1e-5, atol=1e-4)


def test_activations_round_half_to_even_and_never_leave_eight_bits() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -127.0], [0, 0, 0, 0, 0, 0], [1e-38, 0, 0, 0, 0, -1e-38]])
    x8, step = int8_rows(x)
    assert x8.tolist() == [[127, 0, 2, 2, 0, -127], [0] * 6, [0] * 6]
    assert step[:2].tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("steps", [1, 3, 40])
def test_a_row_that_is_not_finite_spoils_no_other(bits: int, bad: float, steps: int) -> None:
    packed = make(6, 70, bits, int8=True)
    x = torch.randn(steps, 70)
    good = lookup_kernels.linear(packed, x)
    x[-1, 5] = bad
    found = lookup_kernels.linear(packed, x)
    assert bool(found[-1].isnan().all())
    assert torch.equal(found[:-1], good[:-1])


def test_all_paths_of_one_layer_give_the_same_bits() -> None:
    packed, x, bias = make(40, 192, 4, int8=True, per_row=True), torch.randn(50, 192), torch.randn(40)
    whole = lookup_kernels.linear(packed, x, bias)
    assert torch.equal(torch.cat([lookup_kernels.linear(packed, row[None], bias) for row in x]), whole)
    assert torch.equal(torch.cat([lookup_kernels.linear(packed, part, bias) for part in x.split(6)]), whole)
    integers = kernels("portable", 4).integers(packed)
    assert torch.equal(int8_linear(x, integers, packed.scale, bias), whole)


@pytest.mark.parametrize("steps", [1, 3, 20, 100])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch, steps: int, threads: int) -> None:
    packed, x, bias = make(141, 128, 5, int8=True), torch.randn(steps, 128), torch.randn(141)
    alone = lookup_kernels.linear(packed, x, bias)
    monkeypatch.setattr(compiled, "THREADED", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for _ in range(2):
        assert torch.equal(lookup_kernels.linear(packed, x, bias), alone)


@pytest.mark.parametrize("int8", [True, False])
def test_what_inference_mode_computed_first_is_computed_outside_too(int8: bool) -> None:
    packed, x = make(140, 24, 4, int8=int8, per_row=True), torch.randn(3, 24)
    results: list[Tensor] = []

    def both() -> None:  # in a thread of its own, which keeps no memory from before
        with torch.inference_mode():
            results.append(lookup_kernels.linear(packed, x).clone())
        results.append(lookup_kernels.linear(packed, x))

    thread = threading.Thread(target=both)
    thread.start()
    thread.join()
    first, second = results
    assert torch.equal(first, second)


def test_activations_that_no_cache_holds_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, x = make(33, 128, 4, int8=True, per_row=True), torch.randn(150, 128)
    whole = lookup_kernels.linear(packed, x)
    monkeypatch.setattr(compiled, "MOST_TILES", 48 * 128)
    assert torch.equal(lookup_kernels.linear(packed, x), whole)


def test_a_layer_remembers_a_bounded_number_of_shapes() -> None:
    packed = make(3, 64, 4, int8=True)
    for steps in range(1, 200):
        lookup_kernels.linear(packed, torch.ones(steps, 64))
    if packed.layer is not None:
        assert 0 < len(packed.layer.shapes) <= compiled.MOST_SHAPES


def test_rows_of_an_embedding_are_those_of_the_decoded_weight() -> None:
    for bits in range(1, 9):
        packed = make(30, 7, bits, per_row=True)
        rows = torch.tensor([[3, 29], [0, 3]])
        assert torch.equal(lookup_kernels.decoded_rows(packed, rows), packed.reference()[rows])
    with pytest.raises(IndexError, match="there are 30 rows"):
        lookup_kernels.decoded_rows(packed, torch.tensor([30]))
    with pytest.raises(PluginError, match=r"named by torch.float32, expected whole numbers, torch.int64"):
        lookup_kernels.decoded_rows(packed, torch.tensor([3.7]))


def test_other_shapes_and_types_are_handled() -> None:
    packed = make(5, 64, 4, int8=True)
    x = torch.randn(2, 64, 3).transpose(1, 2)
    wanted = lookup_kernels.linear(packed, x.contiguous())
    assert torch.equal(lookup_kernels.linear(packed, x), wanted)
    assert wanted.shape == (2, 3, 5)
    half, full = torch.randn(5).bfloat16(), torch.randn(2, 64)
    assert torch.equal(lookup_kernels.linear(packed, full, half), lookup_kernels.linear(packed, full, half.float()))
    assert lookup_kernels.linear(packed, x.bfloat16()).dtype == torch.bfloat16
    assert lookup_kernels.linear(packed, x[:, :0]).shape == (2, 0, 5)
    assert lookup_kernels.linear(packed, x[0, 0]).shape == (5,)
    assert torch.equal(lookup_kernels.linear(packed, torch._neg_view(full)), lookup_kernels.linear(packed, -full))
    zeros = torch._efficientzerotensor((2, 64))
    assert torch.equal(lookup_kernels.linear(packed, zeros), torch.zeros(2, 5))
    with pytest.raises(PluginError, match=r"got \[2, 32\] on cpu, expected \[... 64\]"):
        lookup_kernels.linear(packed, torch.randn(2, 32))
    with pytest.raises(PluginError, match=r"has a bias \[4\] on cpu, expected \[5\] on the CPU"):
        lookup_kernels.linear(packed, torch.randn(2, 64), torch.zeros(4))
    with pytest.raises(PluginError, match="on meta"):
        lookup_kernels.linear(packed, torch.randn(2, 64, device="meta"))
    with pytest.raises(PluginError, match=r"got \[\] on cpu, expected \[... 64\]"):
        lookup_kernels.linear(packed, torch.tensor(1.0))
    with pytest.raises(PluginError, match=r"got torch.int64, expected floating point activations, torch.float32"):
        lookup_kernels.linear(packed, torch.ones(2, 64, dtype=torch.int64))


@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize("columns", [64, 70])
def test_no_rows_give_no_rows(int8: bool, columns: int) -> None:
    assert lookup_kernels.linear(make(8, columns, 4, int8=int8), torch.randn(0, columns)).shape == (0, 8)


@pytest.mark.parametrize("int8", [True, False])
def test_settings_of_the_caller_change_no_bit(int8: bool) -> None:
    packed, x, bias = make(140, 64, 4, int8=int8), torch.randn(3, 64), torch.randn(140)
    wanted = lookup_kernels.linear(packed, x, bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(lookup_kernels.linear(packed, x, bias), wanted)
    fresh = PackedWeight.of(packed.table_weight(), int8=int8)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert torch.equal(lookup_kernels.linear(fresh, x, bias), wanted)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_mode_that_watches_the_first_call_does_not_spoil_the_trial_of_the_kernels() -> None:
    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is torch.equal:
                raise AssertionError("the caller's mode sees the trial")
            return func(*args, **(kwargs or {}))

    wanted = compiled.kernels_of(6).name
    compiled.kernels_of.cache_clear()
    try:
        with Watch():
            assert compiled.kernels_of(6).name == wanted
    finally:
        compiled.kernels_of.cache_clear()


def test_machine_code_lives_as_long_as_a_function_that_calls_it() -> None:
    if compiled.kernels_of(4).name == "portable":
        pytest.skip("no compiled kernels here")
    packed, x = make(140, 128, 4, int8=True), torch.randn(1, 128)
    wanted = lookup_kernels.linear(packed, x)
    lookup_kernels.linear(packed, x)
    (known,) = packed.layer.shapes.values()
    library = weakref.ref(known.call.__module__[0]._library)
    del packed
    compiled.kernels_of.cache_clear()
    compiled._library.cache_clear()
    gc.collect()
    assert library() is not None
    y = torch.empty(1, 140)
    known.call(0, x.data_ptr(), y.data_ptr(), 1, known.room and compiled.room(known.room))
    assert torch.equal(y, wanted)


def test_a_forked_process_computes_on_with_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    packed, x = make(141, 128, 5, int8=True), torch.randn(20, 128)
    monkeypatch.setattr(compiled, "THREADED", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    wanted = lookup_kernels.linear(packed, x)  # its pool has a thread now, which the child will not have
    child = os.fork()
    if not child:
        signal.alarm(60)
        os._exit(not torch.equal(lookup_kernels.linear(packed, x), wanted))
    assert os.waitpid(child, 0)[1] == 0


def test_threads_that_begin_together_share_one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, x = make(141, 128, 5, int8=True), torch.randn(1, 128)
    wanted = lookup_kernels.linear(PackedWeight.of(packed.table_weight(), int8=True), x)
    gate, results, made, prepare = threading.Barrier(8), [], [], compiled._layer

    def slowly(*given: Any) -> compiled.Layer:
        made.append(given)
        time.sleep(0.05)  # the others come meanwhile
        return prepare(*given)

    monkeypatch.setattr(compiled, "_layer", slowly)

    def one() -> None:
        gate.wait()
        results.append(lookup_kernels.linear(packed, x))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(torch.equal(result, wanted) for result in results)
    assert len(made) <= 1


def test_a_thread_that_still_writes_keeps_its_memory_when_the_caller_is_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = compiled.kernels_of(4)
    if not isinstance(found, compiled.CompiledKernels) or "many" not in found.parts:
        pytest.skip("no tiles here")
    go_on, ends, packed = threading.Event(), threading.Event(), make(141, 128, 4, int8=True)
    operands: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    def interrupted(*given: int) -> None:
        if given[-2] == 0:  # the caller's own part
            raise KeyboardInterrupt
        go_on.wait(30)
        gc.collect()
        alive.append(all(operand() is not None for operand in operands))
        ends.set()

    monkeypatch.setattr(compiled, "THREADED", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setitem(found.parts, "many", interrupted)

    def call() -> None:
        x, bias, y = torch.randn(20, 128), torch.randn(141), torch.empty(20, 141)
        operands.extend(map(weakref.ref, (x, bias, y)))
        found.integer_linear(packed, x, bias, y)

    with contextlib.suppress(KeyboardInterrupt):
        call()
    packed.moved()
    gc.collect()
    go_on.set()
    assert ends.wait(30)
    assert alive == [True]


def test_kernels_that_give_wrong_results_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(compiled.is_supported(kind) for kind in compiled.KINDS):
        pytest.skip("no compiled kernels here")
    monkeypatch.setattr(compiled.CompiledKernels, "decode_bytes", lambda self, packed, target: target.zero_())
    compiled.kernels_of.cache_clear()
    try:
        with pytest.warns(UserWarning, match="look-up kernels of 4 bits are not used on this machine"):
            assert compiled.kernels_of(4).name == "portable"
    finally:
        compiled.kernels_of.cache_clear()


def test_a_processor_without_avx512_gets_the_next_best(monkeypatch: pytest.MonkeyPatch) -> None:
    has: dict[str, bool] = dict.fromkeys(("avx2", "fma", "bmi", "bmi2"), compiled.is_supported(compiled.Avx2))
    compiled.kernels_of.cache_clear()
    try:
        monkeypatch.setattr(compiled.llvm, "get_host_cpu_features", lambda: has)
        assert compiled.kernels_of(4).name == ("avx2" if has["avx2"] else "portable")
        has.clear()
        compiled.kernels_of.cache_clear()
        assert compiled.kernels_of(4).name == "portable"
    finally:
        compiled.kernels_of.cache_clear()
