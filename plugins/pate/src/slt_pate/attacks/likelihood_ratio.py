"""The likelihood-ratio attack (LiRA): shadow models tell how a row's loss looks when it was learned and when it was not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from slt_pate.attacks.membership import Losses, losses_of
from sltcore.errors import PrivacyError

Floats = NDArray[np.float64]
LEAST_DEVIATION = 1e-6


def halves(units: Sequence[str], models: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Who is in each shadow model's data, bool [models units]: half of the models have each unit, chosen at random.

    **Raises** `PrivacyError` for an odd number of models, or fewer than 4.

    **Source**: Carlini et al. 2022, arXiv:2112.03570, appendix on efficient training of shadow models.
    """
    if models < 4 or models % 2:
        raise PrivacyError(f"{models} shadow models; expected an even number from 4 on, half of them with each unit")
    inside = np.zeros((models, len(units)), dtype=bool)
    for place in range(len(units)):
        inside[rng.permutation(models)[: models // 2], place] = True
    return inside


def confidence_of(losses: ArrayLike) -> Floats:
    """ln(p / (1 - p)) of p = e^-loss, which is close to Gaussian over models where the loss is not; for any losses, above 0
    or not.

    Losses of whole transcripts are far above 1, where this is -loss; near 0 it spreads what the loss crowds together.
    **Source**: Carlini et al. 2022, section IV.C.
    """
    loss = np.maximum(np.asarray(losses, np.float64), 1e-12)
    return -loss - np.log(-np.expm1(-loss))


@dataclass(frozen=True)
class Shadows:
    """Losses of rows under shadow models, float64 [models n], and who was in each one's data, bool [models n]."""

    losses: Floats
    inside: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.losses.ndim != 2 or self.losses.shape != self.inside.shape:
            raise PrivacyError(
                f"shadow losses are {self.losses.shape} and memberships {self.inside.shape}; expected [models n] for both"
            )

    @classmethod
    def train(
        cls,
        train: Callable[[Sequence[Any]], Any],
        losses: Losses,
        rows: Sequence[Any],
        units: Sequence[str],
        *,
        models: int,
        rng: np.random.Generator,
    ) -> Shadows:
        """Train `models` models on halves of the units of `rows`, and take the loss of every row under each.

        `units` names whom each row belongs to: all rows of a unit are in or out together.
        """
        names = sorted(set(units))
        members = halves(names, models, rng)
        place = {name: column for column, name in enumerate(names)}
        columns = np.array([place[unit] for unit in units])
        found = []
        for own in members[:, columns]:
            model = train([row for row, is_in in zip(rows, own, strict=True) if is_in])
            found.append(losses_of(losses, model, rows))
        return cls(np.array(found), members[:, columns])


def likelihood_ratio_scores(
    shadows: Shadows,
    target: ArrayLike,
    *,
    attack: Literal["online", "offline"] = "online",
    shares_variance: bool | None = None,
) -> Floats:
    """Scores float64 [n] of the losses of a target model, float64 [n], higher for likely members.

    `online`: ln N(x; mu_in, s_in) - ln N(x; mu_out, s_out) of the confidence x of each row. `offline` uses models without the row alone:
    the logit of the chance under N(mu_out, s_out) of a confidence below x. Deviations are those of each row, or one of all rows where
    `shares_variance`; None shares them below 64 shadow models, where a row's own is too coarse.

    **Raises** `PrivacyError` where a row has fewer than two models with it (online) or without it.

    **Source**: Carlini et al. 2022, arXiv:2112.03570, algorithm 1 and section VI.A.
    """
    scores = confidence_of(shadows.losses)
    own = confidence_of(target)
    if own.shape != scores.shape[1:]:
        raise PrivacyError(f"the target has losses {own.shape}, its shadows {scores.shape}; expected one for each row")
    shares = len(scores) < 64 if shares_variance is None else shares_variance
    outside_mean, outside_deviation = _gaussians(scores, ~shadows.inside, shares, "without")
    if attack == "offline":
        away = (own - outside_mean) / outside_deviation
        return np.asarray(stats.norm.logcdf(away) - stats.norm.logsf(away), dtype=np.float64)
    inside_mean, inside_deviation = _gaussians(scores, shadows.inside, shares, "with")
    found: Floats = stats.norm.logpdf(own, inside_mean, inside_deviation) - stats.norm.logpdf(
        own, outside_mean, outside_deviation
    )
    return found


def _gaussians(scores: Floats, chosen: NDArray[np.bool_], shares: bool, which: str) -> tuple[Floats, Floats]:
    """Mean and deviation [n] over the chosen models of each row."""
    counts = chosen.sum(0)
    if (counts < 2).any():
        raise PrivacyError(
            f"row {int(np.argmin(counts))} has {int(counts.min())} shadow models {which} it; expected at least 2. Next: more models, "
            f"or halves()"
        )
    values = np.where(chosen, scores, 0.0)
    means = values.sum(0) / counts
    squares = (np.where(chosen, scores - means, 0.0) ** 2).sum(0)
    if shares:
        deviation = np.full(len(means), np.sqrt(squares.sum() / (counts - 1).sum()))
    else:
        deviation = np.sqrt(squares / (counts - 1))
    return means, np.maximum(deviation, LEAST_DEVIATION)
