"""A good encoder, and one that breaks each promise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sltcore.context import per_utterance
from sltcore.interfaces import Encoder, Session
from sltcore.types import ContextKey, Encoded, Features, Port

PHRASES = ContextKey("phrases", "texts", "phrases to expect")
SMALL = {"contexts": [{}, {"phrases": ["a b", "c"]}]}


class Good(Encoder, nn.Module):
    """A frame and the next one, mapped, plus a bias for each phrase. Source: own, for tests."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.next = nn.Linear(6, 5), nn.Linear(6, 5, bias=False)
        self.bias = nn.Parameter(torch.randn(5))

    @property
    def consumes(self) -> Port:
        return Port("Features", {"f": 6, "frame_shift_s": 0.01})

    @property
    def produces(self) -> Port:
        return Port("Encoded", {"d": 5, "frame_shift_s": 0.01})

    @property
    def lookahead_frames(self) -> int | None:
        return 1

    def context_keys(self) -> tuple[ContextKey, ...]:
        return (PHRASES,)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths

    def forward(self, x: Features, context: Mapping[str, Any]) -> Encoded:
        inside = (torch.arange(x.values.shape[1]) < x.lengths[:, None])[..., None]
        values = x.values * inside
        later = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
        counts = torch.tensor([float(len(p or ())) for p in per_utterance(context, PHRASES, len(values))])
        out = self.now(values) + self.next(later) + counts[:, None, None] * self.bias
        return Encoded(self.changed(out, x, inside, context), x.lengths, 0.01)

    def changed(self, out: Tensor, x: Features, inside: Tensor, context: Mapping[str, Any]) -> Tensor:
        """Where most broken ones differ."""
        return out

    def open(self, context: Mapping[str, Any]) -> Session:
        return Stream(self, context)


class Stream(Session):
    """Holds one frame back until the next one is there."""

    def __init__(self, encoder: Encoder, context: Mapping[str, Any]) -> None:
        self.encoder, self.context = encoder, context
        self.held = torch.zeros(1, 0, 6)

    def push(self, chunk: Features, **streams: Any) -> Encoded | None:
        values = torch.cat([self.held, chunk.values], dim=1)
        self.held = values[:, -1:]
        out = self.encode(values)
        return out._replace(values=out.values[:, :-1], lengths=out.lengths - 1)

    def finish(self) -> Encoded | None:
        return self.encode(self.held)

    def encode(self, values: Tensor) -> Encoded:
        out = self.encoder.forward(Features(values, torch.tensor([values.shape[1]]), 0.01), self.context)
        assert isinstance(out, Encoded)
        return out


class Forgetful(Stream):
    """Forgets what it holds."""

    def finish(self) -> Encoded | None:
        return None


class HalvesLengths(Good):
    def output_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths + 1) // 2


class ReadsPadding(Good):
    def changed(self, out: Tensor, x: Features, inside: Tensor, context: Mapping[str, Any]) -> Tensor:
        return out + (x.values * ~inside).sum(dim=(1, 2), keepdim=True)


class ReadsBatch(Good):
    def changed(self, out: Tensor, x: Features, inside: Tensor, context: Mapping[str, Any]) -> Tensor:
        return out + 0.01 * (len(out) - 1)


class HasIdleWeight(Good):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3, bias=False)


class DrawsGlobally(Good):
    def changed(self, out: Tensor, x: Features, inside: Tensor, context: Mapping[str, Any]) -> Tensor:
        return out + 1e-6 * torch.rand(())


class UnderstatesLookahead(Good):
    @property
    def lookahead_frames(self) -> int | None:
        return 0


class ChangesOnEmptyList(Good):
    def changed(self, out: Tensor, x: Features, inside: Tensor, context: Mapping[str, Any]) -> Tensor:
        return out + 1e-3 if "phrases" in context else out


class GivesDoubles(Good):
    def changed(self, out: Tensor, x: Features, inside: Tensor, context: Mapping[str, Any]) -> Tensor:
        return out.double()


class ForgetsTheRest(Good):
    def open(self, context: Mapping[str, Any]) -> Session:
        return Forgetful(self, context)


BROKEN = {
    "lengths": (HalvesLengths, "output_lengths says"),
    "padding": (ReadsPadding, r"utterance 0: frame 0 is the first of 48 among 48 that differ"),
    "batch": (ReadsBatch, "utterance 0 alone and in a batch"),
    "gradient": (HasIdleWeight, "no gradient reaches idle.weight"),
    "deterministic": (DrawsGlobally, "two calls with the same input differ"),
    "lookahead": (UnderstatesLookahead, "lookahead_frames is 0, but"),
    "context-identity": (ChangesOnEmptyList, r"without context and with \{'phrases': \[\]\}"),
    "shape": (GivesDoubles, "values is torch.float64"),
    "streaming": (ForgetsTheRest, r"the lengths are \[48\] against \[47\]"),
}
