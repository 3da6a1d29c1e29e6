"""Canaries: rows that are in the training data or not by a coin, and what their losses prove about epsilon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slt_pate.attacks.audit import LowerBound, epsilon_of_scores, epsilon_of_two_worlds
from slt_pate.attacks.membership import Losses, losses_of
from slt_pate.rows import with_text
from sltcore.errors import PrivacyError


def random_transcripts(count: int, *, characters: str, length: int, rng: np.random.Generator) -> list[str]:
    """Different texts of random characters: nobody says them, so a model knows one from its canary alone.

    **Raises** `PrivacyError` where there are not so many texts.
    """
    letters = sorted(set(characters))
    if count > len(letters) ** min(length, 64):
        raise PrivacyError(
            f"{len(letters)} characters make no {count} different texts of length {length}; give more of either"
        )
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choice(letters, size=length))] = None
    return list(found)


def mislabelled(rows: Sequence[Any], texts: Sequence[str]) -> list[Any]:
    """Public recordings as canaries: each with a text that is not its own. Each must be a unit of its own."""
    return [with_text(row, text) for row, text in zip(rows, texts, strict=True)]


@dataclass(frozen=True)
class CanaryRun:
    """The scores [m] of a run's canaries, higher for those it seems to have learned, and who was in, bool [m]."""

    scores: NDArray[np.float64]
    is_in: NDArray[np.bool_]

    def lower_bound(self, *, delta: float, confidence: float = 0.95) -> LowerBound:
        """What the run proves about epsilon; see `epsilon_of_scores`."""
        return epsilon_of_scores(self.scores, self.is_in, delta=delta, confidence=confidence)


def audit_one_run(
    train: Callable[[Sequence[Any]], Any],
    losses: Losses,
    rows: Sequence[Any],
    canaries: Sequence[Any],
    *,
    rng: np.random.Generator,
    reference: Any = None,
) -> CanaryRun:
    """Train once on `rows` and a random half of `canaries`, each by a fair coin of its own, and score all canaries by their
    loss; by the difference to the loss under a `reference` model where one is given, which tells how hard a canary is.

    `train` is the mechanism as it runs, with each canary a unit. The bound holds for whatever score, and for any model that
    was released; a score that sees gradients proves more than one that sees a trained model.

    **Source**: Steinke, Nasr, Jagielski 2023, arXiv:2305.08846, algorithm 1.
    """
    is_in = rng.random(len(canaries)) < 0.5
    model = train([*rows, *(canary for canary, taken in zip(canaries, is_in, strict=True) if taken)])
    scores = -losses_of(losses, model, canaries)
    if reference is not None:
        scores = scores + losses_of(losses, reference, canaries)
    return CanaryRun(scores, is_in)


def audit_two_worlds(
    train: Callable[[Sequence[Any]], Any],
    losses: Losses,
    rows: Sequence[Any],
    canary: Any,
    *,
    runs: int,
    delta: float,
    confidence: float = 0.95,
) -> LowerBound:
    """Train `runs` models with the canary and `runs` without it, and bound epsilon from its loss under each.

    Costly, but each run says something about one unit alone, as the definition of privacy does.
    **Source**: Jagielski, Ullman, Oprea 2020, arXiv:2006.07709.
    """
    scores = [
        [-float(losses_of(losses, train(data), [canary])[0]) for _ in range(runs)]
        for data in ([*rows, canary], [*rows])
    ]
    return epsilon_of_two_worlds(scores[0], scores[1], delta=delta, confidence=confidence)
