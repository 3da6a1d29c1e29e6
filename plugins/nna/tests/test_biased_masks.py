"""What is promised of masks: what they exclude takes no part, whatever else they hold, and stands for the least number else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from slt_nna.nna import Nna

LOW = {"inf": -math.inf, "finfo": torch.finfo(torch.float32).min, "1e4": -1e4}
REAL, FRAMES = 6, 10
X = torch.randn(4, FRAMES, 8, generator=torch.Generator().manual_seed(0))
PAD = (torch.arange(FRAMES) >= REAL)[None].expand(4, FRAMES)
PLACES = torch.arange(FRAMES)
BIAS = -0.1 * (PLACES[:, None] - PLACES[None]).abs().float()


class Attention(nn.Module):
    """Queries, keys and values with a mask of distances and paddings, used in one of several ways."""

    def __init__(self, way: Callable[..., Tensor], low: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.way, self.low = way, low

    def forward(self, x: Tensor, pad: Tensor) -> Any:
        mask = BIAS.expand(len(x), FRAMES, FRAMES).masked_fill(pad[:, None], self.low)
        return self.way(self.q(x), self.k(x), self.v(x), mask)


def added(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(mask + q @ k.mT / 8, -1) @ v


def subtracted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT / 8 - (-mask), -1) @ v


def chosen(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = q @ k.mT / 8
    return torch.softmax(torch.where(mask > -100, scores + mask.clamp(min=-5), mask), -1) @ v


def assigned(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = q @ k.mT / 8
    scores[:, :, REAL:] = -math.inf
    return torch.softmax(scores, -1) @ v


def part_assigned(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = q @ k.mT / 8
    scores[:, :, REAL:].masked_fill_(mask[:, :, REAL:] < -100, -math.inf)
    return torch.softmax(scores, -1) @ v


WAYS = {
    "attention": functional.scaled_dot_product_attention,
    "added": added,
    "subtracted": subtracted,
    "chosen": chosen,
    "assigned": assigned,
    "part": part_assigned,
}


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("way", WAYS)
def test_padding_never_matters_beside_a_bias(way: str, low: str) -> None:
    module = Attention(WAYS[way], LOW[low]).eval()
    with torch.no_grad():
        expected = module(X, PAD)
    transform = Nna("generous-8bit")
    transform.attach(module, iter([{"x": X, "pad": PAD}]))
    other = torch.where(PAD[..., None], 9 * X.flip(0), X)
    with torch.no_grad():
        found, moved, lowered = module(X, PAD), module(other, PAD), transform.lower(module)(X, PAD)
    assert torch.equal(found[:, :REAL], moved[:, :REAL])
    assert torch.equal(found, lowered)
    assert torch.equal(module(X, PAD), found)
    torch.testing.assert_close(found[:, :REAL], expected[:, :REAL], rtol=0, atol=0.05 * float(expected.abs().max()))


@pytest.mark.parametrize("low", LOW)
def test_a_mask_moves_no_range(low: str) -> None:
    module = Attention(added, LOW[low]).eval()
    transform = Nna("generous-8bit", range="max")
    transform.attach(module, iter([{"x": X, "pad": PAD}]))
    assert max(float(value) for value in transform.state().values()) < 20


def test_multi_head_attention_hides_padding_beside_a_bias() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.heads = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor, pad: Tensor) -> Any:
            return self.heads(x, x, x, attn_mask=BIAS, key_padding_mask=pad, need_weights=False)[0]

    module = Heads().eval()
    transform = Nna("generous-8bit")
    transform.attach(module, iter([{"x": X, "pad": PAD}]))
    other = torch.where(PAD[..., None], 9 * X.flip(0), X)
    with torch.no_grad():
        assert torch.equal(module(X, PAD)[:, :REAL], module(other, PAD)[:, :REAL])


def test_a_trained_bias_keeps_its_gradient_where_it_is_seen() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.bias = nn.Linear(8, 4), nn.Parameter(torch.zeros(4))

        def forward(self, x: Tensor) -> Any:
            hidden = torch.tensor([False, False, True, True])
            return torch.softmax(self.layer(x) + self.bias.exp().masked_fill(hidden, -math.inf), -1)

    module = Biased()
    Nna("mixed-8-16").attach(module, iter([X]))
    output = module(X)
    output.select(-1, 0).sum().backward()
    assert not output[..., 2:].any()
    assert module.bias.grad is not None
    assert module.bias.grad[:2].all()
    assert not module.bias.grad[2:].any()


def test_masks_and_biases_of_zeros_run_as_they_were_calibrated() -> None:
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.q, self.k = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
            scores = self.q(x) @ self.k(x).mT / 8
            return torch.softmax(scores if mask is None else scores + mask, -1) @ self.k(x)

    padding = torch.zeros(FRAMES, FRAMES).masked_fill(PAD[:1], -math.inf)
    plain: list[Any] = [X, {"x": X, "mask": padding}, {"x": X, "mask": 0 * BIAS}]
    biased: list[Any] = [{"x": X, "mask": each} for each in (BIAS, BIAS + padding, 0 * BIAS, padding)]
    for cases in (plain, biased):
        for calibration in cases[:2]:
            module, transform = Given(), Nna("generous-8bit")
            transform.attach(module, iter([calibration]))
            lowered = transform.lower(module)
            for case in cases:
                given = case if isinstance(case, dict) else {"x": case}
                with torch.no_grad():
                    assert torch.equal(module(**given), lowered(**given))


class Filled(nn.Module):
    """Filled numbers that go into something else than a softmax."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.function = nn.Linear(8, 8), nn.Linear(8, 3), function

    def forward(self, x: Tensor) -> Any:
        hidden = torch.arange(8) < 2
        return self.last(self.function(self.first(x).masked_fill(hidden, -1e9)))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "glu": lambda y: torch.cat([functional.glu(y), functional.glu(y.flip(-1))], -1),
    "relu": torch.relu,
    "scaled": lambda y: torch.sigmoid(y * 0.5),
    "summed": lambda y: torch.tanh(y + y.roll(1, 1)),
    "joined": lambda y: torch.sigmoid(torch.cat([y[..., :4], torch.relu(y[..., 4:])], -1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_elsewhere_an_excluded_entry_is_the_least_number(name: str) -> None:
    module = Filled(FUNCTIONS[name]).eval()
    with torch.no_grad():
        expected = module(X)
    transform = Nna("generous-8bit", range="max")
    transform.attach(module, iter([X]))
    with torch.no_grad():
        found, lowered = module(X), transform.lower(module)(X)
    assert torch.equal(found, lowered)
    assert torch.equal(module(X), found)
    assert bool(found.isfinite().all())
    if name in ("sigmoid", "tanh", "relu"):
        torch.testing.assert_close(found, expected, rtol=0, atol=0.15)


@pytest.mark.parametrize("name", ["linear", "matmul", "norm"])
def test_products_and_norms_of_excluded_entries_are_the_same_numbers_in_every_form(name: str) -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(8)
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "linear": lambda y: y,
        "matmul": lambda y: y @ y.mT @ y,
        "norm": lambda y: norm(y),
    }
    module = Filled(functions[name]).eval()
    module.norm = norm
    transform = Nna("generous-8bit")
    transform.attach(module, iter([X]))
    with torch.no_grad():
        found, lowered = module(X), transform.lower(module)(X)
    assert torch.equal(found, lowered)
    assert torch.equal(module(X), found)
    assert bool(found.isfinite().all())
