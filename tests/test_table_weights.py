"""A quantizer's codebook is found by an accelerator, and two quantizers cannot hide each other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sltcore.errors import PluginError
from sltcore.table_weights import mark_origin, offer_table, origin_of, table_weight, withdraw_table
from sltcore.types import TableWeight


def codebook(layer: nn.Linear) -> TableWeight:
    indices = (layer.weight > 0).to(torch.uint8)
    return TableWeight(indices, torch.tensor([-1.0, 1.0]), layer.weight.detach().abs().mean())


def test_an_accelerator_finds_the_codebook_as_it_is_at_that_moment() -> None:
    layer = nn.Linear(3, 2)
    offer_table(layer, "weight", lambda: codebook(layer))
    with torch.no_grad():
        layer.weight.fill_(-0.5)
    found = table_weight(layer, "weight")
    assert found is not None
    torch.testing.assert_close(found.table[found.indices.long()] * found.scale, layer.weight.detach())
    assert table_weight(layer, "bias") is None
    assert table_weight(nn.Linear(3, 2), "weight") is None


def test_a_withdrawn_codebook_leaves_nothing_on_the_module() -> None:
    layer = nn.Linear(3, 2)
    before = set(layer.__dict__)
    offer_table(layer, "weight", lambda: codebook(layer))
    withdraw_table(layer, "weight")
    withdraw_table(layer, "weight")
    assert set(layer.__dict__) == before


def test_a_second_quantizer_on_one_weight_is_refused() -> None:
    layer = nn.Linear(3, 2)
    offer_table(layer, "weight", lambda: codebook(layer))
    with pytest.raises(
        PluginError, match=r"^Linear\.weight has a codebook of another quantizer already; quantize it once"
    ):
        offer_table(layer, "weight", lambda: codebook(layer))


def test_a_substituted_tensor_says_what_it_stands_for() -> None:
    layer = nn.Linear(3, 2)
    stand_in = mark_origin(layer.weight.detach().round(), layer, "weight")
    assert origin_of(stand_in) == (layer, "weight")
    assert origin_of(layer.weight) is None
