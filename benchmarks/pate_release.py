"""What does a private query cost: exact noise, the noisy maximum, a ledger that is on disk before the answer leaves?

    python benchmarks/pate_release.py [--check] [--json FILE]

100,000 queries of 30 classes, one thread, medians over rounds of CPU time. A candidate is one attempt of the rejection
sampler; in theory a discrete Gaussian value takes 1 / ((1 - 1/e) sqrt(pi/2) e^-1/2) = 2.081 of them, a discrete Laplace one
1 / (1 - 1/e) = 1.582. "system" is the share of the time within os.urandom, the cryptographic source. Beside it: rounded
Gaussian noise for 2,000,000 coordinates, and numpy's normal, which is neither exact nor cryptographic. The ledger writes
10,000 queries in one batch of lines with one sync, then 200 lines with a sync each, in the folder for temporary files; what a
sync takes is the disk's. Bars: 100,000 x 30 values in 6 s of CPU, candidates within 2 % of theory, 10,000 lines in one
batch in 2 s of CPU. --check takes one round; exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from slt_pate import noise
from slt_pate.events import Charge, GaussianMax
from slt_pate.ledger import Ledger
from slt_pate.mechanisms import ConfidentGNMax, GNMax, LNMax, Mechanism

QUERIES, CLASSES, COORDINATES = 100_000, 30, 2_000_000
SIGMA = 40.0
LINES, SINGLES = 10_000, 200
ROUNDS = 5
NOISE_BAR_S, LEDGER_BAR_S, CANDIDATES_BAR = 6.0, 2.0, 1.02
KEPT = 1 - math.exp(-1)
THEORY = {"discrete Gaussian": 1 / (KEPT * math.sqrt(math.pi / 2) * math.exp(-0.5)), "discrete Laplace": 1 / KEPT}


class Free:
    """A guard without a limit."""

    def allows(self, charges: Sequence[Charge]) -> bool:
        return True

    def charge(self, charges: Sequence[Charge]) -> None:
        return None


class Watched:
    """Counts candidates and bytes, and the time within the system's source, while it is entered."""

    def __enter__(self) -> Watched:
        self.candidates, self.bytes, self.system_s = 0, 0, 0.0
        self._kept = (noise._below, os.urandom)

        def below(n: int, count: int) -> Any:
            self.candidates += count
            return self._kept[0](n, count)

        def urandom(count: int) -> bytes:
            began = time.process_time()
            content = self._kept[1](count)
            self.system_s += time.process_time() - began
            self.bytes += count
            return content

        noise._below, os.urandom = below, urandom  # type: ignore[assignment]
        return self

    def __exit__(self, *exception: object) -> None:
        noise._below, os.urandom = self._kept


def cpu_s(call: Callable[[], Any], rounds: int) -> float:
    """Median CPU time in seconds."""
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return median(taken)


def noise_figures(rounds: int) -> dict[str, dict[str, float]]:
    """Time, candidates and bytes for each law."""
    values = QUERIES * CLASSES
    found = {}
    draws: dict[str, Callable[[], Any]] = {
        "discrete Gaussian": lambda: noise.gaussian_votes(SIGMA, (QUERIES, CLASSES)),
        "discrete Laplace": lambda: noise.laplace_votes(SIGMA, (QUERIES, CLASSES)),
    }
    for name, draw in draws.items():
        taken = cpu_s(draw, rounds)
        with Watched() as watched:
            began = time.process_time()
            draw()
            share = watched.system_s / (time.process_time() - began)
        # The last chunk asks for a little more than it needs: that is counted.
        per_value = watched.candidates / values
        found[name] = {
            "cpu_s": taken,
            "ns": taken / values * 1e9,
            "candidates": per_value,
            "bytes": watched.bytes / values,
            "system": share,
        }
    return found


def ledger_figures() -> dict[str, float]:
    """Seconds of a batch, of single lines, and of opening again."""
    cost = (Charge(GaussianMax(SIGMA)),)
    terms: dict[str, Any] = {"epsilon": 4.0, "delta": 1e-5, "unit": "speaker", "guard": Free()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        with Ledger.open(path, **terms) as ledger:
            began, wall = time.process_time(), time.perf_counter()
            ledger.append_all((cost, f"token {place}") for place in range(LINES))
            batch, batch_wall = time.process_time() - began, time.perf_counter() - wall
            wall = time.perf_counter()
            for place in range(SINGLES):
                ledger.append(cost, f"token {place}")
            single = (time.perf_counter() - wall) / SINGLES
        began = time.process_time()
        Ledger.open(path, **terms).close()
        opening = time.process_time() - began
    return {"batch_cpu_s": batch, "batch_wall_s": batch_wall, "single_wall_s": single, "open_cpu_s": opening}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help=f"1 round instead of {ROUNDS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args()
    rounds = 1 if options.check else ROUNDS

    laws = noise_figures(rounds)
    votes = np.random.default_rng(0).multinomial(250, np.full(CLASSES, 1 / CLASSES), QUERIES)
    mechanisms: dict[str, Mechanism] = {
        "GNMax": GNMax(SIGMA),
        "LNMax": LNMax(SIGMA),
        "Confident-GNMax": ConfidentGNMax(30.0, SIGMA, sigma=SIGMA),
    }
    releases = {name: cpu_s(lambda one=one: one.release_batch(votes), rounds) for name, one in mechanisms.items()}  # type: ignore[misc]
    rounded = cpu_s(lambda: noise.rounded_gaussian(1000.0, COORDINATES), rounds)
    plain = cpu_s(lambda: np.random.default_rng().normal(size=COORDINATES), rounds)
    ledger = ledger_figures()

    print(f"{QUERIES:,} queries of {CLASSES} classes, {rounds} rounds, numpy {np.__version__}, {platform.machine()}")
    for name, one in laws.items():
        print(
            f"{name:18s} {one['cpu_s']:.2f} s of CPU, {one['ns']:.0f} ns a value, {one['candidates']:.3f} candidates (theory "
            f"{THEORY[name]:.3f}), {one['bytes']:.0f} bytes, system {one['system']:.0%}; bar {NOISE_BAR_S:g} s"
        )
    for name, taken in releases.items():
        print(f"{name:18s} {taken:.2f} s of CPU, {taken / QUERIES * 1e6:.1f} µs a query")
    print(
        f"rounded Gaussian   {rounded:.3f} s for {COORDINATES:,} coordinates, {rounded / COORDINATES * 1e9:.0f} ns each; numpy's "
        f"normal {plain / COORDINATES * 1e9:.0f} ns"
    )
    print(
        f"ledger             {LINES:,} lines in one batch {ledger['batch_cpu_s']:.2f} s of CPU, {ledger['batch_wall_s']:.2f} s in all "
        f"(bar {LEDGER_BAR_S:g} s); a line with its own sync {ledger['single_wall_s'] * 1e3:.2f} ms; opening and verifying "
        f"{ledger['open_cpu_s']:.2f} s of CPU"
    )
    figures = {
        "noise": laws,
        "releases_cpu_s": releases,
        "rounded_cpu_s": rounded,
        "numpy_cpu_s": plain,
        "ledger": ledger,
    }
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    good = (
        all(one["cpu_s"] <= NOISE_BAR_S for one in laws.values())
        and all(one["candidates"] <= CANDIDATES_BAR * THEORY[name] for name, one in laws.items())
        and ledger["batch_cpu_s"] <= LEDGER_BAR_S
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
