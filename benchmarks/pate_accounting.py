"""What does accounting cost: 100,000 private queries by their votes, and publishing what they came to?

    python benchmarks/pate_accounting.py [--check] [--json FILE]

One thread, medians over rounds of CPU time; the first call, which compiles, is left out and told apart. 100,000 different
histograms of 250 teachers, of 1,000 classes and of 10, noise of 20 votes, at all orders; then the same from histograms that
mostly repeat. Beside it the published formulas for one query after another, numpy over classes and orders, for the first 300
queries and scaled up: both sums are compared. Data-independent: the same number of queries of known noise, and epsilon.
Smooth sensitivity: 1,000 queries of 10 classes, 250 teachers, GNMax alone and with the threshold test. Bars: 3 s for 1,000
classes, 0.3 s for 10, 5 ms data-independent, 0.5 s for smooth sensitivity, 1e-8 between the sums. --check takes one round;
exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from slt_pate.accounting.conversion import epsilon
from slt_pate.accounting.independent import rdp
from slt_pate.accounting.orders import ORDERS
from slt_pate.accounting.smooth_sensitivity import Answered, smooth_sensitivity
from slt_pate.accounting.votes import rdp_of_votes
from slt_pate.events import GaussianMax

QUERIES, TEACHERS, SIGMA, DELTA = 100_000, 250, 20.0, 1e-5
ORDER, BETA, FEW = 20.0, 0.01, 1_000
ONE_BY_ONE = 300
ROUNDS = 5
BARS_S = {"1,000 classes": 3.0, "10 classes": 0.3, "data-independent": 0.005, "smooth sensitivity": 0.5}
SAME = 1e-8

Floats = NDArray[np.float64]


def one_by_one(votes: NDArray[np.int64], sigma: float, orders: Floats) -> Floats:
    """Theorem 6 of the 2018 paper with its proposition 10, one histogram after another, noise without a grid."""
    total = np.zeros(orders.size)
    for row in votes:
        best = row.argmax()
        tails = log_ndtr((np.delete(row, best) - row[best]) / (math.sqrt(2) * sigma))
        log_q = float(tails.max() + math.log(np.exp(tails - tails.max()).sum()))
        most = orders / sigma**2
        high = sigma * math.sqrt(-log_q) if log_q < 0 else 0.0
        if high > 1:
            low, cost = high + 1, high / sigma**2
            room = (high - 1) * cost - high * math.log(low / (low - 1) * high / (high - 1))
            if log_q <= room and log_q + cost < 0:
                log_rest = math.log1p(-math.exp(log_q))
                log_a = log_rest - math.log(-math.expm1((log_q + cost) * (1 - 1 / high)))
                log_b = low / sigma**2 - log_q / (low - 1)
                both = np.logaddexp(log_rest + (orders - 1) * log_a, log_q + (orders - 1) * log_b) / (orders - 1)
                most = np.where(orders < low, np.minimum(most, both), most)
        total += most
    return total


def histograms(queries: int, classes: int, seed: int) -> NDArray[np.int64]:
    """Votes int64 [q v] that agree from hardly to fully; hardly any two are equal."""
    rng = np.random.default_rng(seed)
    agree = rng.uniform(0.3, 1.0, queries)
    winner = rng.integers(0, classes, queries)
    first = rng.binomial(TEACHERS, agree)
    votes = np.zeros((queries, classes), np.int64)
    votes[np.arange(queries), winner] = first
    others = rng.integers(0, classes, (queries, TEACHERS), dtype=np.int32)
    for row, chosen, left in zip(votes, others, TEACHERS - first, strict=True):
        row += np.bincount(chosen[:left], minlength=classes)
    return votes


def seconds(work: Callable[[], Any], rounds: int) -> float:
    """Median CPU seconds of a call."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return median(taken)


