"""What does `sltcore.train` cost over a bare torch loop that takes the same steps?

    python benchmarks/train_overhead.py [--check] [--json FILE]

A Conformer of 4 blocks of width 144 with a CTC head learns from synthetic recordings of 2 to 5 s in batches of 20 s, one
thread. The framework's own loop (reading ahead, seeding, rates, clipping, history, TensorBoard) and a bare loop over the same batches, read
and put together beforehand, take the same steps in turn, in chunks, from the same weights; both must reach the same
weights, bit for bit. CPU time of the whole process, so that what is done ahead in a thread counts too, and a machine that others use disturbs less.
The figure is the median of the chunks' ratios with its 95 % bootstrap interval; the bar is an upper end of 1.05.
--check takes chunks of one step instead of ten.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import nn

from sltcore.data.examples import read_examples
from sltcore.registry import default_registry
from sltcore.spec.load import load_spec
from sltcore.train.fitting import make_accelerator
from sltcore.train.history import History
from sltcore.train.loop import Loop
from sltcore.train.losses import set_training
from sltcore.train.progress import Progress
from sltcore.train.randomness import seed_of
from sltcore.train.run import Job, Work

RATE_HZ = 16000
PAIRS = 20
BAR = 1.05
WARM_UP = 2
RESAMPLES = 10_000


def write_recordings(folder: Path, count: int = 60) -> Path:
    """Noise with a syllable-like envelope, 2 to 5 s, and ten letters for each second."""
    generator = np.random.default_rng(0)
    lines = ["id,audio,text"]
    for index in range(count):
        seconds = generator.uniform(2.0, 5.0)
        time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
        samples = 0.1 * generator.normal(0, 1, len(time_s)) * (0.2 + np.sin(2 * np.pi * 4 * time_s) ** 2)
        soundfile.write(folder / f"{index}.wav", samples.astype(np.float32), RATE_HZ)
        lines.append(f"{index},{index}.wav,{''.join(generator.choice(list('abcdefgh'), int(10 * seconds)))}")
    (folder / "noise.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "noise.csv"


def spec_of(manifest: Path, steps: int) -> dict[str, Any]:
    encoder = {"use": "conformer", "frontend": "log-mel", "d_model": 144, "layers": 4, "heads": 4, "ffn": 576}
    return {
        "slt": 1,
        "kind": "train",
        "pipeline": {"encoder": encoder, "decoder": {"use": "ctc-greedy", "characters": "abcdefgh"}},
        "data": {"train": [{"manifest": str(manifest)}]},
        "budget": {"steps": steps},
        "batch": {"size": 64, "seconds": 20},
        "schedule": {"shape": "constant", "warmup_steps": 0},
        "checkpoint": {"every_steps": 10 * steps},
    }


def make_loop(spec: dict[str, Any], folder: Path) -> Loop:
    """The framework's loop, as `fit` makes it."""
    folder.mkdir()
    loaded = load_spec(spec, kind="train")
    accelerator = make_accelerator(loaded.model.precision)
    examples = read_examples(loaded.model.data.train)
    job = Job(loaded.model, loaded.filled(), default_registry(), accelerator, Progress(quiet=True), [], [])
    facts = {"spec": {}, "data": "", "processes": 1, "threads": 1}
    return Work(job, examples, folder, facts=facts, checkpoint=None).loop()


class BareLoop:
    """What one would write by hand, on batches that are ready."""

    def __init__(self, loop: Loop, steps: Sequence[Any]) -> None:
        set_training(loop.bare)
        self.encoder, self.decoder = loop.pipeline.parts["encoder"], loop.pipeline.parts["decoder"]
        self.optimizer = loop.optimizer.optimizer
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.steps = iter(steps)
        self.seed = loop.seed

    def take(self, count: int) -> None:
        for _ in range(count):
            step = next(self.steps)
            torch.manual_seed(seed_of(self.seed, "step", step.number, 0))  # the same dropout
            (batch,) = step.batches
            loss = self.decoder.loss(self.encoder(batch.value, {}), batch.targets, {}).sum() / len(batch.ids)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 5.0)
            self.optimizer.step()
            self.optimizer.zero_grad()


def settled() -> None:
    """Wait until nothing is read ahead any more, so that it counts where it belongs."""
    while True:
        before = time.process_time()
        time.sleep(0.03)
        if time.process_time() - before < 0.002:
            return


def measured(framework: Iterator[int], bare: BareLoop, steps: int, *, framework_first: bool) -> tuple[float, float]:
    """CPU seconds of the same steps by both."""

    def with_framework() -> float:
        start = time.process_time()
        for _ in range(steps):
            next(framework)
        settled()
        return time.process_time() - start

    def by_hand() -> float:
        start = time.process_time()
        bare.take(steps)
        return time.process_time() - start

    if framework_first:
        first = with_framework()
        return first, by_hand()
    second = by_hand()
    return with_framework(), second


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Median and its 95 % percentile bootstrap interval."""
    values = np.asarray(ratios)
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="chunks of one step")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args()
    chunk = 1 if options.check else 10
    torch.set_num_threads(1)
    total = WARM_UP + PAIRS * chunk
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = spec_of(write_recordings(folder), total + 1)
        loop, twin = make_loop(spec, folder / "framework"), make_loop(spec, folder / "bare")
        bare = BareLoop(twin, list(twin.loader.steps(stop=total)))
        list(loop.loader.steps(stop=total))  # sound is in memory for both
        history = History(folder / "framework")
        with closing(loop.each(history)) as framework:
            measured(framework, bare, WARM_UP, framework_first=True)
            pairs = [measured(framework, bare, chunk, framework_first=place % 2 == 0) for place in range(PAIRS)]
        history.close()
        for (key, one), two in zip(
            loop.pipeline.model.state_dict().items(), twin.pipeline.model.state_dict().values(), strict=True
        ):
            if not torch.equal(one, two):
                raise SystemExit(f"the two loops took other steps: {key} differs")
    median, low, high = interval([one / two for one, two in pairs])
    seconds = float(np.median([two for _, two in pairs])) / chunk
    figures = {
        "ratio": round(median, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "bare_cpu_s_per_step": round(seconds, 4),
        "steps": PAIRS * chunk,
        "pairs": PAIRS,
        "bar": BAR,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    print(f"{PAIRS} pairs of {chunk} steps, {seconds:.3f} s of CPU time for a bare step, torch {torch.__version__}")
    print(f"framework / bare: median {median:.4f}, 95 % interval [{low:.4f}, {high:.4f}]; bar {BAR}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if high <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
