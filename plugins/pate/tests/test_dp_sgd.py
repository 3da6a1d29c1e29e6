"""DP-SGD's sums of clipped gradients: against Opacus, by hand, and against what would break the account."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from dp_sgd_models import Frames, clipped_by_hand, frames_and_labels, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from slt_pate.dp_sgd.clipped_sum import RESOLUTION, ClippedSum
from slt_pate.dp_sgd.normalization import normalize
from slt_pate.dp_sgd.refusals import StillBuffers, refuse_mixing
from slt_pate.dp_sgd.units import PoissonSampler, Units
from sltcore.errors import DataError, PrivacyError


def summed(model: nn.Module, losses: Any, groups: list[list[int]], **settings: Any) -> ClippedSum:
    clipped = ClippedSum(list(model.named_parameters()), **settings)
    for places in groups:
        with clipped.unit():
            losses[places].mean().backward(retain_graph=True)
    return clipped


def test_the_sum_of_clipped_gradients_is_that_of_opacus() -> None:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    torch.manual_seed(0)
    model = Frames()
    frames, labels = frames_and_labels(8)
    ours = summed(model, model(frames, labels), [[k] for k in range(8)], clip=1.35)
    ours.release(0.0, 1.0)
    mine = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    wrapped = GradSampleModule(model, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=0.1),
        noise_multiplier=0.0,
        max_grad_norm=1.35,
        expected_batch_size=1,
        loss_reduction="sum",
    )
    optimizer.zero_grad()
    wrapped(frames, labels).sum().backward()
    optimizer.pre_step()
    norms = torch.stack([p.grad_sample.flatten(1).norm(dim=1) for p in model.parameters()]).norm(dim=0)
    assert (norms > 1.35).any()
    assert (norms < 1.35).any()
    for name, parameter in model.named_parameters():
        # Opacus clips to clip / (norm + 1e-6), which is up to 1e-6 / norm less.
        torch.testing.assert_close(mine[name], parameter.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layers", ["flat", "uniform", "dimension"])
def test_each_layer_keeps_its_clip_and_all_together_keep_the_whole(layers: Any) -> None:
    torch.manual_seed(1)
    model = Frames()
    frames, labels = frames_and_labels(6, seed=3)
    losses = model(frames, labels)
    groups = [[0], [1, 5], [2, 3, 4]]
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    modules = ["enter", "norm", "shift", "leave"]
    owned = [[name for name in sizes if name.startswith(f"{module}.")] for module in modules]
    weights = [sum(sizes[name] for name in names) for names in owned]
    clip = 0.2
    clips = {
        "flat": [(list(sizes), clip)],
        "uniform": [(names, clip / 2) for names in owned],
        "dimension": [(n, clip * math.sqrt(w / sum(weights))) for n, w in zip(owned, weights, strict=True)],
    }[layers]
    assert sum(own**2 for _, own in clips) == pytest.approx(clip**2)
    expected = clipped_by_hand(model, [losses[places].mean() for places in groups], clips)
    clipped = summed(model, losses, groups, clip=clip, layers=layers)
    assert [layer.clip for layer in clipped.layers] == pytest.approx([own for _, own in clips])
    clipped.release(0.0, 2.0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad.double() * 2, expected[name], rtol=1e-5, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=50),
    clip=st.floats(1e-3, 1e3),
)
def test_no_gradient_adds_more_than_the_clip_in_exact_arithmetic(values: list[float], clip: float) -> None:
    weight = nn.Parameter(torch.zeros(len(values)))
    clipped = ClippedSum([("w", weight)], clip=clip)
    clipped.gradient.copy_(torch.tensor(values))
    clipped.add()
    whole = [int(value) for value in clipped.total.tolist()]
    assert whole == clipped.total.tolist()
    assert sum(value * value for value in whole) <= RESOLUTION**2


def test_a_sum_does_not_depend_on_the_order_of_units_in_any_digit() -> None:
    generator = torch.Generator().manual_seed(5)
    gradients = torch.randn(300, 40, generator=generator) * torch.logspace(-6, 6, 300)[:, None]
    totals = []
    for order in (range(300), reversed(range(300)), torch.randperm(300, generator=generator).tolist()):
        clipped = ClippedSum([("w", nn.Parameter(torch.zeros(40)))], clip=0.7)
        for place in order:
            clipped.gradient.copy_(gradients[place])
            clipped.add()
        totals.append(clipped.total)
    assert torch.equal(totals[0], totals[1])
    assert torch.equal(totals[0], totals[2])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_unit_whose_gradient_is_not_finite_counts_as_zero(bad: float) -> None:
    clipped = ClippedSum([("w", nn.Parameter(torch.zeros(3)))], clip=1.0)
    for values in ([0.1, 0.2, 0.3], [1.0, bad, 0.0]):
        clipped.gradient.copy_(torch.tensor(values))
        clipped.add()
    assert clipped.dropped == 1
    clipped.release(0.0, 1.0)
    torch.testing.assert_close(clipped.parameters[0].grad, torch.tensor([0.1, 0.2, 0.3]))


def test_noise_is_gaussian_of_the_stated_size_and_fresh_each_time() -> None:
    weight = nn.Parameter(torch.zeros(200_000))
    clipped = ClippedSum([("w", weight)], clip=0.5)
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        clipped.release(1.3, 4.0)
        assert weight.grad is not None
        drawn.append(weight.grad.double().numpy() / (1.3 * 0.5 / 4))
    for values in drawn:
        assert stats.kstest(values, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(*drawn)[0, 1]) < 0.02
    assert clipped.total.abs().sum() == 0


def test_a_release_lies_on_cells_that_hide_what_was_added() -> None:
    weight = nn.Parameter(torch.zeros(1000, dtype=torch.float64))
    clipped = ClippedSum([("w", weight)], clip=1.0)
    clipped.gradient.fill_(1e-3 + 1e-9)
    clipped.add()
    clipped.release(1.0, 1.0)
    assert weight.grad is not None
    assert torch.equal((weight.grad * 1024).round(), weight.grad * 1024)


def test_layers_are_brought_to_one_size_after_the_noise() -> None:
    torch.manual_seed(2)
    for kind in ("layer", "trust"):
        model = Frames()
        clipped = summed(model, model(*frames_and_labels(3)), [[0], [1], [2]], clip=1.0)
        clipped.release(0.5, 3.0)
        normalize(clipped, kind)  # type: ignore[arg-type]
        total = sum(parameter.numel() for parameter in model.parameters())
        for module in (model.enter, model.norm, model.shift, model.leave):
            own = list(module.parameters())
            norm = torch.cat([p.grad.flatten() for p in own]).norm()  # type: ignore[union-attr]
            size = sum(p.numel() for p in own)
            weights = torch.cat([p.detach().flatten() for p in own]).norm()
            expected = math.sqrt(size / total) if kind == "layer" else float(weights)
            assert float(norm) == pytest.approx(expected, rel=1e-5)


def test_half_precision_and_nothing_to_train_are_refused() -> None:
    with pytest.raises(PrivacyError, match=r"trained parameters are float16 on cpu; expected all of them float32"):
        ClippedSum([("w", nn.Parameter(torch.zeros(2, dtype=torch.float16)))], clip=1.0)
    with pytest.raises(PrivacyError, match=r"nothing is trained: no parameter takes a gradient"):
        ClippedSum([], clip=1.0)


# What mixes units


@pytest.mark.parametrize(
    ("module", "name"),
    [(nn.BatchNorm1d(3), "BatchNorm1d"), (nn.SyncBatchNorm(3), "SyncBatchNorm")],
)
def test_batch_norm_is_refused_with_what_to_use(module: nn.Module, name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), module)
    with pytest.raises(
        PrivacyError, match=rf"1 is a {name}: .*Next: LayerNorm \(norm: layer\), GroupNorm, or freeze it"
    ):
        refuse_mixing(model)
    module.eval()
    refuse_mixing(model)


def test_running_statistics_are_refused_wherever_they_are() -> None:
    with pytest.raises(PrivacyError, match=r"InstanceNorm1d with running statistics"):
        refuse_mixing(nn.InstanceNorm1d(3, track_running_stats=True))
    refuse_mixing(nn.InstanceNorm1d(3))

    class Counts(nn.Module):
        seen: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

    model = nn.Sequential(Counts())
    for change in (lambda one: one.seen.add_(1), lambda one: setattr(one, "seen", one.seen + 1)):
        still = StillBuffers(model)
        still.verify()
        change(model[0])
        with pytest.raises(PrivacyError, match=r"changes the buffer '0\.seen', which would leave without noise"):
            still.verify()


# Sampling


def test_units_are_drawn_by_poisson_sampling_with_all_their_rows() -> None:
    units = Units.of(rows(units=30, each=3), "speaker")
    drawn = list(PoissonSampler(units, rate=0.3, steps=4000))
    names = [{units.unit_of_place[place] for place in batch} for batch in drawn]
    assert all(len(batch) == 3 * len(own) for batch, own in zip(drawn, names, strict=True))
    each = np.array([[f"s{k}" in own for k in range(30)] for own in names])
    assert stats.binomtest(int(each.sum()), each.size, 0.3).pvalue > 1e-4
    assert abs(each.sum(1).var() / (30 * 0.3 * 0.7) - 1) < 0.15
    correlation = np.corrcoef(each.T) - np.eye(30)
    assert np.abs(correlation).max() < 0.09


def test_the_seed_of_a_run_does_not_tell_who_was_drawn() -> None:
    units = Units.of(rows(units=64, each=1), "utterance")
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        found.append(list(PoissonSampler(units, rate=0.5, steps=3)))
    assert found[0] != found[1]


def test_a_rate_of_one_takes_everybody_and_a_cap_takes_some_rows_of_each() -> None:
    units = Units.of(rows(units=5, each=4), "speaker")
    (batch,) = PoissonSampler(units, rate=1.0, steps=1, most=2)
    assert sorted(units.unit_of_place[place] for place in batch) == sorted(f"s{k}" for k in range(5) for _ in range(2))
    assert len(set(batch)) == 10


def test_rows_without_a_unit_and_ids_of_two_units_are_refused() -> None:
    data = rows(units=2, each=1)
    with pytest.raises(DataError, match="has no speaker, which is the unit that is protected"):
        Units.of([{**data[0], "speaker": ""}], "speaker")
    with pytest.raises(PrivacyError, match=r"id 'r0' is of the speakers 's0' and 's1'"):
        Units.of([data[0], {**data[1], "id": "r0"}], "speaker")
