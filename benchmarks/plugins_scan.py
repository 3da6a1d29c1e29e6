"""What does one more installed plugin cost `slt plugins`? Its time with 60 dummy plugins over its time with 2.

    python benchmarks/plugins_scan.py [--check] [--json FILE] [--pairs N]

Each pair runs `slt plugins` once beside 2 and once beside 60 dummies, in turn, each plugin a distribution of its own with
one component, compiled like pip compiles it. CPU seconds are those of the command and its children. The bar (at most 2)
is held against the upper end of the 95 % interval of the median ratio (order statistics).
"""

from __future__ import annotations

import argparse
import compileall
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BAR = 2.0
FEW, MANY = 2, 60
PLUGIN = """
from sltcore.plugin import Component, hookimpl
SLT_API = (1, 0)
@hookimpl
def slt_components():
    return [Component("decoder", "dummy-{n}", impl="slt_dummy_{n}.build:build", config="slt_dummy_{n}.config:C", summary="a dummy")]
"""


def install(folder: Path, count: int) -> None:
    """Write `count` dummy distributions into a folder."""
    for n in range(count):
        package = folder / f"slt_dummy_{n}"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "plugin.py").write_text(PLUGIN.format(n=n))
        info = folder / f"sltcore_dummy_{n}-1.0.dist-info"
        info.mkdir()
        (info / "entry_points.txt").write_text(f"[sltcore]\ndummy-{n} = slt_dummy_{n}.plugin\n")
        description = "What it is for, at the usual length of a README.\n" * 60
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sltcore-dummy-{n}\nVersion: 1.0\n\n{description}")
    compileall.compile_dir(str(folder), quiet=1)


def measure(folder: Path, rows: int) -> tuple[float, float]:
    """CPU and wall seconds of one call; the number of rows is checked."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    command = [sys.executable, "-c", "from sltcore.cli import main; main()", "plugins", "--json"]
    output = subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = [row for row in json.loads(output) if row["plugin"].startswith("dummy-")]
    assert len(found) == rows
    assert all(row["status"] in ("ok", "slow") for row in found)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def interval(values: list[float]) -> tuple[float, float]:
    """Order statistics that enclose the median with at least 95 % (binomial, exact)."""
    ordered, n = sorted(values), len(values)
    tail = 0.0
    for k in range(n // 2):
        tail += math.comb(n, k) / 2**n
        if tail > 0.025:
            return ordered[max(k - 1, 0)], ordered[n - max(k, 1)]
    return ordered[0], ordered[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="exit 1 when the bar is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the numbers")
    parser.add_argument("--pairs", type=int, default=20, help="interleaved pairs (20)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as many:
        install(Path(few), FEW)
        install(Path(many), MANY)
        measure(Path(few), FEW), measure(Path(many), MANY)  # fills the file cache
        pairs = [(measure(Path(few), FEW), measure(Path(many), MANY)) for _ in range(arguments.pairs)]
    numbers: dict[str, object] = {
        "machine": platform.platform(),
        "python": platform.python_version(),
        "pairs": len(pairs),
    }
    upper = {}
    print(f"{'':6}{FEW:>3} plugins  {MANY:>3} plugins   ratio (95 % interval of the median), {len(pairs)} pairs")
    for index, name in enumerate(("CPU", "wall")):
        small, large = [pair[0][index] for pair in pairs], [pair[1][index] for pair in pairs]
        ratios = [b / a for a, b in zip(small, large, strict=True)]
        low, high = interval(ratios)
        upper[name] = high
        middle = statistics.median(ratios)
        print(
            f"{name:6}{statistics.median(small):9.3f} s{statistics.median(large):11.3f} s   {middle:.2f} ({low:.2f} to {high:.2f})"
        )
        numbers[name] = {"few_s": small, "many_s": large, "ratio": middle, "low": low, "high": high}
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")
    good = upper["CPU"] <= BAR
    print(
        f"bar: CPU time with {MANY} plugins at most {BAR:g} times that with {FEW}: {upper['CPU']:.2f} {'kept' if good else 'MISSED'}"
    )
    return 0 if good or not arguments.check else 1


if __name__ == "__main__":
    sys.exit(main())
