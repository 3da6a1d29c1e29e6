"""Plain models that know nothing of sltcore, for transforms to attach to, and toy neighbours for decoders and objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from sltcore.interfaces import Encoder
from sltcore.testing.case import seeded
from sltcore.testing.inputs import frames
from sltcore.types import Encoded, Features, Port, Waveform
from sltcore.vocabulary import Vocabulary, characters

WIDTH = 8


class Stack(nn.Module):
    """Linear layers with a norm between: [b t 8] -> [b t 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(WIDTH, 12), nn.ReLU(), nn.LayerNorm(12), nn.Linear(12, 12), nn.ReLU())
        self.head = nn.Linear(12, 5)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.encoder(x)) * self.scale
        return result


class Recurrent(nn.Module):
    """An LSTM with a linear head: [b t 8] -> [b t 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(WIDTH, 10, batch_first=True)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.encoder(x)[0])
        return result


class Attentive(nn.Module):
    """One attention layer with its four projections, a convolution and a feed-forward: [b t 8] -> [b t 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict(
            {
                "q_proj": nn.Linear(WIDTH, WIDTH),
                "k_proj": nn.Linear(WIDTH, WIDTH),
                "v_proj": nn.Linear(WIDTH, WIDTH),
                "out_proj": nn.Linear(WIDTH, WIDTH),
                "conv": nn.Conv1d(WIDTH, WIDTH, 3, padding=1),
                "fc1": nn.Linear(WIDTH, 16),
                "fc2": nn.Linear(16, WIDTH),
            }
        )
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.encoder
        weights = torch.softmax(layer["q_proj"](x) @ layer["k_proj"](x).mT / WIDTH**0.5, dim=-1)
        x = x + layer["out_proj"](weights @ layer["v_proj"](x))
        x = x + layer["conv"](x.mT).mT
        x = x + layer["fc2"](torch.relu(layer["fc1"](x)))
        result: Tensor = self.head(x)
        return result


MODELS: tuple[Callable[[], nn.Module], ...] = (Stack, Recurrent, Attentive)


def models(named: str | None = None) -> list[tuple[str, nn.Module, Tensor]]:
    """Fresh plain models with an example input each: (name, model in evaluation, example [b t 8]).

    `named`, as `module:function`, adds a model of the author's own: the function returns (model, example).
    """
    found: list[tuple[str, nn.Module, Tensor]] = []
    if named is not None:
        module, _, function = named.partition(":")
        with seeded(0):
            own, own_example = getattr(import_module(module), function)()
        found.append((named, own.eval(), own_example))
    example = frames((12, 12, 12), WIDTH)
    for make in MODELS:
        with seeded(0):
            found.append((f"a plain {make.__name__} model", make().eval(), example))
    return found


def head_and_vocabulary(d: int) -> Mapping[str, Any]:
    """What a toy encoder offers: a linear head d -> v and letters."""
    vocabulary = letters()
    with seeded(11):
        head = nn.Linear(d, len(vocabulary))
    return {"encoder.head": head, "encoder.vocabulary": vocabulary}


def letters() -> Vocabulary:
    """Blank, space, a to z and the apostrophe."""
    return characters(["abcdefghijklmnopqrstuvwxyz'"])


class ToyEncoder(Encoder, nn.Module):
    """A causal encoder with one frame out for 10 ms in: [b t f] or [b n] -> Encoded [b t 16].

    A one-directional LSTM. Waveforms are cut into frames of 10 ms.
    """

    def __init__(self, port: Port, d: int = 16) -> None:
        super().__init__()
        self.port = port
        self.shift_s = 0.01
        hop = round(int(port.attributes.get("sample_rate_hz", 16000)) * self.shift_s)
        self.hop = hop if port.type == "Waveform" else 1
        size = {"Waveform": hop, "Features": port.attributes.get("f", 80), "Encoded": port.attributes.get("d", 16)}[
            port.type
        ]
        self.rnn = nn.LSTM(int(size), d, batch_first=True)
        self.d = d

    @property
    def consumes(self) -> Port:
        return self.port

    @property
    def produces(self) -> Port:
        return Port("Encoded", {"d": self.d, "frame_shift_s": self.shift_s})

    @property
    def lookahead_frames(self) -> int:
        return 0

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths // self.hop

    def forward(self, x: Waveform | Features | Encoded, context: Mapping[str, Any]) -> Encoded:
        if isinstance(x, Waveform):
            frames_ = x.samples.unfold(1, self.hop, self.hop)
        else:
            frames_ = x.values
        lengths = self.output_lengths(x.lengths)
        return Encoded(self.rnn(frames_)[0], lengths, self.shift_s)


class Stranger(Encoder, nn.Module):
    """An encoder no objective can train: it consumes what the objective's batches are not, and has no parameters."""

    def __init__(self, port: Port) -> None:
        super().__init__()
        self.port = port

    @property
    def consumes(self) -> Port:
        return self.port

    @property
    def produces(self) -> Port:
        return Port("Encoded", {"d": 3, "frame_shift_s": 0.5})

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths * 0

    def forward(self, x: Any, context: Mapping[str, Any]) -> Encoded:
        size = len(x.texts) if hasattr(x, "texts") else len(x.lengths)
        return Encoded(torch.zeros(size, 0, 3), torch.zeros(size, dtype=torch.int64), 0.5)
