"""The penalty on general audio does not hear padding."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from adapter_models import WIDTH, frames
from torch import Tensor, nn

from slt_residual_adapters.residual_adapters import ResidualAdapters
from sltcore.types import Targets


class Hearing(NamedTuple):
    values: Tensor
    lengths: Tensor


class Padded(nn.Module):
    """A model whose frames come with lengths, and whose head is called by `loss` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = PaddedEncoder(), PaddedDecoder()


class PaddedEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(WIDTH, WIDTH)

    def forward(self, given: Hearing) -> Hearing:
        return Hearing(self.block(given.values), given.lengths)


class PaddedDecoder(nn.Module):
    """Of a transducer's shape: prefixes [b u+1 d], and frames with prefixes [b t u+1 d]."""

    def __init__(self) -> None:
        super().__init__()
        self.prediction, self.joint = nn.Embedding(4, WIDTH), nn.Linear(WIDTH, WIDTH)

    def loss(self, encoded: Hearing, targets: Targets) -> Tensor:
        prefixes = self.prediction(nn.functional.pad(targets.ids, (1, 0)))
        found: Tensor = self.joint(torch.tanh(encoded.values[:, :, None] + prefixes[:, None]))
        return found.mean()


@pytest.mark.parametrize("place", ["encoder.block", "decoder.prediction", "decoder.joint"])
@pytest.mark.parametrize("words", [(), ("aurora",)])
def test_padding_weighs_nothing_in_the_penalty(place: str, words: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = Padded()
    adapters = ResidualAdapters("monday", place=[place], rank=3, silence=0.5, words=words)
    adapters.attach(model)
    with torch.no_grad():
        adapters.sites[place].branches["monday"].up.normal_()  # type: ignore[operator,union-attr]
    x, ids = frames(3, 9), torch.randint(1, 4, (3, 5))
    lengths, labels = torch.tensor([9, 4, 2]), torch.tensor([1, 5, 3])
    context = {"transcript": ["to aurora", "so", "be it"]} if words else {}

    def penalty(rows: list[int], t: int, u: int, fill: float) -> tuple[Tensor, Tensor]:
        values, marks = torch.full((len(rows), t, WIDTH), fill), torch.full((len(rows), u), int(fill) % 4)
        for place_, row in enumerate(rows):
            values[place_, : lengths[row]], marks[place_, : labels[row]] = (
                x[row, : lengths[row]],
                ids[row, : labels[row]],
            )
        given = {key: [texts[row] for row in rows] for key, texts in context.items()}
        with adapters.use(given):
            encoded = model.encoder(Hearing(values, lengths[rows]))
            model.decoder.loss(encoded, Targets(marks, labels[rows]))
            found = adapters.penalty()
        if found is None:
            found = torch.zeros(())
        sizes = {"encoder.block": lengths, "decoder.prediction": labels + 1, "decoder.joint": lengths * (labels + 1)}
        return found, sizes[place][rows].sum()

    alone = [penalty([row], int(lengths[row]), int(labels[row]), 0.0) for row in range(3)]
    counted = alone[1:] if words else alone
    many = sum(size for _, size in counted)
    expected = sum(value * size for value, size in counted) / many
    for t, u, fill in ((9, 5, 0.0), (9, 5, 3.0), (14, 8, 2.0)):
        torch.testing.assert_close(penalty([0, 1, 2], t, u, fill)[0], expected, rtol=1e-5, atol=1e-7)
    assert "loss" not in vars(model.decoder)
