"""A softmax over public principal components, without or with a hidden layer: what all arms train on made-up people."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from people import WORDS, Floats, Said
from torch import Tensor, nn

Row = Mapping[str, Any]

NAMES = tuple(WORDS)
COMPONENTS = 40
ITERATIONS = 20
PULL = 2.0
"""Strength of the pull towards the start, in utterances."""


@dataclass(frozen=True)
class Projection:
    """Whitened principal components of public utterances."""

    mean: Floats
    axes: Floats

    @classmethod
    def of(cls, features: Floats) -> Projection:
        """Those with the most variance."""
        mean = features.mean(0)
        _, sizes, axes = np.linalg.svd(features - mean, full_matrices=False)
        scale = np.sqrt(len(features)) / sizes[:COMPONENTS]
        return cls(mean, axes[:COMPONENTS].T * scale)

    def items(self, said: Said, name: str, *, shown: bool = True) -> list[Row]:
        """Utterances as rows: components with a constant as the recording, the digit's name, the person."""
        values = np.c_[(said.features - self.mean) @ self.axes, np.ones(len(said.features))].astype(np.float32)
        return [
            {
                "id": f"{name}-{number}",
                "audio": row,
                "text": NAMES[digit] if shown else None,
                "speaker": f"{name}-{person}",
            }
            for number, (row, digit, person) in enumerate(zip(values, said.digits, said.people, strict=True))
        ]


class Network(nn.Module):
    """Scores of ten names: x W, or with a hidden layer relu(x U) W; x [n 41]."""

    def __init__(self, hidden: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        inner = COMPONENTS + 1
        self.first = None
        if hidden:
            self.first = nn.Parameter(torch.randn(inner, hidden, generator=generator) / inner**0.5)
            inner = hidden
        self.last = nn.Parameter(torch.zeros(inner, len(NAMES)))

    def scores(self, x: Tensor) -> Tensor:
        """Logits [n 10]."""
        return x @ self.last if self.first is None else torch.relu(x @ self.first) @ self.last

    def losses(self, rows: Sequence[Row]) -> Tensor:
        """Cross entropy of each row, in nats."""
        return nn.functional.cross_entropy(self.scores(features(rows)), targets(rows), reduction="none")


def features(rows: Sequence[Row]) -> Tensor:
    """[n 41]."""
    return torch.from_numpy(np.stack([np.asarray(row["audio"], np.float32) for row in rows]))


def targets(rows: Sequence[Row]) -> Tensor:
    """[n]."""
    return torch.tensor([NAMES.index(str(row["text"])) for row in rows])


@dataclass
class Fits:
    """`fit(rows)` for both mechanisms: from the public start, by L-BFGS on all rows, or by a given gradient.

    Without a gradient the rows are learned together with the public ones with texts, which count half of all.
    """

    begun: Network
    spoken: Sequence[Row]
    learning_rate: float = 0.1
    dev: Sequence[Row] = ()

    def __call__(
        self, rows: Sequence[Row], *, sampler: Iterable[list[int]] | None = None, gradient: Any = None
    ) -> Network:
        """The model."""
        model = copy.deepcopy(self.begun)
        if sampler is not None:
            self._step(model, rows, sampler, gradient)
            return model
        counts = torch.ones(len(self.spoken) + len(rows))
        if rows:
            counts[: len(self.spoken)] = len(rows) / len(self.spoken)
        descend(model, [*self.spoken, *rows], counts)
        return model

    def _step(self, model: Network, rows: Sequence[Row], sampler: Iterable[list[int]], gradient: Any) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=self.learning_rate)
        for places in sampler:
            optimizer.zero_grad()
            losses = model.losses([rows[place] for place in places]) if places else model.last.sum()[None][:0]
            gradient(model, losses)
            optimizer.step()


def descend(model: Network, rows: Sequence[Row], counts: Tensor, iterations: int = ITERATIONS) -> None:
    """Lower sum_n counts_n CE_n + PULL/2 |weights - where they began|^2 by L-BFGS."""
    x, y = features(rows), targets(rows)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        pull = sum((now - then).square().sum() for now, then in zip(model.parameters(), start, strict=True))
        loss = counts @ nn.functional.cross_entropy(model.scores(x), y, reduction="none") + PULL / 2 * pull
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[arg-type, no-untyped-call]


@torch.no_grad()
def said(model: Network, rows: Sequence[Row]) -> NDArray[np.int64]:
    """The name that it hears in each row, as a number."""
    return np.asarray(model.scores(features(rows)).argmax(-1).numpy())


def wrong(model: Network, rows: Sequence[Row]) -> NDArray[np.bool_]:
    """Which rows it hears wrongly."""
    return np.asarray(said(model, rows) != targets(rows).numpy())