def by_votes(classes: int, rounds: int) -> dict[str, Any]:
    """100,000 queries at once, and the first of them one by one."""
    event, votes = GaussianMax(SIGMA), histograms(QUERIES, classes, classes)
    few = votes[:ONE_BY_ONE]
    start = time.process_time()
    slow = one_by_one(few, SIGMA, ORDERS)
    slow_s = (time.process_time() - start) * QUERIES / ONE_BY_ONE
    fast = rdp_of_votes(event, few, ORDERS, grid=0.0)
    repeated = votes[np.random.default_rng(0).integers(0, 200, QUERIES)]
    total = rdp_of_votes(event, votes)
    return {
        "cpu_s": seconds(lambda: rdp_of_votes(event, votes), rounds),
        "repeated_cpu_s": seconds(lambda: rdp_of_votes(event, repeated), rounds),
        "one_by_one_cpu_s": slow_s,
        "apart": float(np.abs(fast / slow - 1).max()),
        "epsilon": epsilon(total, ORDERS, DELTA).epsilon,
        "epsilon_independent": epsilon(QUERIES * rdp(event), ORDERS, DELTA).epsilon,
    }


def measure(rounds: int) -> dict[str, Any]:
    """All figures."""
    start = time.process_time()
    small = histograms(4, 5, 0)
    rdp_of_votes(GaussianMax(SIGMA), small)
    smooth_sensitivity(Answered(small, SIGMA), ORDER, beta=BETA, teachers=TEACHERS)
    found: dict[str, Any] = {"first_call_s": time.process_time() - start}
    found["1,000 classes"] = by_votes(1000, rounds)
    found["10 classes"] = by_votes(10, rounds)
    event = GaussianMax(SIGMA)
    found["data-independent"] = {"cpu_s": seconds(lambda: epsilon(QUERIES * rdp(event), ORDERS, DELTA), 50 * rounds)}
    votes = histograms(FEW, 10, 1)
    plain = Answered(votes, SIGMA)
    confident = Answered(votes[votes.max(axis=1) >= 150], SIGMA, votes, 1.5 * SIGMA, 150.0)
    found["smooth sensitivity"] = {
        "cpu_s": seconds(lambda: smooth_sensitivity(plain, ORDER, beta=BETA, teachers=TEACHERS), rounds),
        "confident_cpu_s": seconds(lambda: smooth_sensitivity(confident, ORDER, beta=BETA, teachers=TEACHERS), rounds),
        "value": smooth_sensitivity(plain, ORDER, beta=BETA, teachers=TEACHERS),
    }
    return found


def missed(found: dict[str, Any]) -> list[str]:
    """The bars that figures miss."""
    late = [
        f"{name}: {found[name][key]:.3g} s, the bar is {bar:g} s"
        for name, bar in BARS_S.items()
        for key in ("cpu_s", "confident_cpu_s")
        if found[name].get(key, 0) > bar
    ]
    apart = [
        f"{name}: sums are {found[name]['apart']:.1e} apart" for name in BARS_S if found[name].get("apart", 0) > SAME
    ]
    return late + apart


def main() -> int:
    """Measure, print, and tell by the exit status whether the bars hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="one round")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    found = measure(1 if options.check else ROUNDS)
    found["machine"] = {"python": platform.python_version(), "processor": platform.processor() or platform.machine()}
    print(f"first call, compiled or from the cache: {found['first_call_s']:.2f} s")
    for name in ("1,000 classes", "10 classes"):
        row = found[name]
        print(
            f"{QUERIES:,} queries of {name}: {row['cpu_s']:.3f} s (repeated histograms {row['repeated_cpu_s']:.3f} s; one by one "
            f"{row['one_by_one_cpu_s']:.1f} s, {row['one_by_one_cpu_s'] / row['cpu_s']:.0f} times), sums {row['apart']:.1e} "
            f"apart; epsilon {row['epsilon']:.3f}, data-independent {row['epsilon_independent']:.3f}"
        )
    print(f"data-independent: {1e3 * found['data-independent']['cpu_s']:.3f} ms")
    row = found["smooth sensitivity"]
    print(
        f"smooth sensitivity of {FEW:,} queries: {row['cpu_s']:.3f} s, with the test {row['confident_cpu_s']:.3f} s; "
        f"{row['value']:.3g} nats at order {ORDER:g}, beta {BETA:g}"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    misses = missed(found)
    for line in misses:
        print(f"missed: {line}")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
