"""Self-attention with relative or rotary positions, over everything or chunk by chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from sltcore.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor

Position = Literal["relative", "rotary"]
WAVELENGTH_BASE = 10000.0  # Vaswani et al. 2017, section 3.5


class Chunks(NamedTuple):
    """Attention by chunks: a frame sees its own chunk of `frames` and the `left` chunks before it."""

    frames: int
    left: int

    @property
    def memory(self) -> int:
        """Frames before a chunk that the chunk sees."""
        return self.frames * self.left


class SelfAttention(nn.Module):
    """Multi-head self-attention in which only the distance of two frames counts.

    Keys have no bias: it would add the same number to every score of a query, and never receive a gradient.
    **Source**: Vaswani et al., arXiv:1706.03762, with the positions of `RelativePositions` or `RotaryPositions`.
    """

    def __init__(self, d_model: int, heads: int, *, position: Position = "relative", dropout: float = 0.0) -> None:
        super().__init__()
        if d_model % heads:
            raise SpecError(f"attention: d_model {d_model} does not divide by {heads} heads; choose a multiple")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model)
        self.out = nn.Linear(d_model, d_model)
        positions = {"relative": RelativePositions, "rotary": RotaryPositions}[position]
        self.positions = positions(d_model, heads)

    def forward(self, x: Tensor, mask: Tensor, chunks: Chunks | None = None) -> Tensor:
        """Outputs [b t d] of frames [b t d]; `mask` [b t] is true where a frame counts."""
        query, key, value = self._heads(self.query(x)), self._heads(self.key(x)), self._heads(self.value(x))
        if chunks is None:
            return self._project(self._attend(query, key, value, mask))
        b, t, d = x.shape
        count = -(-t // chunks.frames)
        query = functional.pad(query, (0, 0, 0, count * chunks.frames - t))
        query = torch.unflatten(query, 2, (count, chunks.frames)).transpose(1, 2).flatten(0, 1)
        key, value = _windows(key, chunks, count), _windows(value, chunks, count)
        padded = functional.pad(mask, (chunks.memory, count * chunks.frames - t), value=False)
        seen = padded.unfold(1, chunks.memory + chunks.frames, chunks.frames).flatten(0, 1)
        blocks = self._attend(query, key, value, seen)
        return self._project(blocks.reshape(b, count * chunks.frames, d)[:, :t])

    def step(
        self, x: Tensor, memory: tuple[Tensor, Tensor] | None, chunks: Chunks
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One chunk [b t d] of a stream without padding, and the memory for the next: keys and values [b h m e]."""
        query, key, value = self._heads(self.query(x)), self._heads(self.key(x)), self._heads(self.value(x))
        if memory is not None:
            key, value = torch.cat([memory[0], key], 2), torch.cat([memory[1], value], 2)
        mask = torch.ones(x.shape[0], key.shape[2], dtype=torch.bool, device=x.device)
        start = max(0, key.shape[2] - chunks.memory)
        return self._project(self._attend(query, key, value, mask)), (key[:, :, start:], value[:, :, start:])

    def _heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)

    def _project(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(x)
        return out

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """[b q d] of queries [b h q e] that stand at the last q of k positions; keys, values [b h k e], `mask` [b k]."""
        query, key, bias = self.positions(query, key)
        # a query without any key would give NaN; it belongs to padding, so what it sees does not matter
        seen = (mask | ~mask.any(-1, keepdim=True))[:, None, None, :]
        if bias is not None:
            seen = bias.masked_fill(~seen, -torch.inf)
        dropout = self.dropout if self.training else 0.0
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
        return out.transpose(1, 2).flatten(2)


class RelativePositions(nn.Module):
    """Scores `(q + u) k + (q + v) r` with r a projected sinusoid of the distance from key to query.

    **Source**: Dai et al., Transformer-XL, arXiv:1901.02860, section 3.3; Gulati et al., arXiv:2005.08100, section 2.1.
    """

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        if d_model % 2:
            raise SpecError(f"attention: d_model {d_model} is odd; sinusoids come in pairs, choose an even one")
        self.project = nn.Linear(d_model, d_model, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, d_model // heads))
        self.position_bias = nn.Parameter(torch.zeros(heads, 1, d_model // heads))
        rates = WAVELENGTH_BASE ** (-torch.arange(0, d_model, 2, dtype=torch.float32) / d_model)
        self.register_buffer("rates", rates, persistent=False)

    rates: Tensor

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query and key [b h · e] ready for a scaled dot product, and the bias [b h q k] to add to it."""
        queries, keys, width = query.shape[2], key.shape[2], query.shape[3]
        distance = torch.arange(keys - 1, -queries, -1, device=query.device, dtype=self.rates.dtype)
        angle = distance[:, None] * self.rates
        table = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
        table = torch.unflatten(self.project(table), -1, (-1, width)).transpose(0, 1)
        raw = (query + self.position_bias) @ table.transpose(-1, -2)
        return query + self.content_bias, key, _shift(raw, keys) * width**-0.5


class RotaryPositions(nn.Module):
    """Turns each pair of query and key coordinates by an angle proportional to its position.

    **Source**: Su et al., RoFormer, arXiv:2104.09864, section 3.2.2 (coordinates i and i + e/2 form a pair).
    """

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        width = d_model // heads
        if width % 2:
            raise SpecError(
                f"rotary attention: {d_model} / {heads} heads gives {width} coordinates; choose an even number"
            )
        rates = WAVELENGTH_BASE ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
        self.register_buffer("rates", rates, persistent=False)

    rates: Tensor

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, None]:
        """Query and key [b h · e], turned; the queries stand at the last of the keys' positions."""
        positions = torch.arange(key.shape[2], device=key.device, dtype=self.rates.dtype)
        angle = positions[:, None] * self.rates
        sine, cosine = angle.sin(), angle.cos()
        start = key.shape[2] - query.shape[2]
        return _turn(query, sine[start:], cosine[start:]), _turn(key, sine, cosine), None


def _turn(x: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def _windows(x: Tensor, chunks: Chunks, count: int) -> Tensor:
    """What each chunk sees: [b·c h m+q e] of [b h t e], zeros where nothing was."""
    x = functional.pad(x, (0, 0, chunks.memory, count * chunks.frames - x.shape[2]))
    return x.unfold(2, chunks.memory + chunks.frames, chunks.frames).permute(0, 2, 1, 4, 3).flatten(0, 1)


def _shift(raw: Tensor, keys: int) -> Tensor:
    """[b h q k] whose element (i, j) is `raw[i, q - 1 - i + j]`: from distance-indexed to key-indexed scores."""
    b, h, q, width = raw.shape
    padded = functional.pad(raw, (1, 0)).view(b, h, width + 1, q)
    return padded[:, :, 1:].reshape(b, h, q, width)[..., :keys]
