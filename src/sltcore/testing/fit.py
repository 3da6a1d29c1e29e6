"""A minimal `fit`, for components that take one: rows in, a small classifier out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sltcore.testing.case import seeded
from sltcore.testing.inputs import generator
from sltcore.types import Hypothesis, NBest

Rows = Sequence[Mapping[str, Any]]
"""Rows as a data set has them: `{"audio": Tensor [n], "text": str}`; public rows have no text."""

LABELS = ("high", "low")
SAMPLES = 64
PRIVATE_ROWS = 40
PUBLIC_ROWS = 6


def rows(number: int, *, seed: int = 0, labelled: bool = True) -> list[dict[str, Any]]:
    """Tones of 64 samples, high or low, in noise; a quarter turn of phase at random."""
    source = generator(seed)
    found: list[dict[str, Any]] = []
    time = torch.arange(SAMPLES) / SAMPLES
    for index in range(number):
        label = LABELS[index % 2]
        cycles = 12 if label == "high" else 3
        tone = torch.sin(2 * torch.pi * (cycles * time + torch.rand(1, generator=source)))
        row: dict[str, Any] = {"audio": tone + 0.3 * torch.randn(SAMPLES, generator=source)}
        found.append({**row, "text": label} if labelled else row)
    return found


class Classifier(nn.Module):
    """High or low, from the power in 8 bands: audio [n] each -> one `NBest` each, as a pipeline returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, len(LABELS))

    def logits(self, audio: Sequence[Tensor]) -> Tensor:
        """Scores [b 2] in nats, not normalised."""
        power = torch.fft.rfft(torch.stack(list(audio)), dim=-1).abs()[:, :32].reshape(len(audio), 8, 4).mean(dim=-1)
        scores: Tensor = self.linear(torch.log1p(power))
        return scores

    def forward(self, audio: Sequence[Tensor]) -> list[NBest]:
        with torch.no_grad():
            scores = self.logits(audio).log_softmax(dim=-1)
        orders = scores.argsort(dim=-1, descending=True).tolist()
        return [NBest(Hypothesis(LABELS[k], float(scores[row, k])) for k in order) for row, order in enumerate(orders)]


def fit(
    data: Rows,
    *,
    sampler: Iterable[Sequence[int]] | None = None,
    gradient: Callable[[nn.Module, Tensor], None] | None = None,
) -> Classifier:
    """Train a classifier on rows by gradient descent; the same rows give the same model.

    - `sampler`: batches as lists of row numbers, one step each; a batch may be empty. 30 steps over all rows without it.
    - `gradient`: called with the model and the loss of each row [b], leaves the batch's gradient in `.grad`; the mean's
      gradient without it.
    """
    with seeded(0):
        model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for batch in sampler if sampler is not None else [range(len(data))] * 30:
        optimizer.zero_grad()
        chosen = [data[index] for index in batch]
        if chosen:
            targets = torch.tensor([LABELS.index(row["text"]) for row in chosen])
            losses = nn.functional.cross_entropy(
                model.logits([row["audio"] for row in chosen]), targets, reduction="none"
            )
        else:
            losses = torch.zeros(0)
        if gradient is not None:
            gradient(model, losses)
        elif len(losses):
            losses.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


class Watched(list[dict[str, Any]]):
    """Rows that remember whether anybody looked at one; their number may be asked freely."""

    touched = False

    def __getitem__(self, index: Any) -> Any:
        self.touched = True
        return super().__getitem__(index)

    def __iter__(self) -> Any:
        self.touched = True
        return super().__iter__()
