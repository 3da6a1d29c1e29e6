"""A good objective, and one that breaks each promise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sltcore.errors import PortError
from sltcore.interfaces import Encoder, Objective
from sltcore.types import Features, Port

SMALL: dict[str, object] = {}


class Good(Objective, nn.Module):
    """The encoder sees noisy frames, and a linear layer reads the clean ones off its output. Source: own, for tests."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(16, 12)

    @property
    def consumes(self) -> Port:
        return Port("Features", {"f": 12})

    def check(self, encoder: Encoder) -> None:
        if encoder.consumes.type != "Features":
            raise PortError(f"{type(encoder).__name__} consumes {encoder.consumes}, expected {self.consumes}")

    def noise(self, values: Tensor, context: Mapping[str, Any]) -> Tensor:
        return torch.randn(values.shape, generator=context["generator"])

    def loss(self, encoder: Encoder, batch: Features, context: Mapping[str, Any]) -> Tensor:
        noisy = batch._replace(values=batch.values + 0.1 * self.noise(batch.values, context))
        gap = (self.read(encoder.forward(noisy, context).values) - batch.values).square().mean(dim=-1)
        return self.mean(gap, batch.lengths)

    def mean(self, gap: Tensor, lengths: Tensor) -> Tensor:
        inside = torch.arange(gap.shape[1]) < lengths[:, None]
        return (gap * inside).sum(dim=1) / lengths


class ReducesLoss(Good):
    def mean(self, gap: Tensor, lengths: Tensor) -> Tensor:
        return super().mean(gap, lengths).mean()


class HasIdleWeight(Good):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3, bias=False)


class ReadsPadding(Good):
    def mean(self, gap: Tensor, lengths: Tensor) -> Tensor:
        return gap.mean(dim=1)


class DrawsGlobally(Good):
    def noise(self, values: Tensor, context: Mapping[str, Any]) -> Tensor:
        return torch.randn(values.shape)


class AcceptsAll(Good):
    def check(self, encoder: Encoder) -> None:
        return


class Climbs(Good):
    def mean(self, gap: Tensor, lengths: Tensor) -> Tensor:
        found = super().mean(gap, lengths)
        return 2 * found.detach() - found


BROKEN = {
    "loss-shape": (ReducesLoss, r"loss returned \(\) for 3 utterances"),
    "gradient": (HasIdleWeight, "no gradient reaches idle.weight"),
    "padding": (ReadsPadding, "with noise in the padding, entry 1"),
    "deterministic": (DrawsGlobally, "two calls with the same batch and generator seed differ"),
    "refusal": (AcceptsAll, "yet it accepts an encoder that consumes Text"),
    "learns": (Climbs, "15 steps of Adam at 0.01 took the loss of one batch from"),
}
