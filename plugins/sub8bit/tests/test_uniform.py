"""Uniform grids: the known quality of each range, LSQ's gradients, and what is stored."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from slt_sub8bit.scheme import decoded
from slt_sub8bit.uniform import UniformScheme, grid, mse_steps, snap
from sltcore.errors import PluginError

WEIGHTS = 200_000
# Max 1960 (doi:10.1109/TIT.1960.1057548), table II: mean squared error of the best uniform quantizer of a unit Gaussian.
MAX_1960 = {1: 0.3634, 2: 0.1188, 3: 0.03744, 4: 0.01154, 5: 0.003495}
LAPLACE_DB = {2: 7.0, 4: 15.9, 5: 20.6, 6: 25.4}


def sqnr_db(weight: Tensor, quantized: Tensor) -> float:
    noise = (weight.double() - quantized.detach().double()).square().sum()
    return float(10 * torch.log10(weight.double().square().sum() / noise))


def drawn(kind: str, seed: int = 0, rows: int = 400) -> Tensor:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=WEIGHTS) if kind == "gauss" else generator.laplace(size=WEIGHTS)
    return torch.from_numpy(values.astype(np.float32)).reshape(rows, -1)


@pytest.mark.parametrize(("bits", "error"), MAX_1960.items())
def test_the_best_clip_of_a_gaussian_is_the_published_optimum(bits: int, error: float) -> None:
    weight = drawn("gauss")
    scheme = UniformScheme(range="mse")
    scheme.start(weight, bits)
    assert sqnr_db(weight, scheme.weight(weight, hard=True)) == pytest.approx(-10 * math.log10(error), abs=0.06)


@pytest.mark.parametrize(("bits", "expected"), LAPLACE_DB.items())
def test_the_best_clip_of_heavy_tails_has_the_known_quality(bits: int, expected: float) -> None:
    weight = drawn("laplace")
    scheme = UniformScheme(range="mse")
    scheme.start(weight, bits)
    assert sqnr_db(weight, scheme.weight(weight, hard=True)) == pytest.approx(expected, abs=0.4)


@pytest.mark.parametrize(("bits", "expected"), {1: -12.0, 2: 0.2, 3: 8.2, 4: 14.8, 5: 21.1}.items())
def test_a_grid_to_the_largest_weight_is_the_known_straw_man(bits: int, expected: float) -> None:
    weight = drawn("gauss")
    scheme = UniformScheme(range="max")
    scheme.start(weight, bits)
    assert sqnr_db(weight, scheme.weight(weight, hard=True)) == pytest.approx(
        expected, abs=1.0
    )  # it hangs on one weight


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8])
def test_no_step_on_a_fine_grid_of_steps_is_better_than_the_one_found(bits: int) -> None:
    rows = torch.randn(3, 500, generator=torch.Generator().manual_seed(bits)) ** 3
    of = grid(bits)
    found = (rows - snap(rows, mse_steps(rows, of), of)).square().sum(1)
    for factor in torch.linspace(0.02, 1.0, 400):
        step = factor * rows.abs().amax(1) / of.reach
        tried = (rows - snap(rows, step, of)).square().sum(1)
        assert bool((found <= tried * 1.02 + 1e-9).all())


def test_at_one_bit_both_levels_are_the_mean_size() -> None:
    weight = drawn("gauss")
    for scheme in (UniformScheme(range="mse"), UniformScheme(range="learned")):
        scheme.start(weight, 1)
        assert scheme.weight(weight, hard=True).abs().unique().item() == pytest.approx(
            weight.abs().mean().item(), rel=1e-5
        )


@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_the_weight_is_what_is_stored_to_the_bit(bits: int, groups: int) -> None:
    weight = torch.randn(16, 6, 5)
    scheme = UniformScheme(groups, range="mse")
    scheme.start(weight, bits)
    table = scheme.table(weight)
    assert table.indices.dtype == torch.uint8
    assert len(table.table) == 2**bits
    assert int(table.indices.max()) < 2**bits
    assert torch.equal(scheme.weight(weight, hard=True), decoded(table))
    assert torch.equal(scheme.weight(weight, hard=False), decoded(table))


def test_the_first_learned_step_is_the_published_one() -> None:
    weight = drawn("gauss")
    scheme = UniformScheme(range="learned")
    scheme.start(weight, 4)
    assert scheme.table(weight).scale.item() == pytest.approx(2 * weight.abs().mean().item() / math.sqrt(7.5), rel=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gradients_are_those_of_the_formula(bits: int) -> None:
    weight = torch.randn(6, 40).requires_grad_()
    scheme = UniformScheme(6, range="learned")
    scheme.start(weight, bits)
    scheme.first = scheme.first * 0.1  # so that weights are clipped
    g = torch.randn(6, 40)
    (scheme.weight(weight, hard=False) * g).sum().backward()
    of, step = scheme.grid, scheme.first[:, None]
    x = (weight / step).detach()
    inside = ((x - of.offset).round() >= of.lowest) & ((x - of.offset).round() <= of.highest)
    assert not bool(inside.all())
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.where(inside, g, 0.0))
    level = scheme.weight(weight, hard=True).detach() / step
    lsq = (g * torch.where(inside, level - x, level)).sum(1) / math.sqrt(40 * of.reach)
    assert scheme.ratio.grad is not None
    torch.testing.assert_close(scheme.ratio.grad * scheme.first, lsq, atol=1e-4, rtol=1e-4)


def test_one_step_of_sgd_moves_the_step_as_published() -> None:
    weight = torch.randn(8, 50)
    scheme = UniformScheme(range="learned")
    scheme.start(weight, 3)
    before = scheme.table(weight).scale.clone()
    g = torch.randn(8, 50)
    (scheme.weight(weight, hard=False) * g).sum().backward()
    assert scheme.ratio.grad is not None
    lsq = scheme.ratio.grad.item() * before.item()
    torch.optim.SGD(scheme.parameters(), lr=0.01).step()
    # d s = first * d ratio = -lr * first * (lsq / first): the published update of s itself
    assert (scheme.table(weight).scale - before).item() == pytest.approx(-0.01 * lsq, rel=1e-3)


def test_the_learned_step_finds_the_best_clip() -> None:
    weight = drawn("gauss", rows=1)
    scheme = UniformScheme(range="learned")
    scheme.start(weight, 2)
    scheme.first = scheme.first * 2.0
    optimizer = torch.optim.Adam(scheme.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (scheme.weight(weight, hard=False) - weight).square().sum().backward()
        optimizer.step()
    assert sqnr_db(weight, scheme.weight(weight, hard=True)) == pytest.approx(-10 * math.log10(MAX_1960[2]), abs=0.1)


def test_compiled_loops_equal_torch() -> None:
    weight = torch.randn(12, 33)
    of = grid(3)
    step = torch.rand(4) + 0.1
    scale = step.repeat_interleave(3)[:, None]
    expected = ((weight / scale - 0.5).round().clamp(-4, 3) + 0.5) * scale
    assert torch.equal(snap(weight, step, of), expected)
    torch.testing.assert_close(snap(weight.double(), step.double(), of).float(), expected)


def test_the_range_follows_the_weights_as_often_as_asked() -> None:
    weight = torch.randn(8, 50).requires_grad_()
    scheme = UniformScheme(range="max", refresh=2)
    scheme.start(weight, 4)
    first = scheme.table(weight).scale.clone()
    for turn in range(3):
        scheme.step(turn / 3)
        scheme.weight(weight * 2, hard=False)
        assert torch.equal(scheme.table(weight).scale, first * (2 if turn >= 1 else 1))
    kept = UniformScheme(range="max", refresh=0)
    kept.start(weight, 4)
    kept.step(0.5)
    kept.weight(weight * 2, hard=False)
    assert torch.equal(kept.table(weight).scale, first)


def test_state_carries_everything() -> None:
    weight = torch.randn(8, 50)
    scheme = UniformScheme(8, range="learned")
    scheme.start(weight, 5)
    with torch.no_grad():
        scheme.ratio.mul_(torch.rand(8) + 0.5)
    other = UniformScheme(8, range="learned")
    other.restore({key: tensor.clone() for key, tensor in scheme.state().items()}, torch.zeros(8, 50), 5)
    assert torch.equal(other.weight(weight, hard=True), scheme.weight(weight, hard=True))


def test_a_kernel_of_zeros_stays_zero_in_size_and_finite() -> None:
    for range_ in ("max", "mse", "learned"):
        scheme = UniformScheme(range=range_)
        scheme.start(torch.zeros(4, 4), 2)
        found = scheme.weight(torch.zeros(4, 4), hard=True).detach()
        assert bool(found.isfinite().all())
        assert float(found.abs().max()) < 1e-20


@pytest.mark.parametrize("bits", [0, 9])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(PluginError, match=f"a uniform grid of {bits} bits; choose 1 to 8"):
        UniformScheme().start(torch.randn(4, 4), bits)
