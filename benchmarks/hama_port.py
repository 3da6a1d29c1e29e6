"""Is the PyTorch port of the hama recogniser the same network as hama's own engine, and what do its windows cost?

    python benchmarks/hama_port.py --prompts FOLDER [--json FILE]

FOLDER holds recorded prompts (.g722, .wav, .flac; the Debian package asterisk-core-sounds-en-g722 in our figures).
Twenty of 3 to 20 s are compared with the engine, for three front ends; prompts of 1 to 20 s are put together to five
minutes, and the windowed run is compared with one full pass and with each prompt alone. One thread, CPU time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import hama
import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from slt_speech.hama.front_end import FRAME, HOP, FrontEnd
from slt_speech.hama.labels import collapse
from slt_speech.hama.network import FRAME_SHIFT_S, HamaConformer
from slt_speech.hama.session import LongRecording
from slt_speech.hama.windows import AGREEMENT_FRAMES
from sltcore.types import Waveform

RATE = 16000
PROMPTS = 20
CONCATENATION_S = 300
SEED = 0
NEAR_FRAMES = 25
WINDOWS_S = ((30.0, 4.0), (60.0, 6.0), (150.0, 10.0), (300.0, 10.0))


class Float32FrontEnd(FrontEnd):
    """The same kernels with float32 sums."""

    def log_mel(self, samples: Tensor) -> Tensor:
        frames = samples.clamp(-1.0, 1.0).unfold(1, FRAME, HOP)
        power = (frames @ self.real_kernel.T).square() + (frames @ self.imag_kernel.T).square()
        return (power @ self.mel_filters).clamp(min=1e-10).log().half().float()


class StftFrontEnd(FrontEnd):
    """torch.stft, whose kernels are exact where the stored ones are rounded."""

    def log_mel(self, samples: Tensor) -> Tensor:
        window = torch.hann_window(FRAME, device=samples.device)
        spectrum = torch.stft(
            samples.clamp(-1.0, 1.0), FRAME, HOP, window=window, center=False, return_complex=True
        ).transpose(1, 2)
        return (spectrum.abs().square() @ self.mel_filters).clamp(min=1e-10).log().half().float()


FRONT_ENDS: dict[str, type[FrontEnd]] = {
    "stored kernels, float64 sums (the port)": FrontEnd,
    "stored kernels, float32 sums": Float32FrontEnd,
    "torch.stft, float32": StftFrontEnd,
}


def read_prompts(folder: Path, shortest_s: float, longest_s: float) -> list[np.ndarray]:
    """Every recording of `folder` of that duration, 16 kHz mono float32, shuffled by SEED."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".g722", ".wav", ".flac"})
    found = []
    for path in files:
        with av.open(str(path), format="g722" if path.suffix == ".g722" else None) as container:
            resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
            pieces = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
            pieces += resampler.resample(None)
        if pieces:
            samples = np.concatenate([piece.to_ndarray().reshape(-1) for piece in pieces]).astype(np.float32) / 32768
            if shortest_s * RATE <= samples.size <= longest_s * RATE:
                found.append(samples)
    random.Random(SEED).shuffle(found)
    return found


def load_engine() -> Callable[[np.ndarray], np.ndarray]:
    """hama's own engine: samples [n] -> log-probabilities [t 191]."""
    session = hama.ASRModel().session

    def run(samples: np.ndarray) -> np.ndarray:
        feeds = {"waveform": samples[None], "waveform_lengths": np.array([samples.size])}
        log_probs: np.ndarray = session.run(["log_probs", "out_lengths"], feeds)[0][0]
        return log_probs

    return run


def port_log_probs(model: HamaConformer, samples: np.ndarray) -> np.ndarray:
    """The port on one recording: [t 191]."""
    encoded = model(Waveform(torch.from_numpy(samples)[None], torch.tensor([samples.size]), RATE))
    out: np.ndarray = model.log_probs(encoded)[0].numpy()
    return out


def compare(expected: list[np.ndarray], found: list[np.ndarray]) -> dict[str, Any]:
    """Differences of log-probabilities over all frames of all prompts."""
    difference = np.abs(np.concatenate(expected) - np.concatenate(found))
    same = sum(int((a.argmax(1) == b.argmax(1)).sum()) for a, b in zip(expected, found, strict=True))
    return {
        "frames": len(difference),
        "same_argmax": same,
        "mean": float(difference.mean()),
        "max": float(difference.max()),
        "above_1e-3": float((difference > 1e-3).mean()),
    }


def agreement(prompts: list[np.ndarray]) -> dict[str, Any]:
    """Each front end against the engine, and the CPU time of both per second of audio."""
    seconds = sum(prompt.size for prompt in prompts) / RATE
    engine = load_engine()
    started = time.process_time()
    expected = [engine(prompt) for prompt in prompts]
    rows: dict[str, Any] = {"hama engine": {"rtf": (time.process_time() - started) / seconds}}
    for name, front_end in FRONT_ENDS.items():
        model = HamaConformer().eval()
        state = model.front_end.state_dict()
        model.front_end = front_end()
        model.front_end.load_state_dict(state)
        port_log_probs(model, prompts[0])
        started = time.process_time()
        found = [port_log_probs(model, prompt) for prompt in prompts]
        rows[name] = {"rtf": (time.process_time() - started) / seconds, **compare(expected, found)}
    return {"prompts": len(prompts), "seconds": seconds, "rows": rows}


