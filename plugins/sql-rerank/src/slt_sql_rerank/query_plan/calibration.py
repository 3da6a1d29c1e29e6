"""Making a plan model's probabilities mean what they say, on questions that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slt_sql_rerank.clauses import CLAUSES
from slt_sql_rerank.query_plan.heads import LabelHead, SequenceHead
from slt_sql_rerank.query_plan.model import QueryPlan
from slt_sql_rerank.schema import Schema
from sltcore.errors import DataError, SpecError

BINS = 15
RIDGE = 1.0
STEPS = 60
RANGE = (0.2, 5.0)


class Reliability(NamedTuple):
    """Predictions in bins of equal width: mean probability, share that came true, and number of each bin.

    `error` is the expected calibration error, sum over bins of number / all * |share - mean|.
    **Source**: Guo et al. 2017, arXiv:1706.04599, section 2.
    """

    error: float
    bins: tuple[tuple[float, float, int], ...]


def reliability(probabilities: NDArray[np.float64], truths: NDArray[np.bool_], bins: int = BINS) -> Reliability:
    """Of probabilities [n] and whether each came true [n]. **Raises** `DataError` where there are none."""
    if not len(probabilities):
        raise DataError("there are no predictions to measure the calibration of")
    places = np.minimum((probabilities * bins).astype(int), bins - 1)
    found, error = [], 0.0
    for place in range(bins):
        inside = places == place
        count = int(inside.sum())
        if count:
            mean, share = float(probabilities[inside].mean()), float(truths[inside].mean())
            found.append((mean, share, count))
            error += count / len(probabilities) * abs(share - mean)
    return Reliability(error, tuple(found))


def platt(logits: Tensor, truths: Tensor, ridge: float = RIDGE) -> tuple[float, float]:
    """a, b that minimise sum BCE(sigmoid(a z + b), y) + ridge ((a - 1)^2 + b^2) / 2, by Newton's method; logits [n].

    The ridge keeps clauses that hardly occur near what they were. **Source**: Platt 1999; the ridge is ours.
    """
    z, y = logits.double(), truths.double()
    point = torch.tensor([1.0, 0.0], dtype=torch.float64)
    start = point.clone()
    inputs = torch.stack([z, torch.ones_like(z)], dim=1)

    def cost(at: Tensor) -> float:
        fit = torch.nn.functional.binary_cross_entropy_with_logits(inputs @ at, y, reduction="sum")
        return float(fit + ridge * ((at - start) ** 2).sum() / 2)

    for _ in range(STEPS):
        p = torch.sigmoid(inputs @ point)
        gradient = inputs.T @ (p - y) + ridge * (point - start)
        curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + ridge * torch.eye(2, dtype=torch.float64)
        step, size = torch.linalg.solve(curvature, gradient), 1.0
        while size > 1e-8 and cost(point - size * step) > cost(point):
            size /= 2
        point = point - size * step
        if float(step.abs().max()) < 1e-10:
            break
    return float(point[0]), float(point[1])


def calibrate(model: QueryPlan, questions: Sequence[str], schemas: Sequence[Schema | None], wanted: Tensor) -> None:
    """Set the head's calibration by questions and their clauses `wanted` [n c] bool: Platt's a and b of each clause, or one
    temperature. **Raises** `SpecError` for a head that has neither."""
    model.eval()
    with torch.no_grad():
        hidden = model.encoder(questions, schemas)
        head = model.head
        if isinstance(head, LabelHead):
            logits = head.output(hidden)
            pairs = [platt(logits[:, place], wanted[:, place]) for place in range(len(CLAUSES))]
            head.scale.copy_(torch.tensor([a for a, _ in pairs]))
            head.shift.copy_(torch.tensor([b for _, b in pairs]))
        elif isinstance(head, SequenceHead):
            head.temperature.fill_(_temperature(head, hidden, wanted))
        else:
            raise SpecError(f"a {type(head).__name__} has nothing to calibrate")


def _temperature(head: SequenceHead, hidden: Tensor, wanted: Tensor) -> float:
    """The best temperature, by golden section on its logarithm: the loss is convex in 1 / T."""
    low, high = (float(np.log(end)) for end in RANGE)
    ratio = (5**0.5 - 1) / 2

    def cost(at: float) -> float:
        return float(head.loss(hidden, wanted, temperature=float(np.exp(at))).sum())

    for _ in range(40):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if cost(left) < cost(right) else (left, high)
    return float(np.exp((low + high) / 2))
