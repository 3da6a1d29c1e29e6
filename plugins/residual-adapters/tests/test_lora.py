"""Low-rank updates: their sum is the exact sum in weight space."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adapter_models import WIDTH, drawn_update, frames, tower
from torch import nn

from slt_residual_adapters.base_hash import hash_model
from slt_residual_adapters.residual_adapters import ResidualAdapters
from slt_residual_adapters.update import Update
from sltcore.errors import PluginError


def drawn_lora(model: nn.Module, name: str, rank: int, scale: float, seed: int) -> Update:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"blocks.{k}.linear": {
            "down": torch.randn(rank, WIDTH, generator=generator, dtype=torch.float64),
            "up": torch.randn(WIDTH, rank, generator=generator, dtype=torch.float64),
        }
        for k in range(3)
    }
    return Update(name, hash_model(model), tensors, method="lora", scale=scale)


@pytest.mark.parametrize("folds", [True, False])
def test_several_are_the_weight_with_their_sum(folds: bool) -> None:
    base, summed = tower(torch.float64), tower(torch.float64)
    updates = [drawn_lora(base, f"u{k}", 1 + k, 0.3 * (k + 1), k) for k in range(4)]
    weights = {"u1": -0.5, "u3": 2.0}
    with torch.no_grad():
        for update in updates:
            for place, parts in update.tensors.items():
                product = parts["up"] @ parts["down"]
                summed.get_submodule(place).weight += weights.get(update.name, 1.0) * update.scale * product  # type: ignore[operator]
        ResidualAdapters(updates=updates, weights=weights, folds=folds).attach(base)
        x = frames(dtype=torch.float64)
        torch.testing.assert_close(base(x), summed(x), rtol=1e-12, atol=1e-12)


def test_low_rank_and_bottleneck_updates_work_together() -> None:
    base = tower(torch.float64)
    low = drawn_lora(base, "low", 2, 1.0, 0)
    wide = drawn_update(base, "wide", places=("blocks.0.linear",), dtype=torch.float64)
    outputs = []
    for folds in (True, False):
        model = tower(torch.float64)
        ResidualAdapters(updates=[low, wide], folds=folds).attach(model)
        with torch.no_grad():
            outputs.append(model(frames(dtype=torch.float64)))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-12, atol=1e-12)


def peft_pair() -> tuple[Any, list[Update]]:
    """Two low-rank adapters that peft made, in float64, and the same as updates."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    loras = [peft.LoraConfig(r=2 + k, lora_alpha=4, target_modules=["linear"]) for k in range(2)]
    wrapped = peft.get_peft_model(tower(torch.float64), loras[0], adapter_name="u0")
    wrapped.add_adapter("u1", loras[1])
    updates = []
    for k, name in enumerate(("u0", "u1")):
        tensors = {}
        for block in range(3):
            layer = wrapped.get_submodule(f"base_model.model.blocks.{block}.linear")
            with torch.no_grad():
                layer.lora_B[name].weight.normal_()
            down, up = (each[name].weight.detach().clone() for each in (layer.lora_A, layer.lora_B))
            assert down.dtype == torch.float64
            tensors[f"blocks.{block}.linear"] = {"down": down, "up": up}
        base = hash_model(tower(torch.float64))
        updates.append(Update(name, base, tensors, method="lora", scale=4 / (2 + k)))
    return wrapped.eval(), updates


def worn(updates: list[Update], **options: Any) -> nn.Module:
    model = tower(torch.float64)
    ResidualAdapters(updates=updates, **options).attach(model)
    return model


@pytest.mark.parametrize("place", [0, 1])
def test_one_update_is_peft_s_adapter_unmerged_and_merged(place: int) -> None:
    wrapped, updates = peft_pair()
    x = frames(dtype=torch.float64)
    with torch.no_grad():
        found = worn(updates[place : place + 1])(x)
        assert float((found - tower(torch.float64)(x)).abs().max()) > 1e-2
        wrapped.set_adapter(updates[place].name)
        torch.testing.assert_close(found, wrapped(x), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found, wrapped.merge_and_unload()(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("folds", [True, False])
def test_the_weighted_sum_is_what_peft_calls_cat_and_sums_peft_s_weights(folds: bool) -> None:
    wrapped, updates = peft_pair()
    weights = {"u0": 0.5, "u1": 1.5}
    x, summed = frames(dtype=torch.float64), tower(torch.float64)
    wrapped.add_weighted_adapter(list(weights), list(weights.values()), "both", combination_type="cat")
    wrapped.set_adapter("both")
    with torch.no_grad():
        found = worn(updates, weights=weights, folds=folds)(x)
        torch.testing.assert_close(found, wrapped(x), rtol=1e-6, atol=1e-6)
        for block in range(3):
            layer = wrapped.get_submodule(f"base_model.model.blocks.{block}.linear")
            for name, weight in weights.items():
                summed.blocks[block].linear.weight += weight * layer.get_delta_weight(name)  # type: ignore[operator,union-attr]
        torch.testing.assert_close(found, summed(x), rtol=1e-6, atol=1e-6)


def test_every_called_linear_layer_is_the_default() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"layer": nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), "head": nn.Linear(8, 3)})
    adapters = ResidualAdapters("monday", method="lora", rank=2)
    adapters.attach(model)
    assert list(adapters.sites) == [
        "layer.linear1",
        "layer.linear2",
        "head",
    ]  # out_proj of the attention is never called


@pytest.mark.parametrize(
    "module", [nn.Conv1d(4, 4, 1), nn.Embedding(4, 4), nn.LSTM(4, 4), nn.GRU(4, 4), nn.LayerNorm(4)]
)
def test_beside_anything_but_a_linear_layer_it_is_refused(module: nn.Module) -> None:
    kind = type(module).__name__
    message = rf"place: part is a {kind}, but lora stands beside linear layers; name some, or use residual adapters"
    with pytest.raises(PluginError, match=message):
        ResidualAdapters("monday", method="lora", place=["part"]).attach(nn.ModuleDict({"part": module}))


def test_a_block_is_refused_too() -> None:
    with pytest.raises(PluginError, match=r"place: blocks\.0 is a Block, but lora stands beside linear layers"):
        ResidualAdapters("monday", method="lora", place=["blocks.*"]).attach(tower())
