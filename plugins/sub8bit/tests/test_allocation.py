"""Bits by budget: the assignment against brute force, sensitivities against what they are defined as."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slt_sub8bit import allocation
from slt_sub8bit.allocation import Choice, allocate, best_assignment, sensitivities, stored_bytes
from slt_sub8bit.general import GeneralScheme
from slt_sub8bit.kernels import find_kernels
from slt_sub8bit.lloyd_max import LloydMaxScheme
from slt_sub8bit.quantizer import ALLOCATION, Sub8bit
from sltcore.errors import PluginError


def drawn(seed: int, kernels: int, widths: int) -> list[list[Choice]]:
    generator = np.random.default_rng(seed)
    return [
        [
            Choice(b, int(generator.integers(1, 60) * (b + 1)), float(generator.exponential() / 4**b))
            for b in range(widths)
        ]
        for _ in range(kernels)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_the_assignment_is_the_best_of_all(seed: int) -> None:
    choices = drawn(seed, kernels=5, widths=4)
    smallest = sum(min(c.stored_bytes for c in options) for options in choices)
    for budget in (smallest, smallest + 20, 2 * smallest, 10 * smallest):
        picked = best_assignment(choices, budget)
        taken = [options[place] for options, place in zip(choices, picked, strict=True)]
        assert sum(c.stored_bytes for c in taken) <= budget
        best = min(
            sum(c.error for c in every)
            for every in itertools.product(*choices)
            if sum(c.stored_bytes for c in every) <= budget
        )
        assert sum(c.error for c in taken) == pytest.approx(best, rel=1e-12)


def test_with_too_many_states_the_budget_still_holds_and_the_result_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = drawn(0, kernels=30, widths=6)
    budget = int(1.5 * sum(min(c.stored_bytes for c in options) for options in choices))
    errors = []
    for most in (1_000_000, 400):
        monkeypatch.setattr(allocation, "MOST_STATES", most)
        taken = [options[place] for options, place in zip(choices, best_assignment(choices, budget), strict=True)]
        assert sum(c.stored_bytes for c in taken) <= budget
        errors.append(sum(c.error for c in taken))
    assert errors[0] <= errors[1] <= 1.05 * errors[0]


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))


def test_sensitivities_are_relative_squared_output_errors() -> None:
    net = model()
    inputs = [torch.randn(20, 16) for _ in range(3)]
    found = sensitivities(net, find_kernels(net).kernels, inputs, (2, 32))
    with torch.no_grad():
        expected = torch.cat([net(x) for x in inputs])
        other = model()
        other.load_state_dict(net.state_dict())
        layer = other[2]
        assert isinstance(layer, nn.Linear)
        scheme = LloydMaxScheme()
        scheme.start(layer.weight, 2)
        layer.weight.copy_(scheme.weight(layer.weight, hard=True))
        error = (torch.cat([other(x) for x in inputs]) - expected).square().sum() / expected.square().sum()
    assert found["2.weight"][0].error == pytest.approx(float(error), rel=1e-5)
    assert found["2.weight"][1].error == 0.0


def test_measuring_changes_nothing() -> None:
    net = model().train()
    net[1].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    sensitivities(net, find_kernels(net).kernels, [torch.randn(4, 16)], (1, 4))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert modes == [module.training for module in net.modules()]
    assert all(not module._forward_hooks for module in net.modules())


def test_bytes_are_those_the_quantizer_reports() -> None:
    net = model()
    kernels = find_kernels(net).kernels
    for bits in (1, 3, 8):
        quantizer = Sub8bit(GeneralScheme, bits=bits)
        other = model()
        quantizer.attach(other)
        biases = sum(4 * p.numel() for p in other.parameters() if p.ndim == 1)
        stored = sum(stored_bytes(kernel, bits) for kernel in kernels)
        assert abs(quantizer.report(other).disk_bytes - biases - stored) <= 16 * len(kernels)


def test_a_quantizer_meets_the_budget_and_spends_it_where_it_counts() -> None:
    net = model()
    with torch.no_grad():
        net[4].weight[:4] *= 20.0  # rows that carry the output, beside rows that do not
    inputs = [torch.randn(20, 16) for _ in range(4)]
    quantizer = Sub8bit(LloydMaxScheme, budget_bytes=900, choices=(1, 2, 3, 4, 6))
    quantizer.attach(net, iter(inputs))
    kernels = list(quantizer.kernels.values())
    assert sum(stored_bytes(kernel, quantizer.widths[kernel.name]) for kernel in kernels) <= 900
    quantizer.detach()
    measured = sensitivities(net, kernels, inputs, (1, 2, 3, 4, 6))
    chosen = sum(
        next(c.error for c in measured[k.name] if c.bits == quantizer_bits(net, inputs, k.name)) for k in kernels
    )
    for even in (1, 2, 3, 4):
        if sum(stored_bytes(kernel, even) for kernel in kernels) <= 900 - 4 * len(kernels):
            assert chosen <= sum(c.error for options in measured.values() for c in options if c.bits == even)


def quantizer_bits(net: nn.Module, inputs: list[torch.Tensor], name: str) -> int:
    kernels = find_kernels(net).kernels
    return allocate(net, kernels, (1, 2, 3, 4, 6), 900 - 4 * len(kernels), iter(inputs)).widths[name]


def test_outputs_without_tensors_are_compared_where_the_last_layer_ran() -> None:
    class Decoding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model()

        def forward(self, x: torch.Tensor) -> list[str]:
            return [str(int(label)) for label in self.body(x).argmax(-1)]

    net, inputs = Decoding(), [torch.randn(20, 16)]
    found = sensitivities(net, find_kernels(net).kernels, inputs, (2,))
    plain = sensitivities(net.body, find_kernels(net.body).kernels, inputs, (2,))
    assert [found[f"body.{name}"][0].error for name in plain] == [plain[name][0].error for name in plain]


def test_a_budget_that_cannot_be_met_names_the_smallest() -> None:
    net = model()
    kernels = find_kernels(net).kernels
    smallest = sum(stored_bytes(kernel, 2) for kernel in kernels)
    with pytest.raises(
        PluginError,
        match=rf"^budget_bytes is 100, but with choices \[2, 4\] all kernels take {smallest} at least, tables and scales among "
        f"them; give {smallest} or more, allow fewer bits, or exclude kernels$",
    ):
        allocate(net, kernels, (2, 4), 100, iter([torch.randn(2, 16)]))
    found = allocate(net, kernels, (2, 4), smallest, iter([torch.randn(2, 16)]))
    assert set(found.widths.values()) == {2}


def test_the_smallest_budget_that_is_named_is_the_smallest_that_works() -> None:
    inputs = [torch.randn(2, 16)]
    for scales in ("kernel", "row"):
        options: dict[str, Any] = {"scales": scales, "choices": (1, 3), "bits_of": {"4": 5}}
        with pytest.raises(PluginError, match="budget_bytes is 350, but with choices") as refused:
            Sub8bit(LloydMaxScheme, budget_bytes=350, **options).attach(model(), iter(inputs))
        least = int(str(refused.value).partition("take ")[2].partition(" ")[0].replace(",", ""))
        with pytest.raises(PluginError, match=f"budget_bytes is {least - 1:,}, but"):
            Sub8bit(LloydMaxScheme, budget_bytes=least - 1, **options).attach(model(), iter(inputs))
        net, quantizer = model(), Sub8bit(LloydMaxScheme, budget_bytes=least, **options)
        quantizer.attach(net, iter(inputs))
        quantizer.finish()
        assert sum(t.numel() * t.element_size() for n, t in quantizer.state().items() if n != ALLOCATION) == least


def test_the_allocation_tells_the_error_it_predicted_and_the_one_of_all_kernels_together() -> None:
    inputs = [torch.randn(20, 16) for _ in range(3)]
    net = model()
    quantizer = Sub8bit(LloydMaxScheme, budget_bytes=900, choices=(1, 2, 3, 4, 6))
    quantizer.attach(net, iter(inputs))
    found = quantizer.allocation
    assert found is not None
    assert found.widths == quantizer.widths
    float_model = model()
    alone = sensitivities(float_model, find_kernels(float_model).kernels, inputs, (1, 2, 3, 4, 6))
    chosen = [c.error for name, options in alone.items() for c in options if c.bits == found.widths[name]]
    assert found.predicted == pytest.approx(sum(chosen), rel=1e-12)
    with torch.no_grad():
        expected = torch.cat([float_model(x) for x in inputs]).double()
        error = torch.cat([net(x) for x in inputs]).double() - expected  # attached: its own levels are Lloyd and Max's
    assert found.measured == pytest.approx(float(error.square().sum() / expected.square().sum()), rel=1e-5)
    assert found.predicted == pytest.approx(found.measured, rel=0.5), "errors of kernels about add up"


@pytest.mark.parametrize("finish", [False, True])
def test_the_errors_of_an_allocation_are_kept_with_the_weights(finish: bool) -> None:
    quantizer = Sub8bit(LloydMaxScheme, budget_bytes=900)
    quantizer.attach(model(), iter([torch.randn(20, 16)]))
    assert quantizer.allocation is not None
    if finish:
        quantizer.finish()
    again = Sub8bit(LloydMaxScheme)
    again.restore(model(), quantizer.state())
    assert again.allocation is not None
    assert again.allocation.widths == quantizer.widths == again.widths
    kept = (again.allocation.predicted, again.allocation.measured)
    assert kept == pytest.approx((quantizer.allocation.predicted, quantizer.allocation.measured), rel=1e-6)
    assert again.state().keys() == quantizer.state().keys()
    stranger = Sub8bit(LloydMaxScheme)
    stranger.attach(model())
    assert stranger.allocation is None
    assert ALLOCATION not in stranger.state()


def test_a_budget_needs_calibration() -> None:
    net = model()
    for calibration in (None, iter([])):
        with pytest.raises(
            PluginError, match="budget_bytes needs calibration inputs to measure sensitivities: `calibration:`"
        ):
            allocate(net, find_kernels(net).kernels, (2, 4), 10_000, calibration)


def test_outputs_that_are_all_zero_are_refused() -> None:
    net = model()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    with pytest.raises(PluginError, match="Sequential gives no floating-point output other than zero"):
        allocate(net, find_kernels(net).kernels, (2, 4), 10_000, iter([torch.randn(2, 16)]))


def test_other_widths_are_refused() -> None:
    net = model()
    with pytest.raises(PluginError, match=r"widths are \[7, 9\], expected some of 1 to 8 and 32"):
        allocate(net, find_kernels(net).kernels, (9, 7), 10_000, iter([torch.randn(2, 16)]))
