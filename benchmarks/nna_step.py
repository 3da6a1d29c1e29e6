"""What does a training step cost when the model computes as on a chip?

    python benchmarks/nna_step.py [--check] [--json FILE] [--chips mixed-8-16 ...] [--models conformer lstm] [--breakdown]

Two models, batch 8, 250 frames: four Conformer blocks of width 256 (feed-forward 1024, 4 heads, kernel 31, relative
positions, dropout 0.1), and an LSTM of 2 layers of 512. A step is forward, backward and AdamW, in float and on the chip,
from the same weights on the same input, in turn, one thread. CPU time of the whole process, so that a machine that others
use disturbs less. Ranges are calibrated beforehand, kernels compiled. The figure is the median of the pairs' ratios with its 95 % bootstrap
interval; the bars are upper ends of 2.5 (Conformer) and 4 (LSTM) on the chip mixed-8-16. The other chips are shown.

--breakdown also shows where a step on the chip spends its time, by operator, forwards and backwards.
--check takes 3 pairs instead of 15.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slt_nna.chip import chip_names
from slt_nna.emulated.gradient import Operator
from slt_nna.nna import Nna
from slt_speech.conformer import ConformerBlock

BATCH, FRAMES = 8, 250
BARS = {"conformer": 2.5, "lstm": 4.0}
BARRED_CHIP = "mixed-8-16"
PAIRS, CHECK_PAIRS = 15, 3
RESAMPLES = 10_000


class Blocks(nn.Module):
    """Four Conformer blocks, without what comes before and behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConformerBlock(
                256, 4, ffn=1024, kernel=31, position="relative", reach="centered", norm="layer", dropout=0.1
            )
            for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        for block in self.blocks:
            x = block(x, mask, None)
        return x


class Layers(nn.Module):
    """An LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(512, 512, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)[0]
        return result


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {"conformer": (Blocks, 256), "lstm": (Layers, 512)}


class Step:
    """A training step of a model of its own, in float or on a chip."""

    def __init__(self, model: str, chip: str | None) -> None:
        torch.manual_seed(0)
        make, width = MODELS[model]
        self.model = make()
        self.x = torch.randn(BATCH, FRAMES, width)
        self.goal = torch.randn(BATCH, FRAMES, width)
        self.nna = None if chip is None else Nna(chip)
        if self.nna is not None:
            self.nna.attach(self.model, iter([self.x[:2]]))
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4)

    def __call__(self) -> float:
        """CPU seconds of one step."""
        start = time.process_time()
        with nullcontext() if self.nna is None else self.nna.use({}):
            y = self.model(self.x)
        loss = (y - self.goal).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss is {float(loss)}")
        return time.process_time() - start


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Median and its 95 % percentile bootstrap interval."""
    values = np.asarray(ratios)
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)


def measured(model: str, chip: str, pairs: int) -> dict[str, Any]:
    """Ratios of steps taken in turn."""
    plain, chipped = Step(model, None), Step(model, chip)
    for step in (plain, chipped, plain, chipped):
        step()
    times: list[tuple[float, float]] = []
    for place in range(pairs):
        if place % 2:
            second = chipped()
            times.append((plain(), second))
        else:
            first = plain()
            times.append((first, chipped()))
    median, low, high = interval([two / one for one, two in times])
    return {
        "model": model,
        "chip": chip,
        "ratio": round(median, 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "float_s": round(float(np.median([one for one, _ in times])), 4),
        "chip_s": round(float(np.median([two for _, two in times])), 4),
        "bar": BARS[model] if chip == BARRED_CHIP else None,
    }


def breakdown(model: str, chip: str, steps: int = 3) -> tuple[list[tuple[str, float]], float]:
    """CPU seconds of one step by operator and direction, and in all."""
    spent: Counter[str] = Counter()
    step = Step(model, chip)
    step()

    def timed(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            start = time.process_time()
            result = call(*args)
            spent[name] += time.process_time() - start
            return result

        return run

    kinds = Operator.__subclasses__()
    before = [(kind, kind.__dict__["forward"], kind.__dict__["gradient"]) for kind in kinds]
    try:
        for kind, forward, gradient in before:
            kind.forward = staticmethod(timed(forward.__func__, f"{kind.__name__} forward"))  # type: ignore[method-assign]
            kind.gradient = staticmethod(timed(gradient.__func__, f"{kind.__name__} backward"))  # type: ignore[method-assign]
        total = sum(step() for _ in range(steps)) / steps
    finally:
        for kind, forward, gradient in before:
            kind.forward, kind.gradient = forward, gradient  # type: ignore[method-assign]
    rows = [(name, seconds / steps) for name, seconds in spent.most_common()]
    return [*rows, ("everything else", total - sum(seconds for _, seconds in rows))], total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help=f"{CHECK_PAIRS} pairs of steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--chips", nargs="+", default=list(chip_names()), metavar="CHIP", help="chips, by name or file")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), help="models")
    parser.add_argument("--breakdown", action="store_true", help="show where the time goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = CHECK_PAIRS if options.check else PAIRS
    print(f"batch {BATCH}, {FRAMES} frames, {pairs} pairs of steps, torch {torch.__version__}, one thread")
    rows = []
    for model in options.models:
        for chip in options.chips:
            row = measured(model, chip, pairs)
            rows.append(row)
            print(
                f"{model:10s} {row['chip']:14s} float {row['float_s']:.3f} s, on the chip {row['chip_s']:.3f} s, "
                f"ratio {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
                + ("" if row["bar"] is None else f"; bar {row['bar']}"),
                flush=True,
            )
            if options.breakdown:
                found, total = breakdown(model, chip)
                for name, seconds in found:
                    print(f"    {name:24s} {1000 * seconds:8.1f} ms {100 * seconds / total:5.1f} %")
    if options.json is not None:
        machine = platform.processor() or platform.machine()
        figures = {"rows": rows, "pairs": pairs, "machine": machine, "torch": torch.__version__}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row["bar"] is None or row["high"] <= row["bar"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
