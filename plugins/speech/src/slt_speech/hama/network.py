"""The Conformer-CTC phone recogniser of the package `hama` 1.7.0 as a PyTorch module: batched, exact, trainable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slt_speech.hama.adapted import adapted_state
from slt_speech.hama.front_end import HOP, MEL_FILTERS, SAMPLE_RATE_HZ, FrontEnd
from slt_speech.hama.labels import LABEL_COUNT, read_labels
from slt_speech.hama.session import HamaSession, LongRecording
from slt_speech.hama.weights import pretrained_state
from sltcore.errors import ShapeError
from sltcore.types import Encoded, Waveform

WIDTH = 144
HIDDEN = 576
HEADS = 4
KERNEL = 31
BLOCKS = 4
SUBSAMPLING = 2
FRAME_SHIFT_S = SUBSAMPLING * HOP / SAMPLE_RATE_HZ
# The engine's GELU divides by sqrt(2) rounded to float16.
GELU_SQRT2 = 1.4140625


class FeedForward(nn.Module):
    """Half a step of the Macaron pair: W_2 SiLU(W_1 LN(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.silu(self.fc1(self.norm(x))))
        return out


class Attention(nn.Module):
    """Multi-head self-attention over all valid frames, without any position information."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj = nn.Linear(WIDTH, 3 * WIDTH)
        self.out_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """`x` [b t d]; `keep` [b t] bool is False at padding, or None when there is none."""
        b, t, _ = x.shape
        query, key, value = self.in_proj(x).view(b, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mask = None if keep is None else keep[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(b, t, WIDTH))
        return out


class Convolution(nn.Module):
    """Pointwise, GLU, depthwise over 31 frames (BatchNorm folded into it), SiLU, pointwise."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.pointwise1 = nn.Linear(WIDTH, 2 * WIDTH)
        self.depthwise = nn.Conv1d(WIDTH, WIDTH, KERNEL, padding=KERNEL // 2, groups=WIDTH)
        self.pointwise2 = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        gated = F.glu(self.pointwise1(self.norm(x)), dim=-1)
        if keep is not None:
            # The frames after the end must look like the zeros that a shorter recording is padded with.
            gated = gated.masked_fill(~keep[..., None], 0.0)
        mixed = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.pointwise2(F.silu(mixed))
        return out


class Block(nn.Module):
    """One Conformer block: x += FFN/2; x += MHSA(LN x); x += Conv; x += FFN/2; LN.

    **Source**: Gulati et al., Conformer, 2020 (arXiv:2005.08100), section 2. Attention has no relative positions.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.ffn1 = FeedForward()
        self.attn_norm = nn.LayerNorm(WIDTH)
        self.attn = Attention()
        self.conv = Convolution()
        self.ffn2 = FeedForward()
        self.norm = nn.LayerNorm(WIDTH)
        # On the narrow outputs only: on the 576-wide layer it costs a fifth of a training step on a CPU.
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        x = x + 0.5 * self.dropout(self.ffn1(x))
        x = x + self.dropout(self.attn(self.attn_norm(x), keep))
        x = x + self.dropout(self.conv(x, keep))
        x = x + 0.5 * self.dropout(self.ffn2(x))
        out: Tensor = self.norm(x)
        return out


class HamaConformer(nn.Module):
    """A pretrained speech encoder with 2.0 M parameters: 16 kHz samples to 144 numbers every 20 ms.

    `values` [b t 144] are the encoder's outputs; `log_softmax(head(values))` are the 191 log-probabilities of the
    package's own engine (`labels`): mean difference below 1e-4, maximum below 0.05, the same best label on every frame
    of 20 recorded prompts. Frame i is centred at i * 0.02 s; `n` samples give (n // 160 + 2) // 2 frames. Frames
    after an utterance's end are zero, and what lies there in `samples` changes nothing (to 1e-4, from the order of
    sums).

    A recording of more than `window_s` is encoded in windows that overlap by `overlap_s` (see `WindowedEncoder`),
    where the engine drops all that follows the first 30 s; `open()` gives exactly the same frames of it from samples
    that arrive piece by piece, in memory that does not grow. Fewer than 201 samples, too few for the reflection at the
    edges, are extended by zeros. Samples are clipped to [-1, 1].

    Args:
        layers: the depths whose outputs `Encoded.layers` holds: 0 the subsampled input, 1 to 4 the blocks.
        window_s, overlap_s: rounded to 0.02 s. Attention has no positions and every frame looks at the whole window:
            on 302 s of prompts the best labels in windows of 30, 60, 150 and 300 s agree with one full pass on 97.3,
            97.9, 98.6 and 99.9 % of the frames, at a real-time factor of 0.010, 0.010, 0.020 and 0.040
            (benchmarks/hama_port.py); no label is lost or doubled at a join of any of them. 60 s suits speed.
        dropout: on the output of each half block, for fine-tuning.
        weights: `hama-1.7.0` reads the installed package; `english` are those weights after they went on learning on
            English prompts and dialogues (`slt_speech.hama.adapted`); `random` is the same network without training, and what
            a state dict is loaded into.

    Raises:
        DataError: the package `hama` is missing, or holds other weights than 1.7.0.
        ShapeError: a layer does not exist, or the windows do not fit.

    **Source**: weights and labels from the package hama 1.7.0 (Apache-2.0). Not known: its training data, its dropout.
    BatchNorm is folded into the convolutions. Unlike the engine's, the sums before the float16 rounding of the log-mel
    features are float64, so that the rounding does not depend on the batch.
    """

    frame_shift_s = FRAME_SHIFT_S
    sample_rate_hz = SAMPLE_RATE_HZ
    width = WIDTH

    def __init__(
        self,
        *,
        layers: Sequence[int] = (),
        window_s: float = 300.0,
        overlap_s: float = 10.0,
        dropout: float = 0.0,
        weights: Literal["hama-1.7.0", "english", "random"] = "hama-1.7.0",
    ) -> None:
        super().__init__()
        if unknown := sorted(set(layers) - set(range(BLOCKS + 1))):
            raise ShapeError(f"hama-conformer has no layer {unknown[0]}; it has 0 (subsampled input) to {BLOCKS}")
        self.layers = tuple(sorted(set(layers)))
        self.window_frames = round(window_s / FRAME_SHIFT_S)
        self.overlap_frames = round(overlap_s / FRAME_SHIFT_S)
        self.front_end = FrontEnd()
        self.stem = nn.Conv1d(MEL_FILTERS, WIDTH, 3, stride=SUBSAMPLING)
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, LABEL_COUNT)
        LongRecording(self)  # Refuses windows that do not fit now, not at the first long recording.
        if weights != "random":
            self.load_state_dict(adapted_state() if weights == "english" else pretrained_state())

    @property
    def labels(self) -> tuple[str, ...]:
        """The 191 labels of `head`: IPA phones, `<wb>` (189), `<blank>` (190)."""
        return read_labels()

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames for each number of samples: ceil((n // 160 + 1) / 2), and none for n = 0."""
        frames = (lengths // HOP + 2) // SUBSAMPLING
        return torch.where(lengths > 0, frames, torch.zeros_like(frames))

    def forward(self, x: Waveform, context: Mapping[str, Any] = {}) -> Encoded:
        """Encode `x`: samples [b n] float, lengths [b]. No context is read.

        Raises:
            ShapeError: samples are not [b n], or not at 16 kHz.
        """
        if x.sample_rate_hz != SAMPLE_RATE_HZ or x.samples.ndim != 2:
            raise ShapeError(
                f"hama-conformer takes samples [b n] at {SAMPLE_RATE_HZ} Hz, got shape {tuple(x.samples.shape)} at "
                f"{x.sample_rate_hz} Hz; resample or batch it first"
            )
        lengths = self.output_lengths(x.lengths)
        # Decided by the padded size, not by the lengths: no transfer from the device, and traceable.
        if (x.samples.shape[1] // HOP + 2) // SUBSAMPLING <= self.window_frames:
            outputs = self._encode_batch(x.samples, x.lengths)
        else:
            outputs = self._encode_long(x.samples, x.lengths.tolist())
        return self.as_encoded(outputs, lengths)

    def log_probs(self, encoded: Encoded) -> Tensor:
        """Natural-log probabilities [b t 191] of `labels`, as the package's engine gives them."""
        return F.log_softmax(self.head(encoded.values), dim=-1)

    def open(self, context: Mapping[str, Any] = {}) -> HamaSession:
        """A session that encodes one recording from samples that arrive piece by piece; no gradient is kept."""
        return HamaSession(self)

    def subsample(self, log_mel: Tensor) -> Tensor:
        """Log-mel frames [b t 80], with one frame of context before them, to the blocks' input [b t 144]."""
        x: Tensor = self.stem(log_mel.transpose(1, 2)).transpose(1, 2)
        return 0.5 * x * (1.0 + torch.erf(x / GELU_SQRT2))

    def encode_frames(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Subsampled frames [b t 144] to the requested layers and the output, stacked: [s b t 144].

        `keep` [b t] bool is False at padding, or None when there is none.
        """
        kept = [x] if 0 in self.layers else []
        for depth, block in enumerate(self.blocks, start=1):
            x = block(x, keep)
            if depth in self.layers:
                kept.append(x)
        stacked = torch.stack((*kept, x))
        return stacked if keep is None else stacked.masked_fill(~keep[..., None], 0.0)

    def as_encoded(self, outputs: Tensor, lengths: Tensor | None = None, *, first_frame: int = 0) -> Encoded:
        """Stacked layers and output [s b t d] as a value; without `lengths` [b] every frame is valid."""
        if lengths is None:
            lengths = torch.full((outputs.shape[1],), outputs.shape[2], device=outputs.device)
        outputs = outputs.float()  # Autocast leaves some layers in half precision.
        layers = dict(zip(self.layers, outputs[:-1].unbind(0), strict=True))
        return Encoded(outputs[-1], lengths, FRAME_SHIFT_S, first_frame * FRAME_SHIFT_S, layers)

    def _encode_batch(self, samples: Tensor, lengths: Tensor) -> Tensor:
        log_mel = self.front_end(samples, lengths)
        # One frame of zeros before the recording; the frames after its end are zeros already.
        x = self.subsample(F.pad(log_mel, (0, 0, 1, 1)))
        frames = self.output_lengths(lengths)
        positions = torch.arange(x.shape[1], device=x.device)
        # An empty utterance attends to its first frame: attention over nothing would be NaN, also in the gradient.
        keep = positions < frames.clamp(min=1)[:, None]
        out = self.encode_frames(x, keep)
        return out.masked_fill(~(positions < frames[:, None])[..., None], 0.0)

    def _encode_long(self, samples: Tensor, lengths: list[int]) -> Tensor:
        """Long utterances one by one in windows; those that fit into one window, together."""
        limit = 2 * self.window_frames * HOP
        outputs: dict[int, Tensor] = {}
        short = [i for i, n in enumerate(lengths) if n < limit]
        if short:
            sizes = torch.tensor([lengths[i] for i in short], device=samples.device)
            batch = self._encode_batch(samples[short, : max(int(sizes.max()), 1)], sizes)
            outputs = dict(zip(short, batch.unbind(1), strict=True))
        for i in sorted(set(range(len(lengths))) - set(short)):
            recording = LongRecording(self)
            pieces = (recording.push(samples[i, : lengths[i]]), recording.finish())
            outputs[i] = torch.cat([piece for piece in pieces if piece is not None], dim=1)
        width = math.ceil((samples.shape[1] // HOP + 1) / SUBSAMPLING)
        padded = [F.pad(outputs[i], (0, 0, 0, width - outputs[i].shape[1])) for i in range(len(lengths))]
        return torch.stack(padded, dim=1)
