"""Weights of a linear combination from lists whose correct candidates are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sltcore.errors import DataError

STEPS = 200


class Listed(NamedTuple):
    """One question: features x [k f], which candidates are possible and which correct, both bool [k]."""

    features: Tensor
    possible: Tensor
    correct: Tensor


def fit_weights(lists: Sequence[Listed], *, start: Tensor, decay: float = 1e-2, scale: Tensor | None = None) -> Tensor:
    """Weights [f] float64 that make correct candidates likely: the least of

        mean over lists of -log Σ_{i correct} softmax_i(x w) + decay Σ_f (w_f σ_f - start_f σ_f)²

    over lists with a correct and a wrong candidate among the possible ones; others say nothing. σ [f] is each feature's
    standard deviation within lists (`scale`, found where it is not given), so decay does not depend on units.

    **Raises** `DataError` where no list says anything.

    **Source**: the marginal likelihood of Cao et al. 2007 (ListNet, top one) with several correct candidates.
    """
    used = [one for one in lists if _says(one)]
    if not used:
        raise DataError(
            f"none of {len(lists)} lists has both a correct and a wrong candidate; there is nothing to learn"
        )
    deviation = spread(used) if scale is None else scale
    features, possible, correct = _padded(used)
    weights = start.detach().double().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = (features @ weights).masked_fill(~possible, -torch.inf)
        right = torch.logsumexp(scores.masked_fill(~correct, -torch.inf), 1)
        loss = (torch.logsumexp(scores, 1) - right).mean() + decay * ((weights - start) * deviation).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[arg-type,no-untyped-call]
    return weights.detach()


def spread(lists: Sequence[Listed]) -> Tensor:
    """Each feature's standard deviation around the mean of its list, [f]; 1 where it never varies."""
    rows = torch.cat([(one.features - one.features[one.possible].mean(0))[one.possible] for one in lists])
    found = rows.square().mean(0).sqrt()
    return torch.where(found > 0, found, torch.ones_like(found))


def _says(one: Listed) -> bool:
    right, wrong = one.possible & one.correct, one.possible & ~one.correct
    return bool(right.any() and wrong.any())


def _padded(lists: Sequence[Listed]) -> tuple[Tensor, Tensor, Tensor]:
    """All lists as [n k f], [n k] and [n k], with impossible candidates behind the shorter ones."""
    parts = [[one.features.double() for one in lists], [one.possible for one in lists], [one.correct for one in lists]]
    features, possible, correct = (pad_sequence(part, batch_first=True) for part in parts)
    return features, possible, correct
