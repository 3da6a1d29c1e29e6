"""Streams of attention on a chip: the whole bit for bit with relative positions, and each other with rotary ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slt_nna.lower import in_integers
from slt_nna.nna import Nna
from sltcore.types import Encoded, Features

conformer = pytest.importorskip("slt_speech.conformer")


class Whole(nn.Module):
    """What transforms attach to: a container whose parts a pipeline calls."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: Features) -> Encoded:
        encoded: Encoded = self.encoder(features, {})
        return encoded


def encoder(position: str) -> Any:
    torch.manual_seed(1)
    return conformer.Conformer(
        20, 16, layers=1, heads=2, kernel=5, convolution="causal", chunk_frames=4, left_chunks=2, position=position
    )


def streamed(session: Any, values: Tensor, *cuts: int) -> Tensor:
    found = []
    for start, stop in zip([0, *cuts], [*cuts, values.shape[1]], strict=True):
        found.append(session.push(Features(values[:, start:stop], torch.tensor([stop - start]), 0.01)))
    found.append(session.finish())
    return torch.cat([each.values for each in found if each is not None], 1) + 0.0


@pytest.mark.parametrize("chip", ["generous-8bit", "harsh"])
@pytest.mark.parametrize("position", ["relative", "rotary"])
def test_streams_of_attention(position: str, chip: str) -> None:
    model = Whole(encoder(position)).eval()
    features = Features(torch.randn(1, 90, 20), torch.tensor([90]), 0.01)
    with torch.no_grad():
        exact = model(features).values
        transform = Nna(chip)
        transform.attach(model, iter([features]))
        whole = model(features).values
        with transform.use({}):
            stream = streamed(model.encoder.open({}), features.values, 7, 11, 40, 41)
            assert torch.equal(streamed(model.encoder.open({}), features.values, 30), stream)
            with in_integers(transform):
                assert torch.equal(streamed(model.encoder.open({}), features.values, 50), stream)
    if position == "relative":
        assert torch.equal(stream, whole)
    else:
        assert not torch.equal(stream, whole), "so the docs' limit is gone"
        assert float((stream - whole).square().mean()) < 4 * float((whole - exact).square().mean())
