"""The Rényi orders at which costs are added up."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sltcore.errors import PrivacyError

ORDERS: NDArray[np.float64] = np.concatenate(
    [
        [1.01, 1.02, 1.035, 1.05, 1.075],
        np.arange(11, 110) / 10,
        np.arange(11.0, 64.0),
        [64, 80, 100, 128, 160, 200, 256, 320, 400, 512, 724, 1024, 1448, 2048, 4096, 8192],
    ]
)
"""From 1.01, which matters where epsilon is large, to 8192, which matters where it is small; dp-accounting's are among them."""


def check_orders(orders: ArrayLike) -> NDArray[np.float64]:
    """Orders float64 [a]. **Raises** `PrivacyError` for none, or one that is not finite and above 1."""
    found = np.atleast_1d(np.asarray(orders, np.float64))
    if found.ndim != 1 or not found.size or not np.all(np.isfinite(found) & (found > 1)):
        raise PrivacyError(
            f"orders are {orders!r}, expected finite numbers above 1, such as slt_pate.accounting.orders.ORDERS"
        )
    return found
