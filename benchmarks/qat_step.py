"""What does a training step with quantized weights cost over the same step in float?

    python benchmarks/qat_step.py [--check] [--json FILE]

Four Conformer blocks of width 256, eight utterances of 100 to 250 frames, forward, backward and AdamW, one thread, the same
weights and inputs for all: float; 4-bit weights straight-through with a learned step (the fast path), without and with int8
activations; the general quantizer of this project in the middle of its annealing, and hard; torchao's intx QAT (4-bit
weights in groups of 32, int8 activations per token); torchao's PARQ; torch.ao's eager QAT (int8). Quantized are the linear
layers, and the depthwise convolutions where a method takes them. Each round takes one step of each in turning order between
two float steps; the figure is the median over rounds of CPU time over the mean of those two, with a 95 % bootstrap
interval. The bar is an upper end of 1.2 for the fast path. --check takes few rounds.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slt_speech.conformer import ConformerBlock
from slt_sub8bit.general import GeneralScheme
from slt_sub8bit.quantizer import Sub8bit
from slt_sub8bit.torchao_peers import Parq
from slt_sub8bit.uniform import UniformScheme

WIDTH, BLOCKS, HEADS, KERNEL = 256, 4, 4, 31
BATCH, SHORTEST, LONGEST = 8, 100, 250
BITS = 4
BAR = 1.2
ROUNDS, CHECK_ROUNDS = 15, 3
RESAMPLES = 10_000
RATE = 1e-3
FAST = "straight-through w4, learned step"


class Blocks(nn.Module):
    """A stack of Conformer blocks and a head."""

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
        self.head = nn.Linear(WIDTH, 32)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Logits [b t v] of frames [b t d]."""
        for block in self.blocks:
            x = block(x, mask, None)
        logits: Tensor = self.head(x)
        return logits


class Arm:
    """One way to train: a model, its optimizer, and what is told before each step."""

    def __init__(self, model: nn.Module, tell: Callable[[], None], optimizer: Any) -> None:
        self.model, self.tell, self.optimizer = model.train(), tell, optimizer

    def step(self, x: Tensor, mask: Tensor, target: Tensor) -> float:
        """CPU seconds of one step."""
        start = time.process_time()
        self.tell()
        loss = (self.model(x, mask) - target).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not bool(loss.isfinite()):
            raise SystemExit("a loss is not finite")
        return time.process_time() - start


def plain(model: nn.Module) -> Arm:
    """Float, or a model that quantizes by itself."""
    return Arm(model, lambda: None, torch.optim.AdamW(model.parameters(), lr=RATE))


def ours(model: nn.Module, quantizer: Sub8bit, progress: float) -> Arm:
    """A quantizer of this project, as training uses it."""
    quantizer.attach(model)
    groups = [{"params": list(model.parameters())}, *quantizer.parameter_groups()]
    optimizer = quantizer.wrap_optimizer(torch.optim.AdamW(groups, lr=RATE))
    return Arm(model, lambda: quantizer.step(progress), optimizer)


def torchao_intx(model: nn.Module) -> Arm:
    """torchao's QAT of linear layers."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    activations = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    weights = IntxFakeQuantizeConfig(torch.int4, group_size=32)
    quantize_(model, QATConfig(activation_config=activations, weight_config=weights, step="prepare"))
    return plain(model)


def torch_ao(model: nn.Module) -> Arm:
    """torch.ao's eager QAT of linear layers and convolutions."""
    from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            module.qconfig = get_default_qat_qconfig("x86")  # type: ignore[assignment]
    prepare_qat(model.train(), inplace=True)
    return plain(model)


def arms() -> dict[str, Arm]:
    """All ways, from the same weights."""
    torch.manual_seed(0)
    base = Blocks()
    learned = partial(UniformScheme, range="learned")
    annealed = partial(GeneralScheme, anneal=0.75)
    make: dict[str, Callable[[nn.Module], Arm]] = {
        "float": plain,
        FAST: lambda model: ours(model, Sub8bit(learned, bits=BITS), 0.5),
        "straight-through w4 a8": lambda model: ours(model, Sub8bit(learned, bits=BITS, compute="int8"), 0.5),
        "general quantizer w4, soft": lambda model: ours(model, Sub8bit(annealed, bits=BITS), 0.4),
        "general quantizer w4, hard": lambda model: ours(model, Sub8bit(annealed, bits=BITS), 0.9),
        "torchao intx w4 g32 a8": torchao_intx,
        "torchao PARQ w4": lambda model: ours(model, Parq(bits=BITS), 0.4),
        "torch.ao eager w8 a8": torch_ao,
    }
    return {name: build(copy.deepcopy(base)) for name, build in make.items()}


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Frames [b t d], their mask [b t], and targets [b t v]."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.linspace(SHORTEST, LONGEST, BATCH).round().long()
    mask = torch.arange(LONGEST)[None, :] < lengths[:, None]
    x = torch.randn(BATCH, LONGEST, WIDTH, generator=generator) * mask[:, :, None]
    return x, mask, torch.randn(BATCH, LONGEST, 32, generator=generator)


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Median and its 95 % percentile bootstrap interval."""
    values = np.asarray(ratios)
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)


def measured(rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """Ratios to float of every way, and CPU seconds of float steps."""
    every, given = arms(), batch()
    names = [name for name in every if name != "float"]
    for arm in every.values():
        arm.step(*given)  # compiles, allocates
        arm.step(*given)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    floats: list[float] = []
    for turn in range(rounds):
        before = every["float"].step(*given)
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            seconds = every[name].step(*given)
            after = every["float"].step(*given)
            ratios[name].append(2 * seconds / (before + after))
            floats.append(after)
            before = after
    return ratios, floats


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help=f"{CHECK_ROUNDS} rounds instead of {ROUNDS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # torch.ao announces its removal
    torch.set_num_threads(1)
    rounds = CHECK_ROUNDS if options.check else ROUNDS
    ratios, floats = measured(rounds)
    seconds = float(np.median(floats))
    figures: dict[str, Any] = {
        "bar": BAR,
        "float_cpu_s": round(seconds, 4),
        "rounds": rounds,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "arms": {},
    }
    print(f"{rounds} rounds, {seconds:.3f} s of CPU time for a float step, torch {torch.__version__}")
    for name, values in ratios.items():
        median, low, high = interval(values)
        figures["arms"][name] = {"ratio": round(median, 4), "low": round(low, 4), "high": round(high, 4)}
        bar = f"; bar {BAR}" if name == FAST else ""
        print(f"{name:36s} {median:.3f} of float, 95 % interval [{low:.3f}, {high:.3f}]{bar}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if figures["arms"][FAST]["high"] <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
