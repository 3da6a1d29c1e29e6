"""The General Quantizer's formulas, schedule and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from slt_sub8bit.general import RESEED_EVERY, GeneralScheme, compand, expand
from slt_sub8bit.scheme import decoded


def kernel(rows: int = 40, columns: int = 50, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def started(weight: Tensor, bits: int, groups: int = 1, **options: object) -> GeneralScheme:
    scheme = GeneralScheme(groups, **options)  # type: ignore[arg-type]
    scheme.start(weight, bits)
    return scheme


def by_definition(scheme: GeneralScheme, weight: Tensor) -> Tensor:
    """a expand(sum_j softmax_j(-kappa / D |y - z_j|) z_j), n x J, one scale."""
    z = scheme.z.sort().values
    spacing = ((z[-1] - z[0]) / (len(z) - 1)).detach()
    y = compand(weight / scheme.scale, scheme.mu)
    p = torch.softmax(-scheme.kappa / spacing * (y.unsqueeze(-1) - z).abs(), dim=-1)
    return expand((p * z).sum(-1), scheme.mu) * scheme.scale


@pytest.mark.parametrize("mu", [0.0, 15.0, 63.0, 255.0])
@pytest.mark.parametrize("progress", [0.0, 0.4, 0.74])
def test_the_soft_weight_and_its_gradients_are_those_of_the_definition(mu: float, progress: float) -> None:
    scheme = started(kernel(), 3, mu=mu, anneal=0.75)
    scheme.step(progress)
    upstream = torch.randn(40, 50, generator=torch.Generator().manual_seed(2))
    found = []
    for how in (lambda w: scheme.weight(w, hard=False), lambda w: by_definition(scheme, w)):
        weight = kernel().requires_grad_()
        scheme.z.grad = None
        out = how(weight)
        (out * upstream).sum().backward()
        assert weight.grad is not None
        assert scheme.z.grad is not None
        found.append((out.detach(), weight.grad, scheme.z.grad.clone()))
    ours, theirs = found
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-3, atol=1e-4)
    scaled = theirs[2] * (weight.numel() / 8) ** -0.5  # the mean-sized weight's share
    torch.testing.assert_close(ours[2], scaled, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("groups", [1, 4, 40])
def test_hard_weights_are_the_stored_table_bit_for_bit(bits: int, groups: int) -> None:
    weight = kernel()
    scheme = started(weight, bits, groups)
    table = scheme.table(weight)
    assert table.indices.dtype == torch.uint8
    assert table.table.shape == (2**bits,)
    assert int(table.indices.max()) < 2**bits
    assert table.scale.shape == (() if groups == 1 else (40, 1))
    assert torch.equal(scheme.weight(weight, hard=True), decoded(table))


@pytest.mark.parametrize("mu", [0.0, 15.0])
def test_the_hard_index_is_the_nearest_level_in_the_companded_domain(mu: float) -> None:
    weight = kernel()
    scheme = started(weight, 4, mu=mu)
    y = compand(weight / scheme.scale, mu)
    distance = (y.unsqueeze(-1) - scheme.z.detach()).abs()
    chosen = distance.gather(-1, scheme.table(weight).indices.long().unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(chosen, distance.amin(-1), rtol=0, atol=1e-6)


def test_hard_gradients_pass_straight_to_the_weight_and_truly_to_the_levels() -> None:
    scheme = started(kernel(), 2, mu=15.0)
    scheme.step(1.0)
    assert scheme.is_hard
    weight, upstream = kernel().requires_grad_(), torch.randn(40, 50, generator=torch.Generator().manual_seed(2))
    (scheme.weight(weight, hard=False) * upstream).sum().backward()
    assert weight.grad is not None
    assert scheme.z.grad is not None
    assert torch.equal(weight.grad, upstream)
    z = scheme.z.detach().requires_grad_()
    table = expand(z, scheme.mu) * scheme.scale
    (table[scheme.table(weight).indices.long()] * upstream).sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(scheme.z.grad, z.grad * (2000 / 4) ** -0.5, rtol=1e-4, atol=1e-6)


def test_sharpness_grows_exponentially_from_start_to_end_and_then_the_weights_are_hard() -> None:
    scheme = GeneralScheme(kappa_start=2.0, kappa_end=50.0, anneal=0.8)
    seen = []
    for progress in (0.0, 0.4, 0.8, 1.0):
        scheme.step(progress)
        seen.append((scheme.kappa, scheme.is_hard))
    assert [kappa for kappa, _ in seen] == pytest.approx([2.0, 10.0, 50.0, 50.0])
    assert [hard for _, hard in seen] == [False, False, True, True]
    never = GeneralScheme(anneal=0.0)
    assert never.is_hard


def test_at_the_end_of_annealing_soft_and_hard_agree() -> None:
    """At kappa 50 the mean difference is far below a spacing; at kappa 2 it is not."""
    weight = kernel()
    scheme = started(weight, 4, kappa_start=2.0)
    gaps = []
    for progress in (0.0, 0.4999):
        scheme.step(progress)
        soft, hard = scheme.weight(weight, hard=False), scheme.weight(weight, hard=True)
        gaps.append(float((soft - hard).detach().abs().mean() / weight.abs().mean()))
    assert gaps[1] < 0.1 * gaps[0]
    assert gaps[1] < 0.02


def test_levels_may_cross() -> None:
    weight = kernel()
    scheme = started(weight, 3)
    before = scheme.weight(weight, hard=True)
    with torch.no_grad():
        scheme.z.copy_(scheme.z.flip(0))
    assert torch.equal(scheme.weight(weight, hard=True), before)


def test_quantile_levels_hold_equally_many_weights_at_the_start() -> None:
    counts = torch.bincount(
        started(kernel(100, 100), 3, start="quantile").table(kernel(100, 100)).indices.flatten().long()
    )
    assert len(counts) == 8
    assert int(counts.max()) < 2.5 * int(counts.min())  # borders are middles of levels, not of ranks


def error_db(weight: Tensor, scheme: GeneralScheme) -> float:
    noise = (decoded(scheme.table(weight)) - weight).square().mean()
    return 10 * math.log10(float(weight.square().mean() / noise))


def test_lloyd_max_starts_nearer_to_the_weights_than_quantiles() -> None:
    weight = kernel(200, 100)
    quantile, lloyd = (started(weight, 4, mu=0.0, start=start) for start in ("quantile", "lloyd-max"))
    assert error_db(weight, lloyd) > error_db(weight, quantile) + 1
    assert error_db(weight, lloyd) == pytest.approx(20.2, abs=0.4)  # Lloyd-Max for a Gaussian at 4 bits


def test_training_the_levels_alone_reduces_the_error() -> None:
    weight = kernel(100, 100)
    scheme = started(weight, 3, start="quantile")
    first = error_db(weight, scheme)
    optimizer = torch.optim.Adam(scheme.parameters(), lr=0.01)
    for turn in range(60):
        scheme.step(turn / 59)
        optimizer.zero_grad()
        (scheme.weight(weight, hard=False) - weight).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert error_db(weight, scheme) > first + 0.5


def test_frozen_levels_are_no_parameters() -> None:
    scheme = started(kernel(), 3, learn_levels=False)
    assert scheme.parameters() == []
    weight = kernel().requires_grad_()
    scheme.weight(weight, hard=False).sum().backward()
    assert weight.grad is not None
    assert scheme.z.grad is None


def test_a_dead_level_is_put_where_the_error_is_largest() -> None:
    weight = kernel(100, 100).requires_grad_()
    scheme = started(weight, 3)
    with torch.no_grad():
        scheme.z[0] = -3.0  # far outside of all weights
    for turn in range(RESEED_EVERY):
        scheme.step(turn / 1000)
    scheme.weight(weight, hard=False)
    counts = torch.bincount(scheme.table(weight).indices.flatten().long(), minlength=8)
    assert int(counts.min()) >= 10
    assert float(scheme.z.detach().min()) > -1.0


def test_kernels_of_zeros_and_of_one_value_are_taken() -> None:
    for weight in (torch.zeros(8, 8), torch.full((8, 8), -0.5), torch.tensor([[0.0, 1e-30], [1e30, -1e30]])):
        for bits in (1, 4):
            scheme = started(weight, bits)
            hard, soft = scheme.weight(weight, hard=True), scheme.weight(weight, hard=False)
            assert bool(hard.isfinite().all())
            assert bool(soft.isfinite().all())
    torch.testing.assert_close(
        started(torch.full((8, 8), -0.5), 2).weight(torch.full((8, 8), -0.5), hard=True), torch.full((8, 8), -0.5)
    )


def test_a_restored_scheme_gives_the_same_weights_bit_for_bit() -> None:
    weight = kernel()
    scheme = started(weight, 5, 4)
    other = GeneralScheme(4)
    other.restore(scheme.state(), weight, 5)
    assert torch.equal(scheme.weight(weight, hard=True), other.weight(weight, hard=True))
    assert isinstance(other.parameters()[0], nn.Parameter)


@pytest.mark.parametrize("mu", [0.0, 15.0, 255.0])
def test_expand_undoes_compand(mu: float) -> None:
    u = torch.linspace(-1.2, 1.2, 101)
    torch.testing.assert_close(expand(compand(u, mu), mu), u, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("mu", [0.0, 15.0])
def test_wide_kernels_in_blocks_and_threads_equal_the_formula(
    groups: int, mu: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = kernel(3, 50_000)
    scheme = started(weight, 3, groups, mu=mu)
    upstream = torch.randn(3, 50_000, generator=torch.Generator().manual_seed(2))
    found = []
    for kind in (torch.float32, torch.float64):  # float64 takes the formula as it stands
        w = weight.clone().to(kind).requires_grad_()
        scheme.z.grad = None
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        out = scheme.weight(w, hard=False)
        (out * upstream).sum().backward()
        assert w.grad is not None
        assert scheme.z.grad is not None
        found.append((out.detach().double(), w.grad.double(), scheme.z.grad.clone()))
    ours, theirs = found
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-3, atol=1e-4)
