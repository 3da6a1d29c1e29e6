"""Compiled kernels touch no byte outside what they are given: every operand lies between pages that nobody may touch."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from slt_sub8bit.lookup_kernels import compiled
from slt_sub8bit.packing import PackedWeight
from sltcore.types import TableWeight

PAGE = mmap.PAGESIZE
SIZES = [(1, 1), (3, 70), (5, 83), (8, 128), (9, 64), (2, 33), (17, 144), (33, 65), (7, 192), (16, 256)]
STEPS = (1, 2, 9, 17, 50)
held: list[mmap.mmap] = []


def fenced(given: Tensor, at_end: bool) -> Tensor:
    """The same numbers, right before a page that nobody may touch, or right behind one."""
    size = given.numel() * given.element_size()
    pages = -(-size // PAGE) or 1
    region = mmap.mmap(-1, (pages + 2) * PAGE)
    held.append(region)
    base = ctypes.addressof(ctypes.c_char.from_buffer(region))
    libc = ctypes.CDLL(None, use_errno=True)
    for place in (base, base + (pages + 1) * PAGE):
        assert libc.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(PAGE), 0) == 0
    start = (pages + 1) * PAGE - size if at_end else PAGE
    moved = torch.from_numpy(np.frombuffer(region, np.uint8, size, start)).view(given.dtype).view(given.shape)
    return moved.copy_(given)


def compute(kind: str) -> None:
    """Every width, size and number of rows, with operands at both fences."""
    (found,) = (one for one in compiled.KINDS if one.name == kind)
    torch.manual_seed(0)
    for bits in range(1, 9):
        kernels = compiled.CompiledKernels(bits, found)
        for number, (rows, columns) in enumerate(SIZES):
            for int8 in (True, False):
                indices = torch.randint(0, 2**bits, (rows, columns), dtype=torch.uint8)
                scale = torch.rand(rows, 1) + 0.5 if number % 2 else torch.tensor(0.7)
                packed = PackedWeight.of(TableWeight(indices, torch.randn(2**bits), scale), int8=int8)
                for at_end in (True, False):
                    packed.codes, packed.table = fenced(packed.codes, at_end), fenced(packed.table, at_end)
                    packed.scale = fenced(packed.scale, at_end)
                    packed.derived.clear()
                    packed.moved()
                    assert torch.equal(kernels.floats(packed), packed.reference())
                    for steps in STEPS:
                        x, bias = fenced(torch.randn(steps, columns), at_end), fenced(torch.randn(rows), at_end)
                        y = fenced(torch.empty(steps, rows), at_end)
                        (kernels.integer_linear if int8 else kernels.float_linear)(packed, x, bias, y)
                        assert bool(y.isfinite().all())
                    packed.moved()
                held.clear()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are fenced by Linux calls")
@pytest.mark.parametrize("kind", [kind.name for kind in compiled.KINDS])
def test_kernels_touch_nothing_outside_their_operands(kind: str) -> None:
    if not compiled.is_supported(next(one for one in compiled.KINDS if one.name == kind)):
        pytest.skip(f"no {kind}")
    ran = subprocess.run([sys.executable, __file__, kind], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:] or f"signal {-ran.returncode}"


if __name__ == "__main__":
    compute(sys.argv[1])
