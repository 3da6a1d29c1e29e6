"""What it costs to publish a data-dependent divergence: noise scaled to its smooth sensitivity.

The divergence of the releases is computed from private votes, so its value may tell about a unit. It is published with
Gaussian noise scaled to a bound on how far one unit can move it here and, less and less, at data sets further away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, ndtri_exp

from slt_pate.accounting.conversion import check_delta, slack
from slt_pate.accounting.independent import GRID, rdp
from slt_pate.accounting.orders import check_orders
from slt_pate.accounting.published_noise import noise_cost
from slt_pate.accounting.votes import check_votes, log_other, rdp_of_each, rdp_of_logs
from slt_pate.events import GaussianMax, ThresholdTest
from sltcore.errors import PrivacyError

Floats = NDArray[np.float64]
CELLS = 256
"""Cells of the table for each vote that may move."""
FINE = 2.0**32
"""Steps of the published noise in a standard deviation."""
TOLD = 2.0**-20
"""Published figures are rounded up to multiples of this, in nats."""


@dataclass(frozen=True)
class Answered:
    """Votes int [q v] of queries that passed GNMax with `sigma`, and for Confident-GNMax those of every query that was put to
    the threshold test, int [q' v], with `test_sigma` and `threshold`. Which passed is public: it was released."""

    votes: ArrayLike
    sigma: float
    tested: ArrayLike | None = None
    test_sigma: float | None = None
    threshold: float | None = None


def stepped(answered: Answered, order: float) -> float:
    """The divergence of all releases at one order, in nats, as it may be published; private.

    It is that of `slt_pate.accounting.votes` with u, the place of a query (`local_sensitivities`), rounded down to 1/256 of
    what a vote moves it: a larger bound on q is a bound, too.
    """
    table, places = _stairs(answered, order, 0)
    total = float(table[places].sum())
    if answered.tested is not None:
        event, threshold = _test(answered)
        total += float(rdp_of_each(event, answered.tested, order, threshold=threshold).sum())
    return total


def local_sensitivities(answered: Answered, order: float, distances: int) -> Floats:
    """How far one unit moves `stepped` at data sets at distance 0 to `distances`, at most: float64 [d + 1]; private.

    For GNMax with u such that the bound on q is (v-1) Phi(-u), a unit moves u by at most sqrt(2) / sigma, whichever class
    its vote goes to and left, and whatever the histogram. `stepped` reads a falling staircase over u, of which that is 256
    steps, so the most that it moves is known exactly; distance d takes the largest within d such moves. For the threshold
    test the largest count moves by one vote. Queries add up.

    **Raises** `PrivacyError` for votes that are no counts, a negative number of distances, a test without its threshold.

    **Source**: Papernot et al. 2018, arXiv:1802.08908, appendix B: the bounds on q at a neighbour, here in the
    coordinate that makes them a shift, and with a table in place of conditions on its shape.
    """
    if isinstance(distances, bool) or not isinstance(distances, int) or distances < 0:
        raise PrivacyError(
            f"distances is {distances!r}, expected a whole number from 0 on, such as the number of teachers"
        )
    check_orders([order])
    total = _of_answers(answered, order, distances)
    return total if answered.tested is None else total + _of_tests(answered, order, distances)


def smooth_sensitivity(answered: Answered, order: float, *, beta: float, teachers: int) -> float:
    """max_d e^(-beta d) LS_d, over distances d of 0 to `teachers`, beyond which nothing changes; private.

    **Raises** `PrivacyError` for a beta that is not positive, and as `local_sensitivities`.

    **Source**: Nissim, Raskhodnikova, Smith 2007, definition 2.2; Papernot et al. 2018, arXiv:1802.08908, definition 17.
    """
    if not 0 < beta < math.inf:
        raise PrivacyError(f"beta is {beta!r}, expected a positive finite number, such as 0.1")
    found = local_sensitivities(answered, order, teachers)
    return float((found * np.exp(-beta * np.arange(found.size))).max())


@dataclass(frozen=True)
class Published:
    """What may be told: an epsilon, its delta and order, and the share of it that publishing it cost."""

    epsilon: float
    delta: float
    order: float
    cost_of_publishing: float
    """Divergence at `order`, in nats; it is part of epsilon."""
    confidence: float
    """How probably the noise did not carry epsilon below the truth."""


def published_epsilon(
    answered: Answered,
    delta: float,
    *,
    order: float,
    beta: float,
    noise: float,
    teachers: int,
    draw: float | None = None,
    confidence: float = 0.99,
) -> Published:
    """A data-dependent epsilon that may be published: at least the true one with probability `confidence`.

    epsilon = min(f + noise S (draw + z), f_0) + noise_cost + slack(order, delta), z the quantile of `confidence`, f `stepped`,
    f_0 the data-independent divergence of the same releases. The first is rounded up to a multiple of 2**-20, so that its last
    digits tell nothing of S.

    `order`, `beta` and `noise` are to be chosen without looking at the votes, from a plan. `draw` is a number of
    N(0, 1) from a cryptographic source, used once; None draws it. The released value protects the same unit as the releases; the sum of
    their costs is the epsilon itself. **Raises** `PrivacyError` for settings outside their ranges.
    """
    check_delta(delta)
    if not 0.5 <= confidence < 1:
        raise PrivacyError(f"confidence is {confidence!r}, expected a probability from 0.5 to below 1")
    quantile = float(ndtri_exp(math.log(confidence)))
    cost = noise_cost(order, beta=beta, noise=noise, quantile=quantile)
    if math.isinf(cost):
        raise PrivacyError(
            f"beta {beta:g} is too large for order {order:g}; expected below {math.log(order / (order - 1)) / 2:.3g}"
        )
    scale = noise * smooth_sensitivity(answered, order, beta=beta, teachers=teachers)
    told = stepped(answered, order) + scale * ((_draw() if draw is None else draw) + quantile)
    told = min(max(0.0, TOLD * math.ceil(told / TOLD)), _independent(answered, order))
    return Published(max(0.0, told + cost + float(slack(order, delta))), delta, order, cost, confidence)


def _draw() -> float:
    from slt_pate.noise import discrete_gaussian

    return float(discrete_gaussian(FINE, 1)[0]) / FINE


def _independent(answered: Answered, order: float) -> float:
    """The divergence of the same releases whatever the votes."""
    total = len(check_votes(answered.votes)) * float(rdp(GaussianMax(answered.sigma), [order])[0])
    if answered.tested is not None:
        total += len(check_votes(answered.tested)) * float(rdp(_test(answered)[0], [order])[0])
    return total


def _stairs(answered: Answered, order: float, distances: int) -> tuple[Floats, NDArray[np.int64]]:
    """The staircase over u, which reaches `distances` moves beyond every query, and the step of each query."""
    event, votes = GaussianMax(answered.sigma), check_votes(answered.votes)
    classes = votes.shape[1]
    if not votes.size or classes == 1:
        return np.zeros(1), np.zeros(0, np.int64)
    log_others = math.log(classes - 1)
    step = math.sqrt(2) / answered.sigma * (1 + 1e-9) / CELLS  # a move is less than CELLS steps, whatever the rounding
    u = -ndtri_exp(np.minimum(log_other(event, votes, grid=GRID) - log_others, math.log(0.5)))
    places = (u / step).astype(np.int64) + CELLS
    edges = step * (np.arange(int(places.max()) + CELLS * (distances + 1) + 1) - CELLS)
    costs = rdp_of_logs(event, np.minimum(0, log_others + log_ndtr(-edges)), order)
    return np.minimum.accumulate(costs), places


def _of_answers(answered: Answered, order: float, distances: int) -> Floats:
    table, places = _stairs(answered, order, distances)
    if not places.size:
        return np.zeros(distances + 1)
    before = np.concatenate([np.full(CELLS, table[0]), table[:-CELLS]])
    after = np.concatenate([table[CELLS:], np.full(CELLS, table[-1])])
    return _over_distances(np.maximum(before - table, table - after), places, distances, CELLS)


def _over_distances(moves: Floats, places: NDArray[np.int64], distances: int, cells: int) -> Floats:
    """Sums over places of the largest move within 0, `cells`, 2 `cells`, ... cells around each, float64 [distances + 1]."""
    found, counts = np.unique(np.clip(places, 0, moves.size - 1), return_counts=True)
    total = np.zeros(distances + 1)
    _add_largest(moves, found, counts, cells, total)
    return total


@njit(cache=True, nogil=True)
def _add_largest(moves, places, counts, cells, total):  # type: ignore[no-untyped-def]
    """Adds to total[d] the largest move within d times `cells` of each place, as often as counts says."""
    most = moves.max()
    for i in range(places.size):
        left = right = places[i]
        largest = moves[left]
        for distance in range(total.size):
            total[distance] += counts[i] * largest
            if largest == most:
                continue
            for _ in range(cells):
                if left > 0:
                    left -= 1
                    largest = max(largest, moves[left])
                if right < moves.size - 1:
                    right += 1
                    largest = max(largest, moves[right])


def _of_tests(answered: Answered, order: float, distances: int) -> Floats:
    assert answered.tested is not None
    event, threshold = _test(answered)
    highest = check_votes([] if answered.tested is None else answered.tested).max(axis=1, initial=0)
    if not highest.size:
        return np.zeros(distances + 1)
    counts = np.arange(int(highest.max()) + distances + 3)
    costs = rdp_of_each(event, counts[:, None], order, threshold=threshold)
    changes = np.abs(np.diff(costs))
    moves = np.maximum(np.concatenate([[0.0], changes]), np.concatenate([changes, [0.0]]))
    return _over_distances(moves, highest, distances, 1)


def _test(answered: Answered) -> tuple[ThresholdTest, float]:
    if answered.test_sigma is None or answered.threshold is None:
        raise PrivacyError("queries were put to a threshold test, but test_sigma or threshold is empty; give both")
    return ThresholdTest(answered.test_sigma), answered.threshold
