"""Activations in 8 bits: the fast rounding against the plain one."""

from __future__ import annotations

import pytest
import torch

from slt_sub8bit.activation_rounding import rounded_rows
from slt_sub8bit.integer_linear import int8_rows


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 257), (4, 1)])
def test_one_pass_equals_the_plain_rounding_bit_for_bit(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 10.0
    values, step = int8_rows(x)
    assert torch.equal(rounded_rows(x), values * step)


def test_extreme_rows_equal_the_plain_rounding() -> None:
    x = torch.randn(6, 64)
    x[0], x[1], x[2] = 0.0, x[1] * 1e-30, x[2] * 1e30
    x[3, 1:] = 0.0
    x[4] = -x[4].abs()
    values, step = int8_rows(x)
    assert torch.equal(rounded_rows(x), values * step)


def test_what_is_not_finite_spoils_its_own_row_only() -> None:
    x = torch.randn(4, 8)
    x[1, 3], x[2, 0] = torch.nan, torch.inf
    found = rounded_rows(x)
    assert bool(found[1].isnan().all())
    assert bool(found[2].isnan().all())
    assert bool(found[[0, 3]].isfinite().all())
    half = rounded_rows(x.double())
    assert bool(half[1].isnan().all())
    assert bool(half[2].isnan().all())
    assert bool(half[[0, 3]].isfinite().all())


def test_views_other_types_and_nothing_at_all() -> None:
    x = torch.randn(6, 10).t()
    values, step = int8_rows(x)
    assert torch.equal(rounded_rows(x), values * step)
    assert rounded_rows(x.to(torch.bfloat16)).dtype == torch.bfloat16
    assert rounded_rows(torch.empty(0, 5)).shape == (0, 5)


def test_the_gradient_passes_as_it_is() -> None:
    x = torch.randn(3, 9).requires_grad_()
    g = torch.randn(3, 9)
    (rounded_rows(x) * g).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, g)
