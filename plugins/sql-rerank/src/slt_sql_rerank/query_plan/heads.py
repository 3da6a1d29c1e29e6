"""From a question's hidden vector to a distribution over sets of clauses: all at once, or one after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from slt_sql_rerank.clauses import CLAUSES, closed
from slt_sql_rerank.query_plan.distribution import Distribution, LabelDistribution
from slt_sql_rerank.query_plan.steps import COUNT, END, NEXT, START, SequenceDistribution


class Head(ABC, nn.Module):
    """The part of a plan model behind the encoder."""

    @abstractmethod
    def loss(self, hidden: Tensor, wanted: Tensor) -> Tensor:
        """Loss [b] in nats of hidden [b d] and the clauses `wanted` [b c] bool."""

    @abstractmethod
    def distributions(self, hidden: Tensor) -> list[Distribution]:
        """One for each row of hidden [b d]."""


class LabelHead(Head):
    """loss = sum_c BCE(sigmoid(w_c h + b_c), [c in wanted]); c are the clauses.

    `scale` and `shift` [c] calibrate the logits afterwards, by Platt's a_c z_c + b_c; they are no part of the loss.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.output = nn.Linear(width, len(CLAUSES))
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", torch.ones(len(CLAUSES)))
        self.register_buffer("shift", torch.zeros(len(CLAUSES)))

    def loss(self, hidden: Tensor, wanted: Tensor) -> Tensor:
        """Loss [b]."""
        terms = functional.binary_cross_entropy_with_logits(self.output(hidden), wanted.float(), reduction="none")
        return terms.sum(dim=1)

    def distributions(self, hidden: Tensor) -> list[Distribution]:
        """By calibrated logits."""
        logits = self.output(hidden) * self.scale + self.shift
        return [LabelDistribution(row) for row in logits.detach().double().cpu().numpy()]


class SequenceHead(Head):
    """Writes the clauses one after another in canonical order, then the end.

        s_0 = tanh(W h),  s_t = GRU([e(y_{t-1}); h], s_{t-1}),  P(y_t | y_<t) = softmax over what may follow y_{t-1}
        loss = - sum_t log P(y_t | y_<t)

    What may follow is such that each set that a query can have is written in one way and no other set in any; so the
    chain gives the exact probability of a set. `temperature` divides the scores afterwards, for calibration.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.begin = nn.Linear(width, hidden)
        self.inputs = nn.Embedding(COUNT, hidden)
        self.cell = nn.GRUCell(hidden + width, hidden)
        self.output = nn.Linear(hidden, COUNT)
        self.temperature: Tensor
        self.follows: Tensor
        self.register_buffer("temperature", torch.ones(1))
        self.register_buffer("follows", torch.from_numpy(NEXT), persistent=False)

    def loss(self, hidden: Tensor, wanted: Tensor, *, temperature: float = 1.0) -> Tensor:
        """Loss [b]; what `wanted` implies is wanted too."""
        rows = [sequence(row) for row in wanted.tolist()]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [END] * (longest - len(row)) for row in rows], device=hidden.device)
        inside = torch.arange(longest, device=hidden.device) < torch.tensor([[len(row)] for row in rows]).to(
            hidden.device
        )
        state, before = torch.tanh(self.begin(hidden)), torch.full_like(ids[:, 0], START)
        total = hidden.new_zeros(len(rows))
        for place in range(longest):
            state = self.cell(torch.cat([self.inputs(before), hidden], dim=1), state)
            scores = (self.output(state) / temperature).masked_fill(~self.follows[before], -torch.inf)
            logs = scores.log_softmax(dim=1).gather(1, ids[:, place, None])[:, 0]
            total = total - torch.where(inside[:, place], logs, 0.0)
            before = torch.where(inside[:, place], ids[:, place], before)
        return total

    def distributions(self, hidden: Tensor) -> list[Distribution]:
        """By the chain, in numpy, each prefix once."""
        return [SequenceDistribution(self, row) for row in hidden.detach().double().cpu().numpy()]


def sequence(wanted: Sequence[bool]) -> list[int]:
    """Clauses [c] as ids in canonical order, and the end."""
    names = closed(name for name, wants in zip(CLAUSES, wanted, strict=True) if wants)
    return [*(place for place, name in enumerate(CLAUSES) if name in names), END]
