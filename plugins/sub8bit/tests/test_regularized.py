"""The penalty between fixed levels: its shape, where it leads, and when the hard compressor steps in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slt_sub8bit.lloyd_max import nearest_level
from slt_sub8bit.regularized import RegularizedScheme
from slt_sub8bit.scheme import decoded


def started(weight: torch.Tensor, bits: int = 2, groups: int = 1, **settings: object) -> RegularizedScheme:
    scheme = RegularizedScheme(groups, **settings)  # type: ignore[arg-type]
    scheme.start(weight, bits)
    return scheme


@pytest.mark.parametrize("groups", [1, 4])
def test_the_penalty_is_the_formula(groups: int) -> None:
    weight = torch.randn(4, 25, generator=torch.Generator().manual_seed(0))
    scheme = started(weight, groups=groups, strength=3.0)
    levels = scheme.levels.double().tolist()
    scale = scheme.scale.repeat_interleave(4 // groups).double()
    total = 0.0
    for w in (weight.double() / scale[:, None]).flatten().tolist():
        k = int(np.clip(np.searchsorted(levels, w) - 1, 0, 2))
        part = (w - levels[k]) / (levels[k + 1] - levels[k])
        outside = max(0.0, -part, part - 1.0)
        total += math.pi * outside if outside else abs(math.sin(math.pi * part))
    penalty = scheme.penalty(weight)
    assert penalty is not None
    assert penalty.item() == pytest.approx(3.0 * total / 100, rel=1e-5)


def test_the_penalty_is_zero_on_levels_and_one_between() -> None:
    scheme = started(torch.randn(50, 20), bits=3, strength=1.0)
    on = scheme.penalty(scheme.levels[None, :])
    between = scheme.penalty(((scheme.levels[1:] + scheme.levels[:-1]) / 2)[None, :])
    assert on is not None
    assert on.item() == pytest.approx(0.0, abs=1e-5)
    assert between is not None
    assert between.item() == pytest.approx(1.0, abs=1e-5)


def test_the_penalty_alone_leads_every_weight_to_its_nearest_level() -> None:
    start = torch.randn(40, 25, generator=torch.Generator().manual_seed(1))
    scheme = started(start, strength=1.0)
    goal = scheme.levels[nearest_level(start, scheme.levels)]
    weight = torch.nn.Parameter(start.clone())
    rate = 0.5
    for _ in range(900):
        penalty = scheme.penalty(weight)
        assert penalty is not None
        (slope,) = torch.autograd.grad(penalty * weight.numel(), weight)
        with torch.no_grad():
            weight -= rate * 0.02 * slope
        rate *= 0.992
    ridge = (scheme.levels[1:] + scheme.levels[:-1]) / 2  # where the slope begins at nothing
    away = (start[..., None] - ridge).abs().amin(-1) > 0.02
    assert float((weight - goal).detach().abs()[away].max()) < 0.02
    assert float(away.float().mean()) > 0.9


@pytest.mark.parametrize("forward", ["plain", "straight-through"])
def test_training_sees_hard_weights_when_it_should(forward: str) -> None:
    weight = torch.randn(6, 30).requires_grad_()
    scheme = started(weight, forward=forward, compress_every=3, hard_from=0.9)
    stored = decoded(scheme.table(weight))
    seen = []
    for turn in range(10):
        scheme.step(turn / 10)
        seen.append(torch.equal(scheme.weight(weight, hard=False), stored))
    plain = [False, False, True, False, False, True, False, False, True, True]  # every third step, and from 0.9 on
    assert seen == ([True] * 10 if forward == "straight-through" else plain)
    assert torch.equal(scheme.weight(weight, hard=True), stored)


def test_levels_are_fixed() -> None:
    weight = torch.randn(6, 30).requires_grad_()
    scheme = started(weight)
    before = scheme.levels.clone()
    assert scheme.parameters() == []
    assert not scheme.levels.requires_grad
    penalty = scheme.penalty(weight)
    assert penalty is not None
    penalty.backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert float(weight.grad.abs().sum()) > 0
    assert torch.equal(scheme.levels, before)


def test_no_strength_is_no_penalty() -> None:
    assert started(torch.randn(6, 30), strength=0.0).penalty(torch.randn(6, 30)) is None
