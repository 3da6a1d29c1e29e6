"""What frames look at in a catalogue of phrases, and what they take from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from slt_ctc_personalization.adapter.catalogue import Catalogue, Written

Combine = Literal["concat", "sum"]
NUMBERS_AT_ONCE = 2**22
"""Scores that are held at a time without gradients: 16 MiB, whatever the list and the recording."""


class Table(NamedTuple):
    """A list of k phrases ready to be looked at: `keys` and `values` [h k+1 e], entry 0 for no phrase, its value zero."""

    keys: Tensor
    values: Tensor

    def select(self, phrases: Tensor) -> Table:
        """The table of some of the phrases [j] int64, with the entry for none."""
        rows = torch.cat([phrases.new_zeros(1), phrases + 1])
        return Table(self.keys.index_select(1, rows), self.values.index_select(1, rows))


class PhraseAttention(nn.Module):
    """Attention from frames to phrases: `A = softmax(Q (C W_k)' / sqrt(e))`, `Q = X W_q`, `B = A V W_o`, `V = [0; C_1.. W_v]`.

    X joins the layer norms of `layers` depths of the encoder: side by side, or as a sum with softmax weights. C is the
    `Catalogue`'s. The value of "no phrase" is zero and no bias stands behind it, so a frame that looks at it alone is
    left as it is. W_o begins at zero, so training begins with the base's own output; the first step moves W_o, those
    after it the rest (as with LoRA, arXiv:2106.09685).

    With `context_frames` c a frame's query also sees its neighbours: `q + Conv1d(q)` over every `context_step`-th of c frames
    to either side (zeros beyond the ends), for a word is longer than what a frame of a small CTC encoder knows.

    `attended` is how many phrases a frame may look at, those with the highest scores: in a list of thousands the rest
    would share a large part of the attention although each has next to none. None: all of them. In training, too.

    **Source**: arXiv:2210.09510 and arXiv:2205.13660; the zero value and `attended` are ours.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        d_model: int,
        *,
        layers: int = 1,
        combine: Combine = "concat",
        width: int = 128,
        heads: int = 1,
        attended: int | None = 64,
        context_frames: int = 0,
        context_step: int = 1,
    ) -> None:
        super().__init__()
        self.catalogue = catalogue
        self.context_frames = context_frames
        self.heads = heads
        self.attended = attended
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(layers))
        self.mixture = nn.Parameter(torch.zeros(layers)) if combine == "sum" and layers > 1 else None
        joined = d_model if combine == "sum" else layers * d_model
        self.query = nn.Linear(joined, width, bias=False)
        span = 2 * (context_frames // context_step) + 1
        self.context = (
            nn.Conv1d(width, width, span, padding=context_frames, dilation=context_step) if context_frames else None
        )
        self.key = nn.Linear(catalogue.width, width, bias=False)
        self.value = nn.Linear(catalogue.width, width, bias=False)
        self.out = nn.Linear(width, d_model, bias=False)
        nn.init.zeros_(self.out.weight)

    def table(self, phrases: Sequence[Written]) -> Table:
        """The keys and values of phrases."""
        vectors = self.catalogue(phrases)
        values = self.value(vectors[1:])
        values = torch.cat([values.new_zeros(1, values.shape[1]), values])
        return Table(self._by_head(self.key(vectors)), self._by_head(values))

    def queries(self, layers: Sequence[Tensor]) -> Tensor:
        """[t h e] of the frames [t d] of each depth."""
        normed = [norm(layer) for norm, layer in zip(self.norms, layers, strict=True)]
        if self.mixture is not None:
            joined = torch.stack(normed, -1) @ self.mixture.softmax(0)
        else:
            joined = torch.cat(normed, -1)
        found: Tensor = self.query(joined)
        if self.context is not None and len(found):
            found = found + self.context(found.T[None])[0].T
        return found.unflatten(-1, (self.heads, found.shape[-1] // self.heads))

    def forward(self, queries: Tensor, table: Table, into: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What each frame takes [t d], and where it looked [t k+1] (the mean over heads), of queries [t h e].

        Without gradients the attention is written `into` a tensor that is given, and no other of its size is made.
        """
        if torch.is_grad_enabled():
            return self._look(queries, table)
        attention = queries.new_empty(len(queries), table.keys.shape[1]) if into is None else into
        taken = queries.new_empty(len(queries), self.out.out_features)
        step = max(1, NUMBERS_AT_ONCE // (self.heads * table.keys.shape[1]))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            taken[part], attention[part] = self._look(queries[part], table)
        return taken, attention

    def _look(self, queries: Tensor, table: Table) -> tuple[Tensor, Tensor]:
        scores = queries.transpose(0, 1) @ table.keys.mT / math.sqrt(queries.shape[-1])  # [h t k+1]
        if self.attended is not None and scores.shape[2] - 1 > self.attended:
            least = scores.detach()[..., 1:].topk(self.attended, dim=-1, sorted=False).values.amin(-1, keepdim=True)
            dropped = scores < least
            dropped[..., 0] = False
            scores = scores.masked_fill(dropped, -torch.inf)
        weights = scores.float().softmax(dim=-1)
        taken = (weights.to(table.values.dtype) @ table.values).transpose(0, 1).flatten(1)
        return self.out(taken), weights.mean(dim=0)

    def _by_head(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(0, 1)
