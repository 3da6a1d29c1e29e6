"""What does the transducer loss cost, forward and backward, beside log_softmax alone and beside a published loss?

    python benchmarks/rnnt_loss.py [--check] [--json FILE] [--peers FOLDER]

Eight utterances of 200 frames, 40 labels of 500, float32 logits from a normal distribution, one thread, CPU time. Rounds
interleave everything; a ratio is the median over rounds of one time over that of log_softmax forward and backward on the
same logits in the same round, with a 95 % bootstrap interval. "every cell" is without the rule that a cell which less than
1e-30 of all paths pass gets a gradient of zero; "peaked" are logits as of a trained model, where few cells matter; "torch
operations" is the form for other devices, here on the CPU. Memory is the peak of resident memory above what was there with
the logits, in a process of its own (Linux). Accuracy is against float64: losses relative, gradients relative to the
largest entry of their cell, over cells that a share of 1e-20 of the paths pass.

warprnnt-numba is measured where FOLDER holds it, with this interpreter's torch and numba:
    pip install --no-deps --target FOLDER warprnnt-numba==0.4.1
--check takes few rounds; exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402 (after the thread limits, which are read when it is imported)
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from slt_speech.rnnt import compiled_lattice  # noqa: E402
from slt_speech.rnnt.loss import rnnt_loss  # noqa: E402
from slt_speech.rnnt.pruned import pruned_rnnt_loss, pruning_windows, simple_rnnt_loss, windowed  # noqa: E402

B, T, U, V = 8, 200, 40, 500
WINDOW = 5
ROUNDS, CHECK_ROUNDS = 15, 5
PEER_ROUNDS = 2
FASTER_THAN_PEER = 40.0
LOG_SOFTMAX = 1.2
CLOSE = 1e-5
MEMORY_SLACK = 4 * 2**20
"""Bytes of the interpreter's own (its stacks, autograd, the allocator's pages) that a resident peak includes."""


def batch(rows: int = B, *, peaked: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, targets and lengths."""
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, T, U + 1, V, generator=source)
    targets = torch.randint(1, V, (rows, U), generator=source)
    if peaked:  # one path: label u + 1 in frame 5 u, blanks else
        logits[..., 0] += 10
        for u in range(U):
            logits[torch.arange(rows), T // U * u, u, targets[:, u]] += 20
    return logits, targets, torch.full((rows,), T), torch.full((rows,), U)


def step(loss: Callable[..., Tensor], logits: Tensor, *rest: Tensor) -> float:
    """CPU seconds of forward and backward."""
    leaf = logits.detach().requires_grad_()
    start = time.process_time()
    loss(leaf, *rest).sum().backward()  # type: ignore[no-untyped-call]
    return time.process_time() - start


def log_softmax_step(logits: Tensor) -> float:
    """CPU seconds of log_softmax forward and backward; the upstream gradient is there already."""
    leaf = logits.detach().requires_grad_()
    start = time.process_time()
    leaf.log_softmax(dim=-1).backward(logits)  # type: ignore[no-untyped-call]
    return time.process_time() - start


def every_cell(*arguments: Tensor) -> Tensor:
    """The loss without skipping; its backward pass is under way when the limit is read."""
    return rnnt_loss(*arguments)


def pruned_step(encoded: Tensor, predicted: Tensor, *rest: Tensor) -> float:
    """CPU seconds of simple loss, windows and pruned loss, forward and backward; both have the same sums for logits."""
    e, p = encoded.detach().requires_grad_(), predicted.detach().requires_grad_()
    start = time.process_time()
    simple = simple_rnnt_loss(e, p, *rest)
    first = pruning_windows(simple.occupancy, *rest[1:], size=WINDOW)
    near = e[:, :, None] + windowed(p, first, size=WINDOW)
    (pruned_rnnt_loss(near, first, *rest) + 0.5 * simple.losses).sum().backward()  # type: ignore[no-untyped-call]
    return time.process_time() - start


def interval(ratios: list[float]) -> dict[str, float]:
    """Median and its 95 % percentile bootstrap interval."""
    values = np.asarray(ratios)
    drawn = np.random.default_rng(0).integers(0, len(values), (10_000, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), [0.025, 0.975])
    return {"median": float(np.median(values)), "low": float(low), "high": float(high)}


def measured(rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Ratios to log_softmax, and CPU seconds, of every way."""
    normal, sharp = batch(), batch(peaked=True)
    sums = normal[0][:, :, 0].contiguous(), normal[0][:, 0].contiguous()
    limit = compiled_lattice.NEGLIGIBLE
    ways: dict[str, Callable[[], float]] = {
        "rnnt_loss": lambda: step(rnnt_loss, *normal),
        "rnnt_loss, every cell": lambda: step(every_cell, *normal),
        "rnnt_loss, peaked": lambda: step(rnnt_loss, *sharp),
        "rnnt_loss, torch operations": lambda: step(lambda *given: rnnt_loss(*given, implementation="torch"), *normal),
        f"simple + pruned loss, windows of {WINDOW}": lambda: pruned_step(*sums, *normal[1:]),
    }
    for call in ways.values():
        call()  # compiles, allocates
    log_softmax_step(normal[0])
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in [*ways, "log_softmax"]}
    for turn in range(rounds):
        names = list(ways)
        before = log_softmax_step(normal[0])
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            compiled_lattice.NEGLIGIBLE = -1.0 if name.endswith("every cell") else limit
            spent = ways[name]()
            compiled_lattice.NEGLIGIBLE = limit
            after = log_softmax_step(normal[0])
            ratios[name].append(2 * spent / (before + after))
            seconds[name].append(spent)
            seconds["log_softmax"].append(after)
            before = after
    return ratios, seconds


def peer_step(folder: Path, rounds: int) -> tuple[list[float], list[float], Tensor, Tensor]:
    """Interleaved CPU seconds of warprnnt-numba and of ours, and the peer's losses and gradient of one utterance."""
    sys.path.append(str(folder))
    from warprnnt_numba import RNNTLossNumba

    peer = RNNTLossNumba(blank=0, reduction="none")

    def loss(logits: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
        result: Tensor = peer(logits, targets.int(), frames.int(), labels.int())
        return result

    small = [x[:1] for x in batch(1)]
    leaf = small[0].requires_grad_()
    losses = loss(leaf, *small[1:])  # compiles
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    theirs, mine = [], []
    given = batch()
    for _ in range(rounds):
        mine.append(step(rnnt_loss, *given))
        theirs.append(step(loss, *given))
    return theirs, mine, losses.detach(), leaf.grad


def distances(losses: Tensor, gradient: Tensor) -> dict[str, float]:
    """How far losses and a gradient of the first utterance are from float64."""
    logits, *rest = batch(1)
    leaf = logits.double().requires_grad_()
    true = rnnt_loss(leaf, *rest, implementation="torch")
    true.sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    largest = leaf.grad.abs().amax(dim=3)
    far = (gradient.double() - leaf.grad).abs().amax(dim=3)
    matters = largest > 1e-20
    return {
        "loss": float(((losses.detach().double() - true.detach()) / true.detach()).abs().max()),
        "gradient": float((far[matters] / largest[matters]).max()),
    }


def own_distances() -> dict[str, float]:
    """`distances` of the compiled loss in float32."""
    logits, *rest = batch(1)
    leaf = logits.requires_grad_()
    losses = rnnt_loss(leaf, *rest)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return distances(losses.detach(), leaf.grad)


def resident(key: str) -> int:
    """Bytes of this process's memory by its status file: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def memory(what: str) -> dict[str, int]:
    """Peak memory of one step above what the logits need, in this process."""
    torch.set_num_threads(1)
    step(rnnt_loss, *batch(1))  # compiles
    logits, *rest = batch()
    leaf = logits.requires_grad_()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    if what == "log_softmax":
        leaf.log_softmax(dim=-1).backward(leaf.detach())  # type: ignore[no-untyped-call]
    else:
        rnnt_loss(leaf, *rest).sum().backward()  # type: ignore[no-untyped-call]
    peak = resident("VmHWM") - before
    return {"peak": peak, "gradient": leaf.numel() * 4, "lattice": 4 * 4 * B * T * (U + 1)}


def memory_apart(what: str) -> dict[str, int] | None:
    """`memory` in a new process; None where the system has no such files."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    run = subprocess.run([sys.executable, __file__, "--memory", what], capture_output=True, text=True, check=True)
    result: dict[str, int] = json.loads(run.stdout)
    return result


def report(options: argparse.Namespace) -> dict[str, Any]:
    """All figures, printed on the way."""
    rounds = CHECK_ROUNDS if options.check else ROUNDS
    ratios, seconds = measured(rounds)
    print(f"B{B} T{T} U{U} V{V}, {rounds} rounds, torch {torch.__version__}, {platform.machine()}, CPU time")
    print(f"log_softmax forward and backward: {np.median(seconds['log_softmax']):.3f} s")
    figures: dict[str, Any] = {"sizes": [B, T, U, V], "rounds": rounds, "ways": {}, "bars": []}
    figures["log_softmax_s"] = float(np.median(seconds["log_softmax"]))
    for name, values in ratios.items():
        found = {"seconds": float(np.median(seconds[name])), **interval(values)}
        figures["ways"][name] = found
        print(
            f"{name}: {found['seconds']:.3f} s, {found['median']:.2f} of log_softmax "
            f"({found['low']:.2f} to {found['high']:.2f})"
        )
    high = figures["ways"]["rnnt_loss"]["high"]
    figures["bars"].append((f"time over log_softmax, upper end {high:.2f} <= {LOG_SOFTMAX}", high <= LOG_SOFTMAX))
    far = own_distances()
    figures["accuracy"] = far
    text = f"relative to float64: loss {far['loss']:.1e}, gradient {far['gradient']:.1e} <= {CLOSE}"
    figures["bars"].append((text, max(far.values()) <= CLOSE))
    for what in ("rnnt_loss", "log_softmax"):
        room = memory_apart(what)
        if room:
            figures[f"memory_{what}"] = room
            print(f"extra memory of {what}: {room['peak'] / 1e6:.1f} MB; a gradient is {room['gradient'] / 1e6:.1f} MB")
            if what == "rnnt_loss":
                allowed = room["gradient"] + room["lattice"]
                text = f"extra memory {room['peak'] / 1e6:.1f} MB <= gradient + 4 b t (u+1) floats, {allowed / 1e6:.1f} MB, within {MEMORY_SLACK / 1e6:.1f} MB of the interpreter's"
                figures["bars"].append((text, room["peak"] <= allowed + MEMORY_SLACK))
    if options.peers:
        theirs, mine, losses, gradient = peer_step(options.peers, 1 if options.check else PEER_ROUNDS)
        faster = float(np.median(np.asarray(theirs) / np.asarray(mine)))
        far = distances(losses, gradient)
        figures["warprnnt_numba"] = {"seconds": theirs, "ours": mine, "times": faster, "accuracy": far}
        print(
            f"warprnnt-numba: {np.median(theirs):.2f} s; from float64: loss {far['loss']:.1e}, gradient {far['gradient']:.1e}"
        )
        text = f"times faster than warprnnt-numba: {faster:.0f} >= {FASTER_THAN_PEER:g}"
        figures["bars"].append((text, faster >= FASTER_THAN_PEER))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help=f"{CHECK_ROUNDS} rounds instead of {ROUNDS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="where warprnnt-numba is installed")
    parser.add_argument("--memory", choices=["rnnt_loss", "log_softmax"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(options.memory)))
        return 0
    torch.set_num_threads(1)
    figures = report(options)
    for text, met in figures["bars"]:
        print(f"{'met' if met else 'MISSED'}: {text}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(met for _, met in figures["bars"]) else 1


if __name__ == "__main__":
    sys.exit(main())
