"""The teachers' average posterior, after noise."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slt_pate.events import Charge, NoisyVector, NoisyVectorLaplace
from slt_pate.mechanisms.answers import Answers, Mechanism, times
from slt_pate.noise import STEPS, check_scale, gaussian_votes, laplace_votes
from sltcore.errors import PrivacyError

Noise = Literal["gaussian", "laplace"]

TOLERANCE = 1e-3
"""How far a teacher's probabilities may be from a sum of 1, as those from float16 are; they are normalised."""


class NoisyPosterior(Mechanism):
    """`(sum_m p_m + Z) / M` projected to the simplex, Z discrete noise in each class.

    `sigma` in votes, that is, added to the sum over teachers: `sigma` of the Gaussian, or the scale of the Laplace law.
    Each teacher's posterior is first rounded to whole grid steps that sum to one vote, so that the sum is an integer
    vector which a teacher moves by at most `sqrt(2)` votes in L2 and 2 votes in L1. `teachers`, when given, is the number
    of rows that must come; it is public.

    **Source**: Yang et al., "An experimental study on private aggregation of teacher ensemble learning for end-to-end
    speech recognition", 2022, average of ensemble probabilities. Rounding, discrete noise and projection are ours.

    **Raises** `PrivacyError` for a sigma that is no scale of noise, or an unknown noise.
    """

    def __init__(self, sigma: float, noise: Noise = "gaussian", *, teachers: int | None = None) -> None:
        if noise not in get_args(Noise):
            raise PrivacyError(f"noise is {noise!r}, expected one of: {', '.join(get_args(Noise))}")
        self.sigma = check_scale(sigma, "sigma")
        self.noise: Noise = noise
        self.teachers = teachers

    def events(self, queries: int) -> tuple[Charge, ...]:
        if self.noise == "laplace":
            return times((NoisyVectorLaplace(self.sigma, 2.0), queries))
        return times((NoisyVector(self.sigma, math.sqrt(2.0)), queries))

    def release_batch(self, data: ArrayLike) -> Answers:
        """Released posteriors float64 [q v], each summing to 1, of the teachers' float [q m v]."""
        steps = self._checked(data)
        queries, teachers, classes = steps.shape
        draw = laplace_votes if self.noise == "laplace" else gaussian_votes
        noisy = steps.sum(axis=1) + draw(self.sigma, (queries, classes))
        values = project_to_simplex(noisy / (teachers * STEPS))
        return Answers(values, np.ones(queries, dtype=bool), self.events(queries))

    def _checked(self, data: ArrayLike) -> NDArray[np.int64]:
        given = np.asarray(data)
        if given.ndim != 3 or 0 in given.shape[1:]:
            raise PrivacyError(
                f"posteriors have shape {given.shape}, expected (m, v) for release and (q, m, v) for release_batch: teachers "
                f"and classes"
            )
        if self.teachers is not None and given.shape[1] != self.teachers:
            raise PrivacyError(f"posteriors come from {given.shape[1]} teachers, expected {self.teachers}")
        if given.dtype.kind != "f":
            raise PrivacyError(f"posteriors have dtype {given.dtype}, expected floats; for counts of votes use GNMax")
        posteriors = given.astype(np.float64)
        total = posteriors.sum(axis=-1, keepdims=True)
        if not (np.isfinite(posteriors).all() and (posteriors >= 0).all() and (np.abs(total - 1) <= TOLERANCE).all()):
            raise PrivacyError(
                "posteriors hold a negative or infinite number, NaN, or a row whose sum is not 1; expected probabilities over "
                "the classes. Next: a softmax over the last axis"
            )
        return to_steps(posteriors)


def to_steps(posteriors: NDArray[np.float64]) -> NDArray[np.int64]:
    """Grid steps int64 [... v] that sum to exactly one vote: differences of the rounded cumulative sums.

    Each probability moves by at most one step.
    """
    summed = np.cumsum(posteriors, axis=-1)
    summed /= summed[..., -1:]
    edges = np.rint(summed * STEPS).astype(np.int64)
    steps: NDArray[np.int64] = np.diff(edges, axis=-1, prepend=0)
    return steps


def project_to_simplex(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest vectors in L2 that are non-negative and sum to 1: `max(x - tau, 0)`, float64 [... v].

    **Source**: Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions", 2008, figure 1.
    """
    ordered = -np.sort(-vectors, axis=-1)
    excess = np.cumsum(ordered, axis=-1) - 1
    counts = np.arange(1, vectors.shape[-1] + 1)
    support = (ordered * counts > excess).sum(axis=-1, keepdims=True)
    tau = np.take_along_axis(excess, support - 1, axis=-1) / support
    projected: NDArray[np.float64] = np.maximum(vectors - tau, 0.0)
    return projected
