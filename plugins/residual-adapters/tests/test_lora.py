"""Low-rank updates: their sum is the exact sum in weight space."""

from __future__ import annotations

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


def test_it_is_the_sum_that_peft_calls_cat() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = tower()
    loras = [peft.LoraConfig(r=2, lora_alpha=4, target_modules=["linear"]) for _ in range(2)]
    wrapped = peft.get_peft_model(base, loras[0], adapter_name="u0")
    wrapped.add_adapter("u1", loras[1])
    updates = []
    for name in ("u0", "u1"):
        tensors = {}
        for k in range(3):
            layer = wrapped.get_submodule(f"base_model.model.blocks.{k}.linear")
            with torch.no_grad():
                layer.lora_B[name].weight.normal_()
            tensors[f"blocks.{k}.linear"] = {
                "down": layer.lora_A[name].weight.detach(),
                "up": layer.lora_B[name].weight.detach(),
            }
        updates.append(Update(name, hash_model(tower()), tensors, method="lora", scale=2.0))
    wrapped.add_weighted_adapter(["u0", "u1"], [0.5, 1.5], "both", combination_type="cat")
    wrapped.set_adapter("both")
    model = tower()
    ResidualAdapters(updates=updates, weights={"u0": 0.5, "u1": 1.5}).attach(model)
    with torch.no_grad():
        torch.testing.assert_close(model(frames()), wrapped.eval()(frames()), rtol=1e-5, atol=1e-5)


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


def test_it_stands_beside_linear_layers_only() -> None:
    with pytest.raises(PluginError, match=r"place: blocks\.0 is a Block, but lora stands beside linear layers"):
        ResidualAdapters("monday", method="lora", place=["blocks.*"]).attach(tower())
