"""Promises of the optimizer and its schedule: which parameters change, at which rate, with which decay."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from sltcore.errors import SpecError
from sltcore.spec.training import OptimizerConfig, ScheduleConfig
from sltcore.train.optimizer import chosen, freeze, groups, make_optimizer, set_rates
from sltcore.train.schedule import rate, warmup_of

NAMES = ["encoder.blocks.0.weight", "encoder.blocks.1.weight", "encoder.norm.bias", "decoder.head.weight"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*"], NAMES),
        (["decoder.*"], NAMES[3:]),
        (["*", "!encoder.blocks.0.*"], NAMES[1:]),
        (["!encoder.*"], NAMES[3:]),
        (["*", "!encoder.*", "encoder.norm.*"], NAMES[2:]),
    ],
)
def test_patterns_choose_parameters_in_order(patterns: list[str], expected: list[str]) -> None:
    assert chosen(NAMES, patterns) == expected


def test_a_pattern_that_matches_nothing_names_what_there_is() -> None:
    text = (
        r"trainable\[1\]: no parameter is named like 'encoder.block.0.\*'; parameters are: encoder.blocks.\*, "
        r"encoder.norm.\*. Did you mean 'encoder.blocks.0.\*'\?"
    )
    with pytest.raises(SpecError, match=text):
        chosen(NAMES, ["*", "!encoder.block.0.*"])


def model() -> nn.Module:
    made = nn.Module()
    made.encoder = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    made.decoder = nn.Linear(4, 2)
    return made


def test_what_a_component_froze_itself_stays_frozen() -> None:
    made = model()
    made.encoder[0].weight.requires_grad_(False)
    found = freeze(made, ["encoder.*"], ())
    assert list(found) == ["encoder.0.bias", "encoder.1.weight", "encoder.1.bias"]
    assert [p.requires_grad for p in made.parameters()] == [False, True, True, True, False, False]


def test_norms_and_biases_have_no_weight_decay_and_the_first_group_that_matches_counts() -> None:
    made = model()
    config = OptimizerConfig.model_validate(
        {
            "learning_rate": 0.1,
            "weight_decay": 0.3,
            "groups": [
                {"match": ["encoder.0.*"], "learning_rate": 0.01},
                {"match": ["encoder.*"], "weight_decay": 0.2},
            ],
        }
    )
    found = groups(dict(made.named_parameters()), config)
    by_parameter = {id(p): group for group in found for p in group["params"]}
    settings = {
        name: (by_parameter[id(p)]["lr"], by_parameter[id(p)]["weight_decay"]) for name, p in made.named_parameters()
    }
    assert settings == {
        "encoder.0.weight": (0.01, 0.3),
        "encoder.0.bias": (0.01, 0.0),
        "encoder.1.weight": (0.1, 0.0),
        "encoder.1.bias": (0.1, 0.0),
        "decoder.weight": (0.1, 0.3),
        "decoder.bias": (0.1, 0.0),
    }


def test_groups_of_transforms_keep_their_own_settings_and_hold_no_parameter_twice() -> None:
    made, extra = model(), nn.Parameter(torch.ones(2))
    further = [{"params": [made.decoder.weight, extra], "lr": 0.7}]
    found = groups(dict(made.named_parameters()), OptimizerConfig(learning_rate=0.1), further)
    assert found[-1]["params"] == [extra]
    assert (found[-1]["lr"], found[-1]["highest"]) == (0.7, 0.7)
    optimizer = make_optimizer(found, OptimizerConfig(learning_rate=0.1))
    set_rates(optimizer, ScheduleConfig(shape="linear", warmup_steps=0), 5, 10)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.05, 0.35])


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(SpecError, match="trainable: no parameter is left to train"):
        make_optimizer([], OptimizerConfig())


def closed_form(shape: str, step: int, warmup: int, total: int, final: float) -> float:
    """The formulas of the docstring, written again."""
    if step < warmup:
        return (step + 1) / warmup
    p = (step - warmup) / (total - warmup)
    late = max(0.0, step - 0.8 * total) / (0.2 * total)
    return {
        "constant": 1.0,
        "linear": 1 - (1 - final) * p,
        "cosine": final + (1 - final) * 0.5 * (1 + math.cos(math.pi * p)),
        "noam": max(final, (warmup / (step + 1)) ** 0.5),
        "hold-decay": 1 - (1 - final) * late,
    }[shape]


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "noam", "hold-decay"])
def test_the_rate_follows_its_closed_form(shape: Any) -> None:
    schedule = ScheduleConfig(shape=shape, warmup_steps=15, final=0.1)
    found = [rate(schedule, step, 200) for step in range(200)]
    assert found == pytest.approx([closed_form(shape, step, 15, 200, 0.1) for step in range(200)])
    assert max(found) == pytest.approx(1.0)
    assert all(0 < value <= 1 for value in found)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(found[15:]))


def test_warm_up_takes_at_most_a_tenth_of_the_run() -> None:
    schedule = ScheduleConfig(warmup_steps=100)
    assert [warmup_of(schedule, total) for total in (5, 50, 1000, 5000)] == [0, 5, 100, 100]
    assert all(rate(schedule, step, 5) > 0 for step in range(5))


def test_adamw_takes_the_steps_of_its_paper() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, by hand."""
    weight = nn.Parameter(torch.tensor([[0.5, -1.0]], dtype=torch.float64))
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.2, betas=(0.9, 0.99), epsilon=1e-8)
    optimizer = make_optimizer(groups({"w": weight}, config), config)
    expected, m, v = weight.detach().clone(), torch.zeros(1, 2), torch.zeros(1, 2)
    for step in range(1, 4):
        gradient = torch.tensor([[1.0, -2.0]], dtype=torch.float64) * step
        weight.grad = gradient.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        update = (m / (1 - 0.9**step)) / ((v / (1 - 0.99**step)).sqrt() + 1e-8)
        expected = expected - 0.1 * 0.2 * expected - 0.1 * update
        torch.testing.assert_close(weight.detach(), expected)


def test_sgd_decays_weights_apart_from_the_gradient() -> None:
    """Loshchilov and Hutter 2019, algorithm 1, by hand."""
    weight = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))
    config = OptimizerConfig(name="sgd", learning_rate=0.1, weight_decay=0.5, momentum=0.9)
    optimizer = make_optimizer(groups({"w": weight}, config), config)
    expected, momentum = 2.0, 0.0
    for gradient in (1.0, -3.0, 0.5):
        weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimizer.step()
        momentum = 0.9 * momentum + gradient
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * momentum
        assert weight.item() == pytest.approx(expected)
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
