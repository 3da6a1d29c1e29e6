"""What is promised of attaching a chip to a model: nothing is replaced, nothing stays, ranges hold, and float is float."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from slt_nna.nna import Nna
from slt_nna.tags import tag_of
from sltcore.errors import PluginError
from sltcore.testing.toys import models
from sltcore.types import Encoded, Features

Made = Callable[..., Nna]
MODELS = [name for name, _, _ in models()]


def model(name: str) -> tuple[nn.Module, torch.Tensor]:
    found = {each: (module, example) for each, module, example in models()}
    return found[name]


@pytest.mark.parametrize("name", MODELS)
def test_the_ideal_chip_changes_no_bit(name: str) -> None:
    module, x = model(name)
    expected = module(x)
    transform = Nna("ideal")
    transform.attach(module, iter([x]))
    with transform.use({}):
        assert torch.equal(module(x), expected)
    assert transform.state() == {}


@pytest.mark.parametrize("name", MODELS)
def test_detach_leaves_no_hook_and_no_changed_bit(rounded: Made, name: str) -> None:
    module, x = model(name)
    expected, kinds = module(x), [type(each) for each in module.modules()]
    before = [sorted(each.__dict__) for each in module.modules()]
    transform = rounded()
    transform.attach(module, iter([x]))
    assert not torch.equal(module(x), expected)
    transform.detach()
    assert torch.equal(module(x), expected)
    assert [type(each) for each in module.modules()] == kinds
    assert [sorted(each.__dict__) for each in module.modules()] == before
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
    assert not any(getattr(each, name) for each in module.modules() for name in hooks)
    with pytest.raises(PluginError, match="not attached"):
        transform.detach()


def test_calls_of_a_part_are_on_the_chip_too(rounded: Made) -> None:
    module, x = model(MODELS[0])
    transform = rounded()
    transform.attach(module, iter([x]))
    inner: Any = module.encoder
    with transform.use({}):
        hidden = inner(x)
    assert torch.equal(inner(x), hidden)
    tag = tag_of(hidden)
    assert tag is not None
    assert tag.site == "encoder.3|relu"
    assert tag.grid is not None


def test_an_error_inside_ends_the_interception(rounded: Made) -> None:
    module, x = model(MODELS[0])
    transform = rounded()
    transform.attach(module, iter([x]))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        module(x[..., :3])
    assert torch.nn.functional.linear(x, module.encoder[0].weight).shape[-1] == 12  # type: ignore[index,union-attr]
    assert tag_of(torch.nn.functional.linear(x, module.encoder[0].weight)) is None  # type: ignore[index,union-attr]
    assert tag_of(module(x)) is not None


def test_a_deep_copy_runs_on_the_same_chip(rounded: Made) -> None:
    module, x = model(MODELS[2])
    transform = rounded()
    transform.attach(module, iter([x]))
    other = copy.deepcopy(module)
    assert torch.equal(other(x), module(x))
    assert torch.equal(copy.deepcopy(module).encoder["q_proj"](x), module.encoder["q_proj"](x))  # type: ignore[index,operator]


def test_replaced_parameters_keep_their_names(rounded: Made) -> None:
    module, x = model(MODELS[1])
    transform = rounded()
    transform.attach(module, iter([x]))
    other = {name: value.detach() * 1.0 for name, value in module.named_parameters()}
    assert torch.equal(torch.func.functional_call(module, other, (x,)), module(x))


def test_one_model_has_one_chip(rounded: Made) -> None:
    module, x = model(MODELS[0])
    transform = rounded()
    transform.attach(module, iter([x]))
    with pytest.raises(PluginError, match="attached to a Stack already"):
        transform.attach(module)
    with pytest.raises(PluginError, match="Stack is on a chip already; detach that one first"):
        rounded("harsh").attach(module)


def test_models_that_no_chip_can_run_are_refused(rounded: Made) -> None:
    with pytest.raises(PluginError, match=r"parameter 'weight' is float64.*call model.float\(\)"):
        rounded().attach(nn.Linear(3, 3).double())
    with pytest.raises(PluginError, match="ReLU has no parameters"):
        rounded().attach(nn.ReLU())


def test_a_calibration_without_inputs_is_refused_and_leaves_nothing(rounded: Made) -> None:
    module, x = model(MODELS[0])
    with pytest.raises(PluginError, match="calibration data is empty"):
        rounded().attach(module, iter(()))
    with pytest.raises(PluginError, match="no operator of Stack ran on chip"):
        rounded(exclude=("*",)).attach(module, iter([x]))
    rounded().attach(module, iter([x]))


def test_without_calibration_the_call_says_what_to_do(rounded: Made) -> None:
    module, x = model(MODELS[0])
    rounded().attach(module)
    with pytest.raises(
        PluginError, match="'encoder.0:input' was never calibrated: no range is known at all; attach with"
    ):
        module(x)


def test_state_restores_every_bit_without_calibration(rounded: Made) -> None:
    module, x = model(MODELS[2])
    base = copy.deepcopy(module)
    transform = rounded()
    transform.attach(module, iter([x]))
    other = rounded()
    other.restore(base, {name: value.clone() for name, value in transform.state().items()})
    assert torch.equal(base(x), module(x))
    assert all(value.dtype == torch.float64 and value.ndim == 0 for value in transform.state().values())


def test_calibration_keeps_training_mode_and_draws_no_random_number(rounded: Made) -> None:
    module, x = model(MODELS[0])
    module.train()
    module.head.eval()  # type: ignore[union-attr]
    torch.manual_seed(0)
    rounded().attach(module, iter([x]))
    assert [each.training for each in (module, module.encoder, module.head)] == [True, True, False]  # type: ignore[union-attr]
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0)))


class Framewise(nn.Module):
    """An encoder over Features whose padding is far from zero."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(2, 3)

    def forward(self, x: Features) -> Encoded:
        return Encoded(self.project(x.values), x.lengths, 0.01)


