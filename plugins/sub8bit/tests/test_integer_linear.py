"""The integer layer in torch is exact on every processor, whatever its layout in memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from slt_sub8bit import integer_linear
from slt_sub8bit.integer_linear import int8_linear, int8_rows


def expected(x: Tensor, integers: Tensor, scale: Tensor) -> Tensor:
    """The formula, its sums in double precision."""
    x8, step = int8_rows(x)
    return (x8.double() @ integers.double().t()).float() * step * scale


def compare() -> None:
    """Many shapes, and numbers of the largest size."""
    torch.manual_seed(0)
    scale = torch.tensor([0.3])
    for steps in (1, 2, 17):
        for columns in (1, 2, 64, 83, 2500):
            for rows in (1, 2, 20):
                x = torch.randn(steps, columns)
                integers = torch.randint(-128, 128, (rows, columns)).to(torch.int8)
                for largest in (False, True):
                    if largest:
                        x, integers = torch.ones_like(x), torch.full_like(integers, 127)
                    wanted = expected(x, integers, scale)
                    for laid in (x, x.t().contiguous().t(), x.repeat(1, 2)[:, :columns], x.repeat(2, 1)[::2]):
                        given = laid[:steps]
                        assert torch.equal(int8_linear(given, integers, scale), expected(given, integers, scale))
                    assert torch.equal(int8_linear(x, integers, scale), wanted), (steps, columns, rows)


def test_every_shape_and_layout_is_exact() -> None:
    compare()


def test_a_product_of_floats_in_its_place_is_exact_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_linear, "HAS_EXACT_PRODUCT", False)
    compare()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compare()


def test_a_processor_without_vnni_computes_exactly() -> None:
    limited = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, __file__], env=limited, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]


if __name__ == "__main__":
    compare()
