"""What the beams of each question read and have written: a tree of tokens, of which each beam sees its own path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STEPS = 12
"""Steps until tokens that no beam sees any more are dropped."""


class Pool:
    """Keys and values [n q h c d] (n layers, q questions, h key heads, c tokens) and which of them each beam sees, [q w c].

    Beams take over the path of their parents, so nothing is moved when they change places.
    """

    def __init__(self, keys: Tensor, values: Tensor, lengths: Tensor, width: int) -> None:
        """With the tokens of the questions, `lengths` [q] of the c; all beams see those."""
        self.keys, self.values, self.lengths, self.width = keys, values, lengths, width
        self.filled = keys.shape[3]
        self.seen = (torch.arange(self.filled) < lengths[:, None])[:, None].repeat(1, width, 1)
        self.written = 0
        self._fit(self.filled)

    def follow(self, questions: Sequence[int], parents: Tensor) -> None:
        """Keep some of the questions; their beams go on from `parents` [q w], and each has room for one token more."""
        if len(questions) < len(self.lengths):
            index = torch.tensor(questions)
            self.keys, self.values = self.keys[:, index], self.values[:, index]
            self.lengths, self.seen = self.lengths[index], self.seen[index]
        self.seen = self.seen.gather(1, parents[..., None].expand(-1, -1, self.seen.shape[2]))
        if self.filled + self.width > self.keys.shape[3]:
            self._drop()
        own = torch.eye(self.width, dtype=torch.bool)
        self.seen[:, :, self.filled : self.filled + self.width] = own
        self.filled += self.width
        self.written += 1

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the beams' new keys and values [q*w h d] of a layer; all of that layer's, [q h c d]."""
        here = slice(self.filled - self.width, self.filled)
        for whole, new in ((self.keys, keys), (self.values, values)):
            whole[layer, :, :, here] = new.unflatten(0, (-1, self.width)).transpose(1, 2)
        return self.keys[layer, :, :, : self.filled], self.values[layer, :, :, : self.filled]

    def hidden(self) -> Tensor:
        """What each beam does not see, [q w c]."""
        return ~self.seen[:, :, : self.filled]

    def _drop(self) -> None:
        """Forget what no beam sees."""
        used = self.seen.any(1)
        kept = int(used.sum(1).max())
        order = (~used).byte().argsort(dim=1, stable=True)[:, :kept]  # [q kept], the used ones first and in their order
        self.seen = self.seen.gather(2, order[:, None].expand(-1, self.width, -1))
        rows = torch.arange(len(order))[:, None]
        self.keys = self.keys.transpose(2, 3)[:, rows, order].transpose(2, 3)
        self.values = self.values.transpose(2, 3)[:, rows, order].transpose(2, 3)
        self.filled = kept
        self._fit(kept)

    def _fit(self, kept: int) -> None:
        more = STEPS * self.width
        layers, questions, heads, _, size = self.keys.shape
        for name in ("keys", "values"):
            whole = self.keys.new_zeros(layers, questions, heads, kept + more, size)
            whole[:, :, :, :kept] = getattr(self, name)
            setattr(self, name, whole)
        self.seen = torch.cat([self.seen, self.seen.new_zeros(questions, self.width, more)], 2)
