"""Rényi divergence of releases given the votes: small where the teachers agree.

What comes out depends on private votes and is private itself; `smooth_sensitivity` tells what publishing it costs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr

from slt_pate.accounting.independent import GRID, rdp
from slt_pate.accounting.orders import ORDERS, check_orders
from slt_pate.events import GaussianMax, LaplaceMax, ThresholdTest
from sltcore.errors import PrivacyError

Floats = NDArray[np.float64]
Voted = GaussianMax | LaplaceMax | ThresholdTest
MOST_VOTES = 2**24


def rdp_of_votes(
    event: Voted,
    votes: ArrayLike,
    orders: ArrayLike = ORDERS,
    *,
    threshold: float | None = None,
    grid: float = GRID,
) -> Floats:
    """Divergence of all queries together at each order, float64 [a]; `votes` int [q v], the counts of each query.

    With log q the bound on the probability of another outcome than the likeliest (`log_other`), each query costs the least
    of its data-independent divergence and, for Gaussian noise with s = sigma (s = sqrt(2) sigma for the threshold test),

    ln((1-q) A^(a-1) + q B^(a-1)) / (a-1),  A = (1-q) / (1 - (q e^(m2/s^2))^(1-1/m2)),  B = e^(m1/s^2) / q^(1/(m1-1)),

    m2 = s sqrt(-ln q), m1 = m2 + 1, where that theorem applies; for Laplace noise, with e = 2/scale,

    ln((1-q) ((1-q) / (1 - q e^e))^(a-1) + q e^(e(a-1))) / (a-1)  for q < 1 / (1 + e^e).

    Queries whose outcome is equally likely cost the same and are computed once.

    **Raises** `PrivacyError` for votes that are no counts, events without votes, a threshold test without its threshold.

    **Source**: Papernot et al. 2018, arXiv:1802.08908, theorem 6 and proposition 10; Papernot et al. 2017,
    arXiv:1610.05755, theorem 3 (LNMax). The discrete noise is accounted for: see `log_other`.
    """
    found = check_orders(orders)
    logs = log_other(event, votes, threshold=threshold, grid=grid)
    most = rdp(event, found)
    values, counts = np.unique(logs, return_counts=True)
    total: Floats = _sum(values, counts, found, most, isinstance(event, LaplaceMax), _strength(event))
    return total


def rdp_of_each(
    event: Voted, votes: ArrayLike, order: float, *, threshold: float | None = None, grid: float = GRID
) -> Floats:
    """Divergence of each query at one order, float64 [q]; as `rdp_of_votes`."""
    return rdp_of_logs(event, log_other(event, votes, threshold=threshold, grid=grid), order)


def rdp_of_logs(event: Voted, logs: Floats, order: float) -> Floats:
    """Divergence at one order, float64 [n], where ln q is at most `logs` float64 [n]."""
    found = check_orders([order])
    costs: Floats = _each(logs, found, rdp(event, found), isinstance(event, LaplaceMax), _strength(event))
    return costs


def log_other(event: Voted, votes: ArrayLike, *, threshold: float | None = None, grid: float = GRID) -> Floats:
    """ln of a bound on the probability that the outcome is not the likeliest, float64 [q], for votes int [q v].

    GNMax: ln sum_(j != j*) Phi(-(n_j* - n_j - 2 grid) / (sqrt(2) sigma)). LNMax: the terms are (2 + d) e^-d / 4 with
    d = (n_j* - n_j - 2 grid) / scale. Threshold test: ln Phi(-(|max n - threshold| - grid) / sigma). A draw on a grid lies
    at most a step beyond a continuous one in stochastic order, so a difference of two lies at most two steps beyond; grid
    0 is the continuous noise of the papers.

    **Raises** `PrivacyError` as `rdp_of_votes`.
    """
    counts = check_votes(votes)
    highest = counts.max(axis=1, initial=0)
    if isinstance(event, ThresholdTest):
        if threshold is None or not math.isfinite(threshold):
            raise PrivacyError(
                f"the threshold of a ThresholdTest is {threshold!r}, expected how many votes it asks for"
            )
        far = np.maximum(0, np.abs(highest - threshold) - grid)
        found: Floats = log_ndtr(-far / event.sigma)
        return found
    if isinstance(event, GaussianMax):
        tails = _gaussian_tails(event.sigma, int(highest.max(initial=0)), grid)
    elif isinstance(event, LaplaceMax):
        tails = _laplace_tails(event.scale, int(highest.max(initial=0)), grid)
    else:
        raise PrivacyError(
            f"{type(event).__name__} has no votes; data-dependent costs are those of GNMax, LNMax, threshold tests"
        )
    sums: Floats = _log_sums(counts, tails)
    return sums


def check_votes(votes: ArrayLike) -> NDArray[np.int64]:
    """Counts int64 [q v]. **Raises** `PrivacyError` for anything but whole numbers from 0 to 2**24."""
    counts: NDArray[Any] = np.asarray(votes)
    if counts.ndim != 2 or not counts.shape[1]:
        raise PrivacyError(
            f"votes have shape {counts.shape}, expected (q, v): the counts of v classes for each of q queries"
        )
    if counts.dtype.kind not in "iu":
        raise PrivacyError(f"votes have dtype {counts.dtype}, expected integers: how many teachers chose each class")
    if counts.size and (counts.min() < 0 or counts.max() > MOST_VOTES):
        raise PrivacyError(f"votes go from {counts.min()} to {counts.max()}, expected counts from 0 to {MOST_VOTES}")
    return np.ascontiguousarray(counts, np.int64)


def _strength(event: Voted) -> float:
    """Laplace: the largest log ratio. Gaussian: s, such that the data-independent divergence is a / s^2."""
    if isinstance(event, LaplaceMax):
        return 2 / event.scale
    return event.sigma if isinstance(event, GaussianMax) else math.sqrt(2) * event.sigma


def _gaussian_tails(sigma: float, most: int, grid: float) -> Floats:
    """ln P(noise makes up for a gap) for gaps of 0 to `most` votes, float64 [most + 1]."""
    gaps = np.maximum(0, np.arange(most + 1) - 2 * grid)
    tails: Floats = log_ndtr(-gaps / (math.sqrt(2) * sigma))
    return tails


def _laplace_tails(scale: float, most: int, grid: float) -> Floats:
    gaps = np.maximum(0, np.arange(most + 1) - 2 * grid) / scale
    tails: Floats = np.log((2 + gaps) / 4) - gaps
    return tails


@njit(cache=True, nogil=True)
def _log_sums(counts, tails):  # type: ignore[no-untyped-def]
    """ln sum_(j != j*) e^tails[n_j* - n_j] for each row; -inf for one class."""
    queries, classes = counts.shape
    found = np.empty(queries)
    for row in range(queries):
        best = 0
        for j in range(1, classes):
            if counts[row, j] > counts[row, best]:
                best = j
        highest, second, empty = counts[row, best], np.int64(-1), 0
        for j in range(classes):
            if j != best:
                count = counts[row, j]
                second = max(second, count)
                empty += count == 0
        if second < 0:
            found[row] = -np.inf
            continue
        near = tails[highest - second]
        total = empty * math.exp(tails[highest] - near)
        if second > 0:
            for j in range(classes):
                if j != best and counts[row, j] > 0:
                    total += math.exp(tails[highest - counts[row, j]] - near)
        found[row] = near + math.log(total)
    return found


@njit(cache=True, nogil=True)
def _sum(logs, counts, orders, most, is_laplace, strength):  # type: ignore[no-untyped-def]
    """Divergences of outcomes with ln q = logs, each as often as counts says, together at each order."""
    total, cost = np.zeros(orders.size), np.empty(orders.size)
    for i in range(logs.size):
        if is_laplace:
            _laplace(logs[i], orders, most, strength, cost)
        else:
            _gaussian(logs[i], orders, most, strength, cost)
        for k in range(orders.size):
            total[k] += counts[i] * cost[k]
    return total


@njit(cache=True, nogil=True)
def _each(logs, orders, most, is_laplace, strength):  # type: ignore[no-untyped-def]
    """The divergence of each outcome at the first order."""
    costs, cost = np.empty(logs.size), np.empty(orders.size)
    for i in range(logs.size):
        if is_laplace:
            _laplace(logs[i], orders, most, strength, cost)
        else:
            _gaussian(logs[i], orders, most, strength, cost)
        costs[i] = cost[0]
    return costs


@njit(cache=True, nogil=True)
def _gaussian(log_q, orders, most, spread, cost):  # type: ignore[no-untyped-def]
    """Writes the divergence at each order of one outcome of a Gaussian mechanism."""
    if log_q == -np.inf:
        cost[:] = 0
        return
    cost[:] = most
    if log_q >= 0:
        return
    high, square = spread * math.sqrt(-log_q), spread * spread
    low, second = high + 1, high / square
    if high <= 1 or -log_q <= second:
        return
    if log_q > (high - 1) * second - high * (math.log1p(1 / (low - 1)) + math.log1p(1 / (high - 1))):
        return
    log_rest = math.log1p(-math.exp(log_q))
    log_a = log_rest - math.log1p(-math.exp((log_q + second) * (1 - 1 / high)))
    log_b = low / square - log_q / (low - 1)
    for k in range(orders.size):
        if orders[k] < low:
            times = orders[k] - 1
            cost[k] = min(most[k], _log_sum(log_rest + times * log_a, log_q + times * log_b) / times)


@njit(cache=True, nogil=True)
def _laplace(log_q, orders, most, pure, cost):  # type: ignore[no-untyped-def]
    """The same for Laplace noise."""
    if log_q == -np.inf:
        cost[:] = 0
        return
    cost[:] = most
    if log_q >= -math.log1p(math.exp(pure)):
        return
    log_rest = math.log1p(-math.exp(log_q))
    log_a = log_rest - math.log1p(-math.exp(log_q + pure))
    for k in range(orders.size):
        times = orders[k] - 1
        cost[k] = min(most[k], _log_sum(log_rest + times * log_a, log_q + times * pure) / times)


@njit(cache=True, nogil=True, inline="always")
def _log_sum(one, other):  # type: ignore[no-untyped-def]
    """ln(e^one + e^other), at least 0."""
    if one >= other:
        return max(0.0, one + math.log1p(math.exp(other - one)))
    return max(0.0, other + math.log1p(math.exp(one - other)))
