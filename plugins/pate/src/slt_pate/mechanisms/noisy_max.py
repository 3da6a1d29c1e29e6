"""The class with the most votes, after noise. All arithmetic is on integers, in steps of 2**-20 vote.

Equal noisy counts go to the lower index, a rule that looks at nothing but the noisy counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from slt_pate.events import Charge, GaussianMax, LaplaceMax, ThresholdTest
from slt_pate.mechanisms.answers import ABSTAINS, MOST_VOTES, Answers, Mechanism, check_votes, times
from slt_pate.noise import STEPS, Integers, check_scale, gaussian_votes, laplace_votes
from sltcore.errors import PrivacyError

CELLS = 1 << 20
"""Noisy counts that are held at once."""


def winners(votes: Integers, draw: Callable[[float, tuple[int, ...]], Integers], scale: float) -> Integers:
    """The index int64 [q] of the largest of votes [q v] plus noise."""
    values = np.empty(len(votes), dtype=np.int64)
    rows = max(1, CELLS // votes.shape[1])
    for start in range(0, len(votes), rows):
        part = votes[start : start + rows]
        values[start : start + rows] = np.argmax(part * STEPS + draw(scale, part.shape), axis=1)
    return values


class GNMax(Mechanism):
    """`argmax_j n_j + Z_j`, Z_j discrete Gaussian of `sigma` votes.

    **Source**: Papernot et al., "Scalable private learning with PATE", 2018, section 4.1. Our noise is discrete.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = check_scale(sigma, "sigma")

    def events(self, queries: int) -> tuple[Charge, ...]:
        return times((GaussianMax(self.sigma), queries))

    def release_batch(self, data: ArrayLike) -> Answers:
        """Answers int64 [q] of votes int [q v]."""
        votes = check_votes(data)
        values = winners(votes, gaussian_votes, self.sigma)
        return Answers(values, np.ones(len(votes), dtype=bool), self.events(len(votes)))


class LNMax(Mechanism):
    """`argmax_j n_j + Z_j`, Z_j discrete Laplace of `scale` votes: `2 / scale`-differentially private per query.

    **Source**: Papernot et al., "Semi-supervised knowledge transfer for deep learning from private training data", 2017,
    section 2.1, whose gamma is 1 / scale. Our noise is discrete.
    """

    def __init__(self, scale: float) -> None:
        self.scale = check_scale(scale, "scale")

    def events(self, queries: int) -> tuple[Charge, ...]:
        return times((LaplaceMax(self.scale), queries))

    def release_batch(self, data: ArrayLike) -> Answers:
        """Answers int64 [q] of votes int [q v]."""
        votes = check_votes(data)
        values = winners(votes, laplace_votes, self.scale)
        return Answers(values, np.ones(len(votes), dtype=bool), self.events(len(votes)))


class ConfidentGNMax(Mechanism):
    """GNMax where `max_j n_j + Z >= threshold`, Z discrete Gaussian of `sigma_threshold` votes; else no answer.

    The test is paid for at every query, the answer where one is given. `threshold` in votes, rounded up to the grid.

    **Source**: Papernot et al. 2018, algorithm 1. **Raises** `PrivacyError` for a threshold that is no number.
    """

    def __init__(self, threshold: float, sigma_threshold: float, *, sigma: float) -> None:
        self.sigma_threshold = check_scale(sigma_threshold, "sigma_threshold")
        self.sigma = check_scale(sigma, "sigma")
        if isinstance(threshold, bool) or not abs(float(threshold)) <= MOST_VOTES:
            raise PrivacyError(f"threshold is {threshold!r} votes, expected a number of at most {MOST_VOTES}")
        self.threshold = float(threshold)

    def events(self, queries: int) -> tuple[Charge, ...]:
        return self._cost(queries, queries)

    def release_batch(self, data: ArrayLike) -> Answers:
        """Answers int64 [q], -1 where the test said no, of votes int [q v]; charges count the answers that were given."""
        votes = check_votes(data)
        least = math.ceil(Fraction(self.threshold) * STEPS)
        answered = votes.max(axis=1) * STEPS + gaussian_votes(self.sigma_threshold, (len(votes),)) >= least
        values = np.where(answered, winners(votes, gaussian_votes, self.sigma), ABSTAINS)
        return Answers(values, answered, self._cost(len(votes), int(answered.sum())))

    def _cost(self, queries: int, answers: int) -> tuple[Charge, ...]:
        return times((ThresholdTest(self.sigma_threshold), queries), (GaussianMax(self.sigma), answers))
