"""What is promised of in-place functions: what torch computes, forwards and backwards, also through views, in every form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from slt_nna.floating import Floating
from slt_nna.nna import Nna

X = torch.randn(8, 5, 4, generator=torch.Generator().manual_seed(0))
Change = Callable[[Tensor], Tensor]


class Changed(nn.Module):
    """A linear layer, what is done to its output, and another one."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.change = nn.Linear(4, 4), nn.Linear(4, 3), change

    def forward(self, x: Tensor) -> Any:
        return self.last(self.change(self.first(x)))


def changed(change: Callable[[Tensor], Any]) -> Change:
    """A function that changes its argument, as one that returns it."""

    def run(y: Tensor) -> Tensor:
        change(y)
        return y

    return run


def frame_by_frame(y: Tensor) -> Tensor:
    out = torch.zeros(y.shape)
    for frame in range(y.shape[1]):
        out[:, frame] = y[:, frame].exp()
    return out


def sums(y: Tensor) -> Tensor:
    out = torch.zeros(y.shape)
    for frame in range(y.shape[1]):
        out[:, frame:].add_(y[:, :1])
    return out


def rectified(y: Tensor) -> Tensor:
    y = functional.softplus(y)
    y *= 2.0
    y.masked_fill_(torch.tensor([True, False, False, False]), 0.5)
    return y


def clamped(y: Tensor) -> Tensor:
    return y.exp().add(1.0).clamp_(max=1.5)


HOST: dict[str, Change] = {
    "softplus": rectified,
    "clamp": clamped,
    "frames": frame_by_frame,
    "sums": sums,
    "host then chip": lambda y: y.exp_() * 0.5 - 0.25,
}


def earlier_view(y: Tensor) -> Tensor:
    view = y[:, 1:]
    y += 1.0
    return view * 0.5


def later_of_two(y: Tensor) -> Tensor:
    first, second = y[:, :3], y[:, 2:]
    first.add_(1.0)
    second.mul_(0.5)
    return first.transpose(1, 2).contiguous().transpose(1, 2) + first


def reshaped(y: Tensor) -> Tensor:
    y = y.unsqueeze_(0)
    y.add_(0.5)
    y.squeeze_(0)
    y[:, 0] = 0.25
    return y


def copies(y: Tensor) -> Tensor:
    kept = [y + 0.0, y * 1.0, y.clone()]
    for each in kept:
        each.add_(1.0)
    return y


VIEWS: dict[str, Change] = {
    "add": changed(lambda y: y[:, :2].add_(1.0)),
    "augmented": changed(lambda y: y[:, :2].__iadd__(1.0)),
    "zero": changed(lambda y: y[:, 1:].zero_()),
    "copy": changed(lambda y: y[:, 2:4].copy_(y[:, :2].clone())),
    "set": changed(lambda y: y.transpose(1, 2).__setitem__((slice(None), 0), 0.0)),
    "transposed": changed(lambda y: y.transpose(1, 2).add_(1.0)),
    "masked": changed(lambda y: y[..., :2].masked_fill_(torch.tensor([True, False]), 0.5)),
    "view of a view": changed(lambda y: y[:, 1:][:, 1:].mul_(0.3)),
    "last": changed(lambda y: y.select(1, 2).relu_()),
    "earlier view": earlier_view,
    "two views": later_of_two,
    "reshaped": reshaped,
    "no view": copies,
    "out": changed(lambda y: torch.add(y[:, :2], 1.0, out=y[:, 2:4])),
}
OUT = {"out"}  # torch has no gradient for it


def float_chip() -> Nna:
    """The chip without rounding, of which everything is what torch computes."""
    transform = Nna("mixed-8-16", range="max")
    transform._emulation = Floating(transform.chip)
    transform.only = None
    return transform


CASES = [(name, trained) for name in (*HOST, *VIEWS) for trained in (True, False) if not (trained and name in OUT)]


@pytest.mark.parametrize(("name", "trained"), CASES)
def test_without_rounding_it_is_what_torch_computes(name: str, trained: bool) -> None:
    found = []
    for chip in (False, True):
        module = Changed((HOST | VIEWS)[name])
        if chip:
            float_chip().attach(module, iter([X]))
        with torch.set_grad_enabled(trained):
            output = module(X)
        found.append([output])
        if trained:
            output.square().sum().backward()
            found[-1] += [module.first.weight.grad, module.first.bias.grad, module.last.weight.grad]
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*HOST, *VIEWS])
def test_training_evaluation_and_integers_agree(name: str) -> None:
    module = Changed((HOST | VIEWS)[name])
    with torch.no_grad():
        expected = module(X)
    transform = Nna("generous-8bit", range="max")
    transform.attach(module, iter([X]))
    trained = None if name in OUT else module(X).detach()
    with torch.no_grad():
        plain, lowered = module(X), transform.lower(module)(X)
    with torch.inference_mode():
        assert torch.equal(module(X), plain)
    assert torch.equal(plain, lowered)
    assert trained is None or torch.equal(trained, plain)
    assert float((plain - expected).square().mean().sqrt()) < 0.05 * float(expected.square().mean().sqrt())


@pytest.mark.parametrize("name", ["zero", "set", "transposed", "add"])
def test_a_batch_of_one_calibrates(name: str) -> None:
    module = Changed(VIEWS[name])
    Nna("mixed-8-16").attach(module, iter([X[:1, :2]]))
    assert bool(module(X[:1, :2]).isfinite().all())


def test_what_an_owner_writes_between_calls_counts() -> None:
    class Stateful(Changed):
        def __init__(self) -> None:
            super().__init__(lambda y: y)
            self.register_buffer("memory", torch.zeros(5, 4))

        def forward(self, x: Tensor) -> Any:
            memory = self.get_buffer("memory")
            memory.add_(self.first(x)[0])
            return self.last(memory)

    module = Stateful()
    transform = Nna("mixed-8-16")
    with torch.no_grad():
        transform.attach(module, iter([X, X]))
        module.get_buffer("memory").zero_()
        first, second = module(X), module(X)
        module.get_buffer("memory").zero_()
        assert torch.equal(module(X), first)
        assert not torch.equal(second, first)


def test_what_the_host_writes_into_a_chip_tensor_is_there() -> None:
    found = []
    for chip in (False, True):
        module = Changed(changed(lambda y: torch.exp(y, out=y)))
        if chip:
            float_chip().attach(module, iter([X]))
        with torch.no_grad():
            found.append(module(X))
    torch.testing.assert_close(*found)
