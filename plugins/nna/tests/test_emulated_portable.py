"""Without the compiled kernels (tensors elsewhere than in the CPU's memory) every operator gives the same numbers and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from slt_nna.backend import Weight
from slt_nna.chip import load_chip
from slt_nna.emulated import Emulation, norm, passes, weights
from slt_nna.grid import Grid

GRID, OUT, WIDE = Grid(0.031, 8), Grid(0.043, 8), Grid(0.0003, 16)
FREE = {
    "name": "free",
    "description": "free scales, one for each channel, small tiles",
    "scales": "free",
    "weight_scales": "channel",
    "rounding": "half_even",
    "words": {"bias": 20},
    "accumulator": {"bits": 22, "tile": 6},
    "overflow": "wrap",
}
CHIPS: list[Any] = ["mixed-8-16", "harsh", FREE, {**FREE, "rounding": "half_up", "overflow": "saturate"}]

Call = Callable[[Emulation, Tensor, Tensor], Any]
OPERATORS: dict[str, Call] = {
    "linear": lambda e, x, w: e.linear(x, GRID, Weight("w", w), w[:, 0], OUT),
    "linear without bias": lambda e, x, w: e.linear(x, GRID, Weight("w", w), None, OUT),
    "depthwise": lambda e, x, w: e.convolution(
        x, GRID, Weight("w", w[:5, None, :3]), w[:5, 0], OUT, stride=(1,), padding=(1,), dilation=(1,), groups=5
    ),
    "convolution": lambda e, x, w: e.convolution(
        x, GRID, Weight("w", w[:, :5, None]), None, OUT, stride=(2,), padding=(0,), dilation=(1,), groups=1
    ),
    "matmul": lambda e, x, w: e.matmul(x, GRID, x.transpose(-1, -2), GRID, WIDE, factor=0.3),
    "add": lambda e, x, w: e.add(x, GRID, e.exclude(x, GRID, x > 2), GRID, WIDE, sign=-1),
    "multiply": lambda e, x, w: e.multiply(x, GRID, x.flip(0), GRID, OUT),
    "scale": lambda e, x, w: e.scale(x, GRID, -0.9, OUT),
    "relabel": lambda e, x, w: e.relabel(x, GRID, 0.3)[0],
    "lookup": lambda e, x, w: e.lookup(x, GRID, "tanh")[0],
    "silu": lambda e, x, w: e.gate(x, GRID, x, GRID, "sigmoid", OUT),
    "glu": lambda e, x, w: e.gate(*(each for half in x.chunk(2, -1) for each in (half, GRID)), "sigmoid", OUT),
    "softmax": lambda e, x, w: e.softmax(e.exclude(x, GRID, x > 1.5), GRID, -1)[0],
    "layer norm": lambda e, x, w: e.layer_norm(x, GRID, w[0], w[1], 1e-5, OUT),
    "layer norm alone": lambda e, x, w: e.layer_norm(x, GRID, None, None, 1e-5, OUT),
    "batch norm": lambda e, x, w: e.batch_norm(x, GRID, w[:5, 0], w[:5, 1].abs() + 0.1, None, w[:5, 2], 1e-5, OUT),
    "embedding": lambda e, x, w: e.embedding(torch.tensor([0, 2, 2], device=w.device), Weight("w", w))[0],
    "fill": lambda e, x, w: e.fill(x, GRID, x > 1, 0.77),
}  # fmt: skip


def results(call: Call, chip: Any, device: str = "cpu") -> tuple[Tensor, ...]:
    """The result and the gradients of an operator on fixed inputs."""
    emulation = Emulation(load_chip(chip))
    generator = torch.Generator().manual_seed(3)
    given = 2 * torch.randn(4, 5, 10, generator=generator)
    given[0, 0, 0] = torch.nan
    x, w = given.to(device).requires_grad_(), torch.randn(7, 10, generator=generator).to(device).requires_grad_()
    y = call(emulation, emulation.enter(x, GRID), w)
    direction = torch.randn(y.shape, generator=generator).to(device)
    torch.where(torch.isfinite(y), y * direction, 0.0).sum().backward()
    return tuple(torch.zeros(0) if each is None else each.detach().cpu() for each in (y, x.grad, w.grad))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (passes, weights, norm):
        monkeypatch.setattr(module, "on_cpu", lambda x: False)


@pytest.mark.parametrize("chip", CHIPS, ids=["mixed", "harsh", "wrapping", "saturating"])
@pytest.mark.parametrize("name", OPERATORS)
def test_results_and_gradients_are_the_same(name: str, chip: Any, request: pytest.FixtureRequest) -> None:
    compiled = results(OPERATORS[name], chip)
    request.getfixturevalue("elsewhere")
    portable = results(OPERATORS[name], chip)
    assert torch.equal(compiled[0], portable[0])
    for one, two in zip(compiled[1:], portable[1:], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("chip", CHIPS, ids=["mixed", "harsh", "wrapping", "saturating"])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_gpu_gives_the_same_numbers(name: str, chip: Any) -> None:
    here, there = results(OPERATORS[name], chip), results(OPERATORS[name], chip, "cuda")
    assert torch.equal(here[0], there[0])
    for one, two in zip(here[1:], there[1:], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
