"""How many utterances a second does a transducer decode, alone and in a batch, beside torchaudio's beam search?

    python benchmarks/rnnt_decode.py [--check] [--json FILE] [--peers FOLDER]

16 utterances of 250 frames (10 s), 500 labels, an LSTM prediction of width 320 and a joint of 320, one thread, CPU time.
Rounds interleave everything; a ratio is the median over rounds with a 95 % bootstrap interval. Two sets of weights: "sure"
writes the labels that 35 of the frames show, as a trained model would, though its LSTM is made by hand; "unsure" are
random weights with a little more for the blank, where most frames have many candidates.

The peer is torchaudio's RNNTBeamSearch, utterance by utterance as it works, with its Python file alone, so that its CUDA
library is not loaded:
    pip install --no-deps --target FOLDER torchaudio==2.11.0
It gets the same networks, the faster way (one cell a step, frames projected once), the same limit of labels in a frame and
ranks by score; what both find is compared. "loop" is greedy search frame by frame in plain torch operations.
--check takes few rounds; exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402 (after the thread limits, which are read when it is imported)
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from slt_speech.rnnt.beam import Beam  # noqa: E402
from slt_speech.rnnt.greedy import Greedy  # noqa: E402
from slt_speech.rnnt.joint import Joint  # noqa: E402
from slt_speech.rnnt.prediction import PredictionNetwork  # noqa: E402

B, T, D, V = 16, 250, 320, 500
BLANK = V - 1  # the peer takes the last label for it
BEAM, MOST, SHOWN = 4, 10, 35
ROUNDS, CHECK_ROUNDS = 9, 3
OVER_PEER, OVER_ONE = 3.0, 1.3

Networks = tuple[PredictionNetwork, Joint]


def sure() -> tuple[Networks, Tensor]:
    """Networks that write the label a frame shows unless it was the last one, and frames [b t d] that show labels.

    Labels have random codes of ±1; the LSTM's gates are open and it forgets, so it holds the code of the last label, which
    the joint subtracts from the frame's.
    """
    torch.manual_seed(0)
    prediction, joint = PredictionNetwork(V, D, blank=BLANK).eval(), Joint(D, D, D, V).eval()
    codes = torch.randn(V, D).sign()
    codes[BLANK] = 0
    eye = torch.eye(D)
    layer: Any = prediction.layers[0]
    frames = 0.3 * torch.randn(B, T, D)
    with torch.no_grad():
        prediction.embedding.weight.copy_(codes)
        for parameter in (*layer.parameters(), *joint.parameters()):
            parameter.zero_()
        layer.weight_ih_l0[2 * D : 3 * D] = eye
        layer.bias_ih_l0[:D], layer.bias_ih_l0[D : 2 * D], layer.bias_ih_l0[3 * D :] = 9.0, -9.0, 9.0
        held = float(torch.tanh(torch.tanh(torch.tensor(1.0))))
        joint.encoder_projection.weight.copy_(eye)
        joint.prediction_projection.weight.copy_(-eye / held)
        joint.output.weight.copy_(0.06 * codes)
        joint.output.bias[BLANK] = 7.5
        for row in range(B):
            places = torch.randperm(T)[:SHOWN]
            frames[row, places] += 0.9 * codes[torch.randint(0, BLANK, (SHOWN,))]
    return (prediction, joint), frames


def unsure() -> tuple[Networks, Tensor]:
    """Random weights, with a bias for the blank."""
    torch.manual_seed(1)
    prediction, joint = PredictionNetwork(V, D, blank=BLANK).eval(), Joint(D, D, D, V).eval()
    with torch.no_grad():
        joint.output.weight.mul_(4)
        joint.output.bias[BLANK] += 8
    return (prediction, joint), torch.randn(B, T, D)


def batched_beam(networks: Networks, frames: Tensor) -> list[tuple[tuple[int, ...], float]]:
    """Ours: labels and scores of the best hypotheses."""
    search = Beam(*networks, len(frames), blank=BLANK, beam=BEAM, max_symbols=MOST)
    search.push(frames, torch.full((len(frames),), frames.shape[1]))
    return [(tuple(run.label for run in paths[0].runs), paths[0].score) for paths in search.found()]


def batched_greedy(networks: Networks, frames: Tensor) -> list[tuple[int, ...]]:
    """Ours, greedy: labels."""
    search = Greedy(*networks, len(frames), blank=BLANK, max_symbols=MOST)
    search.push(frames, torch.full((len(frames),), frames.shape[1]))
    return [tuple(run.label for run in paths[0].runs) for paths in search.found()]


def loop(networks: Networks, frames: Tensor) -> list[tuple[int, ...]]:
    """Greedy, frame by frame: labels."""
    prediction, joint = networks
    found = []
    for utterance in joint.project_encoder(frames):
        labels: list[int] = []
        out, state = prediction.step(prediction.start(1), torch.tensor([BLANK]))
        projected = joint.project_prediction(out)
        for frame in utterance:
            for _ in range(MOST):
                label = int(joint.combine(frame, projected).log_softmax(-1).argmax())
                if label == BLANK:
                    break
                labels.append(label)
                out, state = prediction.step(state, torch.tensor([label]))
                projected = joint.project_prediction(out)
        found.append(tuple(labels))
    return found


class PeerNetworks:
    """Our networks as torchaudio's search calls its own."""

    def __init__(self, networks: Networks) -> None:
        self.prediction, self.joint = networks

    def transcribe(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.joint.project_encoder(frames), lengths

    def predict(self, tokens: Tensor, lengths: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        before = self.prediction.start(len(tokens)) if state is None else tuple(state[0])
        out, after = self.prediction.step(before, tokens[:, 0])
        return self.joint.project_prediction(out)[:, None], lengths, [list(after)]

    def join(self, frames: Tensor, ends: Tensor, prefixes: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.joint.combine(frames[:, :, None], prefixes[:, None]), ends, sizes


def peer_search(folder: Path) -> Callable[[Networks, Tensor], list[tuple[tuple[int, ...], float]]]:
    """torchaudio's beam search, from its one Python file."""
    for module, content in (("torchaudio", {}), ("torchaudio.models", {"RNNT": object})):
        stand_in = types.ModuleType(module)
        stand_in.__dict__.update(content)
        sys.modules.setdefault(module, stand_in)
    spec = importlib.util.spec_from_file_location("rnnt_decoder", folder / "torchaudio/models/rnnt_decoder.py")
    if spec is None or spec.loader is None:
        raise SystemExit(
            f"error: {folder} holds no torchaudio. Next: pip install --no-deps --target {folder} torchaudio"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def search(networks: Networks, frames: Tensor) -> list[tuple[tuple[int, ...], float]]:
        decoder = module.RNNTBeamSearch(
            PeerNetworks(networks), BLANK, hypo_sort_key=lambda hypothesis: hypothesis[3], step_max_tokens=MOST
        )
        found = []
        for utterance in frames:
            best = decoder(utterance, torch.tensor(len(utterance)), BEAM)[0]
            found.append((tuple(best[0][1:]), float(best[3])))
        return found

    return search


def interval(ratios: list[float]) -> dict[str, float]:
    """Median and its 95 % percentile bootstrap interval."""
    values = np.asarray(ratios)
    drawn = np.random.default_rng(0).integers(0, len(values), (10_000, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), [0.025, 0.975])
    return {"median": float(np.median(values)), "low": float(low), "high": float(high)}


def measured(ways: dict[str, Callable[[], Any]], utterances: dict[str, int], rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds an utterance of every way, in each round."""
    for call in ways.values():
        call()  # compiles, allocates
    found: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        names = list(ways)
        for place in range(len(names)):
            way = names[(turn + place) % len(names)]
            start = time.process_time()
            ways[way]()
            found[way].append(1000 * (time.process_time() - start) / utterances[way])
    return found


def case(title: str, networks: Networks, frames: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one set of weights, printed."""
    few = 2 if options.check else 4
    ways: dict[str, Callable[[], Any]] = {
        "beam, 16": lambda: batched_beam(networks, frames),
        "beam, 1": lambda: [batched_beam(networks, one[None]) for one in frames[:few]],
    }
    if title == "sure":  # unsure networks write on and on when they are asked for single labels
        ways["greedy, 16"] = lambda: batched_greedy(networks, frames)
        ways["greedy, 1"] = lambda: [batched_greedy(networks, one[None]) for one in frames[:few]]
        ways["loop, 1"] = lambda: loop(networks, frames[:few])
    figures: dict[str, Any] = {"bars": []}
    mine = batched_beam(networks, frames)
    figures["labels"] = float(np.mean([len(labels) for labels, _ in mine]))
    if "loop, 1" in ways:
        same = batched_greedy(networks, frames)[:few] == loop(networks, frames[:few])
        figures["bars"].append(("greedy writes what the loop writes", same))
    if options.peers:
        peer = peer_search(options.peers)
        theirs = peer(networks, frames[:few])
        ways["torchaudio, 1"] = lambda: peer(networks, frames[:few])
        close = all(a[0] == b[0] and abs(a[1] - b[1]) < 1e-2 for a, b in zip(mine, theirs, strict=False))
        figures["bars"].append((f"{title}: finds what torchaudio finds, with its scores", close))
    sizes = {way: B if way.endswith("16") else few for way in ways}
    spent = measured(ways, sizes, CHECK_ROUNDS if options.check else ROUNDS)
    figures["ms"] = {way: float(np.median(values)) for way, values in spent.items()}
    print(f"{title}: {figures['labels']:.1f} labels an utterance")
    for way, value in figures["ms"].items():
        print(f"  {way}: {value:.2f} ms an utterance")
    for fast, slow, bar in (
        ("beam, 16", "torchaudio, 1", OVER_PEER),
        ("greedy, 16", "loop, 1", OVER_ONE),
        ("greedy, 16", "greedy, 1", OVER_ONE),
        ("beam, 16", "beam, 1", None),
        ("beam, 1", "torchaudio, 1", None),
    ):
        if fast in spent and slow in spent:
            times = interval([b / a for a, b in zip(spent[fast], spent[slow], strict=True)])
            figures[f"{fast} over {slow}"] = times
            text = f"{title}: ({fast}) over ({slow}): {times['median']:.1f} times ({times['low']:.1f} to {times['high']:.1f})"
            if bar is None:
                print(f"  {text}")
            else:
                figures["bars"].append((f"{text} >= {bar}", times["low"] >= bar))
    return figures


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help=f"{CHECK_ROUNDS} rounds instead of {ROUNDS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="where torchaudio is installed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"B{B} T{T} V{V}, beam {BEAM}, torch {torch.__version__}, {platform.machine()}, CPU time")
    figures = {title: case(title, *make(), options) for title, make in (("sure", sure), ("unsure", unsure))}
    bars = [bar for each in figures.values() for bar in each["bars"]]
    if not options.peers:
        print("torchaudio is not measured; see --peers")
    for text, held in bars:
        print(f"{'ok    ' if held else 'MISSED'} {text}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(held for _, held in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