def test_padding_never_moves_a_range(rounded: Made) -> None:
    values = torch.randn(2, 5, 2)
    padded = values.clone()
    padded[1, 2:] = 1e6
    states = []
    for given in (values, padded):
        torch.manual_seed(0)
        transform = rounded(range="max")
        transform.attach(Framewise(), iter([Features(given, torch.tensor([5, 2]), 0.01)]))
        states.append({name: float(value) for name, value in transform.state().items()})
    assert float(values[0].abs().max()) <= states[0]["range.project:input"] <= float(values.abs().max())
    assert states[0] == states[1]


def test_every_parameter_gets_a_gradient(rounded: Made) -> None:
    for name in MODELS:
        module, x = model(name)
        rounded_, float_ = copy.deepcopy(module), module
        rounded("generous-8bit").attach(rounded_, iter([x]))
        for each in (rounded_.train(), float_.train()):
            each(x).square().mean().backward()
        for (key, mine), theirs in zip(rounded_.named_parameters(), float_.parameters(), strict=True):
            if float(theirs.grad.norm()) > 1e-4:  # type: ignore[union-attr]
                cosine = torch.cosine_similarity(mine.grad.flatten(), theirs.grad.flatten(), 0)  # type: ignore[union-attr]
                assert cosine > 0.9, (name, key)


def test_training_may_begin_in_float(rounded: Made) -> None:
    module, x = model(MODELS[0])
    expected = module(x)
    transform = rounded(start=0.7)
    transform.attach(module, iter([x]))
    chip = module(x)
    transform.step(0.5)
    assert torch.equal(module.train()(x), expected)
    assert torch.equal(module.eval()(x), chip)
    transform.step(0.7)
    assert torch.equal(module.train()(x), chip)


def test_batch_norm_uses_running_statistics_in_training(rounded: Made) -> None:
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.ReLU(inplace=True)), torch.randn(2, 4, 9)
    module[1].running_mean += 0.3  # type: ignore[operator]
    rounded().attach(module, iter([x]))
    before = module[1].running_mean.clone()  # type: ignore[operator]
    assert torch.equal(module.train()(x), module.eval()(x))
    assert torch.equal(module[1].running_mean, before)  # type: ignore[arg-type]
    assert all(each.training for each in module.train().modules())


def test_options_out_of_bounds_are_refused() -> None:
    with pytest.raises(PluginError, match="range is 'median', expected one of max, percentile, mse"):
        Nna("ideal", range="median")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"percent": 200.0}, "percent is 200.0, expected more than 50 and at most 100"),
        ({"start": -1.0}, "start is -1.0, expected 0 to 1"),
        ({"exclude": "encoder.*"}, "exclude is the text 'encoder.*', expected a sequence of patterns"),
    ],
)
def test_numbers_and_patterns_out_of_bounds_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=message.replace("*", r"\*")):
        Nna("ideal", **option)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_calibration_without_a_finite_value_is_refused(rounded: Made, number: float) -> None:
    module, x = model(MODELS[0])
    transform = rounded()
    with pytest.raises(PluginError, match="no value measured at 'encoder.0:input' is finite, so it has no range"):
        transform.attach(module, iter([torch.full_like(x, number)]))
    assert not transform.ranges.observing
    transform.attach(module, iter([x]))
    assert module(x).isfinite().all()


def test_a_failed_calibration_leaves_no_stand_in_for_a_range(rounded: Made) -> None:
    module, x = model(MODELS[0])
    transform = rounded()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        transform.attach(module, iter([x, x[..., :3]]))
    transform.attach(module)
    with pytest.raises(PluginError, match="was never calibrated"):
        module(x)


def test_a_refused_restore_leaves_the_ranges_of_the_attached_model(rounded: Made) -> None:
    module, x = model(MODELS[0])
    transform = rounded()
    transform.attach(module, iter([x]))
    expected = module(x)
    with pytest.raises(PluginError, match="attached to a Stack already"):
        transform.restore(copy.deepcopy(module), {"range.other": torch.tensor(1.0)})
    assert torch.equal(module(x), expected)


def test_sites_keep_their_names_when_parameters_are_packed_away() -> None:
    """A bundle's chip is restored onto a model whose quantizer has taken some parameters out of it."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.position = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.matmul(self.query(x), self.position(x).transpose(-1, -2)) + 0.0

    class Packed(nn.Linear):
        @property
        def weight(self) -> torch.Tensor:  # type: ignore[override]
            from sltcore.table_weights import mark_origin

            return mark_origin(self.__dict__["codes"].clone(), self, "weight")

    torch.manual_seed(0)
    module, x = Two().eval(), torch.randn(3, 5, 4)
    transform = Nna("mixed-8-16")
    transform.attach(module, iter([x]))
    with torch.no_grad():
        expected = module(x)
    state = transform.state()
    transform.detach()
    for name, layer in list(module.named_children()):
        weight = layer.weight.detach().clone()
        del layer._parameters["weight"]
        layer.__class__ = Packed
        layer.__dict__["codes"] = weight
        again = Nna("mixed-8-16")
        again.restore(module, state)
        with torch.no_grad():
            assert torch.equal(module(x), expected), name
        again.detach()
