"""Encoder and head of a pipeline as one ONNX graph."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slt_sub8bit.export import Exported, export_onnx
from sltcore.errors import PluginError
from sltcore.types import Features, Port, Waveform

EXAMPLE_S = 1.2
"""Length of the noise that is exported and checked with."""


class EncoderHead(nn.Module):
    """Encoder, without its front end, and the head of a decoder: tensors in, tensors out."""

    def __init__(self, encoder: Any, decoder: Any | None, port: Port) -> None:
        super().__init__()
        self.encoder, self.decoder, self.port = encoder, decoder, port

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [b t v], or frames [b t d] without a head, and lengths [b], of features [b t f] or samples
        [b n] and lengths [b]."""
        attributes = self.port.attributes
        if self.port.type == "Waveform":
            x: Any = Waveform(values, lengths, int(attributes["sample_rate_hz"]))
        else:
            x = Features(values, lengths, float(attributes["frame_shift_s"]))
        encoded = self.encoder(x, {})
        return (encoded.values if self.decoder is None else self.decoder.log_probs(encoded)), encoded.lengths


def export_pipeline(pipeline: Any, path: str | Path) -> Exported:
    """Write encoder and head of a pipeline; see `export_onnx`.

    Where the encoder has a front end, the graph begins behind it: spectra are no business of an ONNX graph.
    **Raises** `PluginError` for a pipeline whose encoder is no module over features or samples.
    """
    encoder, decoder = pipeline.parts.get("encoder"), pipeline.parts.get("decoder")
    port = encoder.consumes if encoder is not None else None
    front = getattr(encoder, "frontend", None)
    if front is not None:
        port = front.produces
    if not isinstance(encoder, nn.Module) or port is None or port.type not in ("Features", "Waveform"):
        raise PluginError(
            f"export: the encoder consumes {port or 'nothing'}; an ONNX graph is written of torch encoders over Features or a Waveform"
        )
    if front is not None:
        encoder = copy.deepcopy(encoder)
        encoder.__dict__.pop("frontend", None)
        encoder._modules["frontend"] = None
    head = decoder if isinstance(decoder, nn.Module) and hasattr(decoder, "log_probs") else None
    model = EncoderHead(encoder, head, port).eval()
    frames = "samples" if port.type == "Waveform" else "features"
    outputs = ["frames" if head is None else "log_probs", "output_lengths"]
    return export_onnx(
        model,
        _noise(port, 1.0, 1),  # one utterance: a size of 1 that tracing keeps still broadcasts
        path,
        further=[_noise(port, 1.7, 3), _noise(port, 0.6, 2)],
        names=[frames, "lengths"],
        outputs=outputs,
        free={
            frames: {0: "batch", 1: "time"},
            "lengths": {0: "batch"},
            outputs[0]: {0: "batch", 1: "output_time"},
            outputs[1]: {0: "batch"},
        },
    )


def _noise(port: Port, stretch: float, batch: int) -> tuple[Tensor, Tensor]:
    """Utterances of noise, each shorter than the one before."""
    generator = torch.Generator().manual_seed(0)
    seconds = EXAMPLE_S * stretch
    if port.type == "Waveform":
        count = int(seconds * port.attributes["sample_rate_hz"])
        values = 0.1 * torch.randn(batch, count, generator=generator)
    else:
        count = int(seconds / port.attributes["frame_shift_s"])
        values = torch.randn(batch, count, int(port.attributes["f"]), generator=generator)
    return values, torch.tensor([count - place * count // 4 for place in range(batch)])
