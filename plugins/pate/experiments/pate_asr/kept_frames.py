"""Component `kept-frames`: the frozen encoder's frames, kept in sound files, and a small layer over them that learns.

Every model of the experiment begins with the same frozen encoder, hama 1.7.0, so its frames are computed once. A file of 144
values for each 20 ms is a recording of 7,200 samples a second, which any spec, manifest and privacy mechanism takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from slt_speech.hama.labels import BLANK_ID, WORD_BOUNDARY_ID, read_labels
from slt_speech.hama.network import HamaConformer
from sltcore.interfaces import Encoder
from sltcore.plugin import Component, Ports
from sltcore.registry import Registry, Row, default_registry
from sltcore.spec import Config
from sltcore.types import Encoded, Port, Waveform
from sltcore.vocabulary import Vocabulary

WIDTH, SHIFT_S = 144, 0.02
RATE_HZ = round(WIDTH / SHIFT_S)
SCALE = 64.0
"""Frames are divided by it in the files: samples lie within [-1, 1]."""


class KeptFramesConfig(Config):
    """A residual layer over frozen frames."""

    hidden: int = Field(64, ge=1, le=4096, description="channels of the layer")
    kernel: int = Field(9, ge=1, le=99, description="frames that it looks at, an odd number")


class KeptFrames(Encoder, nn.Module):
    """y = x + W relu(conv(x)), x [b t 144] the frozen encoder's frames; W begins at zero, so that y begins as x.

    **Shapes**: a Waveform [b 144 t] of 7,200 Hz that holds x / 64 frame by frame; `Encoded` [b t 144].
    """

    def __init__(self, hidden: int, kernel: int) -> None:
        super().__init__()
        self.inner = nn.Conv1d(WIDTH, hidden, kernel, padding=kernel // 2)
        self.outer = nn.Linear(hidden, WIDTH)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.head = nn.Linear(WIDTH, len(read_labels()))
        self.vocabulary = Vocabulary(
            read_labels(), kind="phones", blank=BLANK_ID, boundary=WORD_BOUNDARY_ID, special=(0, 1, 2, 3)
        )

    @property
    def consumes(self) -> Port:
        """Frames as samples."""
        return Port("Waveform", {"sample_rate_hz": RATE_HZ})

    @property
    def produces(self) -> Port:
        """`Encoded` [b t 144]."""
        return Port("Encoded", {"d": WIDTH, "frame_shift_s": SHIFT_S})

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames [b] of samples [b]."""
        return lengths // WIDTH

    def offers(self) -> Mapping[str, Any]:
        """The pretrained head and its phones, whose rows the letters begin from."""
        return {"head": self.head, "vocabulary": self.vocabulary}

    def forward(self, x: Waveform, context: Mapping[str, Any]) -> Encoded:
        """`Encoded` [b t 144] float32."""
        lengths = self.output_lengths(x.lengths)
        frames = x.samples[:, : int(lengths.max()) * WIDTH].reshape(len(lengths), -1, WIDTH) * SCALE
        inside = torch.arange(frames.shape[1], device=lengths.device)[None, :, None] < lengths[:, None, None]
        frames = torch.where(inside, frames, 0.0)
        learned = self.outer(torch.relu(self.inner(frames.transpose(1, 2))).transpose(1, 2))
        return Encoded(torch.where(inside, frames + learned, 0.0), lengths, SHIFT_S)


def build(config: KeptFramesConfig, ports: Ports) -> KeptFrames:
    """The layer, and hama's head where no bundle brings its weights."""
    found = KeptFrames(config.hidden, config.kernel)
    if ports.folder is None:
        found.head.load_state_dict(HamaConformer(weights="hama-1.7.0").head.state_dict())
    return found


@cache
def registry() -> Registry:
    """What is installed, and this component."""
    part = Component(
        "encoder", "kept-frames", impl="kept_frames:build", config="kept_frames:KeptFramesConfig",
        summary="frames of a frozen encoder from a file, and a small layer over them",
    )  # fmt: skip
    own = Row("pate-asr", "pate-asr-experiment", "1", "kept_frames", components=(part,))
    return Registry.from_rows([*default_registry().rows, own])
