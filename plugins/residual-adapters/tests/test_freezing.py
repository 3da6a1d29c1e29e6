"""A frozen base with recurrent layers, on the CPU as on a GPU, where cuDNN asks for training mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slt_residual_adapters import freezing
from slt_residual_adapters.base_hash import hash_model
from slt_residual_adapters.residual_adapters import ResidualAdapters

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
WIDTH = 6


class Reader(nn.Module):
    """A layer in front of two recurrent ones with dropout between them, and a head: [b t 6] -> [b t 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Linear(WIDTH, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, num_layers=2, dropout=0.5, batch_first=True)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.lstm(self.front(x))[0])
        return result


@pytest.fixture(params=["by its device", "as on a GPU"])
def rule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Recurrent layers are treated as their device asks for, or all of them as on a GPU."""
    if request.param == "as on a GPU":
        monkeypatch.setattr(freezing, "needs_training_mode", lambda module: isinstance(module, nn.RNNBase))
    return request.param


def reader(device: str) -> Reader:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Reader().to(device).eval()


def steps(model: Reader, adapters: ResidualAdapters, x: Tensor) -> list[float]:
    """Losses of a few steps in a loop that puts everything into training mode."""
    target = torch.ones(4, device=x.device)
    optimizer = torch.optim.Adam([p for group in adapters.parameter_groups() for p in group["params"]], lr=0.05)
    found = []
    for _ in range(8):
        model.train()
        with adapters.use({}):
            loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        found.append(float(loss.detach()))
    model.eval()
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("place", ["front", "lstm"])
def test_an_update_learns_through_frozen_recurrent_layers(device: str, place: str, rule: str) -> None:
    model = reader(device)
    x = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(0)).to(device)
    before, plain = hash_model(model), model(x).detach()
    adapters = ResidualAdapters("monday", place=[place], rank=3)
    torch.manual_seed(0)
    adapters.attach(model)
    losses = steps(model, adapters, x)
    assert losses[-1] < losses[0] - 0.01
    assert hash_model(model) == before
    assert model.lstm.dropout == 0.5
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    adapters.detach()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    torch.testing.assert_close(model(x).detach(), plain)
    if device == "cpu":
        assert torch.equal(model(x).detach(), plain)


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_of_frozen_recurrent_layers_is_off(device: str, rule: str) -> None:
    model = reader(device)
    x = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(0)).to(device)
    plain = model(x).detach()
    adapters = ResidualAdapters("monday", place=["front"], rank=3)
    adapters.attach(model)
    model.train()
    first, second = (model(x) for _ in range(2))
    assert first.requires_grad
    assert torch.equal(first, second)
    torch.testing.assert_close(first.detach(), plain, rtol=1e-5, atol=1e-5)


def test_an_error_inside_leaves_recurrent_layers_as_they_were(rule: str) -> None:
    model = reader("cpu")
    adapters = ResidualAdapters("monday", place=["front"], rank=3)
    adapters.attach(model)

    def refuse(module: nn.Module, arguments: Any) -> None:
        raise ValueError("no such sound")

    x = torch.randn(3, 5, WIDTH)
    for module in (model.lstm, model.head):
        handle = module.register_forward_pre_hook(refuse)
        with pytest.raises(ValueError, match="no such sound"), adapters.use({}):
            model(x)
        handle.remove()
        assert model.lstm.dropout == 0.5
        assert not model.lstm.training
        assert all(parameter.requires_grad for parameter in model.parameters())
