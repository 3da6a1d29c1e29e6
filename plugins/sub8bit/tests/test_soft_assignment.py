"""The recurrences equal the full softmax and its autograd, at every sharpness."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slt_sub8bit import soft_assignment
from slt_sub8bit.soft_assignment import soft_assign

KAPPAS = (1.0, 2.0, 8.0, 60.0)


def full_softmax(y: Tensor, z: Tensor, alpha: float) -> Tensor:
    """The definition, n x J."""
    p = torch.softmax(-alpha * (y.unsqueeze(-1) - z).abs(), dim=-1)
    return (p * z).sum(-1)


def levels(bits: int, seed: int = 0) -> Tensor:
    """Sorted levels at uneven distances in [-1, 1]."""
    source = torch.Generator().manual_seed(seed)
    return (torch.rand(2**bits, generator=source, dtype=torch.float64) * 2 - 1).sort().values


def values(n: int = 500, seed: int = 1) -> Tensor:
    """Values inside and well outside of [-1, 1]."""
    source = torch.Generator().manual_seed(seed)
    return torch.rand(n, generator=source, dtype=torch.float64) * 3 - 1.5


def sharpness(z: Tensor, kappa: float) -> float:
    spacing = float(z[-1] - z[0]) / (len(z) - 1)
    return kappa / spacing


def gradients(y: Tensor, z: Tensor, alpha: float, how: object) -> tuple[Tensor, Tensor, Tensor]:
    y, z = y.clone().requires_grad_(), z.clone().requires_grad_()
    out = how(y, z, alpha)  # type: ignore[operator]
    weight = torch.sin(torch.arange(y.numel(), dtype=torch.float64)).reshape(y.shape)
    (out * weight).sum().backward()
    assert y.grad is not None
    assert z.grad is not None
    return out.detach(), y.grad, z.grad


def ours(y: Tensor, z: Tensor, alpha: float) -> Tensor:
    return soft_assign(y, z, alpha=alpha)


@pytest.fixture(params=["compiled", "torch"])
def evaluation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both evaluations of the formulas, on the CPU."""
    if request.param == "torch":
        monkeypatch.setattr(soft_assignment, "_forward_compiled", soft_assignment._forward_torch)
        monkeypatch.setattr(soft_assignment, "_backward_compiled", soft_assignment._backward_torch)
    return str(request.param)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("kappa", KAPPAS)
def test_it_equals_the_full_softmax_and_its_autograd(bits: int, kappa: float, evaluation: str) -> None:
    z, y = levels(bits), values()
    alpha = sharpness(z, kappa)
    expected, got = gradients(y, z, alpha, full_softmax), gradients(y, z, alpha, ours)
    for theirs, mine in zip(expected, got, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9 * max(1.0, alpha))


@pytest.mark.parametrize("kappa", KAPPAS)
def test_equal_levels_share_their_mass(kappa: float, evaluation: str) -> None:
    z = torch.tensor([-0.7, -0.2, -0.2, -0.2, 0.4, 0.9, 0.9, 0.9], dtype=torch.float64)
    y = values()
    alpha = sharpness(z, kappa)
    for theirs, mine in zip(gradients(y, z, alpha, full_softmax), gradients(y, z, alpha, ours), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-8)


def test_all_levels_equal_give_that_level(evaluation: str) -> None:
    z = torch.full((8,), 0.25, dtype=torch.float64)
    torch.testing.assert_close(soft_assign(values(), z, alpha=1e6), torch.full((500,), 0.25, dtype=torch.float64))


@pytest.mark.parametrize("kappa", KAPPAS)
def test_on_a_level_the_value_is_exact_and_the_gradient_lies_between_its_two_sides(
    kappa: float, evaluation: str
) -> None:
    z = levels(4)
    alpha = sharpness(z, kappa)
    out, slope, _ = gradients(z.clone(), z, alpha, ours)
    torch.testing.assert_close(out, full_softmax(z, z, alpha), rtol=1e-12, atol=1e-12)
    sides = torch.stack([gradients(z + shift, z, alpha, full_softmax)[1] for shift in (-1e-9, 1e-9)])
    room = 1e-5 * max(1.0, float(sides.abs().max()))
    assert bool((slope >= sides.amin(0) - room).all())
    assert bool((slope <= sides.amax(0) + room).all())


def test_far_outside_and_in_wide_gaps_nothing_vanishes(evaluation: str) -> None:
    z = torch.tensor([-1.0, 1.0, 1.001, 1.002], dtype=torch.float64)
    y = torch.tensor([-1e6, -0.3, 0.3, 1e6], dtype=torch.float64)
    out, slope, dz = gradients(y, z, 60_000.0, ours)
    torch.testing.assert_close(out, torch.tensor([-1.0, -1.0, 1.0, 1.002], dtype=torch.float64))
    assert bool(slope.isfinite().all())
    assert bool(dz.isfinite().all())


def test_single_precision_weights_stay_within_their_rounding(evaluation: str) -> None:
    z, y = levels(5).float(), values().float()
    out = soft_assign(y, z, alpha=sharpness(z, 2.0))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), full_softmax(y.double(), z.double(), sharpness(z, 2.0)), rtol=0, atol=1e-6)


def test_two_brackets_are_not_enough_where_annealing_starts() -> None:
    """Between its two neighbours alone, a value is off by more than a tenth of the spacing at kappa 2, not at 60."""
    z = torch.linspace(-1, 1, 32, dtype=torch.float64)
    spacing = 2 / 31
    y = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    place = torch.bucketize(y, z, right=True).clamp(1, 31)
    error = {}
    for kappa in (2.0, 60.0):
        alpha = kappa / spacing
        pair = torch.stack([z[place - 1], z[place]], dim=-1)
        p = torch.softmax(-alpha * (y.unsqueeze(-1) - pair).abs(), dim=-1)
        exact = soft_assign(y, z, alpha=alpha)
        error[kappa] = float(((p * pair).sum(-1) - exact).abs().max()) / spacing
        torch.testing.assert_close(exact, full_softmax(y, z, alpha), rtol=1e-9, atol=1e-9)
    assert 0.1 < error[2.0] < 0.2
    assert error[60.0] < 1e-9


def test_parts_in_threads_give_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    z, y = levels(3), values(1000)
    alone = gradients(y, z, 9.0, ours)
    monkeypatch.setattr(soft_assignment, "CHUNK", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for one, many in zip(alone, gradients(y, z, 9.0, ours), strict=True):
        torch.testing.assert_close(one, many, rtol=1e-12, atol=1e-12)


def test_values_of_any_shape_and_layout_are_taken() -> None:
    z = levels(2)
    y = values(24).reshape(2, 3, 4)
    torch.testing.assert_close(soft_assign(y.mT, z, alpha=3.0), soft_assign(y, z, alpha=3.0).mT)
    assert soft_assign(y[:0], z, alpha=3.0).shape == (0, 3, 4)
