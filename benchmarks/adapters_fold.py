"""What do sixteen active updates cost, folded into one adapter at each place?

    python benchmarks/adapters_fold.py [--check] [--json FILE]

Twelve Conformer blocks of width 256, batch 8 of 250 frames, inference on one thread. The same blocks without adapters, with
the parallel sum of sixteen updates of rank 32 behind each block as it is written (sixteen norms, sixteen pairs of matrix
products), with that sum folded, as evaluation does by itself, and with one update of rank 512, which is what the folded sum
should cost. Each round calls all four in turning order, each between two calls of the base; figures are medians over rounds
of CPU time, with 95 % bootstrap intervals. Bars, for the upper ends: what the folded sum adds is at most 0.5 of what the
unfolded one adds, and the whole at most 1.3 of the base. Outputs of both sums are compared. --check takes few rounds.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slt_residual_adapters.base_hash import hash_model
from slt_residual_adapters.residual_adapters import ResidualAdapters
from slt_residual_adapters.update import Update
from slt_speech.conformer import ConformerBlock

WIDTH, BLOCKS, HEADS, KERNEL = 256, 12, 4, 31
BATCH, FRAMES = 8, 250
UPDATES, RANK = 16, 32
ADDED_BAR, WHOLE_BAR, TOLERANCE = 0.5, 1.3, 2e-6
ROUNDS, CHECK_ROUNDS = 25, 5
RESAMPLES = 10_000
FOLDED, UNFOLDED, WIDE = "sum of 16, folded", "sum of 16, unfolded", "one update of rank 512"


class Blocks(nn.Module):
    """A stack of Conformer blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConformerBlock(
                WIDTH,
                HEADS,
                ffn=4 * WIDTH,
                kernel=KERNEL,
                position="relative",
                reach="centered",
                norm="layer",
                dropout=0.0,
            )
            for _ in range(BLOCKS)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Frames [b t d] of frames [b t d]."""
        for block in self.blocks:
            x = block(x, mask, None)
        return x


def trained(base: nn.Module, name: str, rank: int, seed: int) -> Update:
    """An update as training leaves it, norms and all: of random numbers, since only time is asked for."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, scale: float) -> Tensor:
        return scale * torch.randn(*shape, generator=generator)

    tensors = {
        f"blocks.{place}": {
            "gain": 1 + drawn(WIDTH, scale=0.1),
            "bias": drawn(WIDTH, scale=0.1),
            "down": drawn(rank, WIDTH, scale=WIDTH**-0.5),
            "up": drawn(WIDTH, rank, scale=0.01),
        }
        for place in range(BLOCKS)
    }
    return Update(name, hash_model(base), tensors)


def arms() -> dict[str, nn.Module]:
    """The base, and copies of it that updates are attached to."""
    torch.manual_seed(0)
    base = Blocks().eval()
    updates = [trained(base, f"u{k:02d}", RANK, seed=k) for k in range(UPDATES)]
    wide = [trained(base, "wide", UPDATES * RANK, seed=99)]
    made: dict[str, nn.Module] = {"base": base}
    for name, given, folds in ((FOLDED, updates, True), (UNFOLDED, updates, False), (WIDE, wide, True)):
        model = copy.deepcopy(base)
        adapters = ResidualAdapters(updates=given, folds=folds)
        adapters.attach(model)
        made[name] = model
    return made


def seconds(model: nn.Module, x: Tensor, mask: Tensor) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    model(x, mask)
    return time.process_time() - start


def measured(made: dict[str, nn.Module], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(CPU seconds, those of the base around it) of every arm in every round."""
    x = torch.randn(BATCH, FRAMES, WIDTH, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(BATCH, FRAMES, dtype=torch.bool)
    for model in made.values():
        seconds(model, x, mask)  # folds, allocates
        seconds(model, x, mask)
    names = [name for name in made if name != "base"]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds):
        before = seconds(made["base"], x, mask)
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            taken = seconds(made[name], x, mask)
            after = seconds(made["base"], x, mask)
            found[name].append((taken, (before + after) / 2))
            before = after
    return found


def interval(values: Sequence[float]) -> dict[str, float]:
    """Median and its 95 % percentile bootstrap interval."""
    rows = np.asarray(values)
    drawn = np.random.default_rng(0).integers(0, len(rows), (RESAMPLES, len(rows)))
    low, high = np.quantile(np.median(rows[drawn], axis=1), [0.025, 0.975])
    return {"median": round(float(np.median(rows)), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def difference(made: dict[str, nn.Module]) -> float:
    """Largest difference between both sums behind the first block, relative to the largest value."""
    x = torch.randn(BATCH, FRAMES, WIDTH, generator=torch.Generator().manual_seed(2))
    mask = torch.ones(BATCH, FRAMES, dtype=torch.bool)
    folded, unfolded = (made[name].blocks[0](x, mask, None) for name in (FOLDED, UNFOLDED))  # type: ignore[index]
    return float((folded - unfolded).abs().max() / unfolded.abs().max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help=f"{CHECK_ROUNDS} rounds instead of {ROUNDS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        made = arms()
        off = difference(made)
        found = measured(made, CHECK_ROUNDS if options.check else ROUNDS)
    whole = {name: interval([taken / base for taken, base in pairs]) for name, pairs in found.items()}
    added = {name: [taken - base for taken, base in pairs] for name, pairs in found.items()}
    share = interval([folded / unfolded for folded, unfolded in zip(added[FOLDED], added[UNFOLDED], strict=True)])
    base_s = float(np.median([base for pairs in found.values() for _, base in pairs]))
    figures: dict[str, Any] = {
        "bars": {"added": ADDED_BAR, "whole": WHOLE_BAR, "difference": TOLERANCE},
        "base_cpu_s": round(base_s, 4),
        "of_base": whole,
        "folded_adds_of_unfolded": share,
        "largest_relative_difference": off,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    print(f"{len(found[FOLDED])} rounds, {base_s:.3f} s of CPU time for a call of the base, torch {torch.__version__}")
    for name, one in whole.items():
        bar = f"; bar {WHOLE_BAR}" if name == FOLDED else ""
        print(f"{name:24s} {one['median']:.3f} of the base, 95 % interval [{one['low']:.3f}, {one['high']:.3f}]{bar}")
    print(
        f"folded adds {share['median']:.3f} of what unfolded adds, 95 % interval [{share['low']:.3f}, {share['high']:.3f}]; "
        f"bar {ADDED_BAR}"
    )
    print(f"folded and unfolded differ by {off:.1e} of the largest value; bar {TOLERANCE}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    good = share["high"] <= ADDED_BAR and whole[FOLDED]["high"] <= WHOLE_BAR and off <= TOLERANCE
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
