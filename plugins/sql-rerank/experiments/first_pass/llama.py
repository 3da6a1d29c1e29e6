"""A Llama that reads a schema once for many questions, and a question once for many beams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pool import Pool
from torch import Tensor
from torch.nn.functional import linear, silu


class Memory(NamedTuple):
    """Keys and values of every layer, [n r h l d] each (n layers, r rows, h key heads, l tokens), and each row's length [r]."""

    keys: Tensor
    values: Tensor
    lengths: Tensor


class Llama:
    """The weights of a `LlamaForCausalLM`, and its forward pass with keys and values that rows share.

    Equal to the model's own up to rounding. Products in the weights' dtype; norms, rotations and softmax in float32.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.epsilon = config.rms_norm_eps
        self.embedding = model.get_input_embeddings().weight.detach()
        self.head = model.get_output_embeddings().weight.detach()
        self.norm = model.model.norm.weight.detach()
        self.layers = [_layer(layer) for layer in model.model.layers]
        self.frequencies = model.model.rotary_emb.inv_freq.detach().float()

    def schema(self, tokens: Sequence[int]) -> Memory:
        """What all questions of a database share: one row."""
        return self._read(None, [list(tokens)])[0]

    def read(self, schema: Memory, questions: Sequence[Sequence[int]]) -> tuple[Memory, Tensor]:
        """The questions behind a schema, and the hidden states of their last tokens [q e]."""
        return self._read(schema, questions)

    def logits(self, hidden: Tensor) -> Tensor:
        """[... e] to [... v], float32."""
        return linear(hidden, self.head).float()

    def step(self, schema: Memory, pool: Pool, tokens: Tensor) -> Tensor:
        """One more token for each beam, [q*w] to hidden states [q*w e]."""
        positions = schema.lengths[0] + pool.lengths.repeat_interleave(pool.width) + pool.written - 1
        cosine, sine = self._rotation(positions)
        unseen = pool.hidden()[:, None, :, None]  # [q 1 w 1 c]
        hidden = self.embedding[tokens]
        for number, layer in enumerate(self.layers):
            query, key, value = self._projected(layer, hidden, cosine[:, None], sine[:, None])
            keys, values = pool.put(number, key, value)
            query = query.unflatten(1, (self.key_heads, -1)) / math.sqrt(self.size)
            shared = _by_head(query)  # [h q*w*g d]
            own = _by_question(query, pool.width)  # [q h w*g d]
            group = query.shape[2]
            points = (
                (own @ keys.transpose(-1, -2)).unflatten(2, (-1, group)).masked_fill(unseen, -math.inf).flatten(2, 3)
            )
            there = _by_question(_rows(shared @ schema.keys[number, 0].transpose(-1, -2), group), pool.width)
            weights = torch.cat([there, points], -1).float().softmax(-1).to(hidden.dtype)
            there, points = weights.split([there.shape[-1], points.shape[-1]], -1)
            mixed = _rows(_by_head(_beams(there, group)) @ schema.values[number, 0], group)
            mixed = mixed + _beams(points @ values, group)
            hidden = self._finished(layer, hidden, mixed.flatten(1))
        return self._normed(hidden, self.norm)

    def _read(self, schema: Memory | None, texts: Sequence[Sequence[int]]) -> tuple[Memory, Tensor]:
        lengths = torch.tensor([len(text) for text in texts])
        longest = int(lengths.max())
        tokens = torch.zeros(len(texts), longest, dtype=torch.long)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = torch.tensor(text)
        before = int(schema.lengths[0]) if schema else 0
        cosine, sine = self._rotation(torch.arange(before, before + longest))
        hidden = self.embedding[tokens]
        keys, values = [], []
        seen = torch.ones(longest, before + longest, dtype=torch.bool).tril(before)
        for number, layer in enumerate(self.layers):
            query, key, value = self._projected(layer, hidden, cosine[:, None], sine[:, None])
            query, key, value = (part.transpose(1, 2) for part in (query, key, value))  # [r h l d]
            keys.append(key)
            values.append(value)
            if schema:
                shared = (len(texts), -1, -1, -1)
                key = torch.cat([schema.keys[number].expand(shared), key], 2)
                value = torch.cat([schema.values[number].expand(shared), value], 2)
            mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, seen, enable_gqa=True)
            hidden = self._finished(layer, hidden, mixed.transpose(1, 2).flatten(2))
        last = self._normed(hidden[torch.arange(len(texts)), lengths - 1], self.norm)
        return Memory(torch.stack(keys), torch.stack(values), lengths), last

    def _projected(self, layer: Layer, hidden: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [... h d] of hidden states [... e], turned by their positions."""
        normed = self._normed(hidden, layer.before)
        heads = linear(normed, layer.qkv).unflatten(-1, (-1, self.size))
        query, key, value = heads.split([self.heads, self.key_heads, self.key_heads], -2)
        return _turned(query, cosine, sine), _turned(key, cosine, sine), value

    def _finished(self, layer: Layer, hidden: Tensor, mixed: Tensor) -> Tensor:
        hidden = hidden + linear(mixed, layer.out)
        gate, up = linear(self._normed(hidden, layer.behind), layer.gate_up).chunk(2, -1)
        return hidden + linear(silu(gate) * up, layer.down)

    def _normed(self, hidden: Tensor, weight: Tensor) -> Tensor:
        wide = hidden.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)).to(hidden.dtype)

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions[:, None].float() * self.frequencies
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(self.embedding.dtype), angles.sin().to(self.embedding.dtype)


class Layer(NamedTuple):
    """Weights of one layer; those that read the same input are one matrix."""

    before: Tensor
    qkv: Tensor
    out: Tensor
    behind: Tensor
    gate_up: Tensor
    down: Tensor


def _layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        layer.input_layernorm.weight.detach(),
        torch.cat([part.weight.detach() for part in (attention.q_proj, attention.k_proj, attention.v_proj)]),
        attention.o_proj.weight.detach(),
        layer.post_attention_layernorm.weight.detach(),
        torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()]),
        mlp.down_proj.weight.detach(),
    )


def _turned(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    left, right = heads.chunk(2, -1)
    return heads * cosine + torch.cat([-right, left], -1) * sine


def _by_head(rows: Tensor) -> Tensor:
    """[r h g d] to [h r*g d]."""
    return rows.transpose(0, 1).flatten(1, 2)


def _rows(heads: Tensor, group: int) -> Tensor:
    """[h r*g d] to [r h g d]."""
    return heads.unflatten(1, (-1, group)).transpose(0, 1)


def _by_question(rows: Tensor, width: int) -> Tensor:
    """[q*w h g d] to [q h w*g d]."""
    return rows.unflatten(0, (-1, width)).transpose(1, 2).flatten(2, 3)


def _beams(questions: Tensor, group: int) -> Tensor:
    """[q h w*g d] to [q*w h g d]."""
    return questions.unflatten(2, (-1, group)).transpose(1, 2).flatten(0, 1)
