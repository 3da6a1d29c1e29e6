"""What does a step of DP-SGD cost over a plain step, and how much memory does it take beside Opacus?

    python benchmarks/dp_sgd_step.py [--check] [--json FILE]

Four Conformer blocks of width 144 and a head, utterances of 250 frames, each a unit of its own; forward, backward and SGD, one
thread, the same weights and input for all. "plain" is a batch without privacy. "grouped" is what
`privacy: dp-sgd` does: eight units together, each gradient clipped, summed on a grid, noise from the operating system's cryptographic
source, rounded; "one by one" the same with its engine micro-batches, as for models that mix rows. "opacus" is Opacus
with its hooks (GradSampleModule and DPOptimizer, noise from torch's generator, which is not cryptographic). Each round takes a
step of each in turning order between two plain steps. Time is that of the CPU; given are the best step of each over all rounds,
their ratio to the best plain step, and the median over rounds of the ratio to the mean of the two plain steps around.
Memory is the peak resident set of a fresh process above that with the model and the batch loaded, over two steps.

Bars: grouped at most 1.2 times the plain step at 8 utterances (by the best), and at 32 at most half of the memory of Opacus'
hooks. Without noise and at one thread the sums of clipped gradients of both must agree within 1e-6 of the clip. --check takes few rounds; exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from slt_pate.dp_sgd.clipped_sum import ClippedSum
from slt_pate.dp_sgd.row_gradients import RowGradients
from slt_speech.conformer import ConformerBlock

WIDTH, BLOCKS, HEADS, KERNEL, LABELS = 144, 4, 4, 31, 32
FRAMES = 250
FEW, MANY = 8, 32
CLIP, NOISE, RATE = 1.0, 1.0, 1e-3
TIME_BAR, MEMORY_BAR, GRADIENT_BAR = 1.2, 0.5, 1e-6
ROUNDS, CHECK_ROUNDS = 15, 4
STEPS = 2
MIB = 2**20


class Recogniser(nn.Module):
    """Losses [b] of frames [b t d] and a label for each frame [b t]."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConformerBlock(
                WIDTH,
                HEADS,
                ffn=4 * WIDTH,
                kernel=KERNEL,
                position="rotary",
                reach="centered",
                norm="layer",
                dropout=0.0,
            )
            for _ in range(BLOCKS)
        )
        self.head = nn.Linear(WIDTH, LABELS)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        for block in self.blocks:
            x = block(x, mask, None)
        return nn.functional.cross_entropy(self.head(x).transpose(1, 2), labels, reduction="none").mean(1)


def batch(size: int) -> tuple[Tensor, Tensor]:
    """Random frames and labels."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, FRAMES, WIDTH, generator=generator), torch.randint(
        LABELS, (size, FRAMES), generator=generator
    )


def recogniser() -> Recogniser:
    """The model, the same each time."""
    torch.manual_seed(0)
    return Recogniser()


Step = Callable[[], Any]


def plain(model: Recogniser, size: int) -> Step:
    """A step of the mean loss of a batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    x, labels = batch(size)

    def step() -> None:
        optimizer.zero_grad()
        model(x, labels).mean().backward()
        optimizer.step()

    return step


def grouped(model: Recogniser, size: int, noise: float = NOISE) -> Step:
    """A step of ours, each utterance a unit, as many together as the engine takes."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    clipped = ClippedSum(list(model.named_parameters()), clip=CLIP)
    rows = RowGradients(model, clipped)
    x, labels = batch(size)

    def step() -> None:
        for first in range(0, size, rows.most):
            places = slice(first, min(size, first + rows.most))
            with rows.collected(places.stop - first) as found:
                model(x[places], labels[places]).sum().backward()
            clipped.add_rows(found)
        clipped.release(noise, size)
        if noise:
            optimizer.step()

    return step


def one_by_one(model: Recogniser, size: int, noise: float = NOISE) -> Step:
    """A step of ours, each utterance a unit, one after another."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    clipped = ClippedSum(list(model.named_parameters()), clip=CLIP)
    x, labels = batch(size)

    def step() -> None:
        for row in range(size):
            with clipped.unit():
                model(x[row : row + 1], labels[row : row + 1]).mean().backward()
        clipped.release(noise, size)
        if noise:
            optimizer.step()

    return step


