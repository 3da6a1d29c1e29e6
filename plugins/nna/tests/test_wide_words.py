"""With words of 16 bits the chip is close to the float model: what both integer forms share is checked against float."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from slt_nna.chip import Chip, load_chip
from slt_nna.nna import Nna

T, PADDED = 9, 3


def wide() -> Chip:
    names = ("weight", "activation", "residual", "preactivation", "state", "probability", "table")
    table = {"entries": 1024, "range": 8.0, "interpolation": "linear"}
    return load_chip(
        {
            "name": "wide",
            "description": "close to float",
            "words": {**dict.fromkeys(names, 16), "weight": 13, "bias": 32},  # biases are clipped beside finer products
            "accumulator": {"bits": 48},
            "tables": dict.fromkeys(("sigmoid", "tanh", "phi"), table)
            | {"exp": {**table, "entries": 1025, "range": 16.0}},
        }
    )


class Attention(nn.Module):
    """Attention with a bias for each distance beside minus infinity for padding, spelled in several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.heads = nn.MultiheadAttention(8, 2, batch_first=True)
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = functional.gelu(self.first(x))
        if self.way == "module":
            return self.last(self.heads(x, x, x, attn_mask=mask.repeat_interleave(2, 0))[0])  # type: ignore[no-any-return]
        if self.way == "function":
            return self.last(functional.scaled_dot_product_attention(x, x, x, mask))  # type: ignore[no-any-return]
        scores = x @ x.transpose(1, 2) * 0.35 + mask
        return self.last(scores.softmax(-1) @ x)  # type: ignore[no-any-return]


def masked(low: float) -> Tensor:
    bias = -0.3 * (torch.arange(T)[:, None] - torch.arange(T)).abs().float()
    bias[:, T - PADDED :] = low
    return bias.expand(2, T, T).clone()


@pytest.mark.parametrize("low", [-torch.inf, -1e9, -1e4, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("way", ["module", "function", "spelled"])
def test_biased_masks_are_those_of_the_float_model_and_padding_cannot_matter(way: str, low: float) -> None:
    torch.manual_seed(0)
    model, x, mask = Attention(way).eval(), torch.randn(2, T, 8), masked(low)
    other = x.clone()
    other[:, T - PADDED :] = 2.0 * torch.randn(2, PADDED, 8)
    call: Any = {"x": x, "mask": mask}
    with torch.no_grad():
        wanted = model(**call)[:, : T - PADDED]
    transform = Nna(wide(), range="max")
    transform.attach(model, iter([call]))
    lowered = transform.lower(model)
    with torch.no_grad():
        for each in (model, lowered):
            found = each(x, mask)[:, : T - PADDED]
            assert float((found - wanted).abs().max()) < 2e-3 * float(wanted.abs().max())
            assert torch.equal(each(other, mask)[:, : T - PADDED], found)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_those_of_the_float_model(kind: Any) -> None:
    torch.manual_seed(0)
    model, x = kind(6, 8, 2, batch_first=True, bidirectional=True).eval(), torch.randn(2, T, 6)
    with torch.no_grad():
        wanted = model(x)[0]
    transform = Nna(wide(), range="max")
    transform.attach(model, iter([x]))
    with torch.no_grad():
        assert float((model(x)[0] - wanted).abs().max()) < 5e-3 * float(wanted.abs().max())
