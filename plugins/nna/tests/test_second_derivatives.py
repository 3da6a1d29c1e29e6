"""The chip's operators have one derivative: a second is refused, and never taken for zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slt_nna.nna import Nna
from sltcore.errors import PluginError

LAYERS: dict[str, Any] = {
    "Linear": lambda: nn.Linear(4, 3),
    "LayerNorm": lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5)),
    "Mapped": lambda: nn.Sequential(nn.Linear(4, 5), nn.Sigmoid()),
    "Softmax": lambda: nn.Sequential(nn.Linear(4, 5), nn.Softmax(-1)),
    "Lstm": lambda: nn.LSTM(4, 3),
}


def attached(model: nn.Module, x: Tensor, **options: Any) -> Nna:
    transform = Nna("mixed-8-16", **options)
    transform.attach(model, iter([x]))
    return transform


def penalty(model: nn.Module, x: Tensor) -> Tensor:
    """The squared length of the score's gradient by the input, of a score that is not linear on the host either."""
    found = model(x)
    scores = found[0] if isinstance(found, tuple) else found
    (slope,) = torch.autograd.grad(scores.square().sum(), x, create_graph=True)
    return slope.square().sum()


@pytest.mark.parametrize("name", LAYERS)
def test_a_gradient_penalty_is_refused_with_what_to_do(name: str) -> None:
    torch.manual_seed(0)
    model, x = LAYERS[name](), torch.randn(2, 3, 4, requires_grad=True)
    attached(model, x.detach())
    with pytest.raises(PluginError, match="the gradient of a gradient was asked for .*exclude the modules"):
        penalty(model, x).backward()


def test_a_penalty_on_the_weights_alone_is_refused_too() -> None:
    """The second derivative goes through what was saved, not through the gradient that came in."""
    model, x = nn.Linear(4, 3), torch.randn(2, 4, requires_grad=True)
    attached(model, x.detach())
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    with pytest.raises(PluginError, match="the gradient of a gradient"):
        slope.square().sum().backward()


def test_a_first_derivative_in_a_graph_is_the_usual_one() -> None:
    torch.manual_seed(0)
    model, x = LAYERS["LayerNorm"](), torch.randn(2, 3, 4, requires_grad=True)
    attached(model, x.detach())
    (usual,) = torch.autograd.grad(model(x).square().sum(), x)
    (kept,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    assert torch.equal(usual, kept)


def test_a_penalty_through_excluded_modules_is_that_of_the_float_model() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(2, 4, requires_grad=True)
    penalty(model, x).backward()
    wanted = [each.grad.clone() for each in model.parameters() if each.grad is not None]
    other = nn.ModuleDict({"scores": model, "rest": nn.Linear(4, 2)})
    other.forward = lambda x: (other["scores"](x), other["rest"](x))  # type: ignore[method-assign]
    attached(other, x.detach(), exclude=("scores*",))
    model.zero_grad()
    penalty(other, x).backward()
    assert all(torch.equal(each.grad, grad) for each, grad in zip(model.parameters(), wanted, strict=False))