def opacus(model: Recogniser, size: int, noise: float = NOISE) -> Step:
    """A step of Opacus with hooks."""
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    wrapped = GradSampleModule(model, loss_reduction="mean")
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=RATE),
        noise_multiplier=noise,
        max_grad_norm=CLIP,
        expected_batch_size=size,
    )
    x, labels = batch(size)

    def step() -> None:
        optimizer.zero_grad()
        wrapped(x, labels).mean().backward()
        if noise:
            optimizer.step()
        else:
            optimizer.pre_step()

    return step


ARMS: dict[str, Callable[..., Step]] = {"plain": plain, "grouped": grouped, "one by one": one_by_one, "opacus": opacus}


def timed(step: Step) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


def times(rounds: int) -> dict[str, dict[str, float]]:
    """CPU seconds of a step of each, and ratios to the plain step."""
    steps = {name: arm(recogniser(), FEW) for name, arm in ARMS.items()}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    ratios: dict[str, list[float]] = {name: [] for name in steps if name != "plain"}
    for number in range(rounds):
        order = list(ratios) if number % 2 else list(ratios)[::-1]
        for name in order:
            before, own, after = timed(steps["plain"]), timed(steps[name]), timed(steps["plain"])
            seconds["plain"] += [before, after]
            seconds[name].append(own)
            ratios[name].append(2 * own / (before + after))
    best = {name: min(found) for name, found in seconds.items()}
    return {
        name: {
            "best_s": best[name],
            "ratio": best[name] / best["plain"],
            "median_ratio": median(ratios.get(name, [1.0])),
        }
        for name in steps
    }


def difference() -> float:
    """The largest difference of our sums from that of Opacus of clipped gradients, in clips."""
    found = []
    for arm in (grouped, one_by_one, opacus):
        model = recogniser()
        arm(model, FEW, noise=0.0)()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) * FEW)
    return max(float((own - found[-1]).abs().max()) for own in found[:-1]) / CLIP


def resident() -> tuple[int, int]:
    """Bytes of this process in memory, now and at most."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    now, most = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) * 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[index]
    return now, most


def memory_here(name: str) -> int:
    """Peak bytes above what stands in memory with the model and a first utterance through it."""
    model, (x, labels) = recogniser(), batch(MANY)
    with torch.no_grad():
        model(x[:1], labels[:1])
    if name == "opacus":
        import opacus  # noqa: F401
    if name in ("grouped", "one by one"):  # compiled once, as any first step does
        small = ClippedSum([("w", nn.Parameter(torch.zeros(2)))], clip=1.0)
        small.add()
        small.release(1.0, 1.0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    now, _ = resident()
    step = ARMS[name](model, MANY)
    for _ in range(STEPS):
        step()
    return resident()[1] - now


def memory(name: str) -> int:
    """The same in a fresh process."""
    command = [sys.executable, "-W", "ignore", __file__, "--memory", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help=f"{CHECK_ROUNDS} rounds instead of {ROUNDS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--memory", choices=list(ARMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if options.memory:
        print(memory_here(options.memory))
        return 0
    rounds = CHECK_ROUNDS if options.check else ROUNDS
    parameters = sum(p.numel() for p in recogniser().parameters())
    print(f"{parameters:,} parameters, {FRAMES} frames, one thread, torch {torch.__version__}, {platform.processor()}")
    found = times(rounds)
    print(f"\n{FEW} utterances   best step   ratio   median ratio")
    for name, row in found.items():
        print(f"{name:14s} {row['best_s']:8.3f} s {row['ratio']:7.3f} {row['median_ratio']:9.3f}")
    peaks = {name: memory(name) for name in ARMS}
    print(f"\n{MANY} utterances  peak above the loaded model")
    for name, peak in peaks.items():
        print(f"{name:14s} {peak / MIB:8.0f} MiB")
    apart = difference()
    share = peaks["grouped"] / peaks["opacus"]
    bars = {
        f"grouped / plain at {FEW}: {found['grouped']['ratio']:.3f}, at most {TIME_BAR}": found["grouped"]["ratio"]
        <= TIME_BAR,
        f"grouped / opacus, memory at {MANY}: {share:.3f}, at most {MEMORY_BAR}": share <= MEMORY_BAR,
        f"sums of clipped gradients apart: {apart:.2e} of the clip, at most {GRADIENT_BAR:g}": apart <= GRADIENT_BAR,
    }
    print()
    for text, holds in bars.items():
        print(f"{'kept  ' if holds else 'MISSED'} {text}")
    if options.json:
        figures = {"parameters": parameters, "time": found, "peak_bytes": peaks, "difference": apart}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
