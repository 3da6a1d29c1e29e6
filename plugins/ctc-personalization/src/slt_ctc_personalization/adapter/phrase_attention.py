"""What frames look at in a catalogue of phrases, and what they take from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from slt_ctc_personalization.adapter.catalogue import Catalogue, Written

Combine = Literal["concat", "sum"]
NUMBERS_AT_ONCE = 2**22
"""Scores that are held at a time without gradients: 16 MiB, whatever the list and the recording."""


class Table(NamedTuple):
    """A list of k phrases ready to be looked at: `keys` and `values` [h k+1 e], entry 0 for no phrase, its value zero.

    `symbol_keys` and `symbol_values` [s e]: the symbols of all phrases, of which `count` [k] from `start` [k] on are whose.
    """

    keys: Tensor
    values: Tensor
    symbol_keys: Tensor
    symbol_values: Tensor
    start: Tensor
    count: Tensor

    def select(self, phrases: Tensor) -> Table:
        """The table of some of the phrases [j] int64, with the entry for none."""
        rows = torch.cat([phrases.new_zeros(1), phrases + 1])
        return self._replace(
            keys=self.keys.index_select(1, rows),
            values=self.values.index_select(1, rows),
            start=self.start.index_select(0, phrases),
            count=self.count.index_select(0, phrases),
        )


class PhraseAttention(nn.Module):
    """Attention from frames to phrases: `A = softmax(Q (C W_k)' / sqrt(e))`, `Q = X W_q`, `B = A V W_o`, `V = [0; C_1.. W_v]`.

    X joins the layer norms of `layers` depths of the encoder: side by side, or as a sum with softmax weights. C is the
    `Catalogue`'s. The value of "no phrase" is zero and no bias stands behind it, so a frame that looks at it alone is
    left as it is. W_o begins at zero, so training begins with the base's own output; the first step moves W_o, those
    after it the rest (as with LoRA, arXiv:2106.09685).

    With `context_frames` c a frame's query also sees its neighbours: `q + Conv1d(q)` over every `context_step`-th of c frames
    to either side (zeros beyond the ends), for a word is longer than what a frame of a small CTC encoder knows.

    One value for a phrase cannot say which of its letters a frame is. So a frame also looks into the `looked_into` phrases j
    that it looks at most: `B += (sum_j A_j softmax(Q' S_j') U_j) W_u`, with keys S_j and values U_j of the symbols of j from
    the states of the catalogue's LSTM, and Q' from the query. W_u begins at zero, too; no bias stands behind the sum.

    `attended` is how many phrases a frame may look at, those with the highest scores: in a list of thousands the rest
    would share a large part of the attention although each has next to none. None: all of them. With gradients all are
    looked at, so that what has a low score now can be learned.

    **Source**: arXiv:2210.09510 and arXiv:2205.13660; the zero value, `attended` and the symbols are ours.
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
        looked_into: int = 0,
    ) -> None:
        super().__init__()
        self.catalogue = catalogue
        self.context_frames = context_frames
        self.heads = heads
        self.attended = attended
        self.looked_into = looked_into
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
        if looked_into:
            self.symbol_query = nn.Linear(width, width, bias=False)
            self.symbol_key = nn.Linear(catalogue.width, width, bias=False)
            self.symbol_value = nn.Linear(catalogue.width, width, bias=False)
            self.symbol_out = nn.Linear(width, d_model, bias=False)
            nn.init.zeros_(self.symbol_out.weight)

    def table(self, phrases: Sequence[Written]) -> Table:
        """The keys and values of phrases."""
        vectors, states, start, count = self.catalogue(phrases)
        values = self.value(vectors[1:])
        values = torch.cat([values.new_zeros(1, values.shape[1]), values])
        if self.looked_into:
            symbols = self.symbol_key(states), self.symbol_value(states)
        else:
            symbols = states[:0], states[:0]
        return Table(self._by_head(self.key(vectors)), self._by_head(values), *symbols, start, count)

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

    @torch.no_grad()
    def forward(self, queries: Tensor, table: Table, into: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What each frame takes [t d], and where it looked [t k+1] (the mean over heads), of queries [t h e].

        Without gradients. The attention is written `into` a tensor that is given, and no other of its size is made.
        """
        attention = queries.new_empty(len(queries), table.keys.shape[1]) if into is None else into
        taken = queries.new_empty(len(queries), self.out.out_features)
        numbers = self.heads * table.keys.shape[1]
        if self.looked_into and len(table.count):
            numbers += self.looked_into * int(table.count.max()) * table.symbol_keys.shape[1]
        step = max(1, NUMBERS_AT_ONCE // numbers)
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            taken[part], attention[part] = self.look(queries[part], table)
            taken[part] += self.look_into(queries[part], *self.phrases_of(attention[part], table), table)
        return taken, attention

    def look(self, queries: Tensor, table: Table) -> tuple[Tensor, Tensor]:
        """What frames take of phrases as a whole [t d], and where they looked [t k+1], of queries [t h e]."""
        scores = queries.transpose(0, 1) @ table.keys.mT / math.sqrt(queries.shape[-1])  # [h t k+1]
        if self.attended is not None and scores.shape[2] - 1 > self.attended and not torch.is_grad_enabled():
            least = scores[..., 1:].topk(self.attended, dim=-1, sorted=False).values.amin(-1, keepdim=True)
            dropped = scores < least
            dropped[..., 0] = False
            scores = scores.masked_fill(dropped, -torch.inf)
        weights = scores.float().softmax(dim=-1)
        taken = (weights.to(table.values.dtype) @ table.values).transpose(0, 1).flatten(1)
        return self.out(taken), weights.mean(dim=0)

    def phrases_of(self, attention: Tensor, table: Table) -> tuple[Tensor, Tensor, Tensor]:
        """The phrases that frames look at most: how much, and the first and the number of their symbols, each [t j]."""
        share, phrase = attention[:, 1:].topk(min(self.looked_into, len(table.count)), dim=-1)
        if share.shape[1] < self.looked_into:  # phrases of no share, so that frames of several lists lie side by side
            room = (0, self.looked_into - share.shape[1])
            share, phrase = functional.pad(share, room), functional.pad(phrase, room)
        if not len(table.count):
            return share, phrase, torch.ones_like(phrase)
        return share, table.start[phrase], table.count[phrase]

    def look_into(self, queries: Tensor, share: Tensor, start: Tensor, count: Tensor, table: Table) -> Tensor:
        """What frames take [t d] of the symbols of the phrases that `phrases_of` gives, of queries [t h e]."""
        if not share.numel() or not len(table.symbol_keys):  # no frame, nothing to look into, or an empty list
            return queries.new_zeros(len(queries), self.out.out_features)
        place = torch.arange(int(count.max()), device=start.device)
        count, start = count[..., None], start[..., None]
        symbol = (start + place.minimum(count - 1)).flatten(1)  # [t j s], those beyond the end masked below
        keys = functional.embedding(symbol, table.symbol_keys)
        scores = (keys @ self.symbol_query(queries.flatten(1))[..., None]).view(*share.shape, -1)
        scores = (scores / math.sqrt(keys.shape[-1])).masked_fill(place >= count, -torch.inf)
        weights = scores.float().softmax(dim=-1) * share[..., None]
        values = functional.embedding(symbol, table.symbol_values)
        found: Tensor = self.symbol_out((weights.flatten(1)[:, None].to(values.dtype) @ values)[:, 0])
        return found

    def _by_head(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(0, 1)
