"""What a mechanism does to private data, as numbers that an accountant needs.

Neighbours differ in one unit, which lies in one teacher's shard: one teacher's answer changes, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GaussianMax:
    """GNMax: `argmax_j n_j + N(0, sigma^2)`. `sigma` in votes. A moved vote changes two counts by one, `sqrt(2)` in L2."""

    sigma: float


@dataclass(frozen=True)
class LaplaceMax:
    """LNMax: `argmax_j n_j + Lap(scale)`. `scale` in votes (`1 / gamma` of the 2017 paper)."""

    scale: float


@dataclass(frozen=True)
class ThresholdTest:
    """Whether `max_j n_j + N(0, sigma^2) >= threshold`. `sigma` in votes; a moved vote changes the maximum by one."""

    sigma: float


@dataclass(frozen=True)
class NoisyVector:
    """A vector plus `N(0, sigma^2)` in each entry, released whole. `sensitivity` is how far a unit moves it in L2, in the
    unit of `sigma`."""

    sigma: float
    sensitivity: float


@dataclass(frozen=True)
class NoisyVectorLaplace:
    """A vector plus `Lap(scale)` in each entry, released whole. `sensitivity` is how far a unit moves it in L1, in the unit
    of `scale`."""

    scale: float
    sensitivity: float


@dataclass(frozen=True)
class SampledGaussian:
    """A sum over units drawn by Poisson with probability `rate`, each clipped to 1, plus `N(0, noise_multiplier^2)`: a step
    of DP-SGD. Here neighbours differ in a unit that is added or taken away."""

    noise_multiplier: float
    rate: float


@dataclass(frozen=True)
class Publication:
    """A number f told as `f + noise S (N(0, 1) + quantile)`, S its smooth sensitivity at `beta`: what a data-dependent
    epsilon is published with."""

    beta: float
    noise: float
    quantile: float


Event = GaussianMax | LaplaceMax | ThresholdTest | NoisyVector | NoisyVectorLaplace | SampledGaussian | Publication


@dataclass(frozen=True)
class Charge:
    """`count` times the same event."""

    event: Event
    count: int = 1