def concatenate(prompts: list[np.ndarray], model: HamaConformer) -> tuple[np.ndarray, list[int]]:
    """Prompts put together to five minutes, each cut to whole output frames, and the best labels of each one alone."""
    step = round(FRAME_SHIFT_S * RATE)
    pieces: list[np.ndarray] = []
    own: list[int] = []
    for prompt in prompts:
        if sum(piece.size for piece in pieces) >= CONCATENATION_S * RATE:
            break
        piece = prompt[: prompt.size // step * step]
        pieces.append(piece)
        own += port_log_probs(model, piece).argmax(1).tolist()[: piece.size // step]
    return np.concatenate(pieces), own


def edits(expected: list[int], found: list[int], joins: list[int]) -> tuple[int, int]:
    """Label edits between two greedy paths: all, and those within NEAR_FRAMES of a join."""
    left, right = collapse(expected), collapse(found)
    operations = Levenshtein.editops([label for label, _ in left], [label for label, _ in right])
    frames = [left[min(op.src_pos, len(left) - 1)][1] for op in operations]
    return len(operations), sum(any(abs(frame - join) <= NEAR_FRAMES for join in joins) for frame in frames)


class RecordingOfWindows:
    """Runs a recording in windows and keeps each window's own best labels."""

    def __init__(self, window_s: float, overlap_s: float) -> None:
        self.model = HamaConformer(window_s=window_s, overlap_s=overlap_s).eval()
        self.windows: list[list[int]] = []
        encode = self.model.encode_frames

        def encode_and_keep(x: Tensor, keep: Tensor | None = None) -> Tensor:
            out = encode(x, keep)
            self.windows.append(self.model.head(out[-1, 0]).argmax(-1).tolist())
            return out

        self.model.encode_frames = encode_and_keep  # type: ignore[method-assign]

    def run(self, samples: np.ndarray) -> tuple[list[int], list[int]]:
        """Best labels per frame, and the frames of the joins."""
        recording = LongRecording(self.model)
        pieces = [recording.push(torch.from_numpy(samples)), recording.finish()]
        values = torch.cat([piece[-1] for piece in pieces if piece is not None])
        return self.model.head(values).argmax(-1).tolist(), recording.joins

    def torn_joins(self, path: list[int], joins: list[int]) -> int:
        """Joins around which the labels are neither those of the earlier window nor those of the later one."""
        step = self.model.window_frames - self.model.overlap_frames
        starts = [k * step for k in range(len(self.windows) - 1)] + [len(path) - len(self.windows[-1])]
        torn = 0
        for k, join in enumerate(joins):
            # Both windows saw these frames: a join keeps its distance from the ends of an overlap.
            low, high = join - AGREEMENT_FRAMES, join + AGREEMENT_FRAMES
            spelt = [[label for label, _ in collapse(path[low:high])]]
            for window in (k, k + 1):
                part = self.windows[window][low - starts[window] : high - starts[window]]
                spelt.append([label for label, _ in collapse(part)])
            torn += spelt[0] not in spelt[1:]
        return torn


def long_recording(prompts: list[np.ndarray]) -> dict[str, Any]:
    """The windowed run on five minutes against one full pass and against each prompt alone."""
    whole = HamaConformer(window_s=2.0 * CONCATENATION_S).eval()
    samples, own = concatenate(prompts, whole)
    started = time.process_time()
    full = port_log_probs(whole, samples).argmax(1).tolist()[: len(own)]
    seconds = samples.size / RATE
    rows: dict[str, Any] = {}
    rows["one full pass"] = {"rtf": (time.process_time() - started) / seconds, "edits_own": edits(own, full, [])[0]}
    for window_s, overlap_s in WINDOWS_S:
        run = RecordingOfWindows(window_s, overlap_s)
        started = time.process_time()
        path, joins = run.run(samples)
        rtf = (time.process_time() - started) / seconds
        total, near = edits(full, path[: len(full)], joins)
        own_total, own_near = edits(own, path[: len(own)], joins)
        rows[f"windows of {window_s:g} s, overlap {overlap_s:g} s"] = {
            "rtf": rtf,
            "joins": len(joins),
            "torn_joins": run.torn_joins(path, joins),
            "same_argmax": float(np.mean([a == b for a, b in zip(full, path, strict=False)])),
            "edits_full": total,
            "edits_full_near_joins": near,
            "edits_own": own_total,
            "edits_own_near_joins": own_near,
        }
    return {"seconds": seconds, "labels": len(collapse(own)), "rows": rows}


def print_table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in rows.items():
        cells = [f"{row[key]:.4g}" if isinstance(row.get(key), float) else str(row.get(key, "")) for key in columns]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, default=os.environ.get("SLT_ASTERISK_EN"), help="folder of recordings")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    if arguments.prompts is None or not (prompts := read_prompts(Path(arguments.prompts), 1.0, 20.0)):
        print("no recordings of 1 to 20 s; name a folder of them with --prompts or SLT_ASTERISK_EN", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    with torch.no_grad():
        short = agreement([prompt for prompt in prompts if prompt.size >= 3 * RATE][:PROMPTS])
        long = long_recording(prompts)
    machine = f"{platform.machine()}, torch {torch.__version__}, 1 thread, CPU time"
    print_table(f"{short['prompts']} prompts, {short['seconds']:.1f} s ({machine})", short["rows"])
    print_table(f"Concatenation of {long['seconds']:.1f} s, {long['labels']} labels", long["rows"])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": machine, "agreement": short, "windows": long}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
