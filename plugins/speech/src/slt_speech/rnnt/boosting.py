"""Fusion: what another model says of labels, added to the hypotheses of a beam search.

The other model is a decoder with the step interface (`sltcore.interfaces.Decoder.start` and `step`): an n-gram model, a
list of phrases, a grammar. A search over many hypotheses has to take states apart, so this is asked of it beyond the
interface:

- a state is a tensor, or a tuple of tensors, with axes [b k ..]: utterances, hypotheses. What `start` returns may have one
  hypothesis for any number, k = 1;
- the blank stands for the start of the sentence: `step(start, blank)` gives the log-probabilities of the first label;
- where it reads side information, `conditioned(context, batch)` returns what has the two methods for one call, or None
  where nothing is given; such an object may have `neutral`, the log-probability [b] of a label that it neither favours
  nor disfavours, and `ending(state)` [b k], nats, added where the sentence ends in a state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sltcore.errors import ShapeError
from sltcore.interfaces import Decoder

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Steps(Protocol):
    """A model with the step interface, for one call."""

    def start(self, encoded: Any) -> Any:
        """The state before the first token."""

    def step(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        """Advance by `tokens` [b k]: log-probabilities of the next token [b k v], and the new state."""


def steps_of(booster: Decoder | None, context: Mapping[str, Any], batch: int) -> Steps | None:
    """The booster for one call of `batch` utterances; None where it has nothing to say."""
    if booster is None:
        return None
    conditioned = getattr(booster, "conditioned", None)
    found: Steps | None = booster if conditioned is None else conditioned(context, batch)
    return found


class Fusion:
    """`weight (ln P(label | prefix) - neutral)` for every label behind every prefix of a running search.

    Rows are those of the search's tree: n for each utterance, row b n + i for its node i.
    """

    def __init__(self, steps: Steps, *, weight: float, blank: int, v: int) -> None:
        self._steps, self._weight, self._blank, self._v = steps, weight, blank, v
        self._bonus = np.zeros((0, v), np.float32)
        self._states: tuple[Tensor, ...] = ()
        self._single = False
        self._batch = 0

    def begin(self, batch: int, nodes: int) -> Floats:
        """The bonus [b n v] as rows [b·n v], that of the empty prefixes filled in; it is written in place from now on."""
        self._batch = batch
        log_probs, state = self._steps.step(self._steps.start(None), torch.full((batch, 1), self._blank))
        leaves = self._leaves(state)
        if log_probs.shape != (batch, 1, self._v) or any(leaf.shape[:2] != (batch, 1) for leaf in leaves):
            raise ShapeError(
                f"boost: step gave log-probabilities {tuple(log_probs.shape)} and states "
                f"{[tuple(leaf.shape) for leaf in leaves]} for tokens ({batch}, 1), expected ({batch}, 1, {self._v}) and "
                f"states that begin with ({batch}, 1)"
            )
        neutral = getattr(self._steps, "neutral", None)
        self._neutral = torch.zeros(batch) if neutral is None else neutral.cpu().float()
        self._states = tuple(leaf.new_zeros(batch, nodes, *leaf.shape[2:]) for leaf in leaves)
        for pool, leaf in zip(self._states, leaves, strict=True):
            pool[:, :1] = leaf
        self._bonus = np.zeros((batch * nodes, self._v), np.float32)
        self._bonus[:: nodes if nodes else 1] = self._scaled(log_probs)[:, 0]
        return self._bonus

    def extend(self, new: Ints, parents: Ints, labels: Ints) -> None:
        """Fill in the rows `new` of prefixes that are those of rows `parents` with one of `labels` more each."""
        nodes = len(self._bonus) // self._batch
        utterance = new // nodes  # in order: searches ask utterance by utterance
        counts = np.bincount(utterance, minlength=self._batch)
        column = np.arange(len(new)) - (np.cumsum(counts) - counts)[utterance]
        k = int(counts.max())
        parent, tokens = np.zeros((self._batch, k), np.int64), np.full((self._batch, k), self._blank)
        parent[utterance, column], tokens[utterance, column] = parents % nodes, labels
        rows = torch.arange(self._batch)[:, None]
        before = tuple(pool[rows, torch.from_numpy(parent)] for pool in self._states)
        log_probs, state = self._steps.step(before[0] if self._single else before, torch.from_numpy(tokens))
        self._bonus[new] = self._scaled(log_probs)[utterance, column]
        at = torch.from_numpy(utterance), torch.from_numpy(column)
        for pool, leaf in zip(self._states, self._leaves(state), strict=True):
            pool.flatten(0, 1)[torch.from_numpy(new)] = leaf[at]

    def regroup(self, moved: Ints, nodes: int) -> Floats:
        """Row i of each utterance becomes what its row `moved[b, i]` was, with room for `nodes` rows each."""
        rows = torch.arange(self._batch)[:, None]
        before = self._bonus.reshape(self._batch, -1, self._v)
        bonus = np.zeros((self._batch, nodes, self._v), np.float32)
        bonus[:, : before.shape[1]] = before[rows.numpy(), moved]
        self._bonus = bonus.reshape(-1, self._v)
        grown = []
        for pool in self._states:
            wide = pool.new_zeros(self._batch, nodes, *pool.shape[2:])
            wide[:, : pool.shape[1]] = pool[rows, torch.from_numpy(moved)]
            grown.append(wide)
        self._states = tuple(grown)
        return self._bonus

    def ending(self, b: int, node: int) -> float:
        """What is added where a sentence ends at a node of an utterance."""
        ending = getattr(self._steps, "ending", None)
        if ending is None:
            return 0.0
        here = tuple(pool[:, node : node + 1] for pool in self._states)
        return self._weight * float(ending(here[0] if self._single else here)[b, 0])

    def _leaves(self, state: Any) -> tuple[Tensor, ...]:
        self._single = isinstance(state, Tensor)
        return (state,) if self._single else tuple(state)

    def _scaled(self, log_probs: Tensor) -> Floats:
        scaled = self._weight * (log_probs.cpu().float() - self._neutral[:, None, None])
        found: Floats = scaled.numpy()
        return found
