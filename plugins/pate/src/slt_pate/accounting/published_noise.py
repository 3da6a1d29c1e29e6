"""What a figure costs that is told with noise scaled to its own smooth sensitivity."""

from __future__ import annotations

import math

from slt_pate.accounting.orders import check_orders
from sltcore.errors import PrivacyError


def noise_cost(order: float, *, beta: float, noise: float, quantile: float = 0.0) -> float:
    """Divergence at `order` of publishing f + noise S (Z + z), Z of N(0, 1), S the smooth sensitivity at `beta`, z the
    `quantile`, in nats; infinite where beta is too large for the order.

    S of a neighbour is r S, r of e^-beta to e^beta, and so is the deviation; f moves by at most the smaller S, and z S moves
    with S: in units of S the mean moves by m = min(1, r) + noise z |r - 1|. At the worse end of r that is
    ln r + ln(r^2 / w) / (2 (a-1)) + a m^2 / (2 noise^2 w),  w = a r^2 + 1 - a.

    **Source**: Gil, Alajaji, Linder 2013 (Rényi divergence of normal distributions), in place of the bound in appendix C of
    arXiv:1802.08908.
    """
    check_orders([order])
    if not noise > 0 or not beta > 0:
        raise PrivacyError(f"noise is {noise!r} and beta {beta!r}, expected positive numbers")
    worst = 0.0
    for ratio in (math.exp(-beta), 1.0, math.exp(beta)):
        square = ratio * ratio
        width = order * square + 1 - order
        if width <= 0:
            return math.inf
        scale = math.log(ratio) + math.log(square / width) / (2 * (order - 1))
        moved = min(1.0, ratio) / noise + quantile * abs(ratio - 1)
        worst = max(worst, scale + order * moved**2 / (2 * width))
    return worst
