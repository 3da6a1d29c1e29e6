"""Training an update: it starts as nothing, it alone changes, and the base stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from adapter_models import WIDTH, Block, drawn_update, frames, tower
from torch import Tensor, nn

from slt_residual_adapters.residual_adapters import ResidualAdapters
from slt_residual_adapters.update import Update
from sltcore.errors import PluginError


def learn(model: nn.Module, adapters: ResidualAdapters, *, steps: int = 5, seed: int = 0, **context: Any) -> None:
    """A few steps towards a random target, with everything in training mode as a careless loop has it."""
    own = [p for group in adapters.parameter_groups() for p in group["params"]]
    optimizer = torch.optim.Adam(own, lr=0.05)
    x = frames(4, 7, seed=seed)
    target = torch.randn(4, 7, 4, generator=torch.Generator().manual_seed(seed + 100))
    for _ in range(steps):
        model.train()
        with adapters.use(context):
            loss = (model(x) - target).square().mean()
            penalty = adapters.penalty()
        optimizer.zero_grad()
        (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()


def trained(name: str, seed: int, **options: Any) -> Update:
    """An update that was trained on data of its own."""
    model = tower()
    adapters = ResidualAdapters(name, rank=3, **options)
    torch.manual_seed(seed)
    adapters.attach(model)
    learn(model, adapters, seed=seed)
    return adapters.update(name)


def output(model: nn.Module, x: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(frames() if x is None else x)
    return result


def test_a_fresh_update_changes_no_bit_folded_and_unfolded() -> None:
    for options in ({}, {"folds": False}, {"method": "lora", "place": ["**.linear", "head"]}):
        model = tower()
        ResidualAdapters("monday", **options).attach(model)  # type: ignore[arg-type]
        assert torch.equal(output(model), output(tower()))


def test_training_changes_no_bit_of_the_base_its_statistics_or_its_mode() -> None:
    model, before = tower(), tower().state_dict()
    adapters = ResidualAdapters("monday", rank=3)
    adapters.attach(model)
    learn(model, adapters)
    assert not torch.equal(output(model), output(tower()))
    after = model.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())
    adapters.detach()
    assert torch.equal(output(model), output(tower()))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_dropout_and_statistics_of_the_base_are_off_while_an_update_trains() -> None:
    model = tower()
    adapters = ResidualAdapters("monday", rank=3)
    adapters.attach(model)
    model.train()  # what a loop does before each step
    outputs = [model(frames()) for _ in range(2)]  # without `use`, as a foreign loop has it
    assert torch.equal(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[0].detach(), output(tower()), rtol=1e-6, atol=1e-6)


def test_updates_trained_apart_are_themselves_alone_and_never_touch_each_other() -> None:
    monday, friday = trained("monday", 1), trained("friday", 2)
    both = tower()
    adapters = ResidualAdapters(updates=[monday, friday])
    adapters.attach(both)
    for update in (monday, friday):
        alone = tower()
        ResidualAdapters(updates=[update]).attach(alone)
        with adapters.use({"updates": [update.name]}):
            assert torch.equal(output(both), output(alone))
    for update in (monday, friday):
        found = adapters.update(update.name).tensors
        for place, parts in update.tensors.items():
            assert all(torch.equal(found[place][part], tensor) for part, tensor in parts.items())


def test_an_update_is_trained_without_the_others() -> None:
    """Training friday gives the same bits whether monday exists or not: no field lets it see monday."""
    with pytest.raises(PluginError, match=r"update 'friday' is trained alone; leave updates empty"):
        ResidualAdapters("friday", [trained("monday", 1)])
    again = trained("friday", 2)
    for place, parts in trained("friday", 2).tensors.items():
        assert all(torch.equal(again.tensors[place][part], tensor) for part, tensor in parts.items())


@pytest.mark.parametrize("mode", ["attention", "gate"])
def test_a_learned_fusion_trains_and_the_updates_stay(mode: Any) -> None:
    updates = [trained("monday", 1), trained("friday", 2)]
    model = tower()
    adapters = ResidualAdapters(updates=updates, fusion=mode)
    adapters.attach(model)
    before, start = output(model), model.state_dict()
    kept = {name: tensor.clone() for name, tensor in start.items()}
    learn(model, adapters)
    assert not torch.equal(output(model), before)
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())
    for update in updates:
        found = adapters.update(update.name).tensors
        for place, parts in update.tensors.items():
            assert all(torch.equal(found[place][part], tensor) for part, tensor in parts.items())
    state = adapters.state()
    other = tower()
    fresh = ResidualAdapters(updates=updates, fusion=mode)
    fresh.restore(other, state)
    assert torch.equal(output(model), output(other))


@pytest.mark.parametrize("mode", ["sum", "average", "stack"])
def test_fusions_without_parameters_have_nothing_to_train(mode: Any) -> None:
    adapters = ResidualAdapters(updates=[trained("monday", 1)], fusion=mode)
    adapters.attach(tower())
    assert adapters.parameter_groups() == []
    assert adapters.penalty() is None


def test_weights_scale_each_update() -> None:
    """One place, one linear head: the change of the output is linear in the weight."""
    update = drawn_update(tower(), "monday", places=("blocks.2",))
    changes = []
    for weight in (1.0, 0.25, 0.0, -2.0):
        model = tower()
        ResidualAdapters(updates=[update], weights={"monday": weight}).attach(model)
        changes.append(output(model) - output(tower()))
    for weight, change in zip((1.0, 0.25, 0.0, -2.0), changes, strict=True):
        torch.testing.assert_close(change, weight * changes[0], rtol=1e-4, atol=1e-5)


# -- silence


def test_the_penalty_is_the_mean_square_of_the_change() -> None:
    model = tower()
    adapters = ResidualAdapters("monday", place=["blocks.1"], rank=3, silence=0.5)
    adapters.attach(model)
    site: Any = adapters.sites["blocks.1"]
    with torch.no_grad():
        site.branches["monday"].up.normal_(generator=torch.Generator().manual_seed(0))
    x = frames(3, 4)
    with adapters.use({}):
        model(x)
        penalty = adapters.penalty()
    base = tower()
    with torch.no_grad():
        y = base.blocks[1](base.blocks[0](x))
        expected = 0.5 * site.branches["monday"](y).square().sum(-1).mean()
    assert penalty is not None
    torch.testing.assert_close(penalty, expected)


def test_only_utterances_without_a_taught_word_are_to_be_silent() -> None:
    model = tower()
    adapters = ResidualAdapters("monday", place=["blocks.1"], rank=3, silence=0.5, words=["aurora rising"])
    adapters.attach(model)
    site: Any = adapters.sites["blocks.1"]
    with torch.no_grad():
        site.branches["monday"].up.normal_(generator=torch.Generator().manual_seed(0))
    x = frames(3, 4)
    texts = ["play Aurora Rising now", "good morning", "rising aurora"]
    with adapters.use({"transcript": texts}):
        model(x)
        found = adapters.penalty()
    with adapters.use({}):
        model(x[1:])
        general = adapters.penalty()
    with adapters.use({"transcript": texts[:1]}):
        model(x[:1])
        none = adapters.penalty()
    assert found is not None
    assert general is not None
    torch.testing.assert_close(found, general)
    assert none is None


def test_the_penalty_quietens_an_update() -> None:
    def size(silence: float) -> float:
        update = trained("monday", 1, silence=silence)
        model = tower()
        ResidualAdapters(updates=[update]).attach(model)
        return float((output(model) - output(tower())).norm())

    assert size(10.0) < 0.7 * size(0.0)


# -- order of life


def test_what_is_trained_can_go_on_after_a_checkpoint_bit_for_bit() -> None:
    def run(interrupted: bool) -> Tensor:
        model = tower()
        adapters = ResidualAdapters("monday", rank=3)
        torch.manual_seed(0)
        adapters.attach(model)
        learn(model, adapters, steps=3)
        if interrupted:
            state = {name: tensor.clone() for name, tensor in adapters.state().items()}
            model = tower()
            adapters = ResidualAdapters("monday", rank=3)
            adapters.restore(model, state)
        learn(model, adapters, steps=3)
        return output(model)

    assert torch.equal(run(True), run(False))


def test_a_finished_update_asks_for_no_gradient() -> None:
    model = tower()
    adapters = ResidualAdapters("monday", rank=3)
    adapters.attach(model)
    adapters.finish()
    adapters.finish()
    assert adapters.parameter_groups() == []
    other = ResidualAdapters("monday", rank=3)
    other.restore(tower(), adapters.state())
    assert other.parameter_groups() == []


def test_folds_are_made_anew_when_a_parameter_changes() -> None:
    model = tower()
    adapters = ResidualAdapters("monday", rank=3)
    adapters.attach(model)
    before = output(model)
    branch: Any = adapters.sites["blocks.0"].branches["monday"]
    with torch.no_grad():
        branch.up.fill_(0.5)
    assert not torch.equal(output(model), before)


def test_a_place_that_training_never_calls_is_told() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.used(x)
            return result

    model = Two()
    adapters = ResidualAdapters("monday", place=["*"])
    adapters.attach(model)
    match = "place: unused is not called in training, so an adapter there would learn"
    with pytest.raises(PluginError, match=match), adapters.use({}):
        model(frames())
    with pytest.raises(PluginError, match=r"place: unused is not called when the model runs"):
        ResidualAdapters("monday", place=["*"]).attach(Two(), iter([frames()]))


@pytest.mark.parametrize("name", ["update", "keys", "training", "forward", "type", "pop"])
@pytest.mark.parametrize("mode", ["sum", "attention", "gate"])
def test_any_name_will_do_for_an_update(name: str, mode: Any) -> None:
    model = tower()
    adapters = ResidualAdapters(name, rank=3)
    adapters.attach(model)
    learn(model, adapters, steps=1)
    found = output(model)
    both = tower()
    updates = [adapters.update(name), drawn_update(tower(), "other")]
    fused = ResidualAdapters(updates=updates, fusion=mode)
    fused.attach(both)
    with fused.use({"updates": [name]}):
        torch.testing.assert_close(output(both), found)
    again = tower()
    ResidualAdapters(updates=updates, fusion=mode).restore(again, fused.state())
    assert torch.equal(output(again), output(both))


def test_a_copy_of_a_model_with_updates_works_like_it() -> None:
    model = tower()
    ResidualAdapters(updates=[drawn_update(model, "monday")]).attach(model)
    assert torch.equal(output(copy.deepcopy(model)), output(model))


def test_wrong_calls_are_told_in_one_line() -> None:
    adapters = ResidualAdapters("monday")
    for call in (adapters.detach, adapters.finish):
        with pytest.raises(PluginError, match="it is not attached; call attach"):
            call()
    adapters.attach(tower())
    with pytest.raises(PluginError, match="it is attached already, to Tower; detach it, or make another for Block"):
        adapters.attach(Block())
    with pytest.raises(PluginError, match="give name, to train an update, or updates"):
        ResidualAdapters().attach(tower())
    with pytest.raises(PluginError, match=r"no update is named 'mondy'; updates: monday. Did you mean 'monday'\?"):
        adapters.update("mondy")
    with pytest.raises(PluginError, match="update 'Monday!': a name has lower-case letters"):
        ResidualAdapters("Monday!")
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(PluginError, match="progress is"):
            adapters.step(bad)
