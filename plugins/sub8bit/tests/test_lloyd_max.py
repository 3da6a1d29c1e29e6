"""Lloyd-Max levels against brute force, against closed forms and against published tables."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from slt_sub8bit.lloyd_max import LloydMaxScheme, lloyd_max_levels, nearest_level
from slt_sub8bit.scheme import decoded

# Max 1960 (doi:10.1109/TIT.1960.1057548), table I: least mean squared error of a unit Gaussian.
MAX_1960 = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}


def error(values: Tensor, levels: Tensor, weights: Tensor | None = None) -> float:
    gaps = (values.double().flatten()[:, None] - levels[None, :]).square().amin(1)
    return float((gaps if weights is None else gaps * weights.double().flatten()).sum())


@pytest.mark.parametrize(("bits", "expected"), MAX_1960.items())
def test_a_gaussian_reaches_the_published_error(bits: int, expected: float) -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=200_000))
    assert error(values, lloyd_max_levels(values, 2**bits)) / 200_000 == pytest.approx(expected, rel=0.015)


@pytest.mark.parametrize(("bits", "expected"), {2: 7.5, 4: 18.1, 5: 23.6}.items())
def test_heavy_tails_reach_the_known_quality_or_more(bits: int, expected: float) -> None:
    values = torch.from_numpy(np.random.default_rng(0).laplace(size=200_000))
    found = 10 * math.log10(float(values.square().sum()) / error(values, lloyd_max_levels(values, 2**bits)))
    assert expected - 0.15 < found < expected + 0.6


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_small_cases_are_the_global_optimum(levels: int, weighted: bool) -> None:
    for seed in range(8):
        generator = np.random.default_rng(seed)
        values = np.sort(generator.standard_cauchy(11))
        mass = generator.uniform(0.1, 5.0, 11) if weighted else np.ones(11)
        best = min(
            sum(
                float((mass[a:b] * (values[a:b] - np.average(values[a:b], weights=mass[a:b])) ** 2).sum())
                for a, b in itertools.pairwise((0, *cut, 11))
            )
            for cut in itertools.combinations(range(1, 11), levels - 1)
        )
        x, g = torch.from_numpy(values), torch.from_numpy(mass)
        order = torch.randperm(11)
        found = lloyd_max_levels(x[order], levels, g[order] if weighted else None)
        assert error(x, found, g) == pytest.approx(best, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_every_level_is_the_mean_of_its_values(levels: int) -> None:
    values = torch.randn(30_000, generator=torch.Generator().manual_seed(1)).double()
    table = lloyd_max_levels(values, levels)
    index = nearest_level(values, table)
    means = torch.zeros(levels, dtype=torch.double).index_add_(0, index, values) / torch.bincount(
        index, minlength=levels
    )
    torch.testing.assert_close(table, means, atol=1e-12, rtol=1e-9)


def test_a_uniform_distribution_has_even_levels() -> None:
    values = torch.arange(160_000).double() / 160_000
    expected = (torch.arange(16).double() + 0.5) / 16
    torch.testing.assert_close(lloyd_max_levels(values, 16), expected, atol=1e-4, rtol=0)


def test_values_far_from_zero_lose_no_digits() -> None:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(2)).double()
    near, far = lloyd_max_levels(values, 8), lloyd_max_levels(values + 1e6, 8)
    torch.testing.assert_close(far - 1e6, near, atol=1e-6, rtol=0)


def test_few_different_values_are_kept_exactly() -> None:
    values = torch.tensor([0.5, -1.0, 0.5, 2.0])
    assert lloyd_max_levels(values, 8).tolist() == [-1.0, 0.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert lloyd_max_levels(torch.zeros(10), 4).tolist() == [0.0] * 4


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_the_weight_is_what_is_stored_to_the_bit(groups: int) -> None:
    weight = torch.randn(8, 30)
    scheme = LloydMaxScheme(groups)
    scheme.start(weight, 3)
    table = scheme.table(weight)
    assert table.indices.dtype == torch.uint8
    assert table.table.dtype == torch.float32
    assert len(table.table) == 8
    assert torch.equal(scheme.weight(weight, hard=True), decoded(table))
    other = LloydMaxScheme(groups)
    other.restore({key: tensor.clone() for key, tensor in scheme.state().items()}, torch.zeros(8, 30), 3)
    assert torch.equal(other.weight(weight, hard=True), decoded(table))


def test_rows_of_different_size_gain_from_scales_of_their_own() -> None:
    weight = torch.randn(64, 200, generator=torch.Generator().manual_seed(3)) * torch.logspace(-2, 0, 64)[:, None]
    errors = []
    for groups in (1, 64):
        scheme = LloydMaxScheme(groups)
        scheme.start(weight, 3)
        gap = (weight - scheme.weight(weight, hard=True)).square().sum(1) / weight.square().sum(1)
        errors.append(float(gap.mean()))
    assert errors[1] < 0.2 * errors[0]


def test_the_gradient_passes_straight_to_the_weight() -> None:
    weight = torch.randn(4, 20).requires_grad_()
    scheme = LloydMaxScheme()
    scheme.start(weight, 2)
    g = torch.randn(4, 20)
    (scheme.weight(weight, hard=False) * g).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, g)
