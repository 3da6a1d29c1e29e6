"""The convolutions of a Conformer: its module within a block, and the subsampling before the blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional

from slt_speech.frames import blank_padding, frame_mask
from sltcore.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor

Reach = Literal["centered", "causal", "chunk"]
Norm = Literal["layer", "batch"]
BATCH_NORM_MOMENTUM = 0.1
SUBSAMPLING = (1, 2, 4, 8)


class ConvolutionModule(nn.Module):
    """Pointwise, gated linear unit, depthwise over time, norm, swish, pointwise.

    `reach` says what the depthwise kernel sees: `centered` half a kernel of past and future, `causal` the past only,
    `chunk` half a kernel of past and what is left of the frame's own chunk.

    **Source**: Gulati et al., arXiv:2005.08100, section 2.2; chunk: Li et al., Dynamic Chunk Convolution,
    arXiv:2304.09325, section 2.2. Layer norm may replace batch norm, whose statistics leak between utterances.
    """

    def __init__(
        self, d_model: int, kernel: int, *, reach: Reach = "centered", norm: Norm = "layer", dropout: float = 0.0
    ) -> None:
        super().__init__()
        if kernel % 2 == 0 and reach != "causal":
            raise SpecError(
                f"convolution: kernel {kernel} is even; a {reach} kernel has a middle, choose an odd number"
            )
        self.reach = reach
        self.left = kernel - 1 if reach == "causal" else kernel // 2
        self.right = 0 if reach == "causal" else kernel // 2
        self.expand = nn.Linear(d_model, 2 * d_model)
        # the norm brings the bias
        self.depthwise = nn.Conv1d(d_model, d_model, kernel, groups=d_model, bias=False)
        self.norm: nn.LayerNorm | MaskedBatchNorm = (
            nn.LayerNorm(d_model) if norm == "layer" else MaskedBatchNorm(d_model)
        )
        self.project = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, chunk_frames: int | None = None) -> Tensor:
        """Outputs [b t d] of frames [b t d]; `mask` [b t] is true where a frame counts."""
        x = functional.glu(self.expand(x), -1).masked_fill(~mask[:, :, None], 0.0)
        if self.reach == "chunk" and chunk_frames is not None:
            x = self._by_chunks(x, chunk_frames)
        else:
            x = self._convolve(functional.pad(x, (0, 0, self.left, self.right)))
        return self._output(x, mask)

    def step(self, x: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """One chunk [b t d] of a stream, and the gated frames [b left d] that the next one needs."""
        x = functional.glu(self.expand(x), -1)
        if memory is None:
            memory = x.new_zeros(x.shape[0], self.left, x.shape[2])
        joined = torch.cat([memory, x], 1)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        out = self._output(self._convolve(functional.pad(joined, (0, 0, 0, self.right))), mask)
        return out, joined[:, joined.shape[1] - self.left :]

    def _convolve(self, x: Tensor) -> Tensor:
        out: Tensor = self.depthwise(x.transpose(1, 2))
        return out.transpose(1, 2)

    def _by_chunks(self, x: Tensor, chunk_frames: int) -> Tensor:
        b, t, d = x.shape
        count = -(-t // chunk_frames)
        padded = functional.pad(x, (0, 0, self.left, count * chunk_frames - t))
        blocks = padded.unfold(1, self.left + chunk_frames, chunk_frames).flatten(0, 1)
        out: Tensor = self.depthwise(functional.pad(blocks, (0, self.right)))
        return torch.unflatten(out, 0, (b, count)).transpose(2, 3).reshape(b, count * chunk_frames, d)[:, :t]

    def _output(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(x, mask) if isinstance(self.norm, MaskedBatchNorm) else self.norm(x)
        out: Tensor = self.dropout(self.project(functional.silu(x)))
        return out


class MaskedBatchNorm(nn.Module):
    """Batch norm whose statistics count real frames only, so that padding never changes a training step.

    **Source**: Ioffe and Szegedy, arXiv:1502.03167, algorithm 1; variance over the frames where `mask` is true.
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.register_buffer("running_mean", torch.zeros(d_model))
        self.register_buffer("running_var", torch.ones(d_model))

    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Normalised [b t d]; `mask` [b t] is true where a frame counts."""
        if not self.training:
            mean, variance = self.running_mean, self.running_var
        else:
            weight = mask[:, :, None].to(x.dtype)
            count = weight.sum().clamp(min=1.0)
            mean = (x * weight).sum((0, 1)) / count
            variance = ((x - mean).square() * weight).sum((0, 1)) / count
            self._remember(mean.detach(), variance.detach(), float(count))
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias

    def _remember(self, mean: Tensor, variance: Tensor, count: float) -> None:
        with torch.no_grad():
            self.running_mean.lerp_(mean, BATCH_NORM_MOMENTUM)
            self.running_var.lerp_(variance * count / max(count - 1.0, 1.0), BATCH_NORM_MOMENTUM)


class Subsampling(nn.Module):
    """Fewer frames: a stack of 3 x 3 convolutions with stride 2, then a projection to the model's width.

    Output i of one convolution reads inputs 2i - 1 to 2i + 1, so a factor s gives `ceil(t / s)` frames, frame i stands
    where input frame s·i stood, and s·n whole input frames give n outputs that read nothing later.

    **Source**: Gulati et al., arXiv:2005.08100, section 2.
    """

    def __init__(self, features: int, d_model: int, *, factor: int = 4, channels: int | None = None) -> None:
        super().__init__()
        if factor not in SUBSAMPLING:
            raise SpecError(f"subsampling is {factor}; expected one of {', '.join(map(str, SUBSAMPLING))}")
        self.factor = factor
        width = channels or d_model
        self.convolutions = nn.ModuleList()
        for depth in range(factor.bit_length() - 1):
            conv = nn.Conv2d(1 if depth == 0 else width, width, 3, stride=2, padding=(0, 1))
            self.convolutions.append(conv)
            features = -(-features // 2)
        self.project = nn.Linear(features * width if len(self.convolutions) else features, d_model)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames out for frames in, [b] -> [b]."""
        return (lengths + self.factor - 1) // self.factor

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[b ceil(t/s) d] of [b t f], and the new lengths [b]."""
        x = blank_padding(x, lengths)
        image = x[:, None]
        for conv in self.convolutions:
            image = functional.relu(conv(functional.pad(image, (0, 0, 1, image.shape[2] % 2))))
            lengths = (lengths + 1) // 2
            image = image.masked_fill(~frame_mask(lengths, image.shape[2])[:, None, :, None], 0.0)
        return self._flat(image), lengths

    def step(self, x: Tensor, memory: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """One chunk [b t f] of a stream, t a multiple of the factor or the last; memory is one input frame for each
        convolution."""
        image = x[:, None]
        kept = []
        for depth, conv in enumerate(self.convolutions):
            before = memory[depth] if memory is not None else torch.zeros_like(image[:, :, :1])
            kept.append(image[:, :, -1:])
            joined = torch.cat([before, image], 2)
            image = functional.relu(conv(functional.pad(joined, (0, 0, 0, image.shape[2] % 2))))
        return self._flat(image), kept

    def _flat(self, image: Tensor) -> Tensor:
        out: Tensor = self.project(image.transpose(1, 2).flatten(2))
        return out
